"""Which window goes into which sequence, before anything is written: sizes in, positions out."""

import bisect
import math
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


def choose_finely(needed: int, first: int) -> int:
    """As `choose_capacity`, with sizes half-way too."""
    size = choose_capacity(needed, first)
    half_way = 3 * size // 4
    return half_way if first <= needed <= half_way else size


REPLY_PLACES = (128, 160, 192, 256, 320, 384, 512, 768, 1024)
"""Room for the reply tokens of a sequence, while there are few."""


def choose_reply_places(needed: int) -> int:
    """A bucket that holds the reply tokens of the fullest sequence."""
    for size in REPLY_PLACES:
        if needed <= size:
            return size
    return choose_finely(needed, REPLY_PLACES[-1])


class Room(NamedTuple):
    """Sizes that a batch is given at least: those of the batches before, whose programs are
    compiled."""

    reads: int = 0
    """reply tokens of a sequence"""
    windows: int = 0
    """attention rows of a sequence"""
    columns: int = 0
    """columns of an attention row"""


NO_ROOM = Room()
"""Sizes follow the batch alone."""


ROW_GROWTH = 1.25
"""Ratio of the lengths of attention rows, each a compilation."""


def choose_row_length(needed: int, multiple: int) -> int:
    """A bucket of multiples that holds the longest attention row."""
    size = multiple
    while size < needed:
        size = round_up(math.ceil(size * ROW_GROWTH), multiple)
    return size


def lay_out_rows(
    segment: np.ndarray, token_mask: np.ndarray, *, multiple: int, least: Room = NO_ROOM
) -> np.ndarray:
    """Attention rows `[S W A]` of packed sequences `[S C]`: the token that each column reads.

    One row for each window: the prefix, then the window's own tokens. Columns beyond them read any
    token.

    Args:
      segment: window of each token, from 1, its tokens side by side; 0: the prefix.
      token_mask: tokens that are no padding.
      multiple: of the columns.
      least: windows and columns there are at least.
    """
    windows = choose_finely(max(1, int(segment.max(initial=0))), 1)
    windows = max(windows, least.windows)
    own = segment[:, None] == np.arange(1, windows + 1)[None, :, None]
    own &= token_mask[:, None]
    first, count = own.argmax(axis=2), own.sum(axis=2)
    prefix = (token_mask & (segment == 0)).sum(axis=1)[:, None]
    columns = choose_row_length(int((prefix + count).max(initial=1)), multiple)
    columns = max(columns, least.columns)
    at, shared = np.arange(columns), prefix[:, :, None]
    source = np.where(at < shared, at, first[:, :, None] + at - shared)
    return np.minimum(source, segment.shape[1] - 1).astype(np.int32)


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
