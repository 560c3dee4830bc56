"""The device's side of a rollout: prompts in, replies out, over a fixed number of slots.

A lane knows nothing of worlds. Prompts wait until it is run: then they are prefilled, a few rows at
a time, each group padded to a bucket of lengths, and a chunk of decoding is dispatched. A prompt
either opens a context, or continues the one that its owner's slot holds: prompts and accepted
replies, whose keys and values stay where they are. The chunk ends on the device as soon as a few
slots have finished their reply, so that they wait little for their next prompt; nothing blocks
before `harvest`. When no new episode will come, a lane shrinks with those that are left.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import jax
import numpy as np
from jaxtyping import Array, Key

from hiperjax.acting.lane_sizes import LaneShape, RolloutStats, choose_bucket
from hiperjax.acting.sampler import (
    Opening,
    SamplerState,
    advance,
    extend,
    init_state,
    insert,
    keep_slots,
    redraw,
    start,
)
from hiperjax.models.transformer import KeyValues, Params, TransformerConfig

Owner = TypeVar("Owner")
PATIENCE = 2
"""Prompts short of a group wait while so many groups' worth of slots are decoding."""


@dataclasses.dataclass
class _Slot(Generic[Owner]):
    owner: Owner
    prompt: Sequence[int]
    """what is to be computed: all that follows the shared prefix, or what the context grows by"""
    number: int
    turn: int
    asked: int
    """when, in prompts of the lane"""
    start: int = 0
    """tokens of the context before the prompt, which the slot holds"""
    waiting: bool = True
    passed_over: bool = False
    """waited already while a group was made"""
    scanned: int = 0
    """tokens of the reply that complete nothing"""
    reply: np.ndarray | None = None
    """the reply, as accepted"""

    @property
    def context(self) -> int:
        """Tokens before the reply."""
        return self.start + len(self.prompt)


@dataclasses.dataclass
class Openings:
    """The prompts that were prefilled last, for other episodes of the same tasks; for all lanes."""

    rows: dict[tuple[int, ...], int] = dataclasses.field(default_factory=dict)
    """row of each prompt"""
    opening: Opening | None = None


