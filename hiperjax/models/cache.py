"""Keys and values that slots keep between calls, and how rows and slots are split over a mesh.

Axes: `S` slots, `C` cache length, `G` key-value heads, `d` head size.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from hiperjax.models.architecture import TransformerConfig


class KeyValues(NamedTuple):
    """Keys (already rotated) and values of every layer, heads before positions."""

    k: Float[Array, "layers rows G length d"]
    v: Float[Array, "layers rows G length d"]


def split_rows(x: Array, config: TransformerConfig) -> Array:
    """Keep rows split over the mesh, and whole otherwise: parameters come to them.

    Rows that do not divide are left to the compiler.
    """
    axes = config.row_axes
    if not axes or not divides(x.shape[0], axes):
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(axes))


def other_axes(config: TransformerConfig) -> tuple[str, ...]:
    """Axes of the mesh in force that rows are not split over: heads are."""
    axes = jax.sharding.get_abstract_mesh().shape.keys() - set(config.row_axes)
    return tuple(sorted(axes))


def divides(size: int, axes: tuple[str, ...]) -> bool:
    """Whether these axes of the mesh in force divide a size; no mesh divides nothing."""
    sizes = dict(jax.sharding.get_abstract_mesh().shape)
    return bool(sizes) and size % math.prod(sizes[axis] for axis in axes) == 0


def split_cache(cache: KeyValues, config: TransformerConfig) -> KeyValues:
    """Slots split like rows, heads over what axes are left: no device holds more than its part."""
    if not config.row_axes:
        return cache
    _, slots, heads, *_ = cache.k.shape
    parts = ((slots, config.row_axes), (heads, other_axes(config)))
    spec = PartitionSpec(None, *(axes if divides(size, axes) else None for size, axes in parts))
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, spec), cache)


def init_cache(config: TransformerConfig, slots: int, length: int) -> KeyValues:
    """An empty cache in the compute dtype; on a mesh, made in parts."""
    make = _make_split_cache if config.row_axes else _make_cache
    return make(config, slots, length)


def _make_cache(config: TransformerConfig, slots: int, length: int) -> KeyValues:
    shape = (config.num_layers, slots, config.num_kv_heads, length, config.head_dim)
    return KeyValues(jnp.zeros(shape, config.dtype), jnp.zeros(shape, config.dtype))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _make_split_cache(config: TransformerConfig, slots: int, length: int) -> KeyValues:
    return split_cache(_make_cache(config, slots, length), config)
