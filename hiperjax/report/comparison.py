"""Runs side by side: success with Wilson intervals, differences paired by seed."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from hiperjax.config import ConfigError
from hiperjax.intervals import interval_of_mean, wilson_interval
from hiperjax.report.groups import Group, differing_settings, group_runs
from hiperjax.report.run_data import Counts, RunData

Interval = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Row:
    """One run on one split, at the iteration that all runs are compared at."""

    run: str
    group: str
    seed: int | None
    counts: Counts | None
    best: Counts | None
    """its highest evaluation, which is a selected one: no interval goes with it"""
    health: Mapping[str, float | None]
    """switch share, segment length, malformed share of that iteration's training episodes"""

    @property
    def interval(self) -> Interval | None:
        c = self.counts
        return None if c is None else wilson_interval(c.successes, c.trials)


@dataclasses.dataclass(frozen=True)
class Mean:
    """Success of a group."""

    group: str
    runs: int
    """those with an evaluation"""
    mean: float
    interval: Interval | None
    """95 % over runs, Student's t; None with fewer than two"""


@dataclasses.dataclass(frozen=True)
class Difference:
    """A group less the first one, over the seeds that both have."""

    group: str
    baseline: str
    seeds: tuple[int, ...]
    differences: tuple[float, ...]
    """by seed"""
    mean: float
    interval: Interval | None
    """95 %, Student's t over seeds; None with fewer than two"""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Runs compared on one split."""

    split: str
    iteration: int | None
    """the last one at which every run was evaluated; None: there is none, each has its own last"""
    rows: tuple[Row, ...]
    means: tuple[Mean, ...]
    differences: tuple[Difference, ...]
    settings: Mapping[str, Sequence[Any]]
    """what the runs differ in, a value each"""
    notes: tuple[str, ...]


HEALTH = ("switch_share", "segment_length", "malformed_share")


def compare_runs(
    runs: Sequence[RunData], *, split: str | None = None, iteration: int | None = None
) -> Comparison:
    """Compare runs at the last iteration that all of them evaluated, or at a given one.

    Args:
      runs: in the order of the table; the first one's group is what others are compared with.
      split: evaluated split; none: the first one that the first run with evaluations has.
      iteration: at which to compare.

    Raises:
      ConfigError: no run evaluated that split, or not at that iteration.
    """
    groups = group_runs(runs)
    runs = [run for group in groups for run in group.runs]
    split = split or next((s for run in runs for s in run.splits()), "")
    counts = {run.name: run.counts(split) for run in runs}
    evaluated = [{c.iteration for c in found} for found in counts.values() if found]
    if split and not evaluated:
        known = sorted({s for run in runs for s in run.splits()})
        raise ConfigError(f"split {split!r}: no run evaluated it; expected one of {known}")
    common = set.intersection(*evaluated) if evaluated else set()
    if iteration is not None and iteration not in common:
        raise ConfigError(
            f"iteration {iteration}: not every run was evaluated then; all were at {sorted(common)}"
        )
    at = iteration if iteration is not None else max(common, default=None)
    rows = tuple(_row(run, group, counts[run.name], at) for group in groups for run in group.runs)
    return Comparison(
        split=split,
        iteration=at,
        rows=rows,
        means=tuple(_mean_of(group, rows) for group in groups),
        differences=tuple(_subtract(group, groups[0], rows) for group in groups[1:]),
        settings=differing_settings(runs),
        notes=tuple(_notes(runs, counts, at)),
    )


def _row(run: RunData, group: Group, counts: Sequence[Counts], at: int | None) -> Row:
    here = next((c for c in counts if c.iteration == at), None)
    if at is None and counts:
        here = counts[-1]
    last = here.iteration if here else run.iteration
    health = {n: next((v for i, v in reversed(run.curve(n)) if i <= last), None) for n in HEALTH}
    best = max(counts, key=_rate, default=None)
    return Row(run.name, group.label, run.seed, here, best, health)


def _rate(counts: Counts) -> float:
    return counts.successes / counts.trials


def _rates_of(label: str, rows: Sequence[Row]) -> list[tuple[int | None, float]]:
    return [(r.seed, _rate(r.counts)) for r in rows if r.group == label and r.counts]


def _mean_of(group: Group, rows: Sequence[Row]) -> Mean:
    rates = [rate for _, rate in _rates_of(group.label, rows)]
    if not rates:
        return Mean(group.label, 0, math.nan, None)
    mean, low, high = interval_of_mean(rates)
    low, high = max(0.0, low), min(1.0, high)  # it is a share
    return Mean(group.label, len(rates), mean, (low, high) if len(rates) > 1 else None)


def _subtract(group: Group, baseline: Group, rows: Sequence[Row]) -> Difference:
    """Paired by seed; of several runs with one seed in a group, their mean."""
    ours, theirs = (_by_seed(_rates_of(g.label, rows)) for g in (group, baseline))
    seeds = tuple(sorted(ours.keys() & theirs.keys()))
    found = tuple(ours[seed] - theirs[seed] for seed in seeds)
    if not found:
        return Difference(group.label, baseline.label, (), (), math.nan, None)
    mean, low, high = interval_of_mean(found)
    bounds = (low, high) if len(found) > 1 else None
    return Difference(group.label, baseline.label, seeds, found, mean, bounds)


def _by_seed(rates: Sequence[tuple[int | None, float]]) -> dict[int, float]:
    seeds = {seed for seed, _ in rates if seed is not None}
    chosen = {seed: [rate for s, rate in rates if s == seed] for seed in seeds}
    return {seed: sum(values) / len(values) for seed, values in chosen.items()}


def _notes(runs: Sequence[RunData], counts: Mapping[str, Sequence[Counts]], at: int | None):
    """What a reader must know; runs of which the same holds share a sentence."""
    found: dict[str, list[str]] = {}
    for run in runs:
        for note in _notes_of(run, counts[run.name], at):
            found.setdefault(note, []).append(run.name)
    yield from (f"{', '.join(names)}: {note}" for note, names in found.items())
    if at is None and any(counts.values()):
        yield "no iteration was evaluated by every run: each row shows its own last one"


def _notes_of(run: RunData, counts: Sequence[Counts], at: int | None):
    if not counts:
        yield "no evaluation of this split"
    elif not any(c.exact for c in counts):
        yield (
            f"the number of tasks was not recorded; {counts[0].trials} is the smallest that fits "
            "the rates, so intervals are too wide, if anything"
        )
    if counts and at is not None and counts[-1].iteration > at:
        yield f"went on to iteration {counts[-1].iteration}, which is not compared"
    yield from (note for note in run.notes if "damaged" in note)
