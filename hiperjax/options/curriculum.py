"""Settings of which training tasks are played how often."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class CurriculumConfig:
    """Which training tasks are played how often; evaluation never asks."""

    kind: Literal["uniform", "edge", "horizon"] = "uniform"
    """uniform: each equally often; edge: strata of equal difficulty by how near their success is to
    one half; horizon: strata of equal plan length, in a fixed mixture or opened one by one."""
    decay: float = 0.9
    """Share of the wins and losses counted so far that is left after an iteration."""
    exponent: float = 1.0
    """edge: power of 4p(1-p); 1 is the variance of a success, 0.5 the size of its gradient."""
    floor: float = 0.1
    """edge: share of the episodes that is dealt out evenly, against forgetting."""
    weights: tuple[float, ...] = ()
    """horizon: share of each stratum, the shortest first; none: they are opened one by one."""
    open_at: float = 0.6
    """horizon without weights: success of the longest open stratum at which the next is opened."""
