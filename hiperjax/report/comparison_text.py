"""A comparison as text, Markdown and JSON."""

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

from hiperjax.report.comparison import HEALTH, Comparison, Difference, Row
from hiperjax.report.text import show_line

MISSING = "-"
HEAD = ("run", "seed", "solved", "success", "95 % interval", "best (at)", "switch", "segment",
        "malformed")  # fmt: skip
Table = list[Sequence[str]]


def render_text(comparison: Comparison) -> str:
    """Tables in columns of spaces."""
    parts = [_title(comparison), _columns(rows_of(comparison)), _columns(means_of(comparison))]
    if comparison.differences:
        parts.append(_columns(differences_of(comparison)))
    if comparison.settings:
        parts.append("settings that differ\n" + _columns(settings_of(comparison)))
    parts += [f"note: {note}" for note in comparison.notes]
    return "\n\n".join(parts) + "\n"


def render_markdown(comparison: Comparison) -> str:
    """Tables in Markdown."""
    parts = [_title(comparison), _markdown(rows_of(comparison)), _markdown(means_of(comparison))]
    if comparison.differences:
        parts.append(_markdown(differences_of(comparison)))
    if comparison.settings:
        parts.append("Settings that differ:\n\n" + _markdown(settings_of(comparison)))
    if comparison.notes:
        parts.append("\n".join(f"- {_escape(note)}" for note in comparison.notes))
    return "\n\n".join(parts) + "\n"


def render_json(comparison: Comparison) -> str:
    """Everything, with `null` for what is missing."""
    raw = dataclasses.asdict(comparison)
    for row, whole in zip(raw["rows"], comparison.rows, strict=True):
        row["interval"] = whole.interval
    return json.dumps(_finite(raw), indent=1, default=str, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _title(c: Comparison) -> str:
    if not c.split:
        return "no run was evaluated"
    when = "each at its own last evaluation" if c.iteration is None else f"iteration {c.iteration}"
    return f"success on split {show_line(c.split, 60)}, {when}"


def rows_of(c: Comparison) -> Table:
    """One row per run, under `HEAD`."""
    return [HEAD, *(_cells(row) for row in c.rows)]


def _cells(row: Row) -> Sequence[str]:
    counts, best = row.counts, row.best
    health = [row.health.get(name) for name in HEALTH]
    return (
        row.run,
        MISSING if row.seed is None else str(row.seed),
        f"{counts.successes}/{counts.trials}" if counts else MISSING,
        f"{counts.successes / counts.trials:.3f}" if counts else MISSING,
        _bounds(row.interval, "{:.3f}"),
        f"{best.successes / best.trials:.3f} ({best.iteration})" if best else MISSING,
        *(MISSING if value is None else f"{value:.2f}" for value in health),
    )


def means_of(c: Comparison) -> Table:
    """One row per group of runs that differ in the seed alone."""
    head = ("group", "runs", "mean success", "95 % interval over runs")
    rows = [
        (
            m.group,
            str(m.runs),
            f"{m.mean:.3f}" if m.runs else MISSING,
            _bounds(m.interval, "{:.3f}"),
        )
        for m in c.means
    ]
    return [head, *rows]


def differences_of(c: Comparison) -> Table:
    """One row per group but the first."""
    head = ("difference", "mean", "95 % interval over seeds", "by seed")
    return [head, *(_difference(d) for d in c.differences)]


def _difference(d: Difference) -> Sequence[str]:
    by_seed = zip(d.seeds, d.differences, strict=True)
    return (
        f"{d.group} - {d.baseline}",
        f"{d.mean:+.3f}" if d.seeds else MISSING,
        _bounds(d.interval, "{:+.3f}"),
        ", ".join(f"{seed}: {value:+.3f}" for seed, value in by_seed) or "no seed in common",
    )


def settings_of(c: Comparison) -> Table:
    """One row per setting that is not the same in all runs."""
    by_name = [row.run for row in c.rows]
    return [("setting", *by_name), *((name, *map(str, v)) for name, v in c.settings.items())]


def _bounds(interval: tuple[float, float] | None, form: str) -> str:
    if interval is None:
        return MISSING
    return f"[{form.format(interval[0])}, {form.format(interval[1])}]"


def _columns(table: Table) -> str:
    # A difference is named by two groups: what tells them apart must not be cut.
    cells = [[show_line(row[0], 240), *(show_line(cell, 60) for cell in row[1:])] for row in table]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in cells]
    return "\n".join(line.rstrip() for line in lines)


def _escape(text: str) -> str:
    shown = show_line(text, 300).replace("\\", "\\\\")
    for mark in "|<>*_`":
        shown = shown.replace(mark, f"\\{mark}")
    return shown.replace("](", "]\\(")


def _markdown(table: Table) -> str:
    head, *rows = (f"| {' | '.join(_escape(cell) for cell in row)} |" for row in table)
    return "\n".join([head, "|" + "---|" * len(table[0]), *rows])
