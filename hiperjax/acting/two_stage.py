"""Replies in two stages: the planner writes switch and subgoal block, an executor the action block.

Each stage has an engine of its own, with weights, contexts and draws of its own: what the executor
is changes nothing of what the planner draws at the same prompt. An owner occupies a slot of one of
them at a time.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from hiperjax.acting.blocks import ABSENT, CLOSING_ACTION, CLOSING_SUBGOAL, find_stop
from hiperjax.acting.engine import Engine, EngineFactory
from hiperjax.acting.lane_sizes import LaneShape, RolloutStats
from hiperjax.acting.played import PlayedEpisode
from hiperjax.acting.sampler import encode_prefix
from hiperjax.models.transformer import Params, TransformerConfig
from hiperjax.types import Blocks, Span

Owner = TypeVar("Owner")
EXECUTOR = 1
"""What the key of the executor's draws is folded with."""
HandOver = Callable[[Owner, np.ndarray], Sequence[int] | None]
"""An owner and what its planner drew -> the executor's prompt; None: nothing to act under, the
reply stands as it is."""
Context = Callable[[PlayedEpisode, Sequence[int]], Sequence[int]]
"""An episode and its planner's part of the reply -> the executor's prompt."""


def go_on(episode: PlayedEpisode, plan: Sequence[int]) -> list[int]:
    """The planner's own context: its prompt, and what it wrote."""
    assert episode.prompt is not None, "a reply has a prompt"
    return [*episode.prompt.ids, *plan]


class Stage(NamedTuple):
    """Who writes a part of the replies."""

    shape: LaneShape
    params: Params
    config: TransformerConfig
    key: Key[Array, ""]


@dataclasses.dataclass(frozen=True)
class Executor:
    """Who writes action blocks."""

    find_params: Callable[[Params], Params]
    """its parameters, given the policy's"""
    config: TransformerConfig
    context: Context = go_on
    """what it is shown"""
    frozen: bool = True
    """what it writes is no part of the policy's replies"""

    def split(
        self, ids: np.ndarray, logprobs: np.ndarray, blocks: Blocks, planned: int | None
    ) -> tuple[np.ndarray, np.ndarray, Blocks]:
        """What of a reply is the policy's; its action stays known, as text."""
        if planned is None or not self.frozen:
            return ids, logprobs, blocks
        first, end = blocks.action_span
        span: Span = (first, min(end, planned)) if first < planned else ABSENT
        return ids[:planned], logprobs[:planned], dataclasses.replace(blocks, action_span=span)


class _Turn(NamedTuple):
    owner: Any
    number: int
    turn: int


