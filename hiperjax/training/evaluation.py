"""Evaluation on full, fixed splits: success per task type, with Wilson intervals."""

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
from jaxtyping import Array, Key

from hiperjax.acting.collector import Collector
from hiperjax.envs.base import Suite
from hiperjax.envs.workers import EnvFailure
from hiperjax.intervals import bound_mean, wilson_interval
from hiperjax.models.transformer import Params
from hiperjax.training.diagnostics import describe, loop_share
from hiperjax.types import Trajectory

HEALTH = (
    "episode_length",
    "switch_share",
    "segment_length",
    "malformed_share",
    "inadmissible_share",
)
"""Of the diagnostics, what is recorded and printed with an evaluation."""


@dataclasses.dataclass(frozen=True)
class Tally:
    """Successes among the tasks of one type; an episode the environment lost is a failure."""

    successes: int
    trials: int

    @property
    def rate(self) -> float:
        return self.successes / self.trials if self.trials else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        return wilson_interval(self.successes, self.trials)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Result on one split."""

    split: str
    overall: Tally
    by_type: dict[str, Tally]
    trajectories: list[Trajectory]
    failures: list[EnvFailure]
    """episodes the environment lost; in all rates but `played` they count as not solved"""
    scores: dict[str, float] | None = None
    """score of each task, 0 where its episode was lost; None where the suite has no scores"""

    @property
    def played(self) -> Tally:
        """Successes among the episodes that the environment did not lose."""
        return Tally(self.overall.successes, len(self.trajectories))

    def may_choose(self, max_failure_rate: float) -> bool:
        """Whether a state may be judged by this result: enough of its tasks were played."""
        lost, tasks = len(self.failures), self.overall.trials
        return bool(self.trajectories) and lost <= max_failure_rate * tasks

    def metrics(self) -> dict[str, float]:
        """Scalars under `eval/SPLIT/`: no rate where no episode was played."""
        found: dict[str, float] = {}
        if self.trajectories:
            names = {"success": self.overall} | self.by_type
            found = {name: tally.rate for name, tally in names.items()}
            found["loops"] = loop_share(self.trajectories)
            if self.scores:
                found["score"] = sum(self.scores.values()) / len(self.scores)
        if self.failures:
            found["lost"] = float(len(self.failures))
            if self.trajectories:
                found["success_played"] = self.played.rate
        return {f"eval/{self.split}/{name}": value for name, value in found.items()}

    def describe_losses(self) -> str:
        """What the environment took away and what that leaves; empty where it lost nothing."""
        if not self.failures:
            return ""
        lost = f"{len(self.failures)} of {self.overall.trials} tasks were lost in the environment"
        if not self.trajectories:
            return f"{lost}: none was played, so there is no rate"
        return f"{lost}; {self.played.rate:.3f} of the {self.played.trials} played"

    def record(self, iteration: int) -> dict[str, Any]:
        """The counts behind the rates, and how the episodes went, for the run's record."""
        tallies = {"success": self.overall} | self.by_type
        counts = {name: [t.successes, t.trials] for name, t in tallies.items()}
        health = describe(self.trajectories) if self.trajectories else {}
        return {
            "iteration": iteration,
            "split": self.split,
            "tallies": counts,
            "lost": len(self.failures),
            "health": {name: health[name] for name in HEALTH if name in health},
        }

    def table(self) -> str:
        """One line per task type: successes, rate, 95 % interval; and what was lost."""
        if not self.trajectories:
            return self.describe_losses() or "no tasks"
        lines = [f"{'task type':<34}{'solved':>12}{'rate':>8}   95 % interval"]
        for name, tally in [*sorted(self.by_type.items()), ("all", self.overall)]:
            low, high = tally.interval
            solved = f"{tally.successes}/{tally.trials}"
            lines.append(f"{name:<34}{solved:>12}{tally.rate:>8.3f}   [{low:.3f}, {high:.3f}]")
        if self.scores:
            tasks, values = zip(*self.scores.items(), strict=True)
            low, high = bound_mean(values, tasks)
            mean = sum(values) / len(values)
            lines.append(f"{'score':<34}{'':>12}{mean:>8.3f}   [{low:.3f}, {high:.3f}] (bootstrap)")
        if self.failures:
            lines.append(f"{self.describe_losses()}; above, those lost count as not solved")
        return "\n".join(lines)


def evaluate(
    rollout: Collector,
    params: Params,
    suite: Suite,
    split: str,
    *,
    key: Key[Array, ""] | None = None,
    temperature: float = 0.0,
    max_tasks: int | None = None,
) -> Evaluation:
    """Play every task of a split once (or the first `max_tasks`)."""
    task_ids = list(suite.tasks(split)[:max_tasks])
    result = rollout.collect(
        params,
        task_ids,
        key=jax.random.key(0) if key is None else key,
        temperature=temperature,
    )
    return tally_episodes(suite, split, task_ids, result.trajectories, result.failures)


def tally_episodes(
    suite: Suite,
    split: str,
    task_ids: Sequence[str],
    trajectories: list[Trajectory],
    failures: list[EnvFailure],
) -> Evaluation:
    """Count successes by task type over all `task_ids`."""
    solved = {t.task_id for t in trajectories if t.success}
    counts: dict[str, list[bool]] = collections.defaultdict(list)
    for task_id in task_ids:
        counts[suite.task_type(task_id)].append(task_id in solved)
    scores = None
    if suite.reports_scores:
        scores = dict.fromkeys(task_ids, 0.0) | {t.task_id: t.score or 0.0 for t in trajectories}
    flags = [flag for types in counts.values() for flag in types]
    return Evaluation(
        split=split,
        overall=Tally(sum(flags), len(flags)),
        by_type={name: Tally(sum(f), len(f)) for name, f in counts.items()},
        trajectories=trajectories,
        failures=failures,
        scores=scores,
    )
