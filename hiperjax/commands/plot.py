"""`hiperjax plot`: figures for papers."""

import pathlib
from typing import Annotated

from hiperjax.commands.arguments import Positional
from hiperjax.config import ConfigError
from hiperjax.report import plots
from hiperjax.report.groups import Spread
from hiperjax.report.run_data import read_runs


def plot_curves(
    runs: Annotated[tuple[pathlib.Path, ...], Positional],
    /,
    *,
    out: pathlib.Path,
    metric: str | None = None,
    band: Spread = "range",
    width: float = 5.5,
    height: float = 3.4,
    dpi: int = 200,
    title: str = "",
) -> None:
    """Learning curves with bands over seeds, from any set of runs.

    Runs that differ in nothing but their seed share a line; where runs of one group have different
    lengths, the line ends with the shortest.

    Args:
      runs: Run folders.
      out: File to write, .png or .svg.
      metric: Recorded scalar; default: success on the first evaluated split.
      band: range (smallest to largest), interval (95 % of the mean), error (standard error).
      width: Inches.
      height: Inches.
      dpi: Dots per inch of a PNG file.
      title: Of the figure.
    """
    data = read_runs(runs)
    if metric is None:
        split = next((s for run in data for s in run.splits()), None)
        if split is None:
            raise ConfigError("no run was evaluated; choose a recorded scalar with --metric")
        metric = f"eval/{split}/success"
    plots.plot_curves(data, metric, out, plots.Style(width, height, dpi, band, title))
    print(out)