class TwoStage(Generic[Owner]):
    """An engine made of two; whole prompts only, no context grows."""

    def __init__(
        self, planner: Engine[Owner], executor: Engine[Owner], hand_over: HandOver[Owner]
    ) -> None:
        self._planner, self._executor, self._hand_over = planner, executor, hand_over
        self._slots = planner.free
        self._turns: dict[int, _Turn] = {}
        """by identity of the owner: who has a slot"""
        self._drafts: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        """by identity of the owner: what the planner wrote of a reply under way"""
        self._stage: dict[int, Engine[Owner]] = {}
        """by identity of the owner: where a reply is under way"""

    @property
    def free(self) -> int:
        """Slots without an owner."""
        return self._slots - len(self._turns)

    @property
    def busy(self) -> bool:
        return bool(self._turns)

    def ask(self, owner: Owner, prompt: Sequence[int], *, number: int, turn: int) -> None:
        """Queue an owner's next prompt, for the planner."""
        self._turns[id(owner)] = _Turn(owner, number, turn)
        self._begin(self._planner, owner, prompt)

    def ask_more(self, owner: Owner, more: Sequence[int], *, number: int, turn: int) -> None:
        """Refused: a context cannot grow in two places."""
        raise ValueError(f"episode {number}, turn {turn}: two stages want whole prompts")

    def release(self, owner: Owner) -> None:
        """Free the owner's slot."""
        self._end(owner)
        self._turns.pop(id(owner), None)
        self._drafts.pop(id(owner), None)

    def _begin(self, stage: Engine[Owner], owner: Owner, prompt: Sequence[int]) -> None:
        _, number, turn = self._turns[id(owner)]
        stage.ask(owner, prompt, number=number, turn=turn)
        self._stage[id(owner)] = stage

    def _end(self, owner: Owner) -> None:
        stage = self._stage.pop(id(owner), None)
        if stage is not None:
            stage.release(owner)

    def shrink(self) -> None:
        """Nothing: an owner may come from the other stage at any time."""

    def run(self) -> None:
        """Go on with both stages."""
        self._planner.run()
        self._executor.run()

    def harvest(self) -> list[tuple[Owner, np.ndarray, np.ndarray]]:
        """Every reply that both stages have written, or that ends with the first."""
        done = []
        for owner, ids, logprobs in self._planner.harvest():
            prompt = self._hand_over(owner, ids)
            self._end(owner)
            if prompt is None:
                done.append((owner, ids, logprobs))
                continue
            self._drafts[id(owner)] = ids, logprobs
            self._begin(self._executor, owner, prompt)
        for owner, *acted in self._executor.harvest():
            self._end(owner)
            ids, logprobs = map(
                np.concatenate, zip(self._drafts.pop(id(owner)), acted, strict=True)
            )
            done.append((owner, ids, logprobs))
        return done


def make_lanes(
    count: int,
    policy: Stage,
    executor: Executor | None,
    hand_over: HandOver[PlayedEpisode],
    prepare: Callable[[Stage, str], Callable[[], Engine[PlayedEpisode]]],
) -> list[Engine[PlayedEpisode]]:
    """Engines of a rollout: of one stage, or of two where another writes the action blocks.

    Args:
      count: how many.
      policy: who writes replies, or the planner's part of them.
      executor: who writes the rest; None: nobody else.
      hand_over: what it is shown.
      prepare: (stage, tag that ends its part) -> what makes its engines.
    """
    if executor is None:
        make = prepare(policy, CLOSING_ACTION)
        return [make() for _ in range(count)]
    shape = policy.shape
    shape = dataclasses.replace(shape, prompt=shape.prompt + shape.reply)
    key = jax.random.fold_in(policy.key, EXECUTOR)
    acting = Stage(shape, executor.find_params(policy.params), executor.config, key)
    plan, act = prepare(policy, CLOSING_SUBGOAL), prepare(acting, CLOSING_ACTION)
    return [TwoStage(plan(), act(), hand_over) for _ in range(count)]


def prepare_engine(
    factory: EngineFactory,
    stage: Stage,
    closing: str,
    *,
    pieces: Sequence[bytes],
    list_stop_ids: Callable[[str], tuple[int, ...]],
    shared: Sequence[int],
    stats: RolloutStats,
    **settings: Any,
) -> Callable[[], Engine[PlayedEpisode]]:
    """What makes engines of one stage; what all prompts begin with is encoded here, once.

    Args:
      factory: makes one engine.
      stage: what it runs.
      closing: the tag that ends a reply.
      pieces: bytes of each token id.
      list_stop_ids: tokens after which nothing is drawn, given that tag.
      shared, stats, settings: as `EngineFactory` takes them.
    """
    params, config, prefix = stage.params, stage.config, None
    if shared:
        prefix = encode_prefix(params, jnp.asarray(shared, jnp.int32), config=config)
        stats.prompt_tokens += len(shared)
        stats.prefill_slots += len(shared)

    named: Any = settings | {
        "find_stop": partial(find_stop, pieces, closing=closing),
        "stop_ids": list_stop_ids(closing),
        "shared": shared,
        "prefix": prefix,
        "stats": stats,
    }
    return partial(factory, stage.shape, params, config, stage.key, **named)
