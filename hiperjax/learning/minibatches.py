"""Minibatches: which sequences each optimizer step sees, and the loop over the steps in use."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key

from hiperjax.learning.batches import LearnerBatch
from hiperjax.learning.losses import Metrics

Counts = tuple[Array, Array, Array]
"""Reply tokens counted, places of each head, share of the minibatch in a micro-batch."""


def global_norm(tree: Any) -> Array:
    """Euclidean norm over all leaves."""
    return jnp.sqrt(sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(tree)))


def keep_where(holds: Array, new: Any, old: Any) -> Any:
    """`new` where the condition holds, else `old`; a leaf that is the same in both stays."""
    return jax.tree.map(lambda a, b: a if a is b else jnp.where(holds, a, b), new, old)


def make_order(
    key: Key[Array, ""], *, count: int, total: int, size: int, epochs: int
) -> tuple[Int[np.ndarray, "M s"], Int[np.ndarray, ""]]:
    """Minibatches of `epochs` random passes over the first `count` of `total` sequences.

    A pass is dealt out evenly, so that no optimizer step rests on a few left-over sequences: each
    minibatch is averaged over its own tokens, and a small one would move the policy as far as a
    full one. Room to spare is filled with padding, which weighs nothing. Returns room for the
    passes of a full batch, and how many minibatches are in use.

    Raises:
      ValueError: `total` leaves no room to fill up the last minibatch.
    """
    steps = -(-count // size)
    if steps * size > total:
        raise ValueError(f"{total} packed sequences; expected a multiple of the minibatch, {size}")
    seed = np.asarray(jax.random.key_data(key)).ravel()
    rng = np.random.default_rng(seed.tolist())
    order = np.zeros((epochs * (total // size), size), np.int32)
    for epoch in range(epochs):
        padding = np.split(np.arange(count, steps * size), np.cumsum(_spare(count, steps, size)))
        for i, dealt in enumerate(np.array_split(rng.permutation(count), steps)):
            order[epoch * steps + i] = np.concatenate([dealt, padding[i]])
    return order, np.asarray(epochs * steps, np.int32)


def _spare(count: int, steps: int, size: int) -> np.ndarray:
    """Places left free in each of `steps` minibatches of `size` by `count` sequences."""
    return size - np.asarray([len(part) for part in np.array_split(np.arange(count), steps)])


def run_steps(step: Any, carry: Any, order: Array, steps: Array) -> tuple[Any, Metrics]:
    """`step` over the first `steps` rows of `order`; the last carry and the mean metrics."""
    shapes = jax.eval_shape(step, carry, order[0])[1]
    zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    def body(i: Array, loop: tuple[Any, Any]) -> tuple[Any, Any]:
        carry, metrics = step(loop[0], order[i])
        return carry, jax.tree.map(jnp.add, loop[1], metrics)

    carry, total = jax.lax.fori_loop(0, steps, body, (carry, zero))
    return carry, jax.tree.map(lambda x: x / jnp.maximum(steps, 1), total)


def accumulate(loss_fn: Any, trained: Any, part: LearnerBatch, micro: int) -> tuple[Any, Metrics]:
    """Gradient and metrics of a minibatch, micro-batch by micro-batch (0: all at once)."""
    size = part.reply.shape[0]
    micro = micro or size
    if part.tokens is None:
        places = part.value_mask.sum(axis=(0, 1))
    else:
        places = part.tokens.mask.sum()[None]
    counts = (
        jnp.maximum(part.loss_mask.sum(), 1).astype(jnp.float32),
        jnp.maximum(places, 1).astype(jnp.float32),
        jnp.float32(micro / size),
    )
    grad = jax.grad(loss_fn, has_aux=True)
    if micro == size:
        return grad(trained, part, counts)
    split = jax.tree.map(lambda x: x.reshape(-1, micro, *x.shape[1:]), part)

    # Padding stands last in a minibatch: micro-batches of nothing else are left out.
    used = -(-part.sequences.token_mask.any(axis=1).sum() // micro)

    def add(i: Array, total: Any) -> Any:
        piece = jax.tree.map(lambda x: x[i], split)
        return jax.tree.map(jnp.add, total, grad(trained, piece, counts))

    shapes = jax.eval_shape(grad, trained, jax.tree.map(lambda x: x[0], split), counts)
    zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    return jax.lax.fori_loop(0, used, add, zero)
