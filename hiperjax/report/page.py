"""One page of one or several runs: self-contained, sealed by a content security policy."""

import base64
import hashlib
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jinja2

from hiperjax.report.charts import COLORS
from hiperjax.report.comparison import compare_runs
from hiperjax.report.comparison_text import differences_of, means_of, rows_of, settings_of
from hiperjax.report.credit_again import add_estimators
from hiperjax.report.glance import glance_at
from hiperjax.report.groups import group_runs
from hiperjax.report.panels import build_sections
from hiperjax.report.run_data import RunData
from hiperjax.report.text import show, show_line
from hiperjax.report.timelines import build_timelines, recorded_episodes, tabulate_subgoals

TEMPLATES = pathlib.Path(__file__).parent / "templates"
SETTINGS = 400
"""Settings listed at most."""


def render_page(
    runs: Sequence[RunData],
    *,
    episodes: Sequence[dict[str, Any]] = (),
    notes: Sequence[str] = (),
    live: bool = False,
) -> str:
    """HTML that needs nothing else.

    Args:
      runs: to show over one another.
      episodes: as `timelines` makes them.
      notes: what of them was left out.
      live: served by `watch`: the page asks for news and reloads itself.
    """
    style, script = ((TEMPLATES / f"page.{kind}").read_text("utf-8") for kind in ("css", "js"))
    groups = group_runs(runs)
    comparison = compare_runs(runs) if len(runs) > 1 else None
    tables = []
    if comparison is not None:
        made = [rows_of, means_of, *([differences_of] if comparison.differences else [])]
        tables = [make(comparison) for make in made]
    return (
        _environment()
        .get_template("page.html")
        .render(
            title=", ".join(run.name for run in runs),
            policy=_policy(style, script, live),
            style=style,
            script=script,
            groups=groups,
            glances=[glance_at(run, group.color) for group in groups for run in group.runs],
            sections=build_sections(groups),
            comparison=comparison,
            tables=tables,
            differing=settings_of(comparison) if comparison and comparison.settings else None,
            settings=[] if comparison else sorted(runs[0].settings.items())[:SETTINGS],
            episodes=episodes,
            notes=notes,
            subgoals=[(run.name, *found) for run in runs if (found := tabulate_subgoals(run))],
            data=embed({"episodes": list(episodes), "live": live}),
        )
    )


def render_runs(
    runs: Sequence[RunData], *, estimators: Sequence[str] = (), live: bool = False
) -> str:
    """The page with the runs' recorded episodes.

    Args:
      runs: to show over one another.
      estimators: under which advantages are shown beside the run's own.
      live: as in `render_page`.

    Raises:
      ConfigError: there is no such estimator.
    """
    chosen = recorded_episodes(runs)
    if estimators:
        chosen = add_estimators(chosen, estimators)
    episodes, notes = build_timelines(chosen, name_runs=len(runs) > 1)
    return render_page(runs, episodes=episodes, notes=notes, live=live)


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"show": lambda x: show(str(x)), "line": lambda x: show_line(str(x))}
    environment.globals["COLORS"] = COLORS
    return environment


def _policy(style: str, script: str, live: bool) -> str:
    """Nothing but our own style and script; a served page may ask its server for news."""
    talk = "; connect-src 'self'" if live else ""
    return (
        f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'"
        f"{talk}; base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def embed(value: Any) -> str:
    """JSON that cannot end the element it stands in, nor open another."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    for mark in "<>&":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return text
