"""Learning curves for papers: PNG and SVG by matplotlib, the same file from the same runs."""

import dataclasses
import pathlib
import textwrap
from collections.abc import Sequence
from typing import Any

from hiperjax.config import ConfigError
from hiperjax.report.groups import Band, Group, Spread, band_of, group_runs
from hiperjax.report.run_data import RunData
from hiperjax.report.text import show_line

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, told apart by color-blind readers; line styles differ as well."""
STYLES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
FORMATS = (".png", ".svg")
BANDS = {
    "range": "bands: smallest to largest",
    "interval": "bands: 95 % interval of the mean",
    "error": "bands: standard error",
}
SHORT = 28
"""Characters of a label up to which the legend stands among the curves."""
LETTERS = 11
"""of a label per inch of the figure"""
SETTINGS: dict[str, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "hiperjax",
    "text.parse_math": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
}


@dataclasses.dataclass(frozen=True)
class Style:
    """How a figure looks."""

    width: float = 5.5
    """inches"""
    height: float = 3.4
    """inches"""
    dpi: int = 200
    """of PNG files"""
    spread: Spread = "range"
    title: str = ""


def plot_curves(runs: Sequence[RunData], metric: str, out: pathlib.Path, style: Style) -> None:
    """Draw one scalar over iterations: a line per group of runs, a band over its seeds.

    Raises:
      ConfigError: no run recorded the scalar, the file's ending is neither .png nor .svg, or
        matplotlib is not installed.
    """
    if out.suffix not in FORMATS:
        raise ConfigError(f"--out {out}: ends in {out.suffix!r}; expected .png or .svg")
    groups = [g for g in group_runs(runs) if any(run.curve(metric) for run in g.runs)]
    if not groups:
        raise ConfigError(f"metric {metric!r}: no run recorded it; expected one of {known(runs)}")
    try:
        import matplotlib
    except ImportError as error:
        raise ConfigError(
            "plots need matplotlib, which is not installed: pip install 'hiperjax[report]'"
        ) from error
    with matplotlib.rc_context(dict(SETTINGS)):  # type: ignore[arg-type]
        from matplotlib.figure import Figure

        figure = Figure(figsize=(style.width, style.height), dpi=style.dpi, layout="constrained")
        axes = figure.subplots()
        for group in groups:
            _draw(axes, group, metric, style)
        _label(axes, groups, metric, style)
        out.parent.mkdir(parents=True, exist_ok=True)
        stamp = {"Date": None} if out.suffix == ".svg" else {}
        figure.savefig(out, metadata=stamp)


def known(runs: Sequence[RunData], most: int = 12) -> str:
    """Names of recorded scalars, evaluations first."""
    names = dict.fromkeys(name for run in runs for name in run.names())
    ordered = sorted(names, key=lambda name: not name.startswith("eval/"))
    more = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return ", ".join(show_line(name, 60) for name in ordered[:most]) + more


def _draw(axes: Any, group: Group, metric: str, style: Style) -> None:
    curves = [curve for run in group.runs if (curve := run.curve(metric))]
    band: Band = band_of(curves, style.spread)
    n = group.color
    color = COLORS[n % len(COLORS)]
    x, y = zip(*band.mean, strict=True) if band.mean else ((), ())
    seeds = f" ({len(curves)} seeds)" if len(curves) > 1 else ""
    axes.plot(
        x,
        y,
        color=color,
        linestyle=STYLES[n % len(STYLES)],
        marker=MARKERS[n % len(MARKERS)] if len(x) <= 30 else None,
        markersize=4,
        label=textwrap.fill(group.label, max(20, int(LETTERS * style.width))) + seeds,
    )
    if band.around:
        x, low, high = zip(*band.around, strict=True)
        axes.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0)


def _label(axes: Any, groups: Sequence[Group], metric: str, style: Style) -> None:
    parts = metric.split("/")
    success = parts[0] == "eval" and len(parts) == 3
    axes.set_xlabel("iteration")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_ylabel(f"{parts[2]}, {parts[1]}" if success else metric.replace("_", " "))
    if success:
        axes.set_ylim(0, 1)
    several = any(len(group.runs) > 1 for group in groups)
    if len(groups) > 1 or several:
        title = BANDS[style.spread] if several else None
        if max(len(group.label) for group in groups) <= SHORT:
            axes.legend(frameon=False, title=title)
        else:  # no room among the curves
            axes.figure.legend(frameon=False, title=title, loc="outside lower center")
    if style.title:
        axes.set_title(style.title)
