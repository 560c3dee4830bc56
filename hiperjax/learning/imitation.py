"""Behavior cloning: cross-entropy on the reply tokens of packed turns."""

from collections.abc import Iterator, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from hiperjax.learning.batches import by_sequence, reply_logprobs, run_sequences
from hiperjax.learning.minibatches import add_up, all_finite, keep_where
from hiperjax.models.lora import combine, split_trained
from hiperjax.models.transformer import Params, TransformerConfig
from hiperjax.types import Sequences, TurnRows


class ImitationState(NamedTuple):
    policy: Params
    optimizer: Any
    """optimizer state of what is trained: all of the policy, or its adapters"""


def start_imitation(
    config: TransformerConfig, optimizer: optax.GradientTransformation, policy: Params
) -> ImitationState:
    """The state of a policy that has not imitated yet."""
    return ImitationState(policy, optimizer.init(split_trained(policy, config)[0]))


def keep_trained(policy: Params, config: TransformerConfig) -> Params:
    """A copy of what imitation changes, to come back to."""
    return jax.tree.map(jnp.copy, split_trained(policy, config)[0])


class ImitationBatch(NamedTuple):
    """Packed demonstrations."""

    sequences: Sequences
    reply: Int[Any, "S K R"]
    reply_at: Int[Any, "S K"]
    mask: Bool[Any, "S K R"]


def make_batch(sequences: Sequences, rows: TurnRows) -> ImitationBatch:
    """Packed turns on the device."""
    laid = (by_sequence(jnp.asarray(x), sequences)
            for x in (rows.reply, rows.reply_at, rows.reply_mask))  # fmt: skip
    return ImitationBatch(jax.tree.map(jnp.asarray, sequences), *laid)


def split_steps(
    sequences: Sequences, rows: TurnRows, size: int, seed: Sequence[int]
) -> Iterator[ImitationBatch]:
    """Packed turns in random order, `size` sequences at a time; fewer are left over."""
    count = len(sequences.tokens)
    order = np.random.default_rng(seed).permutation(count)
    parts = (rows.reply, rows.reply_at, rows.reply_mask)
    laid = [np.asarray(x).reshape(count, -1, *np.shape(x)[1:]) for x in parts]
    for first in range(0, count - size + 1, size):
        chosen = order[first : first + size]
        picked = jax.tree.map(lambda x: x[chosen], sequences)  # noqa: B023
        yield ImitationBatch(picked, *(x[chosen] for x in laid))


@cache
def make_optimizer(learning_rate: float, steps: int) -> optax.GradientTransformation:
    """AdamW, a short warm-up, cosine to zero.

    The same settings give the same object, so that their runs share compiled programs.
    """
    rate = optax.warmup_cosine_decay_schedule(
        0.0, learning_rate, min(50, max(1, steps // 10)), max(2, steps)
    )
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=0.01))


def reply_loss(
    policy: Params, config: TransformerConfig, batch: ImitationBatch
) -> Float[Array, ""]:
    """Negative log-probs of the reply tokens, summed."""
    hidden = run_sequences(policy, config, batch.sequences)
    replies = batch.sequences.reply_index, batch.reply_at, batch.reply
    logprobs, _ = reply_logprobs(policy, config, hidden, *replies)
    return -jnp.sum(jnp.where(batch.mask, logprobs, 0.0))


def choose_micro(sequences: int, most: int) -> int:
    """The largest share of a step's sequences that divides it, at most `most`; 0 is no limit."""
    return next(n for n in range(min(sequences, most or sequences), 0, -1) if sequences % n == 0)


@partial(jax.jit, static_argnames=("config", "optimizer", "micro"), donate_argnames="state")
def imitate(
    state: ImitationState,
    batch: ImitationBatch,
    order: Int[Array, "M s"],
    *,
    config: TransformerConfig,
    optimizer: optax.GradientTransformation,
    micro: int,
) -> tuple[ImitationState, Float[Array, ""]]:
    """One optimizer step for each minibatch of sequences `order` lists; returns their mean loss.

    Forward and backward passes see `micro` sequences at once, a divisor of `s`; their gradients add
    up. A step whose gradient or parameters are not finite is skipped.
    """

    def step(state: ImitationState, index: Array) -> tuple[ImitationState, Array]:
        part = jax.tree.map(lambda x: x[index], batch)
        trained, frozen = split_trained(state.policy, config)
        count = jnp.maximum(part.mask.sum(), 1)

        def loss_of(trained: Params, piece: ImitationBatch) -> Array:
            return reply_loss(combine(trained, frozen), config, piece) / count

        loss, grads = add_up(partial(jax.value_and_grad(loss_of), trained), part, micro)
        moves, moved = optimizer.update(grads, state.optimizer, trained)
        policy: Any = combine(optax.apply_updates(trained, moves), frozen)  # type: ignore
        new = ImitationState(policy, moved)
        return keep_where(all_finite((grads, new)), new, state), loss

    state, losses = jax.lax.scan(step, state, order)
    return state, losses.mean()


@partial(jax.jit, static_argnames=("config", "micro"))
def measure_loss(
    policy: Params, batch: ImitationBatch, *, config: TransformerConfig, micro: int
) -> Float[Array, ""]:
    """Mean negative log-prob of the reply tokens of held-out turns, `micro` sequences at once."""
    total = add_up(partial(reply_loss, policy, config), batch, min(micro, len(batch.reply)))
    return total / jnp.maximum(batch.mask.sum(), 1)
