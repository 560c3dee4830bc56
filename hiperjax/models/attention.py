"""Attention over right-padded rows: which keys a query may see, and the one call for it."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Implementation = Literal["xla", "cudnn"]


def row_mask(
    token_mask: Bool[Array, "N L"],
    segments: Int[Array, "N L"] | None = None,
    prefix_length: int = 0,
) -> Bool[Array, "N L K"]:
    """Which keys each query sees when whole rows are attended to; `K = prefix_length + L`.

    Causal over the valid tokens. `segments` packs several sequences into one row: a token sees the
    tokens of its own segment and of segment 0, the prefix that all of them share. The first
    `prefix_length` keys come from outside the row and are seen by everyone.
    """
    length = token_mask.shape[1]
    seen = jnp.tril(jnp.ones((length, length), bool))[None] & token_mask[:, None, :]
    if segments is not None:
        own = segments[:, :, None] == segments[:, None, :]
        seen &= own | (segments == 0)[:, None, :]
    return jnp.pad(seen, ((0, 0), (0, 0), (prefix_length, 0)), constant_values=True)


def window_mask(
    query_position: Int[Array, "N Q"], key_position: Int[Array, "N K"], window: Int[Array, ""]
) -> Bool[Array, "N Q K"]:
    """Keys at most `window - 1` positions behind the query."""
    return query_position[:, :, None] - key_position[:, None, :] < window[None, None, None]


def attend(
    query: Float[Array, "N Q H d"],
    key: Float[Array, "N K G d"],
    value: Float[Array, "N K G d"],
    *,
    mask: Bool[Array, "N Q K"] | None = None,
    lengths: Int[Array, " N"] | None = None,
    implementation: Implementation = "xla",
) -> Float[Array, "N Q H d"]:
    """Grouped-query attention; `H` query heads share `G` key-value heads.

    Give either `mask`, or `lengths` alone for causal attention over right-padded rows: cuDNN's
    flash kernel takes lengths without materializing a mask.
    """
    if mask is not None:
        return jax.nn.dot_product_attention(
            query, key, value, mask=mask[:, None], implementation=implementation
        )
    return jax.nn.dot_product_attention(
        query,
        key,
        value,
        is_causal=True,
        query_seq_lengths=lengths,
        key_value_seq_lengths=lengths,
        implementation=implementation,
    )
