"""Runs matched by what they differ in: equal settings but for the seed make one group."""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from hiperjax.config import RunConfig
from hiperjax.intervals import interval_of_mean
from hiperjax.report.run_data import Point, RunData, flatten
from hiperjax.report.text import show_line

UNMATCHED = ("seed", "out", "init", "target", "checkpoint_every", "preset", "credit.compare_every",
             "eval.every")  # fmt: skip
"""Settings that tell runs of one group apart, or do not bear on what is learned."""
LABEL = 80
"""Characters of a group's label."""
VALUE = 20
"""Characters of a setting's value in it."""
Spread = Literal["range", "interval", "error"]
"""range: smallest to largest; interval: 95 % of the mean (Student's t); error: its standard
error"""


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but their seed."""

    label: str
    runs: tuple[RunData, ...]
    color: int
    """number of its color"""


@dataclasses.dataclass(frozen=True)
class Band:
    """Mean over the runs of a group, where each of them has a value."""

    mean: Sequence[Point]
    around: Sequence[tuple[int, float, float]]
    """iteration, low, high; empty for a single run"""


def differing_settings(runs: Sequence[RunData]) -> dict[str, list[Any]]:
    """Values of every setting that is not the same in all runs, `out` aside.

    A run of an older version lacks settings that came later: it trained as their defaults do. None
    where a run has no settings at all, or where this version does not know the name.
    """
    names = dict.fromkeys(name for run in runs for name in run.settings if name != "out")
    values = {name: [_value_of(run, name) for run in runs] for name in names}
    return {name: found for name, found in values.items() if any(v != found[0] for v in found)}


def _value_of(run: RunData, name: str) -> Any:
    default = _defaults().get(name) if run.settings else None
    return run.settings.get(name, default)


@functools.cache
def _defaults() -> Mapping[str, Any]:
    """Default of each setting by its dotted name, as a run folder would hold it."""
    return flatten(json.loads(json.dumps(dataclasses.asdict(RunConfig()), default=str)))


def group_runs(runs: Sequence[RunData]) -> list[Group]:
    """Groups in order of their first run, named by the settings they differ in."""
    differ = {n: v for n, v in differing_settings(runs).items() if not _is_unmatched(n)}
    found: dict[str, list[RunData]] = {}
    for run in runs:
        # Without settings nothing says what a run may be averaged with.
        key = repr([_value_of(run, n) for n in differ]) if run.settings else str(run.folder)
        found.setdefault(key, []).append(run)
    labels = [_label(members, differ, len(found)) for members in found.values()]
    if len(set(labels)) < len(labels):
        labels = [f"{label} ({members[0].name})" for label, members in
                  zip(labels, found.values(), strict=True)]  # fmt: skip
    return [
        Group(label, tuple(members), color)
        for color, (label, members) in enumerate(zip(labels, found.values(), strict=True))
    ]


def _is_unmatched(name: str) -> bool:
    return name in UNMATCHED or name.startswith("mesh.")


def _label(members: Sequence[RunData], differ: Mapping[str, list[Any]], groups: int) -> str:
    run = members[0]
    if groups == 1 or not run.settings:
        preset = show_line(str(run.settings.get("preset") or run.name), LABEL)
        return preset if len(members) > 1 else run.name
    if list(differ) == ["credit.estimator"]:
        return show_line(str(_value_of(run, "credit.estimator")), LABEL)
    names = sorted(differ, key=lambda name: name != "credit.estimator")  # what is asked for most
    parts = [f"{name.rpartition('.')[2]} {_tell_apart(_value_of(run, name), differ[name])}"
             for name in names[:3]]  # fmt: skip
    more = f", {len(names) - 3} more" if len(names) > 3 else ""
    return show_line(", ".join(parts) + more, LABEL) or run.name


def _tell_apart(value: Any, all_values: Sequence[Any]) -> str:
    """A setting's value in a few characters: of a list what not every run has."""
    if isinstance(value, list) and all(isinstance(other, list) for other in all_values):
        own = [item for item in value if not all(item in other for other in all_values)]
        value = ",".join(map(str, own)) or "none"
    text = show_line(str(value))
    return text if len(text) <= VALUE else text[: VALUE - 1] + "…"


def band_of(curves: Sequence[Sequence[Point]], spread: Spread = "range") -> Band:
    """Mean and spread over the curves, at the iterations that all of them have."""
    tables: list[Mapping[int, float]] = [dict(curve) for curve in curves]
    common = sorted(set.intersection(*(set(t) for t in tables))) if tables else []
    columns = [(i, [table[i] for table in tables]) for i in common]
    mean = [(i, sum(values) / len(values)) for i, values in columns]
    if len(tables) < 2:
        return Band(mean, ())
    bound = _BOUNDS[spread]
    return Band(mean, [(i, *bound(values)) for i, values in columns])


_BOUNDS: Mapping[str, Callable[[Sequence[float]], tuple[float, float]]] = {
    "range": lambda values: (min(values), max(values)),
    "interval": lambda values: interval_of_mean(values)[1:],
    "error": lambda values: interval_of_mean(values, level=None)[1:],
}
