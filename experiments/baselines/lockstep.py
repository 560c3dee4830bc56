"""The baseline of the rollout: lock step and padding, as published systems collect.

Same model, same tokens, same sampler, same keys; only the schedule differs. All episodes of a batch
take their turns together: every prompt is padded to the prompt limit and prefilled whole, the batch
decodes until its last reply has stopped, and an episode that has ended keeps its slot and goes on
generating until the last of the batch has ended. No new episode enters before that.

It is fairer than what it stands for: replies stop at the closing action tag, and the whole of a
turn is one dispatch.
"""

import dataclasses
from typing import Any

import numpy as np

from hiperjax.acting.lanes import Lane
from hiperjax.acting.prompts import Prompter
from hiperjax.acting.rollout import Rollout
from hiperjax.acting.sampler import advance, insert, start


class WholePrompter(Prompter):
    """A prompter that shares no prefix: every prompt is computed whole."""

    shared_prefix = ()  # type: ignore[assignment]


class LockStepLane(Lane[Any]):
    """A batch in lock step. `ghosts` are prompts of ended episodes, which keep generating."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.ghosts: dict[int, Any] = {}

    @property
    def free(self) -> int:
        """No slot, until the last episode of the batch has ended."""
        return 0 if self.busy else len(self.slots)

    @property
    def busy(self) -> bool:
        return any(slot is not None for slot in self.slots)

    def release(self, owner: Any) -> None:
        """The episode leaves; its prompt stays."""
        for i, slot in enumerate(self.slots):
            if slot is not None and slot.owner is owner:
                self.ghosts[i] = slot
        super().release(owner)
        if not self.busy:
            self.ghosts.clear()

    def shrink(self) -> None:
        """The batch keeps its size."""

    def run(self) -> None:
        """One turn of the whole batch: prefill at full length, decode to the last reply's end."""
        if not self.busy:
            return
        count, limit = len(self.slots), self.shape.prompt
        tokens, lengths = np.zeros((count, limit), np.int32), np.ones(count, np.int32)
        numbers, turns = np.zeros(count, np.int32), np.zeros(count, np.int32)
        for i, slot in enumerate(self.slots):
            found = self.ghosts.get(i) if slot is None else slot
            if found is not None:
                tokens[i, : len(found.prompt)] = found.prompt
                lengths[i] = len(found.prompt)
                numbers[i], turns[i] = found.number, found.turn
                found.turn += slot is None
                found.waiting, found.scanned = False, 0
        owned = [slot for slot in self.slots if slot is not None]
        used = sum(len(slot.prompt) for slot in owned)
        self.stats.prompt_tokens += used
        self.stats.prefill_slots += count * limit
        self.stats.prefill_row_pad += (count - len(owned)) * limit
        self.stats.prefill_bucket_pad += len(owned) * limit - used
        opening = start(
            self.params, tokens, lengths, self.key, numbers, turns, None,
            room=limit + self.shape.reply, **self.static,
        )  # fmt: skip
        self.state = insert(self.state, opening, np.arange(count, dtype=np.int32))
        self.state = advance(
            self.params,
            self.state,
            np.zeros(count, bool),
            np.int32(count),
            None,
            steps=self.shape.reply - 1,
            **self.static,
        )


def lock_step(rollout: Rollout) -> Rollout:
    """The baseline that plays what `rollout` plays."""
    prompter = WholePrompter(**{f.name: getattr(rollout.prompter, f.name)
                                for f in dataclasses.fields(Prompter)})  # fmt: skip
    return dataclasses.replace(
        rollout, lane_factory=LockStepLane, prompter=prompter, pipeline_groups=1
    )
