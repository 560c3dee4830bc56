"""Attention of one layer: what each token sees, by which kernel, on which devices.

Three kinds of rows: packed sequences that say how their windows make rows of their own;
right-padded rows, whose lengths say all; rows with a mask, which `xla` alone takes: decoding's.

Axes: `N` rows, `Q` query positions, `K` keys, `L` tokens of a row, `H` heads, `G` key-value heads,
`d` head size.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from hiperjax_kernels.attention import Shared, attend, attend_in_blocks, window_mask
from hiperjax_kernels.causal import attend_causal
from hiperjax_kernels.rows import CausalFn, RowMap, attend_rows
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from hiperjax.models.architecture import TransformerConfig
from hiperjax.models.cache import KeyValues, divides, other_axes

UNBOUNDED = jnp.iinfo(jnp.int32).max
"""Window of a layer that no window binds."""


class Context(NamedTuple):
    """What all layers of one call share."""

    cos: Float[Array, "N Q 1 h"]
    sin: Float[Array, "N Q 1 h"]
    query_position: Int[Array, "N Q"]
    key_position: Int[Array, "N K"]
    mask: Bool[Array, "N Q K"] | None = None
    """mask of the row's own keys"""
    lengths: Int[Array, " N"] | None = None
    """instead of a mask: right-padded rows"""
    rows: RowMap | None = None
    """instead of a mask: packed sequences"""


def list_windows(config: TransformerConfig) -> Int[Array, " layers"] | None:
    """Window of each layer, or `None` where no layer has one."""
    if not config.windowed_layers:
        return None
    unbounded = jnp.full(config.num_layers, UNBOUNDED, jnp.int32)
    return unbounded.at[jnp.asarray(config.windowed_layers)].set(config.sliding_window)


def attend_layer(
    config: TransformerConfig,
    context: Context,
    query: Float[Array, "N Q H d"],
    own: KeyValues,
    prefix: Shared | None,
    window: Int[Array, ""] | None,
    *,
    causal: bool = False,
) -> Float[Array, "N Q H d"]:
    """Attention of one layer: over the rows' own keys `[N G K d]` and those of the prefix.

    `causal`: no query sees a key that stands after it in the row.
    """
    if context.mask is not None:
        return _attend_masked(config, context, query, own, prefix, window, causal)
    key, value = own.k.swapaxes(1, 2), own.v.swapaxes(1, 2)
    run = _causal_kernel(config, window)
    if context.rows is not None:
        assert prefix is None, "packed sequences hold their prefix"
        return attend_rows(query, key, value, context.rows, run)
    assert context.lengths is not None
    if prefix is None:
        return run(query, key, value, context.lengths)
    # A prefix of two parts would have to be merged by log-sum-exp, which is not to be had in full
    # precision: it stands in front of every row, and in front of the queries nothing is read.
    before = prefix.k.shape[1]
    rows = (query.shape[0], before, prefix.k.shape[0], prefix.k.shape[2])
    key, value = (
        jnp.concatenate([jnp.broadcast_to(part.swapaxes(0, 1)[None], rows), x], axis=1)
        for part, x in zip(prefix, (key, value), strict=True)
    )
    query = jnp.pad(query, ((0, 0), (before, 0), (0, 0), (0, 0)))
    return run(query, key, value, before + context.lengths)[:, before:]


def _attend_masked(
    config: TransformerConfig,
    context: Context,
    query: Float[Array, "N Q H d"],
    own: KeyValues,
    prefix: Shared | None,
    window: Int[Array, ""] | None,
    causal: bool,
) -> Float[Array, "N Q H d"]:
    mask, shared_mask = context.mask, None
    assert mask is not None
    if window is not None:
        mask &= window_mask(context.query_position, context.key_position, window)
        if prefix is not None:
            rows = context.query_position.shape[0]
            before = jnp.broadcast_to(jnp.arange(prefix.k.shape[1]), (rows, prefix.k.shape[1]))
            shared_mask = window_mask(context.query_position, before, window)
    block = config.attention_block if causal else 0
    if block and prefix is None and query.shape[1] > block:
        return attend_in_blocks(query, own.k, own.v, mask=mask, block=block)
    return attend(query, own.k, own.v, mask=mask, shared=prefix, shared_mask=shared_mask)


def _causal_kernel(config: TransformerConfig, window: Int[Array, ""] | None) -> CausalFn:
    """The configured kernel, for the layer whose window it is."""
    kernel = functools.partial(attend_causal, implementation=config.attention)
    whole = _on_mesh(config, kernel)
    if window is None:
        return whole
    banded = _on_mesh(config, functools.partial(kernel, window=config.sliding_window))

    def run(*rows: Array) -> Array:
        return jax.lax.cond(window < UNBOUNDED, banded, whole, *rows)

    return run


def _on_mesh(config: TransformerConfig, kernel: CausalFn) -> CausalFn:
    """Each device with its own rows and heads: XLA would gather both to call a custom kernel."""
    if not config.row_axes or config.attention == "xla":
        return kernel

    def run(query: Array, key: Array, value: Array, lengths: Array) -> Array:
        rows = config.row_axes if divides(query.shape[0], config.row_axes) else None
        tensor = other_axes(config)
        heads = tensor if divides(key.shape[2], tensor) else None
        spec: Any = PartitionSpec(rows, None, heads)
        split = jax.shard_map(
            kernel,
            in_specs=(spec, spec, spec, PartitionSpec(rows)),
            out_specs=spec,
            check_vma=False,
        )
        return split(query, key, value, lengths)

    return run
