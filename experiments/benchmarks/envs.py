"""What the worlds cost: `python -m experiments.benchmarks.envs [alfworld] [--games DIR] [--real]`.

`python -m experiments.benchmarks.envs webshop [--data DIR]` is WebShop's, see `bench_webshop`.

Prints a table of measured figures beside their targets, and exits 1 where one is missed. Times are
CPU times of one thread, of batches the best of five: a busy machine shows less in them. Without a
games folder the figures are those of generated games at full size. With `--real` (extra `alfworld`
installed, games given) the real engine is measured in the same run, on the same games.
"""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from experiments.benchmarks import webshop as bench_webshop
from hiperjax.envs.alfworld import oracle
from hiperjax.envs.alfworld.games import find_games_folder, load_library
from hiperjax.envs.alfworld.suites import AlfworldSuite, GameSource, HouseholdSuite
from hiperjax.envs.workers import make_workers
from hiperjax.types import Observation

SLOTS, TURNS, OPENED, REPEATS = 128, 50, 300, 5
REAL_GAMES, REAL_STEPS = 5, 15


def bench_alfworld(args: argparse.Namespace) -> bool:
    """Measure the household suites; whether every target is met."""
    report = _Report()
    source: GameSource
    if args.games:
        root = find_games_folder(args.games)
        _measure_library(report, root)
        source = AlfworldSuite(root)
        tasks = source.tasks(source.splits[0])
    else:
        source = HouseholdSuite("full")
        tasks = source.tasks("train")[: OPENED * 3]
    _measure_world(report, source, tasks, "official" if args.games else "generated, full")
    tiny = HouseholdSuite("tiny")
    _measure_world(report, tiny, tiny.tasks("train")[: OPENED * 3], "generated, tiny")
    if args.real:
        _measure_real(report, find_games_folder(args.games), tasks)
    report.print()
    return report.met


class _Report:
    """Rows of figure, target, verdict."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, str, str]] = []
        self.met = True

    def add(self, what: str, value: float, unit: str, target: float | None = None) -> None:
        """One figure; `target` is the most it may be."""
        verdict = "" if target is None else ("met" if value <= target else "MISSED")
        self.met &= verdict != "MISSED"
        wanted = "" if target is None else f"<= {target:g} {unit}"
        self.rows.append((what, f"{value:.4g} {unit}", wanted, verdict))

    def print(self) -> None:
        """The rows as a table."""
        rows = [("figure", "measured", "target", ""), *self.rows]
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        for row in rows:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))


def _measure_library(report: _Report, root: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        pack = Path(folder) / "games.pack"
        report.add("pack a folder of games, once", _time(lambda: load_library(root, pack)), "s")
        started = time.process_time()
        library = load_library(root, pack)
        elapsed = time.process_time() - started
        report.add(f"load the packed cache ({len(library):,} games)", elapsed, "s", 2)
        report.add("packed cache on disk", pack.stat().st_size / 1e6, "MB")
        report.add("all games in memory", library.nbytes / 1e6, "MB", 100)


def _measure_world(report: _Report, source: GameSource, tasks: Sequence[str], label: str) -> None:
    rng = random.Random(0)
    chosen = rng.sample(tasks, min(OPENED, len(tasks)))
    env = source.make_env()
    opening = _time(lambda: [env.reset(task) for task in chosen]) / len(chosen)
    report.add(f"open a new game ({label})", opening * 1e3, "ms", 3)
    tasks = [chosen[i % len(chosen)] for i in range(SLOTS)]
    spent = min(_play_batch(source, tasks, rng) for _ in range(REPEATS))
    report.add(f"{SLOTS} environments x {TURNS} steps, one thread ({label})", spent, "s", 0.2)
    report.add(f"one step, text and commands ({label})", spent / (SLOTS * TURNS) * 1e6, "us", 20)


def _play_batch(source: GameSource, tasks: Sequence[str], rng: random.Random) -> float:
    """Seconds in the steps of one batch of random play, without the choice of commands."""
    workers = make_workers(source)
    slots = range(len(tasks))
    seen = workers.reset(slots, tasks)
    spent = 0.0
    for _ in range(TURNS):
        actions = [_pick(rng, observation) for observation in seen]
        started = time.process_time()
        steps = workers.step(slots, actions)
        spent += time.process_time() - started
        seen = [step.observation for step in steps]  # type: ignore[union-attr]
    return spent


def _measure_real(report: _Report, root: Path, tasks: Sequence[str]) -> None:
    engine, rng = oracle.RealEngine(), random.Random(0)
    paths = [root / task for task in rng.sample(tasks, REAL_GAMES)]
    engine.reset(paths[0])
    opening = stepping = 0.0
    for path in paths:
        started = time.process_time()
        reply = engine.reset(path)
        opening += time.process_time() - started
        for _ in range(REAL_STEPS):
            command = rng.choice(reply.admissible)
            started = time.process_time()
            reply = engine.step(command)
            stepping += time.process_time() - started
    report.add("open a new game (the real engine)", opening / REAL_GAMES * 1e3, "ms")
    step = stepping / REAL_GAMES / REAL_STEPS
    report.add("one step (the real engine)", step * 1e6, "us")


def _pick(rng: random.Random, observation: object) -> str:
    assert isinstance(observation, Observation), observation
    return rng.choice(observation.admissible)


def _time(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


SUITES: dict[str, Callable[[argparse.Namespace], bool]] = {"alfworld": bench_alfworld}
"""WebShop's benchmark, with options of its own, is `experiments.benchmarks.webshop`."""


def parse_args(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; what follows `webshop` is that benchmark's own."""
    words = sys.argv[1:] if words is None else words
    if list(words[:1]) == ["webshop"]:
        return bench_webshop.parse_args(words[1:])
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.envs", description=__doc__
    )
    parser.add_argument("suite", nargs="?", default="alfworld", choices=sorted(SUITES))
    parser.add_argument("--games", type=Path, help="folder of official games")
    parser.add_argument("--real", action="store_true", help="also measure the real engine")
    args = parser.parse_args(words)
    if args.real and not args.games:
        parser.error("--real needs --games: the real engine plays files")
    return args


def main() -> int:
    """Run the benchmarks named on the command line; 0 if every target was met."""
    if sys.argv[1:2] == ["webshop"]:
        return bench_webshop.main(sys.argv[2:])
    args = parse_args()
    return 0 if SUITES[args.suite](args) else 1


if __name__ == "__main__":
    sys.exit(main())
