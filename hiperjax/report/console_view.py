"""A run under way in 80 columns: every phase, time left, last episodes, alarms."""

import statistics
from collections.abc import Iterator, Sequence

from hiperjax.intervals import wilson_interval
from hiperjax.report.alarms import find_alarms
from hiperjax.report.glance import show_seconds, timing_curve
from hiperjax.report.run_data import RunData, as_number
from hiperjax.report.text import show_line

WIDTH, BAR = 80, 24
LEVELS = "▁▂▃▄▅▆▇█"
STALE = 5.0
"""Times the usual seconds of an iteration after which a silent run is said to be silent."""
PHASES = ("rollout", "pack", "update", "evaluate", "checkpoint", "compile")


def render_view(run: RunData, now: float, width: int = WIDTH) -> list[str]:
    """Lines of at most `width` columns; `now` is the time of day in seconds since the epoch."""
    lines = [*_head(run), *_progress(run, now), *_success(run), *_last_iteration(run),
             *_episodes(run), *_alarms(run)]  # fmt: skip
    return [fit(line, width) for line in lines]


def render_line(run: RunData, now: float) -> str:
    """The same in one line, for a log and for the page's head."""
    parts = [state_of(run, now)]
    left = seconds_left(run)
    if left:
        parts.append(f"about {show_seconds(left)} left")
    for split in run.splits()[:1]:
        if counts := run.counts(split):
            parts.append(f"{show_line(split, 20)} {counts[-1].successes / counts[-1].trials:.3f}")
    return ", ".join(parts)


def fit(line: str, width: int) -> str:
    """One line, cut visibly; columns are kept."""
    return line if len(line) <= width else line[: width - 1] + "…"


def bar(share: float, width: int = BAR) -> str:
    """A share as a bar."""
    full = round(min(max(share, 0.0), 1.0) * width)
    return "█" * full + "·" * (width - full)


def _head(run: RunData) -> Iterator[str]:
    about = [str(run.settings.get(k)) for k in ("preset", "credit.estimator") if k in run.settings]
    seed = [] if run.seed is None else [f"seed {run.seed}"]
    yield f"{run.name}: {', '.join([*about, *seed])}" if about or seed else run.name


def state_of(run: RunData, now: float) -> str:
    """What the run does, or when it last did something."""
    if run.iterations is not None and run.metrics and run.iteration >= run.iterations:
        return f"done: {run.iteration} iterations"
    phase, since = run.progress.get("phase"), as_number(run.progress.get("since"))
    doing = f"iteration {run.iteration}" + (f" of {run.iterations}" if run.iterations else "")
    if not isinstance(phase, str) or since is None:
        return doing
    if phase in ("done", "stopped"):
        return f"{phase} at {doing}"
    silent = now - (as_number(run.progress.get("updated")) or since)
    usual = usual_seconds(run)
    if silent > max(60.0, STALE * (usual or 60.0)):
        return f"{doing}, silent for {show_seconds(silent)} in {show_line(phase, 30)}"
    return f"{doing}, {show_line(phase, 30)} for {show_seconds(max(0.0, now - since))}"


def _progress(run: RunData, now: float) -> Iterator[str]:
    if run.iterations:
        left = seconds_left(run)
        rest = f", about {show_seconds(left)} left" if left else ""
        yield (
            f"training     {bar(run.iteration / run.iterations)} {run.iteration}/{run.iterations}"
            f"{rest}"
        )
    done, total = (as_number(run.progress.get(key)) for key in ("done", "total"))
    if total and done is not None and isinstance(run.progress.get("phase"), str):
        name = show_line(run.progress["phase"], 12)
        rest = _phase_left(run, now, total - done, done)
        yield f"{name:<12} {bar(done / total)} {done:.0f}/{total:.0f}{rest}"
    yield f"now          {state_of(run, now)}"


def _phase_left(run: RunData, now: float, open_steps: float, done: float) -> str:
    """Time left of a phase that counts its steps, by its mean pace."""
    since, updated = (as_number(run.progress.get(key)) for key in ("since", "updated"))
    if since is None or updated is None or done <= 0 or open_steps <= 0 or updated <= since:
        return ""
    left = (updated - since) * open_steps / done - max(0.0, now - updated)
    return f", about {show_seconds(left)} left" if left > 0 else ""


def usual_seconds(run: RunData) -> float | None:
    """Median wall seconds of the last ten iterations."""
    names = [n for n in dict.fromkeys(k for r in run.timings[-10:] for k in r)
             if n.startswith("ledger/")]  # fmt: skip
    sums: dict[int, float] = {}
    for name in names:
        for iteration, seconds in timing_curve(run, name)[-10:]:
            sums[iteration] = sums.get(iteration, 0.0) + seconds
    return statistics.median(sums.values()) if sums else None


def seconds_left(run: RunData) -> float | None:
    """By the usual seconds of an iteration."""
    usual = usual_seconds(run)
    if usual is None or not run.iterations:
        return None
    return usual * max(0, run.iterations - run.iteration)


def sparkline(values: Sequence[float]) -> str:
    """Shares as small bars."""
    return "".join(LEVELS[round(min(max(v, 0.0), 1.0) * (len(LEVELS) - 1))] for v in values)


def _success(run: RunData) -> Iterator[str]:
    for split in run.splits():
        counts = run.counts(split)
        if not counts:
            continue
        last = counts[-1]
        low, high = wilson_interval(last.successes, last.trials)
        marks = sparkline([c.successes / c.trials for c in counts[-24:]])
        yield (
            f"{show_line(split, 12):<12} {marks:<24} {last.successes / last.trials:.3f} "
            f"[{low:.2f}, {high:.2f}] at {last.iteration}"
        )
    training = [value for _, value in run.curve("success")[-24:]]
    if training:
        yield f"training set {sparkline(training):<24} {training[-1]:.3f} sampled"


def _last_iteration(run: RunData) -> Iterator[str]:
    names = {"switch_share": "switch", "segment_length": "segment", "malformed_share": "malformed",
             "kl_old": "KL", "entropy": "entropy"}  # fmt: skip
    found = [(short, run.curve(name)) for name, short in names.items()]
    if any(curve for _, curve in found):
        yield "  ".join(f"{short} {curve[-1][1]:.3g}" for short, curve in found if curve)
    seconds = [(name, timing_curve(run, name)) for name in PHASES]
    shown = [f"{name} {c[-1][1]:.1f}" for name, c in seconds if c and c[-1][1] >= 0.05]
    if shown:
        yield f"seconds      {'  '.join(shown)}"


def _episodes(run: RunData, most: int = 4) -> Iterator[str]:
    records = [r for r in run.episodes[-40:] if r.get("kind") == "episode"][-most:]
    if records:
        yield "last episodes"
    for record in reversed(records):
        outcome = "solved" if record.get("solved") is True else "not solved"
        turns = record.get("length")
        length = f"{turns} turns" if isinstance(turns, int) else ""
        why = record.get("why")
        reason = ", ".join(map(str, why)) if isinstance(why, list) else ""
        task = fit(show_line(str(record.get("task"))), 30)
        yield f"  {record['iteration']:>4} {task:<30} {outcome:<10} {length:>8}  {reason}"


def _alarms(run: RunData) -> Iterator[str]:
    yield from (f"alarm: {alarm}" for alarm in find_alarms(run))
