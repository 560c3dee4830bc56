"""Judges: who says which criteria an episode satisfies. Nothing here imports jax."""
