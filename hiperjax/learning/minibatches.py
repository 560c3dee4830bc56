"""Minibatches: which sequences each optimizer step sees, and the loop over the steps in use."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from hiperjax.learning.batches import LearnerBatch, pad_to_multiple
from hiperjax.learning.losses import Metrics, switch_probability
from hiperjax.learning.ratios import LEVELS, count_units
from hiperjax.models.transformer import cast_layers
from hiperjax.types import PyTree

EVEN_GROUPS = 4
"""At least this many micro-batches per step, so that a difference of one is at most a quarter."""


class Counts(NamedTuple):
    """What the losses need to know of a whole minibatch, so that its micro-batches add up."""

    tokens: Float[Array, ""]
    """reply tokens that count, at least 1"""
    blocks: Float[Array, ""]
    """blocks with such a token, at least 1"""
    replies: Float[Array, ""]
    """replies with such a token, at least 1"""
    values: Float[Array, " h"]
    """value positions of each head, at least 1"""
    choices: Float[Array, ""]
    """rows that could have kept or switched, at least 1"""
    switch_rate: Float[Array, ""]
    """mean probability of SWITCH over those rows, under the policy that sampled them"""


LossFn = Callable[[Any, LearnerBatch, Counts], tuple[Array, Metrics]]
"""(what is trained, micro-batch, counts of its minibatch) -> loss and metrics, which add up"""
StepFn = Callable[[Any, Array], tuple[Any, Metrics]]
"""(carry, sequences of a minibatch) -> carry and metrics"""


def count_minibatch(part: LearnerBatch) -> Counts:
    """The counts of one minibatch."""
    if part.tokens is None:
        values = part.value_mask.sum(axis=(0, 1))
    else:
        values = part.tokens.mask.sum()[None]
    units = (count_units(part.loss_mask, part.block, level) for level in LEVELS)
    tokens, blocks, replies, values, choices = (
        jnp.maximum(count, 1).astype(jnp.float32) for count in (*units, values, part.chose.sum())
    )
    rate = switch_probability(part.old_logprobs, part.switch_tokens, part.switched)
    switch_rate = jnp.where(part.chose, rate, 0.0).sum() / choices
    return Counts(tokens, blocks, replies, values, choices, switch_rate)


def global_norm(tree: PyTree) -> Array:
    """Euclidean norm over all leaves."""
    return jnp.sqrt(sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(tree)))


def all_finite(tree: PyTree) -> Bool[Array, ""]:
    """Whether every number of it is finite; what is no float counts as such."""
    floats = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    return jnp.all(jnp.asarray([jnp.isfinite(leaf).all() for leaf in floats]))


def keep_where(holds: Array, new: PyTree, old: PyTree) -> PyTree:
    """`new` where the condition holds, else `old`; a leaf that is the same in both stays."""
    return jax.tree.map(lambda a, b: a if a is b else jnp.where(holds, a, b), new, old)


def _share(count: int, parts: int) -> list[int]:
    """`count` in whole numbers as even as can be, the larger ones first."""
    each, left = divmod(count, parts)
    return [each + (i < left) for i in range(parts)]


def split_into_minibatches(count: int, size: int, micro: int = 0) -> list[int]:
    """How many of `count` sequences each optimizer step sees, at most `size`.

    As evenly as can be: each minibatch is averaged over its own tokens, and one of a few left-over
    sequences would move the policy as far as a full one. By whole micro-batches where that computes
    fewer rows and leaves steps within a quarter of each other.
    """
    steps = max(1, -(-count // size))
    even = _share(count, steps)
    if not micro:
        return even
    groups = -(-count // micro)
    if groups == sum(-(-part // micro) for part in even) or groups // steps < EVEN_GROUPS:
        return even
    sizes = [micro * part for part in _share(groups, steps)]
    sizes[0] -= micro * groups - count  # the first is one of the largest
    return sizes


def make_order(
    key: Key[Array, ""], *, sizes: Sequence[int], room: int, total: int, epochs: int
) -> tuple[Int[np.ndarray, "M s"], Int[np.ndarray, ""]]:
    """Minibatches of `epochs` random passes over the first `sum(sizes)` of `total` sequences.

    Args:
      key: seed of the passes.
      sizes: sequences of each minibatch of a pass (`split_into_minibatches`).
      room: sequences a minibatch has room for; what is to spare is filled with padding, which
        weighs nothing and stands last.
      total: sequences of the batch, padding included.
      epochs: passes.

    Returns:
      Room for the passes of a full batch, and how many minibatches are in use.

    Raises:
      ValueError: `total` leaves no room to fill up the last minibatch.
    """
    used, count, steps = np.asarray(sizes), sum(sizes), len(sizes)
    if steps * room > total:
        raise ValueError(f"{total} packed sequences; expected a multiple of the minibatch, {room}")
    seed = np.asarray(jax.random.key_data(key)).ravel()
    rng = np.random.default_rng(seed.tolist())
    order = np.zeros((epochs * (total // room), room), np.int32)
    for epoch in range(epochs):
        padding = np.split(np.arange(count, steps * room), np.cumsum(room - used))
        for i, part in enumerate(np.split(rng.permutation(count), np.cumsum(used)[:-1])):
            order[epoch * steps + i] = np.concatenate([part, padding[i]])
    return order, np.asarray(epochs * steps, np.int32)


def _zeros_like(shapes: PyTree) -> Any:
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)


def add_up(
    function: Callable[..., Any], tree: PyTree, size: int, used: Int[Array, ""] | None = None
) -> Any:
    """Sum of `function` over leading-axis slices of `size`; padding fills the last of them.

    `used`: how many slices count, the first ones; None: all.
    """
    split = jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]), pad_to_multiple(tree, size))

    def take(i: Any) -> Any:
        return jax.tree.map(lambda x: x[i], split)

    def add(i: Array, total: Any) -> Any:
        return jax.tree.map(jnp.add, total, function(take(i)))

    zero = _zeros_like(jax.eval_shape(lambda: function(take(0))))
    count = jax.tree.leaves(split)[0].shape[0] if used is None else used
    return jax.lax.fori_loop(0, count, add, zero)


def run_steps(step: StepFn, carry: PyTree, order: Array, steps: Array) -> tuple[PyTree, Metrics]:
    """`step` over the first `steps` rows of `order`; the last carry and the mean metrics."""
    zero = _zeros_like(jax.eval_shape(step, carry, order[0])[1])

    def body(i: Array, loop: tuple[Any, Any]) -> tuple[Any, Any]:
        carry, metrics = step(loop[0], order[i])
        return carry, jax.tree.map(jnp.add, loop[1], metrics)

    carry, total = jax.lax.fori_loop(0, steps, body, (carry, zero))
    return carry, jax.tree.map(lambda x: x / jnp.maximum(steps, 1), total)


def accumulate(
    loss_fn: LossFn, trained: PyTree, part: LearnerBatch, micro: int, *, dtype: str = "float32"
) -> tuple[PyTree, Metrics]:
    """Gradient and metrics of a minibatch, micro-batch by micro-batch (0: all at once).

    Layers are cast to the compute dtype once for all micro-batches; gradients add up in float32.
    """
    size = part.reply.shape[0]
    micro = micro or size
    counts = count_minibatch(part)
    trained = cast_layers(trained, dtype)

    def grad(trained: PyTree, part: LearnerBatch, counts: Counts) -> tuple[PyTree, Metrics]:
        grads, metrics = jax.grad(loss_fn, has_aux=True)(trained, part, counts)
        return jax.tree.map(lambda x: x.astype(jnp.float32), grads), metrics

    if micro == size:
        return grad(trained, part, counts)
    # Padding stands last in a minibatch: micro-batches of nothing else are left out.
    used = -(-part.sequences.token_mask.any(axis=1).sum() // micro)
    return add_up(lambda piece: grad(trained, piece, counts), part, micro, used)
