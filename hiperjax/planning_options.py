"""Settings of who decides what: where segments begin."""

import dataclasses
from typing import Literal

BoundaryRule = Literal["learned", "every_k", "milestone", "always", "never", "random"]
"""Where segments begin; turn 0 always opens one."""


@dataclasses.dataclass(frozen=True)
class PlanConfig:
    """Where segments begin: where the planner says so, or by a rule."""

    boundaries: BoundaryRule = "learned"
    """Where the planner writes SWITCH; or by a rule that writes the switch block for it, out of the
    loss: every `every` turns, after a milestone, at every turn, at turn 0 alone, or at random."""
    every: int = 4
    """every_k: turns of a segment."""
    switch_rate: float = 0.2
    """random: chance of a boundary at each turn after the first."""
