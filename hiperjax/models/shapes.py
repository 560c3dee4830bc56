"""Published architectures by name: for plans, traces and speed tests without their weights."""

from hiperjax.models.architecture import TransformerConfig


def _qwen25(
    hidden_size: int,
    intermediate_size: int,
    num_layers: int,
    num_heads: int,
    num_kv_heads: int,
    *,
    head_dim: int,
    vocab_size: int,
    tie_embeddings: bool,
) -> TransformerConfig:
    """Instruction-tuned Qwen2.5."""
    return TransformerConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        rope_theta=1_000_000.0,
        tie_embeddings=tie_embeddings,
    )


def _qwen3(
    hidden_size: int,
    intermediate_size: int,
    num_layers: int,
    num_heads: int,
    *,
    tie_embeddings: bool,
) -> TransformerConfig:
    """Post-trained Qwen3: 8 key-value heads of 128 at every size."""
    return TransformerConfig(
        vocab_size=151_936,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=8,
        head_dim=128,
        rope_theta=1_000_000.0,
        tie_embeddings=tie_embeddings,
        qkv_bias=False,
        qk_norm=True,
        max_position=40_960,
    )


SHAPES: dict[str, TransformerConfig] = {
    "qwen2.5-0.5b": _qwen25(
        896, 4864, 24, 14, 2, head_dim=64, vocab_size=151_936, tie_embeddings=True
    ),
    "qwen2.5-1.5b": _qwen25(
        1536, 8960, 28, 12, 2, head_dim=128, vocab_size=151_936, tie_embeddings=True
    ),
    "qwen2.5-3b": _qwen25(
        2048, 11_008, 36, 16, 2, head_dim=128, vocab_size=151_936, tie_embeddings=True
    ),
    "qwen2.5-7b": _qwen25(
        3584, 18_944, 28, 28, 4, head_dim=128, vocab_size=152_064, tie_embeddings=False
    ),
    "qwen3-0.6b": _qwen3(1024, 3072, 28, 16, tie_embeddings=True),
    "qwen3-1.7b": _qwen3(2048, 6144, 28, 16, tie_embeddings=True),
    "qwen3-4b": _qwen3(2560, 9728, 36, 32, tie_embeddings=True),
    "qwen3-8b": _qwen3(4096, 12_288, 36, 32, tie_embeddings=False),
}
