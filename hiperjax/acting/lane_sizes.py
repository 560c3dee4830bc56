"""Sizes of a lane's programs, as ladders of few rungs, since each rung is a compilation; and what a
rollout counts."""

import dataclasses
import math
from collections.abc import Sequence

SHRINK = 2.0
"""Ratio of the sizes a lane shrinks through: each costs a compilation, and saves dead slots."""
LONG_CACHE = 512
"""Tokens of a slot from which decoding reads no more of the cache than a bucket in use."""


@dataclasses.dataclass
class RolloutStats:
    """What a rollout cost, in tokens and slots of tokens. A slot is one position of a batch in one
    pass: useful, or padding, or idle."""

    prompt_tokens: int = 0
    shared_tokens: int = 0
    """prompt tokens of the shared prefix, which were not computed again"""
    prefill_slots: int = 0
    """token slots the prefills computed"""
    prefill_bucket_pad: int = 0
    """prefill slots beyond the end of a prompt"""
    prefill_row_pad: int = 0
    """prefill slots in rows without a prompt"""
    reply_tokens: int = 0
    decode_slots: int = 0
    """slot-steps the decode chunks computed"""
    decode_tokens: int = 0
    """decode slots that drew a token of a reply (its first is drawn in the prefill)"""
    dropped_history: int = 0
    """turns of history dropped to make prompts fit"""
    trimmed_prompts: int = 0
    """prompts whose observation was cut as well"""
    trimmed_tokens: int = 0
    """tokens of observations cut"""
    window_turns: int = 0
    """turns that went on in the context of the turn before"""
    window_overflows: int = 0
    """turns that opened a window because the one before was full"""
    copied_tokens: int = 0
    """prompt tokens that were computed for another episode of the task"""

    def metrics(self) -> dict[str, float]:
        """Every count; those of windows only where there were any."""
        found = {name: float(count) for name, count in dataclasses.asdict(self).items()}
        grown = ("window_turns", "window_overflows", "copied_tokens")
        if not any(found[name] for name in grown):
            found = {name: count for name, count in found.items() if name not in grown}
        return found


def choose_bucket(buckets: Sequence[int], size: int) -> int:
    """The smallest bucket that holds `size`. Raises `ValueError` where none does."""
    for bucket in buckets:
        if size <= bucket:
            return bucket
    raise ValueError(f"size {size} exceeds the largest bucket {buckets[-1]}")


def make_ladder(top: int, *, bottom: int, ratio: float, multiple: int) -> tuple[int, ...]:
    """Sizes from about `bottom` up to `top`, each at most `ratio` times the one below."""
    sizes, size = {top}, float(top)
    while size / ratio >= bottom:
        size /= ratio
        sizes.add(min(top, math.ceil(size / multiple) * multiple))
    return tuple(sorted(sizes))


@dataclasses.dataclass(frozen=True)
class LaneShape:
    """Sizes of a lane: all its programs follow from them."""

    slots: int
    prompt: int
    """tokens of a prompt at most, whatever they share"""
    reply: int
    chunk: int
    """decode steps under one dispatch at most"""
    refill: int
    """a chunk ends as soon as so many slots have finished"""
    rows: int = 4
    """prompts of a prefill, before they are rounded up to `multiple`"""
    multiple: int = 1
    """rows of every program are a multiple of this: ways the mesh splits them"""
    window: int = 0
    """tokens of a context at most, the reply under way left out; 0: one prompt, nothing grows"""

    @property
    def context(self) -> int:
        """Tokens that a slot holds before the reply under way."""
        return max(self.window, self.prompt)

    @property
    def prefill_rows(self) -> int:
        return min(self.slots, -(-self.rows // self.multiple) * self.multiple)

    @property
    def group_ladder(self) -> tuple[int, ...]:
        """Rows of a group; where contexts grow, openings are rare and may come alone."""
        if not self.window:
            return (self.prefill_rows,)
        return make_ladder(
            self.prefill_rows, bottom=self.multiple, ratio=4.0, multiple=self.multiple
        )

    @property
    def row_ladder(self) -> tuple[int, ...]:
        """Numbers of slots a lane may shrink to."""
        return make_ladder(
            self.slots, bottom=max(4, self.multiple), ratio=SHRINK, multiple=self.multiple
        )

    @property
    def length_ladder(self) -> tuple[int, ...]:
        """Tokens that a group of prompts is padded to."""
        return make_ladder(self.prompt, bottom=32, ratio=1.25, multiple=8)

    @property
    def growth_ladder(self) -> tuple[int, ...]:
        """Tokens that a group of continuations is padded to."""
        return make_ladder(self.context + 1, bottom=16, ratio=1.75, multiple=8)

    @property
    def reach_ladder(self) -> tuple[int, ...]:
        """Cache entries that decoding reads."""
        whole = self.context + self.reply
        if whole < LONG_CACHE:
            return (whole,)
        return make_ladder(whole, bottom=LONG_CACHE // 2, ratio=math.sqrt(2), multiple=64)
