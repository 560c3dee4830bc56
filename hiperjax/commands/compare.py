"""`hiperjax compare`: runs side by side, as text, Markdown and JSON."""

import pathlib
from typing import Annotated, Literal

from hiperjax.commands.arguments import Positional
from hiperjax.report.comparison import compare_runs
from hiperjax.report.comparison_text import render_json, render_markdown, render_text
from hiperjax.report.run_data import read_runs

RENDERERS = {"text": render_text, "markdown": render_markdown, "json": render_json}


def compare(
    runs: Annotated[tuple[pathlib.Path, ...], Positional],
    /,
    *,
    split: str | None = None,
    iteration: int | None = None,
    format: Literal["text", "markdown", "json"] = "text",
    out: pathlib.Path | None = None,
) -> None:
    """Success of several runs with 95 % intervals, and differences paired by seed.

    Runs that differ in nothing but their seed make one group; groups are compared with the first.

    Args:
      runs: Run folders, the baseline first.
      split: Evaluated split to compare on; default: the first one evaluated.
      iteration: Iteration to compare at; default: the last one that every run evaluated.
      format: Of the output.
      out: Write there instead of to the terminal.
    """
    data = read_runs(runs)
    text = RENDERERS[format](compare_runs(data, split=split, iteration=iteration))
    if out is None:
        print(text, end="")
    else:
        out.write_text(text, encoding="utf-8")
