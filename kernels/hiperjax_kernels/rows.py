"""Attention of packed sequences, each of their windows a row of its own.

Several windows (turns, or runs of turns) are packed into one sequence behind a prefix that all of
them continue. That serves everything that works token by token. For attention alone a window
becomes a row, the prefix in front of it: then a plain causal kernel is all that is needed, and no
score between two windows is computed.

    sequences of C tokens, K windows in each, prefix of P tokens, rows of R columns
    source[n, k, t] = t                           for t < P
                    = first[n, k] + t - P         otherwise
    rows[n, k, t] = packed[n, source[n, k, t]]    before attention
    packed[n, c]  = rows[n, window[n, c], position[n, c]]    after it

`position` counts the prefix, so it is the column. Both ways are gathers, and so are both gradients:
a gradient by scatter would be slow on a TPU, and would add up in another order in each run on a
GPU.

Axes: `N` sequences, `C` tokens, `K` windows, `R` columns of a row.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

CausalFn = Callable[[Array, Array, Array, Array], Array]
"""(query, key, value `[rows R heads d]`, lengths) -> attended values, as `attend_causal`"""


class RowMap(NamedTuple):
    """Which token each column is, and which column each token."""

    source: Int[Array, "N K R"]
    """token that a column reads; anything where it is padding"""
    live: Bool[Array, "N K R"]
    """columns whose result is read: a window's own tokens, and the prefix in the first row"""
    cell: Int[Array, "N C"]
    """`row * R + column` of each token"""
    prefix: Bool[Array, "N C"]
    """tokens that stand in every row"""
    own: Bool[Array, "N C"]
    """tokens that stand in one row"""
    lengths: Int[Array, "N K"]
    """real columns of each row, at least 1"""


def map_rows(
    source: Int[Array, "N K R"],
    segment: Int[Array, "N C"],
    position: Int[Array, "N C"],
    token_mask: Bool[Array, "N C"],
) -> RowMap:
    """The map of packed sequences, made once for all layers.

    Args:
      source: token that each column reads.
      segment: window of each token, from 1; 0: the prefix.
      position: position of each token in its window, the prefix counted.
      token_mask: tokens that are no padding.
    """
    _, windows, columns = source.shape
    prefix, own = token_mask & (segment == 0), token_mask & (segment > 0)
    number = jnp.arange(1, windows + 1, dtype=segment.dtype)[None, :, None]
    before = prefix.sum(axis=1)[:, None, None]
    mine = own[:, None] & (segment[:, None] == number)
    length = before + mine.sum(axis=2, keepdims=True)
    column = jnp.arange(columns)[None, None]
    live = jnp.where(column < before, number == 1, column < length)
    row = jnp.clip(segment - 1, 0, windows - 1)
    cell = row * columns + jnp.clip(position, 0, columns - 1)
    return RowMap(source, live, cell, prefix, own, jnp.maximum(length[..., 0], 1))


def attend_rows(
    query: Float[Array, "N C H d"],
    key: Float[Array, "N C G d"],
    value: Float[Array, "N C G d"],
    row_map: RowMap,
    attend: CausalFn,
) -> Float[Array, "N C H d"]:
    """Attention of each token to its window and to the prefix; unspecified at padding."""
    n, windows, columns = row_map.source.shape
    query, key, value = (
        to_rows(x, row_map).reshape(n * windows, columns, *x.shape[2:]) for x in (query, key, value)
    )
    out = attend(query, key, value, row_map.lengths.reshape(-1))
    return from_rows(out.reshape(n, windows, columns, *out.shape[2:]), row_map)


def _take(x: Array, at: Int[Array, "N ..."]) -> Array:
    """`x[n, at[n, ...]]` for every n."""
    n, count = x.shape[:2]
    found = jnp.take_along_axis(
        x.reshape(n, count, -1), at.reshape(n, -1)[:, :, None], axis=1, mode="clip"
    )
    return found.reshape(*at.shape, *x.shape[2:])


def _flatten(rows: Array) -> Array:
    return rows.reshape(rows.shape[0], -1, *rows.shape[3:])


def _over(mask: Array, x: Array) -> Array:
    """A mask over the leading axes of `x`."""
    return mask.reshape(*mask.shape, *(1,) * (x.ndim - mask.ndim))


@jax.custom_vjp
def to_rows(x: Float[Array, "N C heads d"], row_map: RowMap) -> Float[Array, "N K R heads d"]:
    """Packed tokens in rows."""
    return _take(x, row_map.source)


def _to_rows(x, row_map):
    return to_rows(x, row_map), row_map


def _to_rows_back(row_map, gradient):
    columns = gradient.shape[2]
    own = _take(_flatten(gradient), row_map.cell)
    # The prefix stands in every row; its gradient is the sum of theirs.
    total = gradient.astype(jnp.float32).sum(axis=1).astype(gradient.dtype)
    n, count = row_map.cell.shape
    first = jnp.minimum(jnp.arange(count), columns - 1)
    prefix = _take(total, jnp.broadcast_to(first[None], (n, count)))
    own = jnp.where(_over(row_map.own, own), own, jnp.zeros_like(own))
    return jnp.where(_over(row_map.prefix, own), prefix, own), None


to_rows.defvjp(_to_rows, _to_rows_back)


@jax.custom_vjp
def from_rows(rows: Float[Array, "N K R heads d"], row_map: RowMap) -> Float[Array, "N C heads d"]:
    """Rows packed again: of each token's columns the one that is its own."""
    return _take(_flatten(rows), row_map.cell)


def _from_rows(rows, row_map):
    return from_rows(rows, row_map), row_map


def _from_rows_back(row_map, gradient):
    found = _take(gradient, row_map.source)
    return jnp.where(_over(row_map.live, found), found, jnp.zeros_like(found)), None


from_rows.defvjp(_from_rows, _from_rows_back)
