"""Causal attention over right-padded rows, by the kernel that suits the device.

Axes: `N` rows, `R` columns, `H` query heads, `G` key-value heads, `d` head size. A row's tokens
stand first, so that no real token sees padding, and all that a kernel need know is the triangle.

Three implementations: `xla` on any device, which keeps all scores; `cudnn` (NVIDIA GPU, 16-bit) and
`splash` (TPU), which keep none and skip what the triangle hides.
"""

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from hiperjax_kernels.attention import attend

Implementation = Literal["xla", "cudnn", "splash"]
COLUMNS = {"xla": 1, "cudnn": 64, "splash": 128}
"""What each implementation wants the number of columns to be a multiple of."""
BLOCKS = (512, 384, 256, 128)
"""Tile sizes of splash, the largest that divides the columns first."""


def attend_causal(
    query: Float[Array, "N R H d"],
    key: Float[Array, "N R G d"],
    value: Float[Array, "N R G d"],
    lengths: Int[Array, " N"],
    *,
    implementation: Implementation,
    window: int | None = None,
    interpret: bool = False,
) -> Float[Array, "N R H d"]:
    """Softmax(q k / sqrt(d)) v over the keys of a row up to the query's own column.

    Args:
      query: heads of one key-value head stand together.
      key, value: a head per group of query heads.
      lengths: real tokens of each row, at least 1; what stands beyond them is unspecified.
      implementation: xla, cudnn or splash.
      window: keys a query sees at most, its own included; None: all before it.
      interpret: run splash's kernel where there is no TPU, slowly: for tests.
    """
    columns = query.shape[1]
    room = ((0, 0), (0, -columns % COLUMNS[implementation]), (0, 0), (0, 0))
    query, key, value = (jnp.pad(x, room) for x in (query, key, value))
    if implementation == "cudnn":
        out = _attend_cudnn(query, key, value, lengths, window)
    elif implementation == "splash":
        out = _attend_splash(query, key, value, window, interpret)
    else:
        out = _attend_xla(query, key, value, window)
    return out[:, :columns]


def _attend_xla(
    query: Float[Array, "N R H d"],
    key: Float[Array, "N R G d"],
    value: Float[Array, "N R G d"],
    window: int | None,
) -> Float[Array, "N R H d"]:
    at = jnp.arange(query.shape[1])
    behind = at[:, None] - at[None]
    seen = behind >= 0 if window is None else (behind >= 0) & (behind < window)
    return attend(query, key.swapaxes(1, 2), value.swapaxes(1, 2), mask=seen[None])


def _attend_cudnn(
    query: Float[Array, "N R H d"],
    key: Float[Array, "N R G d"],
    value: Float[Array, "N R G d"],
    lengths: Int[Array, " N"],
    window: int | None,
) -> Float[Array, "N R H d"]:
    lengths = lengths.astype(jnp.int32)
    return jax.nn.dot_product_attention(
        query,
        key,
        value,
        is_causal=True,
        query_seq_lengths=lengths,
        key_value_seq_lengths=lengths,
        local_window_size=None if window is None else (window - 1, 0),
        implementation="cudnn",
    )


def _attend_splash(
    query: Float[Array, "N R H d"],
    key: Float[Array, "N R G d"],
    value: Float[Array, "N R G d"],
    window: int | None,
    interpret: bool,
) -> Float[Array, "N R H d"]:
    # Imported here: it takes a second, which a run without a TPU need not wait.
    from jax.experimental.pallas.ops.tpu import splash_attention

    n, columns, heads, d = query.shape
    groups, square = key.shape[2], (columns, columns)
    mask: Any = splash_attention.CausalMask(square)
    if window is not None:
        mask = splash_attention.LocalMask(square, window_size=(window - 1, 0), offset=0)
    kernel: Any = splash_attention.make_splash_mqa_single_device(
        splash_attention.MultiHeadMask([mask] * (heads // groups)),
        block_sizes=_tiles(columns, splash_attention.BlockSizes),
        interpret=interpret,
    )
    grouped = (query * (1 / math.sqrt(d))).reshape(n, columns, groups, heads // groups, d)
    out: Any = jax.vmap(jax.vmap(kernel))(
        grouped.transpose(0, 2, 3, 1, 4), key.swapaxes(1, 2), value.swapaxes(1, 2)
    )
    return out.transpose(0, 3, 1, 2, 4).reshape(query.shape)


def _tiles(columns: int, kind: Any) -> Any:
    size = next(size for size in BLOCKS if columns % size == 0)
    names = ("q", "kv", "kv_compute", "q_dkv", "kv_dkv", "kv_dkv_compute", "q_dq", "kv_dq")
    return kind(**{f"block_{name}": size for name in names})
