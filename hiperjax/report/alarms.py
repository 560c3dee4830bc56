"""What deserves a look: plain sentences about a run, from its records alone."""

from collections.abc import Iterator

from hiperjax.intervals import wilson_interval
from hiperjax.report.run_data import RunData
from hiperjax.training.diagnostics import warn_of_collapse

MALFORMED, CLIPPED = 0.2, 0.5
"""Shares of replies and of tokens beyond which something is wrong."""


def find_alarms(run: RunData) -> list[str]:
    """Sentences about the last iteration, and about what went wrong on the way."""
    return [
        *_of_the_hierarchy(run),
        *_of_the_update(run),
        *_of_the_episodes(run),
        *_of_success(run),
    ]


def _last(run: RunData, name: str) -> float | None:
    return next((value for _, value in reversed(run.curve(name))), None)


def _of_the_hierarchy(run: RunData) -> Iterator[str]:
    share, length = _last(run, "switch_share"), _last(run, "episode_length")
    ruled = run.settings.get("plan.boundaries", "learned") != "learned"
    if share is not None and length is not None and not ruled:
        collapse = warn_of_collapse(share, length)
        if collapse:
            yield collapse


def _of_the_update(run: RunData) -> Iterator[str]:
    skipped = [i for i, value in run.curve("skipped_steps") if value > 0]
    if skipped:
        yield f"optimizer steps with a non-finite gradient were skipped at {_list(skipped)}"
    rescored = [i for i, value in run.curve("rescored") if value > 0]
    if rescored:
        yield (
            f"the sampler's log-probs were off by more than ppo.mismatch_bound at {_list(rescored)}"
        )
    clipped = _last(run, "clip_share")
    if clipped is not None and clipped > CLIPPED:
        yield f"{clipped:.0%} of tokens are clipped: the update is too large"
    lost = [r["iteration"] for r in run.metrics if any(_is_not_finite(v) for v in r.values())]
    if lost:
        yield f"scalars that are not finite at {_list(lost)}"


def _is_not_finite(value: object) -> bool:
    return isinstance(value, float) and value - value != 0


def _of_the_episodes(run: RunData) -> Iterator[str]:
    malformed = _last(run, "malformed_share")
    if malformed is not None and malformed > MALFORMED:
        yield f"{malformed:.0%} of replies are malformed"
    failed = run.curve("failed_episodes")
    if any(value for _, value in failed):
        total = sum(value for _, value in failed)
        yield f"{total:.0f} episodes were lost to errors of their environment"
    trimmed = _last(run, "trimmed_prompts")
    if trimmed:
        yield f"{trimmed:.0f} prompts of the last iteration were too long, observations were cut"


def _of_success(run: RunData) -> Iterator[str]:
    """A fall that the intervals cannot explain."""
    for split in run.splits():
        counts = run.counts(split)
        best = max(counts, key=lambda c: c.successes / c.trials, default=None)
        if best is None:
            continue
        last = counts[-1]
        rate, top = last.successes / last.trials, best.successes / best.trials
        if (
            wilson_interval(last.successes, last.trials)[1]
            < wilson_interval(best.successes, best.trials)[0]
        ):
            yield (
                f"success on {split} fell from {top:.2f} at iteration {best.iteration} to "
                f"{rate:.2f}, by more than chance explains"
            )


def _list(iterations: list[int]) -> str:
    shown = ", ".join(map(str, iterations[:5]))
    more = f" and {len(iterations) - 5} more" if len(iterations) > 5 else ""
    return f"iteration{'s' if len(iterations) > 1 else ''} {shown}{more}"
