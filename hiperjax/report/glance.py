"""A run at a glance: its figures, and where its seconds and token slots went."""

import dataclasses
from collections.abc import Iterator, Sequence

from hiperjax.intervals import wilson_interval
from hiperjax.report.alarms import find_alarms
from hiperjax.report.charts import Share, label, split_bar
from hiperjax.report.run_data import Counts, Point, RunData, curve_of
from hiperjax.report.text import show_line

PHASES = ("prefill", "decode", "score", "update")
WASTE = ("recomputed", "bucket_pad", "row_pad", "dead")
"""Kinds of token slots that did no work, as the ledger names them."""


@dataclasses.dataclass(frozen=True)
class Figure:
    """A number with its name, and what else is to be known of it."""

    name: str
    value: str
    about: str = ""


@dataclasses.dataclass(frozen=True)
class Bar:
    """A whole in parts."""

    title: str
    parts: Sequence[Share]
    unit: str


@dataclasses.dataclass(frozen=True)
class Glance:
    """One run in a few figures."""

    name: str
    color: int
    done: int
    planned: int | None
    figures: Sequence[Figure]
    bars: Sequence[Bar]
    alarms: Sequence[str]
    notes: Sequence[str]


def glance_at(run: RunData, color: int) -> Glance:
    """Everything the first screen says of one run."""
    return Glance(
        name=run.name,
        color=color,
        done=run.iteration,
        planned=run.iterations,
        figures=list(_figures(run)),
        bars=[bar for bar in (_seconds(run), *_slots(run)) if bar.parts],
        alarms=[show_line(alarm, 300) for alarm in find_alarms(run)],
        notes=[show_line(note, 300) for note in run.notes],
    )


def _figures(run: RunData) -> Iterator[Figure]:
    for name, key in (("preset", "preset"), ("world", "env.suite"), ("seed", "seed"),
                      ("estimator", "credit.estimator"), ("critic", "critic.kind")):  # fmt: skip
        if run.settings.get(key) not in (None, ""):
            yield Figure(name, show_line(str(run.settings[key]), 40))
    planned = f" of {run.iterations}" if run.iterations else ""
    yield Figure("iterations", f"{run.iteration}{planned}")
    for split in run.splits():
        if counts := run.counts(split):
            yield from _success(show_line(split, 40), counts)
    seconds = total_seconds(run)
    if seconds:
        yield Figure("wall time", show_seconds(seconds), "of recorded iterations")
    for name, about in (("switch_share", "last iteration"), ("segment_length", "turns, mean"),
                        ("malformed_share", "last iteration")):  # fmt: skip
        curve = run.curve(name)
        if curve:
            yield Figure(name.replace("_", " "), label(round(curve[-1][1], 3)), about)


def _success(split: str, counts: Sequence[Counts]) -> Iterator[Figure]:
    last, best = counts[-1], max(counts, key=lambda c: c.successes / c.trials)
    low, high = wilson_interval(last.successes, last.trials)
    trials = f"{last.successes} of {last.trials} tasks" if last.exact else "tasks not recorded"
    yield Figure(
        f"success on {split}",
        f"{last.successes / last.trials:.3f}",
        f"[{low:.2f}, {high:.2f}], {trials}, iteration {last.iteration}",
    )
    yield Figure(
        "best", f"{best.successes / best.trials:.3f}", f"iteration {best.iteration}, a chosen one"
    )


def total_seconds(run: RunData) -> float:
    """Wall seconds of all recorded iterations."""
    ledger = [n for r in run.timings for n in r if n.startswith("ledger/")]
    names = dict.fromkeys(ledger)
    return sum(value for name in names for _, value in timing_curve(run, name))


def timing_curve(run: RunData, name: str) -> list[Point]:
    """Seconds of one phase or kind by iteration."""
    return curve_of(run.timings, name)


def show_seconds(seconds: float) -> str:
    """As a person says it: 48 s, 12 min, 3 h 05."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d}"


def _seconds(run: RunData) -> Bar:
    """Seconds of the whole run by kind."""
    names = dict.fromkeys(n for r in run.timings for n in r if n.startswith("ledger/"))
    parts = [
        (name.removeprefix("ledger/"), sum(v for _, v in timing_curve(run, name))) for name in names
    ]
    return Bar("seconds", split_bar([(show_line(n, 30), s) for n, s in parts]), "s")


def _slots(run: RunData) -> Iterator[Bar]:
    """Token slots of a mean iteration by phase: shares of each kind of waste, the rest useful."""
    for phase in PHASES:
        parts = []
        for kind in WASTE:
            values = [value for _, value in run.curve(f"waste/{phase}_{kind}")]
            recorded = sum(1 for r in run.metrics if any(k.startswith("waste/") for k in r))
            parts.append((kind, 100 * sum(values) / max(1, recorded)))
        if any(amount for _, amount in parts):
            useful = max(0.0, 100 - sum(amount for _, amount in parts))
            yield Bar(f"token slots of {phase}", split_bar([("useful", useful), *parts]), "%")
