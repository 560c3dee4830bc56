"""Settings of who decides what: where segments begin, who acts under subgoals."""

import dataclasses
import pathlib
from typing import Literal

BoundaryRule = Literal["learned", "every_k", "milestone", "always", "never", "random"]
"""Where segments begin; turn 0 always opens one."""
BASE = pathlib.Path("base")
"""The executor that is the frozen base of a policy of adapters."""


@dataclasses.dataclass(frozen=True)
class PlanConfig:
    """Who decides what: where segments begin, and who acts under the subgoals."""

    boundaries: BoundaryRule = "learned"
    """Where the planner writes SWITCH; or by a rule that writes the switch block for it, out of the
    loss: every `every` turns, after a milestone, at every turn, at turn 0 alone, or at random."""
    every: int = 4
    """every_k: turns of a segment."""
    switch_rate: float = 0.2
    """random: chance of a boundary at each turn after the first."""
    executor: pathlib.Path | None = None
    """Who writes action blocks, frozen: a run folder, a shipped agent (agent:NAME), or base, what
    the policy's adapters stand on; credit.train planner. None: the policy itself."""
    context: Literal["same", "subgoal"] = "same"
    """What such an executor is shown: all that the planner is and what it wrote, or of task,
    history and subgoal nothing but the subgoal."""
