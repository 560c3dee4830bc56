"""Minibatches: which sequences each optimizer step sees, and the loop over the steps in use."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key

from hiperjax.learning.losses import Metrics


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
