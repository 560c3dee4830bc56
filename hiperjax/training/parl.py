"""What an orchestrator is paid beside the world's reward, and what its delegation comes to.

Both terms are of an episode: `parallel`, sub-agents that were created and sent, of `width` at most;
`finish`, errands that the world found done through sub-agents, of those sent. Their weights fall to
0 in the course of a run, so that what is trained for in the end is the world's reward alone. The
paper (arXiv 2602.02276) publishes neither; these are ours.
"""

import dataclasses
from collections.abc import Sequence

from hiperjax.config import ConfigError, RunConfig
from hiperjax.envs.base import Suite
from hiperjax.options.parl import ParlConfig
from hiperjax.training.scored import Scored
from hiperjax.types import Trajectory


def anneal(start: float, iteration: int, *, iterations: int, share: float | None) -> float:
    """Weight at an iteration, counted from 0: `start max(0, 1 - i / (share iterations))`.

    Args:
      start: at iteration 0.
      iteration: how many went before.
      iterations: of the whole run.
      share: of them, over which it falls to 0; None: it does not fall.
    """
    if share is None:
        return start
    return start * max(0.0, 1.0 - iteration / (share * max(1, iterations)))


def grade_parallel(trajectory: Trajectory, width: int) -> list[float]:
    """Share of `width` that each turn adds by sub-agents sent for the first time; sums to at most
    1."""
    sent: set[str] = set()
    found = []
    for turn in trajectory.turns:
        before = min(len(sent), width)
        sent |= set(turn.delegation.agents)
        found.append((min(len(sent), width) - before) / width)
    return found


def grade_finish(trajectory: Trajectory) -> list[float]:
    """Share of all errands handed out that the world found done, by turn; sums to at most 1."""
    turns = [turn.delegation for turn in trajectory.turns]
    handed = max(1, sum(len(turn.agents) for turn in turns))
    return [turn.verified / handed for turn in turns]


@dataclasses.dataclass(frozen=True)
class ParlStage:
    """Pays for delegation, and measures it."""

    options: ParlConfig
    iterations: int
    """of the whole run"""

    def apply(self, scored: Scored, *, iteration: int) -> None:
        """Put what delegation is worth in the turns' rewards; metrics under `parl/`."""
        o = self.options
        weights = {
            name: anneal(start, iteration, iterations=self.iterations, share=o.anneal)
            for name, start in (("parallel", o.lambda_parallel), ("finish", o.lambda_finish))
        }
        scored.metrics |= measure_delegation(scored.trajectories, o.width)
        scored.metrics |= {f"parl/lambda_{name}": weight for name, weight in weights.items()}
        if any(weights.values()):
            scored.trajectories = [self._pay(t, **weights) for t in scored.trajectories]

    def _pay(self, trajectory: Trajectory, *, parallel: float, finish: float) -> Trajectory:
        graded = zip(
            grade_parallel(trajectory, self.options.width), grade_finish(trajectory), strict=True
        )
        paid = [parallel * p + finish * f for p, f in graded]
        if self.options.credit == "episode":
            paid = [0.0] * (len(paid) - 1) + [sum(paid)]
        turns = (
            dataclasses.replace(turn, reward=turn.reward + own)
            for turn, own in zip(trajectory.turns, paid, strict=True)
        )
        return dataclasses.replace(trajectory, turns=tuple(turns))


def measure_delegation(trajectories: Sequence[Trajectory], width: int) -> dict[str, float]:
    """What was handed out and what became of it, in episodes as the world paid them.

    `parl/spawn_rate`: episodes that sent a sub-agent; `width`: sub-agents of a turn that sent some;
    `finish_claimed`, `finish_verified`: of those sent, who said they were done, and whose errand
    was; `critical`, `total`: steps of an episode; `refused`: calls of an episode that did nothing;
    `r_perf`: the world's reward alone; `r_parallel`, `r_finish`: the terms, before their weights.
    """
    episodes = [[turn.delegation for turn in t.turns] for t in trajectories]
    turns = [turn for episode in episodes for turn in episode]
    stages = [turn for turn in turns if turn.agents]
    sent = sum(len(stage.agents) for stage in stages)
    count = max(1, len(episodes))
    critical, total = (sum(getattr(turn, x) for turn in turns) for x in ("cost", "total"))
    found = {
        "spawn_rate": sum(any(x.agents for x in episode) for episode in episodes) / count,
        "width": sent / max(1, len(stages)),
        "finish_claimed": sum(stage.claimed for stage in stages) / max(1, sent),
        "finish_verified": sum(stage.verified for stage in stages) / max(1, sent),
        "critical": critical / count,
        "total": total / count,
        "critical_share": critical / max(1, total),
        "refused": sum(turn.refused for turn in turns) / count,
        "r_perf": sum(turn.reward for t in trajectories for turn in t.turns) / count,
        "r_parallel": sum(sum(grade_parallel(t, width)) for t in trajectories) / count,
        "r_finish": sum(sum(grade_finish(t)) for t in trajectories) / count,
    }
    return {f"parl/{name}": value for name, value in found.items()}


def make_parl_stage(config: RunConfig, suite: Suite) -> ParlStage | None:
    """What pays for the run's delegation; None where its world has no sub-agents.

    Raises:
      ConfigError: it is to be paid for, in such a world.
    """
    options = config.parl
    if suite.delegates:
        return ParlStage(options, config.iterations)
    for name in ("lambda_parallel", "lambda_finish"):
        value = getattr(options, name)
        if value:
            raise ConfigError(
                f"parl.{name} is {value}; the suite {suite.name} has no sub-agents to pay for: "
                "expected 0, or a suite that has some (errands)"
            )
    return None
