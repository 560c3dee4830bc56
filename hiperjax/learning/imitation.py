"""Behavior cloning: cross-entropy on the reply tokens of packed turns."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from hiperjax.learning.learner import reply_logprobs, take_reply
from hiperjax.models.transformer import Params, TransformerConfig, forward
from hiperjax.types import TurnRows


class ImitationState(NamedTuple):
    policy: Params
    optimizer: Any


def make_optimizer(learning_rate: float, steps: int) -> optax.GradientTransformation:
    """AdamW, a short warm-up, cosine to zero."""
    rate = optax.warmup_cosine_decay_schedule(
        0.0, learning_rate, min(50, max(1, steps // 10)), max(2, steps)
    )
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=0.01))


def reply_loss(
    policy: Params, config: TransformerConfig, rows: TurnRows, reply_length: int
) -> Float[Array, ""]:
    """Mean negative log-prob of the reply tokens."""
    start = jnp.argmax(rows.response_mask, axis=1).astype(jnp.int32)
    hidden = forward(policy, config, rows.tokens, token_mask=rows.token_mask)
    reply = take_reply(rows.tokens, start, reply_length)
    mask = take_reply(rows.response_mask, start, reply_length)
    mask &= start[:, None] + jnp.arange(reply_length) < rows.tokens.shape[1]
    mask &= rows.row_mask[:, None]
    logprobs, _ = reply_logprobs(policy, config, hidden, start, reply)
    return -jnp.sum(jnp.where(mask, logprobs, 0.0)) / jnp.maximum(mask.sum(), 1)


@partial(
    jax.jit, static_argnames=("config", "optimizer", "reply_length"), donate_argnames="state"
)
def imitate(
    state: ImitationState,
    rows: TurnRows,
    order: Int[Array, "M n"],
    *,
    config: TransformerConfig,
    optimizer: optax.GradientTransformation,
    reply_length: int,
) -> tuple[ImitationState, Float[Array, ""]]:
    """One optimizer step for each minibatch `order` lists; returns their mean loss."""

    def step(state: ImitationState, index: Array) -> tuple[ImitationState, Array]:
        part = jax.tree.map(lambda x: x[index], rows)
        loss, grads = jax.value_and_grad(reply_loss)(state.policy, config, part, reply_length)
        moves, moved = optimizer.update(grads, state.optimizer, state.policy)
        return ImitationState(optax.apply_updates(state.policy, moves), moved), loss

    state, losses = jax.lax.scan(step, state, order)
    return state, losses.mean()


@partial(jax.jit, static_argnames=("config", "reply_length"))
def measure_loss(
    policy: Params, rows: TurnRows, *, config: TransformerConfig, reply_length: int
) -> Float[Array, ""]:
    """Loss on held-out turns."""
    return reply_loss(policy, config, rows, reply_length)
