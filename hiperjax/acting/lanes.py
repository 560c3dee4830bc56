"""The device's side of a rollout: prompts in, replies out, over a fixed number of slots.

A lane knows nothing of worlds. Prompts wait until it is run: then they are prefilled, a few rows at
a time, each group padded to a bucket of lengths, and a chunk of decoding is dispatched. The chunk
ends on the device as soon as a few slots have finished their reply, so that they wait little for
their next prompt; nothing blocks before `harvest`. When no new episode will come, a lane shrinks
with those that are left.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import jax
import numpy as np
from jaxtyping import Array, Key

from hiperjax.acting.sampler import SamplerState, advance, init_state, keep_slots, place, start
from hiperjax.models.transformer import KeyValues, Params, TransformerConfig

Owner = TypeVar("Owner")
SHRINK = 2.0
"""Ratio of the sizes a lane shrinks through: each costs a compilation, and saves dead slots."""
PATIENCE = 2
"""Prompts short of a group wait while so many groups' worth of slots are decoding."""
LONG_CACHE = 512
"""Tokens of a slot from which decoding reads no more of the cache than a bucket in use."""


@dataclasses.dataclass
class RolloutStats:
    """What a rollout cost, in tokens and slots of tokens. A slot is one place of a batch in one
    pass: useful, or padding, or at rest."""

    prompt_tokens: int = 0
    shared_tokens: int = 0
    """of those, tokens of the shared prefix that were not computed again"""
    prefill_slots: int = 0
    """token slots the prefills computed"""
    prefill_bucket_pad: int = 0
    """of those, beyond the end of a prompt"""
    prefill_row_pad: int = 0
    """of those, rows of no prompt"""
    reply_tokens: int = 0
    decode_slots: int = 0
    """slot-steps the decode chunks computed"""
    decode_tokens: int = 0
    """of those, the ones that drew a token of a reply (its first is drawn in the prefill)"""
    dropped_history: int = 0
    """turns of history dropped to make prompts fit"""
    trimmed_prompts: int = 0
    """prompts whose observation was cut as well"""
    trimmed_tokens: int = 0
    """tokens of observations cut"""


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

    @property
    def prefill_rows(self) -> int:
        return min(self.slots, -(-self.rows // self.multiple) * self.multiple)

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
    def reach_ladder(self) -> tuple[int, ...]:
        """Cache entries that decoding reads."""
        whole = self.prompt + self.reply
        if whole < LONG_CACHE:
            return (whole,)
        return make_ladder(whole, bottom=LONG_CACHE // 2, ratio=math.sqrt(2), multiple=64)


@dataclasses.dataclass
class _Slot(Generic[Owner]):
    owner: Owner
    prompt: Sequence[int]
    """what follows the shared prefix"""
    number: int
    turn: int
    asked: int
    """when, in prompts of the lane"""
    waiting: bool = True
    scanned: int = 0
    """tokens of the reply that complete nothing"""


class Lane(Generic[Owner]):
    """Slots of one batch on the device. An owner is whoever a reply belongs to."""

    def __init__(
        self,
        shape: LaneShape,
        params: Params,
        config: TransformerConfig,
        key: Key[Array, ""],
        *,
        prefix: KeyValues | None,
        find_stop: Callable[[list[int], int], int | None],
        stats: RolloutStats,
        **sampling: Any,
    ):
        self.shape, self.params, self.key, self.prefix = shape, params, key, prefix
        self.stats, self.find_stop = stats, find_stop
        self.static: dict[str, Any] = {"config": config} | sampling
        self.slots: list[_Slot[Owner] | None] = [None] * shape.slots
        self.halted = np.zeros(shape.slots, bool)
        self.state: SamplerState = init_state(config, shape.slots, shape.prompt, shape.reply)
        self._steps = self._asked = 0

    @property
    def free(self) -> int:
        """Slots without an owner."""
        return sum(slot is None for slot in self.slots)

    @property
    def busy(self) -> bool:
        return self.free < len(self.slots)

    def ask(self, owner: Owner, prompt: Sequence[int], *, number: int, turn: int) -> None:
        """Queue an owner's next prompt, in the slot it has or in a free one."""
        held = (i for i, slot in enumerate(self.slots) if slot is not None and slot.owner is owner)
        at = next(held, None)
        at = self.slots.index(None) if at is None else at
        self.slots[at] = _Slot(owner, prompt, number, turn, self._asked)
        self._asked += 1

    def release(self, owner: Owner) -> None:
        """Free the owner's slot."""
        self.slots = [None if s is not None and s.owner is owner else s for s in self.slots]

    def shrink(self) -> None:
        """Drop free slots down to the next size that holds the others."""
        kept = [i for i, slot in enumerate(self.slots) if slot is not None]
        size = choose_bucket(self.shape.row_ladder, max(1, len(kept)))
        if size >= len(self.slots):
            return
        kept += [i for i, slot in enumerate(self.slots) if slot is None][: size - len(kept)]
        self.state = keep_slots(self.state, np.asarray(kept, np.int32))
        self.slots = [self.slots[i] for i in kept]
        self.halted = self.halted[kept]

    def run(self) -> None:
        """Prefill the prompts that wait and dispatch a chunk of decoding; does not block.

        A group that is not full waits for the next chunk, as long as enough other replies are under
        way to fill it soon: a row of padding costs more than some steps of a slot at rest.
        """
        waiting = [i for i, slot in enumerate(self.slots) if slot is not None and slot.waiting]
        waiting.sort(key=lambda i: self._at(i).asked)
        rows = self.shape.prefill_rows
        left = len(waiting) % rows
        if len(self.slots) - self.free - left >= PATIENCE * rows:
            waiting = waiting[: len(waiting) - left]
        waiting.sort(key=lambda i: (len(self._at(i).prompt), i))
        for first in range(0, len(waiting), rows):
            self._prefill(waiting[first : first + rows])
        if self.busy:
            self._decode()

    def _at(self, index: int) -> _Slot[Owner]:
        slot = self.slots[index]
        assert slot is not None
        return slot

    def _prefill(self, members: list[int]) -> None:
        found = [self._at(i) for i in members]
        rows = self.shape.prefill_rows
        longest = max(len(slot.prompt) for slot in found)
        length = choose_bucket(self.shape.length_ladder, longest)
        tokens = np.zeros((rows, length), np.int32)
        lengths, where = np.ones(rows, np.int32), np.full(rows, len(self.slots), np.int32)
        numbers, turns = np.zeros(rows, np.int32), np.zeros(rows, np.int32)
        for i, slot in enumerate(found):
            tokens[i, : len(slot.prompt)] = slot.prompt
            lengths[i], where[i] = len(slot.prompt), members[i]
            numbers[i], turns[i] = slot.number, slot.turn
            slot.waiting = False
        self.halted[members] = False
        used = sum(len(slot.prompt) for slot in found)
        self.stats.prompt_tokens += used
        self.stats.prefill_slots += rows * length
        self.stats.prefill_row_pad += (rows - len(found)) * length
        self.stats.prefill_bucket_pad += len(found) * length - used
        room = self.shape.prompt + self.shape.reply
        opening = start(
            self.params, tokens, lengths, self.key, numbers, turns, self.prefix,
            room=room, **self.static,
        )  # fmt: skip
        self.state = place(self.state, opening, where)

    def _decode(self) -> None:
        owned = [slot for slot in self.slots if slot is not None]
        held = sum(slot.waiting for slot in owned)
        refill = max(1, min(self.shape.refill, len(owned) // 4) - held)
        reach = max(len(slot.prompt) for slot in owned) + self.shape.reply
        self.state = advance(
            self.params,
            self.state,
            self.halted,
            np.int32(refill),
            self.prefix,
            steps=self.shape.chunk,
            attend_to=choose_bucket(self.shape.reach_ladder, reach),
            **self.static,
        )

    def harvest(self) -> list[tuple[Owner, np.ndarray, np.ndarray]]:
        """Wait for the chunk; every reply that is complete, with its owner and log-probs."""
        if not self.busy:
            return []
        s = self.state
        live, count, reply, logprobs, steps = jax.device_get(
            (s.live, s.count, s.reply, s.logprobs, s.steps)
        )
        self.stats.decode_slots += int(steps - self._steps) * len(self.slots)
        self._steps = int(steps)
        done = []
        for i, slot in enumerate(self.slots):
            if slot is None or slot.waiting:
                continue
            ids = reply[i, : count[i]]
            stop = self.find_stop(ids.tolist(), slot.scanned)
            slot.scanned = len(ids)
            if stop is not None or not live[i]:
                self.halted[i] = True
                ids = ids[:stop].copy()
                self.stats.reply_tokens += len(ids)
                self.stats.decode_tokens += len(ids) - 1
                done.append((slot.owner, ids, logprobs[i, : len(ids)].copy()))
        return done
