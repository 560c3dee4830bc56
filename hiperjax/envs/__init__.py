"""Text worlds: the contract, our own, and the adapter for other people's."""

from hiperjax.envs.adapters.world import adapt

__all__ = ["adapt"]
