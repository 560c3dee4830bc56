"""A curriculum over strata of training tasks: how often each is played follows its success.

Strata, not tasks: a world may have more tasks than a run ever plays twice. Per stratum wins and
losses are counted and decay, `p = (wins + 1) / (wins + losses + 2)`; what is drawn is a function of
seed, iteration, round and these counts, which are saved with the state.
"""

import dataclasses
import functools
import itertools
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from hiperjax.config import ConfigError
from hiperjax.envs.base import Suite
from hiperjax.envs.plans import name_bucket
from hiperjax.options.curriculum import CurriculumConfig
from hiperjax.random_keys import Stream
from hiperjax.training.tasks import choose_others

SAMPLE = 300
"""Tasks looked at to learn which strata there are, and how many tasks each has."""
KINDS = ("curriculum/wins/", "curriculum/losses/")
"""Openings of the names that counts are saved by."""
WALK = 40
"""Tasks looked at per task drawn, at most."""


def estimate_success(wins: float, losses: float) -> float:
    """Mean of the posterior of a success rate, from a uniform prior."""
    return (wins + 1) / (wins + losses + 2)


def weigh_edge(p: Float[np.ndarray, " K"], *, exponent: float, floor: float) -> np.ndarray:
    """`(1 - floor) u / sum(u) + floor / K` with `u = (4 p (1 - p)) ** exponent`; evenly where all
    are 0."""
    u = (4 * p * (1 - p)) ** exponent
    share = u / u.sum() if u.sum() > 0 else np.full(len(p), 1 / len(p))
    return (1 - floor) * share + floor / len(p)


def weigh_stages(p: Float[np.ndarray, " K"], *, open_at: float) -> np.ndarray:
    """Evenly over the open strata: the first, and each whose forerunners all reached `open_at`."""
    reached = np.cumprod(p >= open_at).astype(bool)
    opened = np.concatenate([[True], reached[:-1]])
    return opened / opened.sum()


def bucket_of(suite: Suite, task: str) -> str:
    """The bucket of a task's plan length.

    Raises:
      ConfigError: the suite does not tell it.
    """
    length = suite.plan_length(task)
    if length is None:
        raise ConfigError(
            f"curriculum.kind is horizon, and {suite.name} does not tell how long the plan of "
            f"{task} is; expected a suite whose plan_length does, or curriculum.kind edge"
        )
    return name_bucket(length)


@dataclasses.dataclass
class Curriculum:
    """Strata of a suite's training tasks with what was won and lost in each."""

    config: CurriculumConfig
    seed: int
    tasks: Sequence[str]
    classify: Callable[[str], str]
    """task -> its stratum"""
    share: Mapping[str, float]
    """share of the tasks that each stratum has, by a sample; in the strata's order"""
    counts: dict[str, list[float]]
    """wins and losses of each stratum, decayed"""

    @property
    def success(self) -> np.ndarray:
        """Estimated success of each stratum."""
        return np.array([estimate_success(*self.counts[name]) for name in self.share])

    @property
    def odds(self) -> np.ndarray:
        """Share of the episodes that each stratum gets."""
        c = self.config
        if c.kind == "edge":
            return weigh_edge(self.success, exponent=c.exponent, floor=c.floor)
        if c.weights:
            return np.array(c.weights) / sum(c.weights)
        return weigh_stages(self.success, open_at=c.open_at)

    def draw(
        self, count: int, iteration: int, number: int, played: Collection[str] = ()
    ) -> list[str]:
        """`count` tasks for a round of an iteration, none of those played.

        A stratum is drawn for each; one walk through the tasks, in an order of its own, finds them
        all. What it does not find is taken from the tasks it passed by.
        """
        key = (self.seed, Stream.CURRICULUM, iteration, number)
        rng = np.random.default_rng([int(part) for part in key])
        drawn = rng.choice(len(self.share), size=count, p=self.odds)
        names = tuple(self.share)
        wanted = Counter(names[index] for index in drawn)
        chosen: list[str] = []
        passed: list[str] = []
        for task in itertools.islice(self._wander(rng, played), WALK * count):
            if len(chosen) == count:
                break
            stratum = self.classify(task)
            (chosen if wanted[stratum] > 0 else passed).append(task)
            wanted[stratum] -= wanted[stratum] > 0
        return chosen + passed[: count - len(chosen)]

    def _wander(self, rng: np.random.Generator, played: Collection[str]) -> Iterator[str]:
        """All tasks that were not played, over and over, each time in another order."""
        while len(played) < len(self.tasks):
            for index in rng.permutation(len(self.tasks)):
                task = self.tasks[int(index)]
                if task not in played:
                    yield task

    def count(self, outcomes: Iterable[tuple[str, bool]]) -> None:
        """Let the counts decay, and add what was won and lost: (task, success) of each episode."""
        for pair in self.counts.values():
            pair[:] = [self.config.decay * count for count in pair]
        for task, success in outcomes:
            pair = self.counts.setdefault(self.classify(task), [0.0, 0.0])
            pair[0 if success else 1] += 1.0

    @property
    def saved(self) -> dict[str, float]:
        """The counts as single numbers, to be saved beside the state."""
        kinds = zip(KINDS, zip(*self.counts.values(), strict=True), strict=True)
        return {
            f"{kind}{name}": count
            for kind, counts in kinds
            for name, count in zip(self.counts, counts, strict=True)
        }

    def metrics(self) -> dict[str, float]:
        """Success and odds of each stratum, and success on the tasks as they come."""
        success, share = self.success, np.array(list(self.share.values()))
        found = {"curriculum/success_as_they_come": float(success @ share)}
        for name, p, q in zip(self.share, success, self.odds, strict=True):
            found |= {f"curriculum/success/{name}": float(p), f"curriculum/odds/{name}": float(q)}
        return found


def make_curriculum(
    config: CurriculumConfig,
    suite: Suite,
    seed: int,
    saved: Mapping[str, float | None] | None = None,
) -> Curriculum | None:
    """The curriculum of a run, with the counts among what was saved; None where it is uniform.

    Raises:
      ConfigError: the suite does not tell plan lengths, or `weights` are not as many as its strata.
    """
    if config.kind == "uniform":
        return None
    tasks = suite.tasks("train")
    tell = functools.partial(bucket_of, suite) if config.kind == "horizon" else suite.difficulty
    classify = functools.lru_cache(maxsize=1 << 16)(tell)
    sample = choose_others(tasks, (seed, Stream.CURRICULUM), SAMPLE, ())
    found = Counter(map(classify, sample))
    share = {name: found[name] / len(sample) for name in sorted(found, key=_order)}
    if config.weights and len(config.weights) != len(share):
        raise ConfigError(
            f"curriculum.weights has {len(config.weights)} entries; expected one for each stratum "
            f"of {suite.name}: {', '.join(share)}"
        )
    pairs = {name: [0.0, 0.0] for name in share}
    for number, kind in enumerate(KINDS):
        for key, count in (saved or {}).items():
            if key.startswith(kind):
                pairs.setdefault(key.removeprefix(kind), [0.0, 0.0])[number] = float(count or 0)
    return Curriculum(config, seed, tasks, classify, share, pairs)


def _order(name: str) -> list[str | int]:
    """Names by their letters, and what is a number in them as one."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]
