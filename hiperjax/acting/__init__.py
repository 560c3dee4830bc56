"""Acting: prompts, sampling, rollout."""
