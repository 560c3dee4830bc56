"""`hiperjax report`: one self-contained HTML page of one or several runs."""

import pathlib
from typing import Annotated

from hiperjax.commands.arguments import Positional
from hiperjax.files import write_text
from hiperjax.report.page import render_runs
from hiperjax.report.run_data import read_runs

PAGE = "report.html"


def report(
    runs: Annotated[tuple[pathlib.Path, ...], Positional],
    /,
    *,
    out: pathlib.Path | None = None,
    estimators: tuple[str, ...] = (),
) -> None:
    """One HTML file that opens in any browser and needs nothing else: curves, episodes, credit.

    Args:
      runs: Run folders; several are drawn over one another, matched by what they differ in.
      out: File to write; default: report.html in the run's folder, or here for several runs.
      estimators: Names of estimators under which episodes' advantages are shown as well.
    """
    data = read_runs(runs)
    if out is None:
        out = runs[0] / PAGE if len(runs) == 1 else pathlib.Path(PAGE)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, render_runs(data, estimators=estimators))
    print(out)
