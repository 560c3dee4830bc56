"""Which window goes into which sequence, before anything is written: sizes in, positions out."""

import bisect
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hiperjax.types import Trajectory, Turn


def round_up(size: int, multiple: int) -> int:
    """The smallest positive multiple of `multiple` that is at least `size`."""
    return max(1, -(-size // multiple)) * multiple


def choose_capacity(needed: int, first: int) -> int:
    """`first`, doubled until it holds what is needed: few sizes, so few compilations."""
    while first < needed:
        first *= 2
    return first


def choose_reply_bucket(needed: int, first: int, *, fine: bool) -> int:
    """As `choose_capacity`; `fine` has sizes half-way too."""
    size = choose_capacity(needed, first)
    half_way = 3 * size // 4
    return half_way if fine and first <= needed <= half_way else size


class Window(NamedTuple):
    """Turns that share one growing context, and what comes after them."""

    turns: tuple[Turn, ...]
    """consecutive ones; the first opens the context"""
    final: np.ndarray | None = None
    """int32: the prompt after a truncated episode's last turn, which nothing answers"""

    @property
    def rows(self) -> int:
        """Its turns, and the state after them where that is valued."""
        return len(self.turns) + (self.final is not None)

    @property
    def tokens(self) -> int:
        """Tokens of its context, replies included."""
        count = sum(len(turn.prompt_ids) + len(turn.reply_ids) for turn in self.turns)
        return count + (0 if self.final is None else len(self.final))

    @property
    def opening(self) -> np.ndarray:
        """The prompt its context begins with."""
        if self.turns:
            return self.turns[0].prompt_ids
        assert self.final is not None
        return self.final


def split_windows(trajectory: Trajectory, *, final: bool) -> list[Window]:
    """A trajectory's windows in order; with the state after its last turn, if that is wanted."""
    starts = [t for t, turn in enumerate(trajectory.turns) if turn.opens]
    ends = [*starts[1:], len(trajectory.turns)]
    windows = [Window(trajectory.turns[a:b]) for a, b in zip(starts, ends, strict=True)]
    left = trajectory.final_prompt_ids
    if final and left is not None:
        if trajectory.final_opens:
            windows.append(Window((), left))
        else:
            windows[-1] = windows[-1]._replace(final=left)
    return windows


class Layout(NamedTuple):
    """Where each window goes: `bins[i]` lists those of sequence i in the order they stand."""

    bins: list[list[int]]
    length: int
    """tokens per sequence"""


def lay_out(
    sizes: Sequence[int],
    *,
    length: int,
    per_sequence: int,
    rows: Sequence[int] | None = None,
    seed: int = 0,
) -> Layout:
    """Best fit, longest first; ties in random order, so that neighbors are not of one episode.

    Args:
      sizes: tokens of each window.
      length: tokens per sequence; grows to a multiple of 16 that holds the longest window.
      per_sequence: rows per sequence at most; no window has more.
      rows: Rows of each window; None: one each.
      seed: order of windows of equal length.
    """
    length = max(length, round_up(max(sizes, default=1), 16))
    rows = [1] * len(sizes) if rows is None else rows
    order = np.random.default_rng(seed).permutation(len(sizes))
    order = order[np.argsort(-np.asarray(sizes, int)[order], kind="stable")]
    bins: list[list[int]] = []
    free: list[int] = []
    """rows left in each bin"""
    room: list[tuple[int, int]] = []  # (tokens left, bin), sorted; full bins leave the list
    for window in order.tolist():
        at = bisect.bisect_left(room, (sizes[window], -1))
        while at < len(room) and free[room[at][1]] < rows[window]:
            at += 1
        if at == len(room):
            bins.append([])
            free.append(per_sequence)
            left, where = length, len(bins) - 1
        else:
            left, where = room.pop(at)
        bins[where].append(window)
        free[where] -= rows[window]
        if free[where]:
            bisect.insort(room, (left - sizes[window], where))
    return Layout(bins, length)
