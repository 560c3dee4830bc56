"""Rollouts that follow a script: real worlds and real lengths, whatever the weights.

A model with random weights plays nothing that resembles an episode, so an expert plays, with some
noise, and writes the script. The model then samples in its place: prompts are the real ones, each
reply has as many tokens as the script's, drawn and scored by the model; only what the reply says is
the script's. Device and host do all they would do in training.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Int

from hiperjax.acting.lanes import Lane
from hiperjax.acting.rollout import Rollout
from hiperjax.acting.sampler import SamplerState
from hiperjax.types import Blocks, Trajectory


@partial(jax.jit, donate_argnames="state")
def _set_length(
    state: SamplerState, slots: Int[Array, " P"], lengths: Int[Array, " P"]
) -> SamplerState:
    """Let the replies that begin in `slots` end after so many tokens: they count from further on.

    The first token stays at the front, the others fill the end of the row.
    """
    count = state.reply.shape[1] - lengths + 1
    return state._replace(
        count=state.count.at[slots].set(count, mode="drop"),
        live=state.live.at[slots].set(lengths > 1, mode="drop"),
    )


class ScriptedLane(Lane[Any]):
    """A lane whose replies have the script's lengths; no token stops them."""

    script: Sequence[Trajectory] = ()

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options | {"stop_ids": (), "find_stop": lambda ids, start: None})

    def _length(self, index: int) -> int:
        slot = self._at(index)
        return len(self.script[slot.number].turns[slot.turn].reply_ids)

    def _prefill(self, members: list[int]) -> None:
        super()._prefill(members)
        self._limit(members)

    def _extend(self, members: list[int]) -> None:
        super()._extend(members)
        self._limit(members)

    def _limit(self, members: list[int]) -> None:
        rows = self.shape.prefill_rows
        slots, lengths = np.full(rows, len(self.slots), np.int32), np.ones(rows, np.int32)
        slots[: len(members)] = members
        lengths[: len(members)] = [self._length(i) for i in members]
        self.state = _set_length(self.state, slots, lengths)

    def harvest(self) -> list[tuple[Any, np.ndarray, np.ndarray]]:
        """The replies that are complete, of their scripted lengths."""
        length = {id(s.owner): self._length(i) for i, s in enumerate(self.slots) if s is not None}
        done = []
        for owner, ids, logprobs in super().harvest():
            missing = len(ids) - length[id(owner)]
            self.stats.reply_tokens -= missing
            self.stats.decode_tokens -= missing
            kept = np.delete(np.arange(len(ids)), slice(1, 1 + missing))
            at = self._find(owner)
            assert at is not None
            self._at(at).reply = ids[kept]
            done.append((owner, ids[kept], logprobs[kept]))
        return done


def follow(rollout: Rollout, script: Sequence[Trajectory]) -> Rollout:
    """The same rollout, whose episodes follow the script, in its order."""
    longest = max(len(turn.reply_ids) for t in script for turn in t.turns)
    if longest > rollout.shape.reply:
        raise ValueError(
            f"a reply of the script has {longest} tokens; expected at most reply_length "
            f"{rollout.shape.reply}: raise it"
        )
    lane = type("Lane", (ScriptedLane,), {"script": script})

    def parse(episode: Any, ids: np.ndarray) -> Blocks:
        return script[episode.index].turns[len(episode.turns)].blocks

    return dataclasses.replace(rollout, lane_factory=lane, parse=parse)
