"""Model definitions (flax.nnx); knows nothing of rewards, turns or tags."""
