"""What the rollout asks of whatever decodes replies: our lanes, or somebody's inference server.

One engine runs the slots of one group. It is told whole prompts in token ids and gives token ids
back, with the log-prob of each under the distribution they were drawn from. Weights are handed to
it as they are on our devices; one that lives in another process brings its own way there: a folder
(`hiperjax convert run-to-hf`) or a transfer of its own.

`hiperjax.testing.check_engine` holds an implementation against this contract.
"""

import importlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Array, Key

from hiperjax.acting.lane_sizes import LaneShape, RolloutStats
from hiperjax.acting.lanes import Lane, Openings
from hiperjax.models.transformer import KeyValues, Params, TransformerConfig

NATIVE = "native"
Owner = TypeVar("Owner")


class EngineError(ValueError):
    """An engine that cannot be had."""


@runtime_checkable
class Engine(Protocol[Owner]):
    """Slots that decode. An owner is whoever a reply belongs to, told apart by identity."""

    @property
    def free(self) -> int:
        """Slots without an owner."""
        ...

    @property
    def busy(self) -> bool:
        """Whether any slot has an owner."""
        ...

    def ask(self, owner: Owner, prompt: Sequence[int], *, number: int, turn: int) -> None:
        """Queue an owner's next prompt, in the slot it has or in a free one.

        Draws should depend on the key, `number` (of the episode) and `turn` alone.
        """
        ...

    def ask_more(self, owner: Owner, more: Sequence[int], *, number: int, turn: int) -> None:
        """Queue what an owner's context grows by, after the reply that was harvested last; only
        where windows grow (`LaneShape.window`)."""
        ...

    def release(self, owner: Owner) -> None:
        """Free the owner's slot."""
        ...

    def shrink(self) -> None:
        """No new owner will come: free slots may be given up."""
        ...

    def run(self) -> None:
        """Begin what waits and go on with what is under way; need not block."""
        ...

    def harvest(self) -> list[tuple[Owner, np.ndarray, np.ndarray]]:
        """Every reply that is complete, once: its owner, ids `int32 [n]`, log-probs `float32 [n]`.

        A reply ends before the tokens that `find_stop` finds, with a stop id, or at
        `LaneShape.reply` tokens. Its owner keeps the slot.
        """
        ...


@runtime_checkable
class EngineFactory(Protocol):
    """Makes the engine of a group of slots, anew for each rollout."""

    def __call__(
        self,
        shape: LaneShape,
        params: Params,
        config: TransformerConfig,
        key: Key[Array, ""],
        *,
        shared: Sequence[int],
        prefix: KeyValues | None,
        find_stop: Callable[[list[int], int], int | None],
        stats: RolloutStats,
        openings: Openings | None,
        temperature: np.float32,
        top_p: float,
        stop_ids: tuple[int, ...],
    ) -> Engine[Any]:
        """An engine with all its slots free.

        Args:
          shape: how many slots, and how long prompts and replies may be.
          params: the policy's weights, in the compute dtype where that has 16 bits.
          config: their shape.
          key: what draws depend on, with the episode's number and the turn.
          shared: tokens that every opening prompt begins with.
          prefix: their keys and values, for engines that compute on the same devices.
          find_stop: Where in a reply's ids its text is complete, if it is; ids before the second
            argument were looked at before.
          stats: what the engine counts: tokens and slots of tokens.
          openings: prompts that others have opened with, for episodes of one task.
          temperature: Temperature of the draws, and of their log-probs; 0 is greedy.
          top_p: mass of the nucleus that is drawn from.
          stop_ids: tokens that end a reply.
        """
        ...


def load_engine(name: str) -> EngineFactory:
    """What makes engines: our lanes (`native`), or `MODULE:NAME`.

    Raises:
      EngineError: it cannot be imported; says why.
    """
    if name == NATIVE:
        return Lane
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:  # whatever a foreign module does when it is imported
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise EngineError(
            f"rollout.engine is {name!r}, which cannot be imported ({reason}); expected "
            f"{NATIVE}, or MODULE:NAME of what makes engines"
        ) from error
