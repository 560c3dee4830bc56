"""hiperjax: training LLM agents for long tasks, in JAX."""
