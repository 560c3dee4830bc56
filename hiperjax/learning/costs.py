"""What turns cost, as an array: 1, and what the longest of the sub-agents took that they sent."""

from collections.abc import Sequence

import numpy as np

from hiperjax.types import Trajectory


def pack_costs(trajectories: Sequence[Trajectory], b: int, t: int) -> np.ndarray:
    """Critical steps of each turn, float32 [b, t]; 1 where there is none."""
    cost = np.ones((b, t), np.float32)
    for i, trajectory in enumerate(trajectories):
        cost[i, : len(trajectory.turns)] = [turn.delegation.cost for turn in trajectory.turns]
    return cost