class Lane(Generic[Owner]):
    """Slots of one batch on the device. An owner is whoever a reply belongs to."""

    def __init__(
        self,
        shape: LaneShape,
        params: Params,
        config: TransformerConfig,
        key: Key[Array, ""],
        *,
        shared: Sequence[int] = (),
        prefix: KeyValues | None,
        find_stop: Callable[[list[int], int], int | None],
        stats: RolloutStats,
        openings: Openings | None = None,
        **sampling: Any,
    ):
        """`shared`: what opening prompts begin with, its keys and values in `prefix`. `openings`:
        look for prompts that others have opened with, and keep one's own there."""
        self.shape, self.params, self.key, self.prefix = shape, params, key, prefix
        self.stats, self.find_stop = stats, find_stop
        self.static: dict[str, Any] = {"config": config} | sampling
        self.slots: list[_Slot[Owner] | None] = [None] * shape.slots
        self.halted = np.zeros(shape.slots, bool)
        self.state: SamplerState = init_state(config, shape.slots, shape.context, shape.reply)
        self._steps = self._asked = 0
        self._shared = len(shared)
        self._openings = openings

    @property
    def free(self) -> int:
        """Slots without an owner."""
        return sum(slot is None for slot in self.slots)

    @property
    def busy(self) -> bool:
        return self.free < len(self.slots)

    @property
    def active(self) -> int:
        """Slots with a reply to be written; the other owners are out in their worlds."""
        return sum(slot is not None and slot.reply is None for slot in self.slots)

    def ask(self, owner: Owner, prompt: Sequence[int], *, number: int, turn: int) -> None:
        """Queue an owner's next prompt, in the slot it has or in a free one."""
        at = self._find(owner)
        at = self.slots.index(None) if at is None else at
        self.slots[at] = _Slot(owner, prompt[self._shared :], number, turn, self._asked)
        self._asked += 1
        self.stats.prompt_tokens += self._shared
        self.stats.shared_tokens += self._shared

    def ask_more(self, owner: Owner, more: Sequence[int], *, number: int, turn: int) -> None:
        """Queue what an owner's context grows by, after the reply that was harvested last."""
        at = self._find(owner)
        held = None if at is None else self.slots[at]
        if at is None or held is None or held.reply is None:
            raise ValueError(
                f"episode {number}, turn {turn}: no context in this lane to go on with"
            )
        # The cache may lack the last accepted token, and hold tokens drawn after it.
        last = int(held.reply[-1])
        start = held.context + len(held.reply) - 1
        self.slots[at] = _Slot(owner, [last, *more], number, turn, self._asked, start)
        self._asked += 1
        self.stats.window_turns += 1

    def _find(self, owner: Owner) -> int | None:
        found = (i for i, slot in enumerate(self.slots) if slot is not None and slot.owner is owner)
        return next(found, None)

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
        way to fill it soon: a row of padding costs more than some steps of an idle slot.
        """
        if self._openings is not None:
            self._copy_openings()
        waiting = [i for i, slot in enumerate(self.slots) if slot is not None and slot.waiting]
        opening = [i for i in waiting if not self._at(i).start]
        if self._openings is not None:  # the others of its kind are copied from the first
            first = {tuple(self._at(i).prompt): i for i in reversed(opening)}
            opening = sorted(first.values())
        self._in_groups(self._prefill, opening)
        self._in_groups(self._extend, [i for i in waiting if self._at(i).start])
        if self.active:
            self._decode()

    def _in_groups(self, begin: Callable[[list[int]], None], waiting: list[int]) -> None:
        members, rows = self._choose(waiting), self.shape.prefill_rows
        for first in range(0, len(members), rows):
            begin(members[first : first + rows])

    def _choose(self, waiting: list[int]) -> list[int]:
        """Who is to begin now, by length; where contexts grow, nobody waits twice."""
        waiting.sort(key=lambda i: self._at(i).asked)
        rows = self.shape.prefill_rows
        left = len(waiting) % rows
        late = waiting[len(waiting) - left :]
        if self.active - left >= PATIENCE * rows and not (
            self.shape.window and any(self._at(i).passed_over for i in late)
        ):
            waiting = waiting[: len(waiting) - left]
            for i in late:
                self._at(i).passed_over = True
        return sorted(waiting, key=lambda i: (len(self._at(i).prompt), i))

    def _at(self, index: int) -> _Slot[Owner]:
        slot = self.slots[index]
        assert slot is not None
        return slot

    def _prefill(self, members: list[int]) -> None:
        tokens, lengths, where, numbers, turns = self._lay(members, self.shape.length_ladder)
        room = self.shape.context + self.shape.reply
        opening = start(
            self.params, tokens, lengths, self.key, numbers, turns, self.prefix,
            room=room, keep_scores=self._openings is not None, **self.static,
        )  # fmt: skip
        self.state = insert(self.state, opening, where)
        if self._openings is not None:
            prompts = (tuple(self._at(i).prompt) for i in members)
            self._openings.rows = {prompt: row for row, prompt in enumerate(prompts)}
            self._openings.opening = opening
            self._copy_openings()

    def _copy_openings(self) -> None:
        """Begin the replies to prompts that were prefilled for another episode already."""
        assert self._openings is not None
        rows = self._openings.rows
        while True:
            once: dict[int, int] = {}
            for i, slot in enumerate(self.slots):
                if slot is not None and slot.waiting and not slot.start:
                    row = rows.get(tuple(slot.prompt))
                    if row is not None:
                        once.setdefault(row, i)
            if not once:
                return
            self._place_copies(once)

    def _place_copies(self, members: dict[int, int]) -> None:
        """Slots that begin from rows of the kept opening, at most one from each."""
        assert self._openings is not None and self._openings.opening is not None
        rows = len(self._openings.opening.position)
        where = np.full(rows, len(self.slots), np.int32)
        numbers, turns = np.zeros(rows, np.int32), np.zeros(rows, np.int32)
        for row, i in members.items():
            slot = self._at(i)
            where[row], numbers[row], turns[row] = i, slot.number, slot.turn
            slot.waiting, self.halted[i] = False, False
            self.stats.copied_tokens += len(slot.prompt)
        sampling = {name: x for name, x in self.static.items() if name != "config"}
        opening = redraw(self._openings.opening, self.key, numbers, turns, **sampling)
        self.state = insert(self.state, opening, where)

    def _lay(self, members: list[int], ladder: Sequence[int]) -> tuple[np.ndarray, ...]:
        """Arrays of a group: tokens, lengths, slots, episodes, turns; its slots are to begin."""
        found = [self._at(i) for i in members]
        rows = choose_bucket(self.shape.group_ladder, len(found))
        longest = max(len(slot.prompt) for slot in found)
        length = choose_bucket(ladder, longest)
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
        return tokens, lengths, where, numbers, turns

    def _extend(self, members: list[int]) -> None:
        tokens, lengths, where, numbers, turns = self._lay(members, self.shape.growth_ladder)
        starts = np.zeros(len(lengths), np.int32)
        starts[: len(members)] = [self._at(i).start for i in members]
        reach = int((starts + lengths).max())
        self.state = extend(
            self.params, self.state, tokens, lengths, starts, where, self.key, numbers, turns,
            self.prefix, attend_to=choose_bucket(self.shape.reach_ladder, reach), **self.static,
        )  # fmt: skip

    def _decode(self) -> None:
        owned = [slot for slot in self.slots if slot is not None and slot.reply is None]
        held = sum(slot.waiting for slot in owned)
        refill = max(1, min(self.shape.refill, len(owned) // 4) - held)
        reach = max(slot.context for slot in owned) + self.shape.reply
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
        if not self.active:
            return []
        s = self.state
        live, count, reply, steps = jax.device_get((s.live, s.count, s.reply, s.steps))
        logprobs = None
        self.stats.decode_slots += int(steps - self._steps) * len(self.slots)
        self._steps = int(steps)
        done = []
        for i, slot in enumerate(self.slots):
            if slot is None or slot.waiting or slot.reply is not None:
                continue
            ids = reply[i, : count[i]]
            stop = self.find_stop(ids.tolist(), slot.scanned)
            slot.scanned = len(ids)
            if stop is not None or not live[i]:
                self.halted[i] = True
                slot.reply = ids = ids[:stop].copy()
                self.stats.reply_tokens += len(ids)
                self.stats.decode_tokens += len(ids) - 1
                if logprobs is None:  # fetched only where a reply is complete
                    logprobs = jax.device_get(s.logprobs)
                done.append((slot.owner, ids, logprobs[i, : len(ids)].copy()))
        return done
