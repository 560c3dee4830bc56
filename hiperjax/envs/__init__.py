"""The worlds: text in, text out. Nothing here imports jax."""
