"""The trunk: a decoder-only transformer, defined once in flax.nnx and run as pure functions.

`nnx` holds the definition only. After one split the parameters are a plain nested dict whose
layers are stacked on a leading axis and scanned; every function here takes `(params, config)`,
with `config` static, and works inside `jit`, `grad` and `scan`.

Axes: `N` rows, `L` tokens per row, `D` hidden size, `V` vocabulary, `S` decode slots, `C` cache
length, `H` heads, `G` key-value heads, `d` head size.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from hiperjax_kernels.attention import Shared, row_mask
from hiperjax_kernels.gather import take_rows
from hiperjax_kernels.rows import map_rows
from jaxtyping import Array, Bool, Float, Int, Key

from hiperjax.models.architecture import TransformerConfig
from hiperjax.models.attention import Context, attend_layer, list_windows
from hiperjax.models.cache import KeyValues, init_cache, split_cache, split_rows
from hiperjax.models.layers import Block, Linear, RMSNorm, block_of, rms_norm
from hiperjax.models.rope import angles

__all__ = [
    "KeyValues",
    "Params",
    "Transformer",
    "TransformerConfig",
    "abstract_params",
    "append",
    "cast_layers",
    "cast_params",
    "decode",
    "forward",
    "init_cache",
    "init_params",
    "logits",
    "output_weights",
    "prefill",
]

Params = dict[str, Any]


class Transformer(nnx.Module):
    """The definition. `layers` is one `Block` whose parameters carry a leading layer axis."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        shape = (config.vocab_size, config.hidden_size)
        self.embedding = nnx.Param(config.embedding_std * jax.random.normal(rngs.params(), shape))

        @nnx.split_rngs(splits=config.num_layers)
        @nnx.vmap
        def stack(rngs: nnx.Rngs) -> Block:
            return Block(config, rngs=rngs)

        self.layers = stack(rngs)
        self.final_norm = RMSNorm(config.hidden_size, config.norm_eps)
        if not config.tie_embeddings:
            self.unembedding = Linear(config.hidden_size, config.vocab_size, rngs=rngs)


def init_params(config: TransformerConfig, key: Key[Array, ""]) -> Params:
    """Fresh float32 parameters; kernels have standard deviation `1 / sqrt(fan_in)`.

    Projections back into the residual stream are smaller by `sqrt(2 * num_layers)`.
    """
    _, state = nnx.split(Transformer(config, rngs=nnx.Rngs(params=key)))
    return nnx.to_pure_dict(state)


def abstract_params(config: TransformerConfig) -> Params:
    """Shapes and dtypes of `init_params`; takes no memory."""
    return jax.eval_shape(functools.partial(init_params, config), jax.random.key(0))


def cast_params(params: Params, dtype: Any) -> Params:
    """Compute weights from float32 masters: once per update, for learner and sampler alike."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype), params)


def cast_layers(tree: Any, dtype: Any) -> Any:
    """What a tree of parameters has of layers, cast; all else as it is.

    An embedding's gradient adds up over all tokens that are equal: not in 16 bits.
    """

    def cast(path: tuple[Any, ...], leaf: Array) -> Array:
        inside = any(getattr(key, "key", None) == "layers" for key in path)
        return leaf.astype(dtype) if inside else leaf

    return jax.tree_util.tree_map_with_path(cast, tree)


def _embed(
    params: Params, config: TransformerConfig, tokens: Int[Array, "N Q"]
) -> Float[Array, "N Q D"]:
    x = take_rows(params["embedding"], tokens).astype(config.dtype)
    return split_rows(x * math.sqrt(config.hidden_size) if config.embedding_scale else x, config)


def _shared(prefix: KeyValues | None, dtype: Any) -> Shared | None:
    """The prefix of every layer, for the scan over layers."""
    if prefix is None:
        return None
    return Shared(*(part[:, 0].astype(dtype) for part in prefix))


def _checkpointed(config: TransformerConfig, body: Any) -> Any:
    if config.remat == "none":
        return body
    saved = {
        "full": jax.checkpoint_policies.nothing_saveable,
        "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    }[config.remat]
    return jax.checkpoint(body, policy=saved, prevent_cse=False)


def _run_rows(
    params: Params,
    config: TransformerConfig,
    tokens: Int[Array, "N L"],
    context: Context,
    prefix: KeyValues | None,
    *,
    keep: bool,
) -> tuple[Float[Array, "N L D"], KeyValues | None]:
    """All layers over whole rows; `keep` returns the rows' own keys and values."""

    def body(x, layer):
        layer_params, before, window = layer
        block = block_of(config, layer_params)
        query, key, value = block.attention.project(
            block.attention_norm(x), context.cos, context.sin
        )
        own = KeyValues(key.swapaxes(1, 2), value.swapaxes(1, 2))
        heads = attend_layer(config, context, query, own, before, window, causal=True)
        x = split_rows(block.finish(x, heads), config)
        return x, own if keep else None

    layers = (params["layers"], _shared(prefix, config.dtype), list_windows(config))
    x, kept = jax.lax.scan(_checkpointed(config, body), _embed(params, config, tokens), layers)
    return rms_norm(x, params["final_norm"]["scale"], config.norm_eps), kept


