"""`hiperjax report`: one self-contained HTML page of one or several runs."""

import os
import pathlib
from typing import Annotated

import tyro

from hiperjax.report.page import render_page
from hiperjax.report.run_data import read_runs

PAGE = "report.html"


def report(
    runs: Annotated[tuple[pathlib.Path, ...], tyro.conf.Positional],
    /,
    *,
    out: pathlib.Path | None = None,
) -> None:
    """One HTML file that opens in any browser and needs nothing else: curves, episodes, credit.

    Args:
      runs: Run folders; several are drawn over one another, matched by what they differ in.
      out: File to write; default: report.html in the run's folder, or here for several runs.
    """
    data = read_runs(runs)
    if out is None:
        out = runs[0] / PAGE if len(runs) == 1 else pathlib.Path(PAGE)
    write_page(render_page(data), out)
    print(out)


def write_page(page: str, out: pathlib.Path) -> None:
    """Whole or not at all: who has the old one open never reads half of the new one."""
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        part.write_text(page, encoding="utf-8")
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
