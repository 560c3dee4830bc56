"""Which charts a page shows of its groups of runs, in which order, with what said beside them."""

import dataclasses
from collections.abc import Iterator, Sequence

from hiperjax.intervals import wilson_interval
from hiperjax.report.charts import Area, Chart, Drawing, Line, draw
from hiperjax.report.groups import Group, band_of
from hiperjax.report.run_data import RunData
from hiperjax.report.text import show_line
from hiperjax.types import STREAMS

SHARES = (0.0, 1.0)
OTHERS = 150
"""Charts at most of scalars that no section names."""


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page."""

    key: str
    title: str
    about: str
    drawings: Sequence[Drawing]
    folded: bool = False


@dataclasses.dataclass(frozen=True)
class Scalar:
    """A scalar to draw, and what it means."""

    name: str
    title: str
    about: str
    bounds: tuple[float, float] | None = None


HIERARCHY = (
    Scalar("switch_share", "switch share", "turns that open a segment, turn 0 left out", SHARES),
    Scalar("segment_length", "segment length", "turns under one subgoal, mean"),
    Scalar("episode_length", "episode length", "turns, mean"),
    Scalar("subgoals_distinct", "distinct subgoals", "texts among the segments of a batch"),
    Scalar("subgoal_entropy", "subgoal entropy", "of those texts, in nats"),
    Scalar("malformed_share", "malformed replies", "share of turns whose reply broke the format"),
    Scalar("inadmissible_share", "inadmissible actions", "share of turns"),
    Scalar(
        "keep_violation_share", "keep violations", "turns that said KEEP and wrote a new subgoal"
    ),
)
LEARNING = (
    Scalar("policy_loss", "policy loss", "clipped surrogate, mean over minibatches"),
    Scalar("value_loss", "value loss", "of the heads that are trained by gradient"),
    Scalar("kl_old", "KL to the sampling policy", "mean per token, over the update"),
    Scalar("kl_reference", "KL to the reference", "the policy that training started from"),
    Scalar("entropy", "entropy", "per reply token, in nats"),
    Scalar("clip_share", "clipped tokens", "share of tokens outside the clip range"),
    Scalar("grad_norm", "gradient norm", "before clipping"),
    Scalar("mismatch_mean", "mismatch, mean", "|log-prob of sampler - of learner| per token"),
    Scalar("mismatch_max", "mismatch, largest", "of any token in the batch"),
    Scalar("skipped_steps", "skipped steps", "optimizer steps with a non-finite gradient"),
    Scalar("rescored", "rescored", "1 where the sampler's log-probs were off and replaced"),
)
TRAINING = (
    Scalar("success", "success of training episodes", "sampled, so below greedy", SHARES),
    Scalar("episode_reward", "episode reward", "unshaped, mean"),
    Scalar("truncated_share", "truncated episodes", "cut by the turn limit", SHARES),
)


def build_sections(groups: Sequence[Group]) -> list[Section]:
    """All sections that have something to show."""
    named = {w.name for w in (*HIERARCHY, *LEARNING, *TRAINING)}
    streams = [f"{kind}_{s}" for kind in ("explained_variance", "advantage_std") for s in STREAMS]
    found = [
        Section("success", "Success", "", [*_success(groups), *_draw_scalars(groups, TRAINING)]),
        Section(
            "hierarchy", "Hierarchy", "", [*_draw_scalars(groups, HIERARCHY), *_segments(groups)]
        ),
        Section("learning", "Learning", "", [*_draw_scalars(groups, LEARNING), *_streams(groups)]),
        Section(
            "compare",
            "Estimators compared",
            "What each estimator says of one and the same batch. Agreement and correlation are "
            "with hae; signal to noise is that of the batch's policy gradient.",
            list(_estimators(groups)),
        ),
    ]
    shown = named | set(streams)
    rest = [n for n in _names(groups) if n not in shown and not _is_elsewhere(n)][:OTHERS]
    others = _draw_scalars(groups, [Scalar(name, show_line(name, 60), "") for name in rest])
    found.append(Section("others", "Other scalars", "", list(others), folded=True))
    return [section for section in found if section.drawings]


def _is_elsewhere(name: str) -> bool:
    return name.startswith(("eval/", "compare/", "lab/", "waste/", "segments_"))


def _runs(groups: Sequence[Group]) -> Iterator[RunData]:
    return (run for group in groups for run in group.runs)


def _names(groups: Sequence[Group]) -> list[str]:
    return list(dict.fromkeys(name for run in _runs(groups) for name in run.names()))


def chart_scalar(groups: Sequence[Group], scalar: Scalar, *, wide: bool = False) -> Chart | None:
    """One scalar: a line per group with the range of its runs; single runs faint behind it."""
    lines, areas = [], []
    dots = scalar.name.startswith(("eval/", "compare/", "lab/"))
    for group in groups:
        curves = [c for run in group.runs if (c := run.curve(scalar.name))]
        if not curves:
            continue
        if len(curves) > 1:
            lines += [Line("", curve, group.color, faint=True) for curve in curves]
        band = band_of(curves)
        areas.append(Area(band.around, group.color))
        lines.append(Line(group.label, band.mean, group.color, dots=dots))
    if not lines:
        return None
    constant = len({y for line in lines for _, y in line.points}) == 1
    about = scalar.about + (", the same all along" if constant and scalar.about else "")
    return Chart(scalar.title, lines, areas, about, scalar.bounds, wide)


def _draw_scalars(groups: Sequence[Group], scalars: Sequence[Scalar]) -> Iterator[Drawing]:
    for scalar in scalars:
        chart = chart_scalar(groups, scalar)
        if chart is not None and any(y for line in chart.lines for _, y in line.points):
            yield draw(chart)


def _success(groups: Sequence[Group]) -> Iterator[Drawing]:
    """Each split large, with intervals; its task types small."""
    for split in dict.fromkeys(s for run in _runs(groups) for s in run.splits()):
        shown = show_line(split, 40)
        scalar = Scalar(f"eval/{split}/success", f"success on {shown}", _about(groups), SHARES)
        chart = chart_scalar(groups, scalar, wide=True)
        if chart is not None:
            own = [_wilson(g, split) for g in groups if len(g.runs) == 1]
            yield draw(dataclasses.replace(chart, areas=[*chart.areas, *own]))
        types = dict.fromkeys(t for run in _runs(groups) for t in run.task_types(split))
        for kind in ("score", *types):
            scalar = Scalar(f"eval/{split}/{kind}", show_line(kind, 44), f"on {shown}", SHARES)
            if (chart := chart_scalar(groups, scalar)) is not None:
                yield draw(chart)


def _about(groups: Sequence[Group]) -> str:
    several = any(len(group.runs) > 1 for group in groups)
    return "band: range over seeds" if several else "band: 95 % Wilson interval"


def _wilson(group: Group, split: str) -> Area:
    counts = group.runs[0].counts(split)
    points = [(c.iteration, *wilson_interval(c.successes, c.trials)) for c in counts]
    return Area(points, group.color)


def _segments(groups: Sequence[Group]) -> Iterator[Drawing]:
    """Shares of segments by length, one chart per group."""
    names = [name for name in _names(groups) if name.startswith("segments_")]
    for group in groups:
        lines = []
        for color, name in enumerate(names):
            bin_ = name.removeprefix("segments_").replace("_up", "+").replace("_", "-")
            curves = [c for run in group.runs if (c := run.curve(name))]
            lines.append(
                Line(f"{bin_} turn{'' if bin_ == '1' else 's'}", band_of(curves).mean, color)
            )
        if any(line.points for line in lines):
            title = "segments by length" + (f": {group.label}" if len(groups) > 1 else "")
            yield draw(Chart(title, lines, about="share of segments", bounds=SHARES))


def _streams(groups: Sequence[Group]) -> Iterator[Drawing]:
    """Explained variance and spread of the advantages, a line per stream, a chart per group."""
    for kind, title, bounds in (
        ("explained_variance", "explained variance", (-0.25, 1.0)),
        ("advantage_std", "spread of raw advantages", None),
    ):
        for group in groups:
            lines = []
            for color, stream in enumerate(STREAMS):
                curves = [c for run in group.runs if (c := run.curve(f"{kind}_{stream}"))]
                if curves:
                    lines.append(Line(stream, band_of(curves).mean, color))
            if lines:
                more = f": {group.label}" if len(groups) > 1 else ""
                yield draw(Chart(title + more, lines, about="by stream", bounds=bounds))


def _is_statistic(name: str, statistic: str) -> bool:
    """`compare/ESTIMATOR/STATISTIC`; earlier versions called it `lab/...`."""
    return name.startswith(("compare/", "lab/")) and name.endswith(f"/{statistic}")


def _estimators(groups: Sequence[Group]) -> Iterator[Drawing]:
    """A chart per statistic and group, a line per estimator."""
    for statistic, bounds in (
        ("agreement", SHARES), ("correlation", (-1.0, 1.0)), ("signal_to_noise", None),
        ("between_segments", SHARES), ("explained_low", (-0.25, 1.0)),
        ("explained_high", (-0.25, 1.0)), ("explained_term", (-0.25, 1.0)),
    ):  # fmt: skip
        names = [n for n in _names(groups) if _is_statistic(n, statistic)]
        for group in groups:
            lines = []
            for color, name in enumerate(names):
                curves = [c for run in group.runs if (c := run.curve(name))]
                if curves:
                    estimator = show_line(name.split("/")[1], 30)
                    lines.append(Line(estimator, band_of(curves).mean, color, dots=True))
            if lines:
                more = f": {group.label}" if len(groups) > 1 else ""
                yield draw(Chart(statistic.replace("_", " ") + more, lines, bounds=bounds))
