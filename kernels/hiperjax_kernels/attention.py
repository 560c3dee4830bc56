"""Attention in one call: grouped queries over their own keys, and over a prefix all rows share.

Axes: `N` rows, `Q` query positions, `K` keys, `P` keys of the shared prefix, `H` query heads, `G`
key-value heads, `d` head size. Keys and values come head first, `[N G K d]`: then both products are
plain batched matrix products, on every backend, with no transpose of a cache.

The prefix is never copied to the rows: its scores come from one product with all queries, and the
two parts share one softmax. Any mask is taken and all scores are kept; `causal` has the kernels
that take a triangle and keep none.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

HIDDEN = -1e30
"""Score of a key that is not seen; finite, so that a row of none has no NaN in its gradient."""


class Shared(NamedTuple):
    """Keys and values before the rows, the same for all of them."""

    k: Float[Array, "G P d"]
    v: Float[Array, "G P d"]


def row_mask(
    token_mask: Bool[Array, "N L"], segments: Int[Array, "N L"] | None = None
) -> Bool[Array, "N L L"]:
    """Which keys of its row each query sees: those before it and itself, of valid tokens.

    `segments` packs several sequences into one row: a token sees the tokens of its own segment and
    of segment 0, the prefix that all of them share.
    """
    length = token_mask.shape[1]
    seen = jnp.tril(jnp.ones((length, length), bool))[None] & token_mask[:, None, :]
    if segments is not None:
        own = segments[:, :, None] == segments[:, None, :]
        seen &= own | (segments == 0)[:, None, :]
    return seen


def window_mask(
    query_position: Int[Array, "N Q"], key_position: Int[Array, "N K"], window: Int[Array, ""]
) -> Bool[Array, "N Q K"]:
    """Keys at most `window - 1` positions behind the query."""
    return query_position[:, :, None] - key_position[:, None, :] < window[None, None, None]


def attend(
    query: Float[Array, "N Q H d"],
    key: Float[Array, "N G K d"],
    value: Float[Array, "N G K d"],
    *,
    mask: Bool[Array, "#N Q K"] | None = None,
    lengths: Int[Array, " N"] | None = None,
    shared: Shared | None = None,
    shared_mask: Bool[Array, "N Q P"] | None = None,
) -> Float[Array, "N Q H d"]:
    """Softmax(q k / sqrt(d)) v in float32, over a row's own keys and the shared ones.

    Say what a query sees of its own row by `mask`, or by `lengths` alone: causal over right-padded
    rows. Of the shared keys it sees all, or what `shared_mask` says. What a query that sees nothing
    gets is finite and unspecified.

    Raises:
      ValueError: neither mask nor lengths, or both.
    """
    if (mask is None) == (lengths is None):
        raise ValueError("attend: give either mask or lengths, and not both")
    if mask is None:
        assert lengths is not None
        mask = row_mask(jnp.arange(key.shape[2])[None] < lengths[:, None])
    return _attend_xla(query, key, value, mask, shared, shared_mask)


def attend_in_blocks(
    query: Float[Array, "N L H d"],
    key: Float[Array, "N G L d"],
    value: Float[Array, "N G L d"],
    *,
    mask: Bool[Array, "N L L"],
    block: int,
) -> Float[Array, "N L H d"]:
    """`attend` over whole rows by a causal mask, `block` queries at a time.

    No query's score with a key after its block is computed: of long rows little more than half.
    """
    length = query.shape[1]
    ends = [*range(block, length, block), length]
    parts = [
        attend(
            query[:, start:end], key[:, :, :end], value[:, :, :end], mask=mask[:, start:end, :end]
        )
        for start, end in zip([0, *ends], ends, strict=False)
    ]
    return jnp.concatenate(parts, axis=1)


def _group(query: Float[Array, "N Q H d"], groups: int) -> Float[Array, "N G M d"]:
    """Queries of the heads that share a key-value head, one after the other: `M = H / G * Q`."""
    n, q, h, d = query.shape
    heads = (query * (1 / math.sqrt(d))).reshape(n, q, groups, h // groups, d)
    return heads.transpose(0, 2, 3, 1, 4).reshape(n, groups, h // groups * q, d)


def _ungroup(heads: Float[Array, "N G M d"], shape: tuple[int, ...]) -> Float[Array, "N Q H d"]:
    n, q, h, d = shape
    split = heads.reshape(n, heads.shape[1], -1, q, d)
    return split.transpose(0, 3, 1, 2, 4).reshape(n, q, h, d)


def _hide(scores: Float[Array, "N G M K"], mask: Bool[Array, "#N Q K"]) -> Float[Array, "N G M K"]:
    n, groups, m, k = scores.shape
    split = scores.reshape(n, groups, m // mask.shape[1], mask.shape[1], k)
    return jnp.where(mask[:, None, None], split, HIDDEN).reshape(scores.shape)


def _attend_xla(
    query: Float[Array, "N Q H d"],
    key: Float[Array, "N G K d"],
    value: Float[Array, "N G K d"],
    mask: Bool[Array, "#N Q K"],
    shared: Shared | None,
    shared_mask: Bool[Array, "N Q P"] | None,
) -> Float[Array, "N Q H d"]:
    wide = {"preferred_element_type": jnp.float32}
    heads = _group(query, key.shape[1])
    own = _hide(jnp.einsum("ngmd,ngkd->ngmk", heads, key, **wide), mask)
    top = own.max(axis=-1, keepdims=True)
    before = None
    if shared is not None:
        before = jnp.einsum("ngmd,gpd->ngmp", heads, shared.k, **wide)
        before = before if shared_mask is None else _hide(before, shared_mask)
        top = jnp.maximum(top, before.max(axis=-1, keepdims=True))
    # Divided after the product with the values: by d columns instead of K.
    top = jax.lax.stop_gradient(top)
    weights = jnp.exp(own - top)
    total = weights.sum(axis=-1, keepdims=True)
    out = jnp.einsum("ngmk,ngkd->ngmd", weights.astype(value.dtype), value, **wide)
    if shared is not None and before is not None:
        weights = jnp.exp(before - top)
        total += weights.sum(axis=-1, keepdims=True)
        out += jnp.einsum("ngmp,gpd->ngmd", weights.astype(value.dtype), shared.v, **wide)
    return _ungroup((out / total).astype(query.dtype), query.shape)
