"""Rollout diagnostics: switch rate, segment length, malformed replies; counted on the host."""

import collections
import math
from collections.abc import Iterator, Sequence

import numpy as np

from hiperjax.types import Ending, Trajectory

SEGMENT_BINS = ((1, 1), (2, 2), (3, 4), (5, 8), (9, None))
"""Bins of the histogram of segment lengths, both ends included."""


def segments(trajectory: Trajectory) -> Iterator[tuple[int, str]]:
    """Length and subgoal of every segment."""
    starts = [t for t, turn in enumerate(trajectory.turns) if turn.blocks.switch]
    for start, end in zip(starts, [*starts[1:], len(trajectory.turns)], strict=True):
        yield end - start, trajectory.turns[start].blocks.subgoal


def _share(flags: Sequence[bool]) -> float:
    return float(np.mean(flags)) if len(flags) else 0.0


def _entropy(counts: Sequence[int]) -> float:
    total = sum(counts)
    return -sum(c / total * math.log(c / total) for c in counts) if total else 0.0


def match_boundaries(trajectory: Trajectory) -> tuple[int, int, int]:
    """How many boundaries fall where a milestone was just reached, give or take a turn; and how
    many of each there are.

    A milestone reached at turn t calls for a boundary at t + 1. Turn 0, which always opens a
    segment, is left out, and so is a milestone that ends the episode. Each is matched once.
    """
    turns = trajectory.turns
    found = [t for t, turn in enumerate(turns) if t and turn.blocks.switch]
    wanted = [t for t, turn in enumerate(turns[:-1], start=1) if turn.milestone]
    matched, left = 0, list(wanted)
    for t in found:
        while left and left[0] < t - 1:
            left.pop(0)
        if left and left[0] <= t + 1:
            left.pop(0)
            matched += 1
    return matched, len(found), len(wanted)


def judge_boundaries(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Precision, recall and F1 of boundaries against milestones; 0 where there is nothing to
    match."""
    counts = [match_boundaries(trajectory) for trajectory in trajectories]
    matched, found, wanted = (sum(column) for column in zip(*counts, strict=True))
    return {
        "boundary_precision": matched / max(1, found),
        "boundary_recall": matched / max(1, wanted),
        "boundary_f1": 2 * matched / max(1, found + wanted),
    }


def describe(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Means per episode (length, reward, success) and shares of turns (everything else).

    `switch_share` leaves turn 0 out, which always opens a segment. `subgoal_entropy` is that of the
    distribution of subgoal texts over segments, in nats.
    """
    turns = [turn for trajectory in trajectories for turn in trajectory.turns]
    later = [turn for trajectory in trajectories for turn in trajectory.turns[1:]]
    parts = [part for trajectory in trajectories for part in segments(trajectory)]
    lengths = [length for length, _ in parts]
    subgoals = collections.Counter(subgoal for _, subgoal in parts)
    out = {
        "success": _share([t.success for t in trajectories]),
        "truncated_share": _share([t.ending is Ending.TRUNCATED for t in trajectories]),
        "episode_length": float(np.mean([len(t.turns) for t in trajectories])),
        "episode_reward": float(np.mean([sum(u.reward for u in t.turns) for t in trajectories])),
        "switch_share": _share([turn.blocks.switch for turn in later]),
        "segment_length": float(np.mean(lengths)),
        "keep_violation_share": _share([turn.blocks.keep_violation for turn in turns]),
        "malformed_share": _share([not turn.blocks.well_formed for turn in turns]),
        "inadmissible_share": _share([not turn.admissible for turn in turns]),
        "subgoals_distinct": float(len(subgoals)),
        "subgoal_entropy": _entropy(list(subgoals.values())),
        "reply_length": float(np.mean([len(turn.reply_ids) for turn in turns])),
        "prompt_length": float(np.mean([len(turn.prompt_ids) for turn in turns])),
    }
    for low, high in SEGMENT_BINS:
        name = f"segments_{low}" + ("" if high == low else "_up" if high is None else f"_{high}")
        out[name] = _share([low <= n and (high is None or n <= high) for n in lengths])
    return out


LOOP_TURNS, LOOP_COMMANDS = 20, 6
"""An episode ends in a loop where its last so many turns hold at most so many commands."""


def ends_in_loop(trajectory: Trajectory) -> bool:
    """Whether an episode that was not solved repeated itself to the end."""
    last = [turn.blocks.action for turn in trajectory.turns[-LOOP_TURNS:]]
    return not trajectory.success and len(last) == LOOP_TURNS and len(set(last)) <= LOOP_COMMANDS


def loop_share(trajectories: Sequence[Trajectory]) -> float:
    """Share of episodes that end in a loop."""
    return _share([ends_in_loop(trajectory) for trajectory in trajectories])


def warn_of_collapse(switch_share: float, mean_length: float) -> str | None:
    """A plain sentence when the hierarchy has collapsed to one of its two degenerate modes."""
    if mean_length < 2:
        return None  # one-turn episodes have nothing to switch
    if switch_share > 0.9:
        return (
            f"the hierarchy has collapsed: {switch_share:.0%} of turns switch, so every turn is "
            "its own segment; set ppo.switch_rate_coefficient, or lower credit.keep_penalty"
        )
    if switch_share < 0.01:
        return (
            f"the hierarchy has collapsed: {switch_share:.1%} of turns switch, so an episode is "
            "one segment; set ppo.switch_rate_coefficient with a ppo.switch_rate_target above it"
        )
    return None
