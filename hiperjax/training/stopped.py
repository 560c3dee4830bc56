"""Why a run ends early."""


class TrainingStopped(RuntimeError):
    """A run that must not go on; its last good state is saved."""