def _row_context(
    config: TransformerConfig,
    tokens: Int[Array, "N L"],
    lengths: Int[Array, " N"] | None,
    token_mask: Bool[Array, "N L"] | None,
    positions: Int[Array, "N L"] | None,
    segments: Int[Array, "N L"] | None,
    rows: Int[Array, "N W R"] | None,
    prefix_length: int,
) -> Context:
    count, length = tokens.shape
    if (lengths is None) == (token_mask is None):
        raise ValueError("forward: give either lengths or token_mask, and not both")
    if positions is None:
        positions = jnp.broadcast_to(prefix_length + jnp.arange(length), (count, length))
    cos, sin = angles(positions, config.head_dim, config.rope_theta, config.rope_scaling)
    context = Context(cos, sin, positions, positions)
    if rows is not None:
        if segments is None or token_mask is None:
            raise ValueError("forward: rows are of packed sequences; give segments and token_mask")
        return context._replace(rows=map_rows(rows, segments, positions, token_mask))
    if lengths is not None and segments is None and config.attention != "xla":
        return context._replace(lengths=jnp.maximum(lengths, 1))
    if token_mask is None:
        assert lengths is not None
        token_mask = jnp.arange(length)[None] < lengths[:, None]
    return context._replace(mask=row_mask(token_mask, segments))


def forward(
    params: Params,
    config: TransformerConfig,
    tokens: Int[Array, "N L"],
    *,
    lengths: Int[Array, " N"] | None = None,
    token_mask: Bool[Array, "N L"] | None = None,
    positions: Int[Array, "N L"] | None = None,
    segments: Int[Array, "N L"] | None = None,
    rows: Int[Array, "N W R"] | None = None,
    prefix: KeyValues | None = None,
) -> Float[Array, "N L D"]:
    """Causal forward pass over whole rows; the final norm is applied.

    Say which tokens are real by `lengths` (right-padded rows) or by `token_mask`; what stands at
    padding is unspecified. `positions` default to 0, 1, ... after the prefix. `segments` packs
    several sequences into a row, sharing segment 0 (see `row_mask`); `positions` must then restart
    with each segment; `rows` says which token each column of a segment's own row is, and has
    attention run on those (see `hiperjax_kernels.rows`). `prefix` holds keys
    and values, of one row, that every row continues.
    """
    before = 0 if prefix is None else prefix.k.shape[3]
    context = _row_context(config, tokens, lengths, token_mask, positions, segments, rows, before)
    return _run_rows(params, config, tokens, context, prefix, keep=False)[0]


def prefill(
    params: Params,
    config: TransformerConfig,
    tokens: Int[Array, "N L"],
    lengths: Int[Array, " N"],
    *,
    prefix: KeyValues | None = None,
) -> tuple[Float[Array, "N L D"], KeyValues]:
    """`forward` that also returns the keys and values of `tokens` (not of the prefix)."""
    before = 0 if prefix is None else prefix.k.shape[3]
    context = _row_context(config, tokens, lengths, None, None, None, None, before)
    hidden, kept = _run_rows(params, config, tokens, context, prefix, keep=True)
    assert kept is not None
    return hidden, kept


