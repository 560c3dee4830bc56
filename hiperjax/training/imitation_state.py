"""Imitation under way: its state, kept in the run folder until the first state is saved."""

import dataclasses
import math
import shutil
import time
from functools import partial
from typing import Any

import jax
import optax

from hiperjax.distributed.processes import is_first
from hiperjax.learning.imitation import ImitationState, keep_trained, start_imitation
from hiperjax.models.transformer import Params, TransformerConfig
from hiperjax.training.checkpoint import Checkpoints
from hiperjax.training.components import RunComponents
from hiperjax.training.stopped import TrainingStopped

SAVE_SECONDS = 600.0
"""Imitation is saved when it is stopped, and so often besides."""


@dataclasses.dataclass
class Imitation:
    """Where imitation stands, after so many steps."""

    state: ImitationState
    best: Params
    """what is trained of the best policy seen"""
    done: int = 0
    """optimizer steps"""
    best_loss: float = math.inf
    """held out; of the best policy seen"""
    bad: int = 0
    """measurements since then"""
    held_loss: float = math.inf
    """held out; as measured last"""
    portion: int = 0
    """of the expert's stream: the next one"""

    def note_loss(self, held: float, model: TransformerConfig, *, cure: str, keep: bool) -> None:
        """Take a held-out loss; the policy is kept where none was better, or with `keep` anyway.

        Raises:
          TrainingStopped: it is not finite; `cure` says what to do.
        """
        if not math.isfinite(held):
            raise TrainingStopped(
                f"imitation step {self.done}: the held-out loss is {held}; nothing is saved of it; "
                f"{cure}"
            )
        self.held_loss, self.bad = held, self.bad + 1
        if held < self.best_loss or keep:
            self.best, self.best_loss = keep_trained(self.state.policy, model), held
            self.bad = 0

    def save(self, kept: Checkpoints) -> None:
        """Save it; the state in the checkpoint is what the next step would start from."""
        meta = {"best_loss": self.best_loss, "bad": self.bad, "portion": self.portion}
        kept.save(self.done, {"state": self.state, "best": self.best}, meta=meta, best=False)


class SavedNow:
    """Whether it is time to save imitation again."""

    def __init__(self) -> None:
        self._last = time.perf_counter()

    def is_due(self) -> bool:
        """Whether the last one was too long ago; the answer yes counts as one."""
        if time.perf_counter() - self._last < SAVE_SECONDS:
            return False
        self._last = time.perf_counter()
        return True


def begin(
    components: RunComponents, optimizer: optax.GradientTransformation, policy: Params
) -> Imitation:
    """Imitation before its first step; takes the policy over."""
    start = partial(start_imitation, components.model, optimizer)
    state = components.placement.init_sharded(start, policy)
    return Imitation(state, keep_trained(state.policy, components.model))


def restore(
    components: RunComponents, optimizer: optax.GradientTransformation, kept: Checkpoints
) -> Imitation:
    """Imitation as it was saved last."""

    def build(policy: Params) -> dict[str, Any]:
        state = start_imitation(components.model, optimizer, policy)
        return {"state": state, "best": keep_trained(state.policy, components.model)}

    shapes = jax.eval_shape(build, components.describe_state().policy)
    done, saved = kept.restore(components.placement.describe(shapes))
    meta = kept.meta(done)
    best_loss = meta.get("best_loss")
    return Imitation(
        **saved,
        done=done,
        best_loss=math.inf if best_loss is None else float(best_loss),
        bad=int(meta.get("bad") or 0),
        portion=int(meta.get("portion") or 0),
    )


def forget(kept: Checkpoints) -> None:
    """Remove what cannot be read."""
    if is_first():
        shutil.rmtree(kept.folder, ignore_errors=True)
