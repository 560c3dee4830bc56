"""What the rest of the program asks of a rollout, whoever plays: our engine or somebody's server.

`hiperjax.testing.check_collector` holds an implementation against this contract.
"""

import dataclasses
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Array, Key

from hiperjax.acting.lane_sizes import RolloutStats
from hiperjax.envs.workers import EnvFailure
from hiperjax.models.transformer import Params
from hiperjax.types import Trajectory


@dataclasses.dataclass
class RolloutResult:
    """What was played, what was lost, and what it cost."""

    trajectories: list[Trajectory]
    """episodes in the order of the tasks asked for, failed ones left out"""
    failures: list[EnvFailure]
    """episodes lost to an environment that raised, or to a prompt too long; in any order"""
    stats: RolloutStats
    seconds: dict[str, float]
    """wall time: in environments, waiting for the device, and on the host besides"""


@runtime_checkable
class Collector(Protocol):
    """Plays episodes with given parameters."""

    def collect(
        self,
        params: Params,
        task_ids: Sequence[str],
        *,
        key: Key[Array, ""],
        temperature: float,
        top_p: float = 1.0,
    ) -> RolloutResult:
        """Play one episode of each task; `temperature` 0 is greedy.

        The same `key` gives the same episodes. What an environment does wrong is a failure in the
        result, never an exception; every task asked for is in one of the two lists.
        """
        ...