def decode(
    params: Params,
    config: TransformerConfig,
    token: Int[Array, " S"],
    position: Int[Array, " S"],
    cache: KeyValues,
    *,
    prefix: KeyValues | None = None,
    attend_to: int | None = None,
) -> tuple[Float[Array, "S D"], KeyValues]:
    """One token per slot: write its key and value at `position` of the cache, attend to
    `0..position` of it and to the whole prefix, which stands before it.

    `attend_to` (static) reads only that many leading cache entries: a bucket that covers the live
    ones. Donate the cache; the loop over layers carries it, so that it is updated in place.
    """
    slots = jnp.arange(token.shape[0])
    reach = attend_to or cache.k.shape[3]

    def write(part: Array, index: Array, new: Array) -> Array:
        return part.at[index, slots, :, position].set(new[:, 0].astype(part.dtype))

    def read(part: Array, index: Array) -> Array:
        return part[index][:, :, :reach]

    hidden, cache = _run_cached(
        params, config, token[:, None], position[:, None], cache, prefix, reach, write, read
    )
    return hidden[:, 0], cache


def append(
    params: Params,
    config: TransformerConfig,
    tokens: Int[Array, "P L"],
    lengths: Int[Array, " P"],
    starts: Int[Array, " P"],
    slots: Int[Array, " P"],
    cache: KeyValues,
    *,
    prefix: KeyValues | None = None,
    attend_to: int | None = None,
) -> tuple[Float[Array, "P L D"], KeyValues]:
    """`lengths` more tokens in each of these slots, after the `starts` entries it holds.

    Keys and values are written from `starts` on, over whatever stands there; a token attends to
    what its slot holds before it and to the prefix. A slot number past the last one writes nothing.
    Hidden states beyond `lengths` are unspecified. `attend_to` covers `starts + lengths`.
    """
    room, within = cache.k.shape[3], jnp.arange(tokens.shape[1])[None]
    reach, position = attend_to or room, starts[:, None] + within
    at = jnp.where(within < lengths[:, None], position, room)
    held = jnp.minimum(slots, cache.k.shape[1] - 1)

    def write(part: Array, index: Array, new: Array) -> Array:
        return part.at[index, slots[:, None], :, at].set(new.astype(part.dtype), mode="drop")

    def read(part: Array, index: Array) -> Array:
        return part[index, held, :, :reach]

    return _run_cached(params, config, tokens, position, cache, prefix, reach, write, read)


def _run_cached(
    params: Params,
    config: TransformerConfig,
    tokens: Int[Array, "N Q"],
    position: Int[Array, "N Q"],
    cache: KeyValues,
    prefix: KeyValues | None,
    reach: int,
    write: Callable[[Array, Array, Array], Array],
    read: Callable[[Array, Array], Array],
) -> tuple[Float[Array, "N Q D"], KeyValues]:
    """All layers over tokens at `position` of the cache, which each layer writes before it reads.

    `write` puts a layer's new keys or values into the cache, `read` takes the `reach` leading
    entries of the rows.
    """
    before = 0 if prefix is None else prefix.k.shape[3]
    absolute = before + position
    cos, sin = angles(absolute, config.head_dim, config.rope_theta, config.rope_scaling)
    at = jnp.broadcast_to(jnp.arange(reach), (tokens.shape[0], reach))
    seen = at[:, None, :] <= position[:, :, None]
    context = Context(cos, sin, absolute, before + at, mask=seen)

    def body(carry, layer):
        x, cache = carry
        layer_params, index, shared, window = layer
        block = block_of(config, layer_params)
        query, key, value = block.attention.project(block.attention_norm(x), cos, sin)
        cache = KeyValues(write(cache.k, index, key), write(cache.v, index, value))
        own = KeyValues(*(read(part, index).astype(x.dtype) for part in cache))
        heads = attend_layer(config, context, query, own, shared, window)
        return (split_rows(block.finish(x, heads), config), cache), None

    shared, indices = _shared(prefix, config.dtype), jnp.arange(config.num_layers)
    layers = (params["layers"], indices, shared, list_windows(config))
    x = _embed(params, config, tokens)
    (x, cache), _ = jax.lax.scan(body, (x, cache), layers, unroll=config.decode_unroll)
    cache = split_cache(cache, config)
    return rms_norm(x, params["final_norm"]["scale"], config.norm_eps), cache


def output_weights(params: Params, config: TransformerConfig) -> Float[Array, "V D"]:
    """The output embedding: a row for each entry of the vocabulary."""
    return params["embedding"] if config.tie_embeddings else params["unembedding"]["kernel"].T


def logits(
    params: Params, config: TransformerConfig, hidden: Float[Array, "*batch D"]
) -> Float[Array, "*batch V"]:
    """Next-token logits in float32 (products in the compute dtype, sums in float32)."""
    weights = output_weights(params, config).astype(hidden.dtype)
    return jnp.einsum("...d,vd->...v", hidden, weights, preferred_element_type=jnp.float32)
