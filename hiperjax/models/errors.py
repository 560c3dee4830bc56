"""One error for what a user can get wrong about a model."""


class ModelError(ValueError):
    """A checkpoint folder, tokenizer or architecture that cannot be used as asked."""
