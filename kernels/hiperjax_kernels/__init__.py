"""Credit-assignment and sequence kernels in JAX; knows arrays and nothing of hiperjax."""
