"""What a long run holds: memory, open files and threads, at the start and at the end.

    python -m experiments.studies.soak --out FILE.json

Plays 200,000 steps on every suite, in this process, half by the expert and half at random, then
trains 300 tiny iterations. "Start" is after a tenth of each, when caches are warm.
"""

import dataclasses
import gc
import os
import pathlib
import random
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import tyro

from hiperjax.config import RunConfig
from hiperjax.envs.alfworld.export import write_games
from hiperjax.envs.alfworld.scenes import Dials
from hiperjax.envs.base import Suite
from hiperjax.envs.ladder import RUNGS
from hiperjax.envs.registry import make_suite
from hiperjax.envs.workers import EnvFailure, InlineWorkers
from hiperjax.files import write_json
from hiperjax.presets import PRESETS
from hiperjax.training.run import open_run
from hiperjax.training.trainer import iterate

SUITES = ("household", "alfworld", "webshop", *(f"ladder/{rung}" for rung in RUNGS))
GAMES = 60
"""That are generated for alfworld where none are given."""


@dataclasses.dataclass(frozen=True)
class Study:
    """How long, and where the table goes."""

    steps: int = 200_000
    """Environment steps on each suite; 0: none."""
    iterations: int = 300
    """Tiny iterations; 0: none."""
    suites: tuple[str, ...] = ()
    """Which suites; none: every one."""
    games: pathlib.Path | None = None
    """Folder of official ALFWorld games; none: generated ones."""
    out: pathlib.Path | None = None
    """Also write the figures as JSON."""


@dataclasses.dataclass(frozen=True)
class Held:
    """What this process holds."""

    resident_mb: float
    files: int
    threads: int


def measure() -> Held:
    """Now, garbage collected."""
    gc.collect()
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return Held(
        resident_mb=pages * os.sysconf("SC_PAGE_SIZE") / 1e6,
        files=len(os.listdir("/proc/self/fd")),
        threads=len(os.listdir("/proc/self/task")),
    )


@dataclasses.dataclass(frozen=True)
class Soaked:
    """One row of the table."""

    what: str
    start: Held
    end: Held


def soak(what: str, work: Callable[[int], Any], amount: int) -> Soaked:
    """Do so much work, and measure after a tenth of it and after all."""
    first = max(1, amount // 10)
    work(first)
    start = measure()
    work(amount - first)
    return Soaked(what, start, measure())


class Player:
    """Plays a suite's training tasks one after another."""

    def __init__(self, suite: Suite, seed: int = 0):
        self.suite, self.workers = suite, InlineWorkers(suite)
        self.tasks, self.random, self.episode = suite.tasks("train"), random.Random(seed), 0

    def play(self, steps: int) -> None:
        """So many steps."""
        while steps > 0:
            steps -= self._play_one(steps)

    def _play_one(self, limit: int) -> int:
        task = self.tasks[self.episode % len(self.tasks)]
        expert = self.suite.make_expert(seed=self.episode, noise=0.1)
        scripted = self.episode % 2 == 0
        self.episode += 1
        (seen,) = self.workers.reset([0], [task])
        if isinstance(seen, EnvFailure):
            raise RuntimeError(seen.error)
        expert.reset(seen)
        taken, over = 0, False
        while not over and taken < min(limit, self.suite.max_turns):
            action = expert.decide(seen).action if scripted else self._choose(seen.admissible)
            (step,) = self.workers.step([0], [action])
            if isinstance(step, EnvFailure):
                raise RuntimeError(step.error)
            taken, over = taken + 1, step.terminated or step.truncated
            seen = step.observation
        return taken

    def _choose(self, admissible: Sequence[str]) -> str:
        return self.random.choice(admissible) if admissible else "look"


def tiny(out: pathlib.Path) -> RunConfig:
    """A run whose iterations take a moment."""
    base = PRESETS["household-tiny"][1]
    nested = {
        "model": dict(hidden_size=16, intermediate_size=24, num_layers=1, num_heads=2,
                      num_kv_heads=1),
        "rollout": dict(episodes=6, slots=4, pipeline_groups=1),
        "imitation": dict(steps=0),
        "ppo": dict(minibatch_sequences=16),
        "critic": dict(random_features=8),
        "eval": dict(every=20, max_tasks=4),
        "env": dict(max_turns=4),
    }  # fmt: skip
    parts = {k: dataclasses.replace(getattr(base, k), **v) for k, v in nested.items()}
    return dataclasses.replace(base, out=out, iterations=10**6, **parts)


def soak_training(iterations: int) -> Soaked:
    """Tiny iterations in a folder that is removed afterwards."""
    with tempfile.TemporaryDirectory() as place:
        run = open_run(tiny(pathlib.Path(place) / "run"), None)
        try:
            return soak(
                f"{iterations} iterations",
                lambda count: [iterate(run) for _ in range(count)],
                iterations,
            )
        finally:
            run.close()


def tabulate(rows: Sequence[Soaked]) -> str:
    """Markdown."""
    lines = ["| what | resident MB: start, end | open files | threads |", "|---|---|---|---|"]
    for row in rows:
        a, b = row.start, row.end
        lines.append(
            f"| {row.what} | {a.resident_mb:.0f}, {b.resident_mb:.0f} | {a.files}, {b.files} | "
            f"{a.threads}, {b.threads} |"
        )
    return "\n".join(lines)


def parse_args(words: Sequence[str] | None = None) -> Study:
    """The command line."""
    return tyro.cli(Study, args=words)


def open_suite(name: str, games: pathlib.Path | None, place: pathlib.Path) -> Suite:
    """A suite by its name; `place`: where games may be written."""
    if name != "alfworld":
        return make_suite(name)
    if games is None:
        write_games(place, "train", GAMES, seed=0, dials=Dials(size="tiny"))
    return make_suite(name, games=games or place)


def main(study: Study) -> None:
    """Soak, print the table."""
    rows = []
    for name in (study.suites or SUITES) if study.steps else ():
        with tempfile.TemporaryDirectory() as place:
            player = Player(open_suite(name, study.games, pathlib.Path(place)))
            rows.append(soak(f"{name}, {study.steps} steps", player.play, study.steps))
        print(rows[-1], flush=True)
    if study.iterations:
        rows.append(soak_training(study.iterations))
    print(tabulate(rows))
    if study.out is not None:
        write_json(study.out, [dataclasses.asdict(row) for row in rows])


if __name__ == "__main__":
    main(parse_args())
