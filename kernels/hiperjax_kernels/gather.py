"""Gathers whose gradient is a matrix product.

XLA lowers a scatter to a loop over its updates on a CPU, and to atomics, in an order that changes
from run to run, on a GPU. Where the table is small, adding up rows by a product with one-hot
vectors is faster on the one and reproducible on the other.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

ONE_HOT_UP_TO = 4096
"""Rows of a table up to which its gradient is a product; beyond, a scatter."""


def take_rows(table: Float[Array, "V D"], rows: Int[Array, "*batch"]) -> Float[Array, "*batch D"]:
    """Rows of a table: an embedding."""
    if table.shape[0] > ONE_HOT_UP_TO:
        return table[rows]
    found = take_along(table[None], rows.reshape(1, -1))[0]
    return found.reshape(*rows.shape, table.shape[1])


@jax.custom_vjp
def take_along(x: Float[Array, "s C D"], at: Int[Array, "s Q"]) -> Float[Array, "s Q D"]:
    """Vectors of each sequence at its own positions, which lie in `[0, C)`."""
    return jnp.take_along_axis(x, at[..., None], axis=1)


def _forward(x, at):
    return take_along(x, at), (at, x.shape[1])


def _backward(saved, gradient):
    at, count = saved
    one_hot = jax.nn.one_hot(at, count, dtype=gradient.dtype)
    by_x = jnp.einsum("sqc,sqd->scd", one_hot, gradient, preferred_element_type=jnp.float32)
    return by_x.astype(gradient.dtype), None


take_along.defvjp(_forward, _backward)
