"""Settings of what is paid for handing work to sub-agents."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class ParlConfig:
    """What an orchestrator is paid beside the world's reward, until it is paid no more (PARL)."""

    lambda_parallel: float = 0.0
    """Weight at first of the share of `width` sub-agents that an episode created and sent: against
    falling back to one agent."""
    lambda_finish: float = 0.0
    """Weight at first of the share of sub-agents sent whose errand the world then found done:
    against sending for nothing."""
    anneal: float | None = 0.6
    """Share of the run's iterations over which both weights fall to 0, in a straight line; none:
    they stay."""
    width: int = 4
    """Sub-agents of an episode beyond which more are not paid for."""
    credit: Literal["episode", "turn"] = "episode"
    """Where it is paid: with the episode's last turn, or with the turns that sent and finished; the
    sum is the same."""
