"""The trunk: a decoder-only transformer, defined once in flax.nnx and run as pure functions.

`nnx` holds the definition only. After one split the parameters are a plain nested dict whose
layers are stacked on a leading axis and scanned; every function here takes `(params, config)`,
with `config` static, and works inside `jit`, `grad` and `scan`.

Axes: `N` rows, `L` tokens a row, `D` hidden size, `V` vocabulary, `S` decode slots, `C` cache
length, `H` heads, `G` key-value heads, `d` head size.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from hiperjax.models.architecture import TransformerConfig
from hiperjax.models.attention import attend, row_mask, window_mask
from hiperjax.models.rope import angles, rotate

__all__ = [
    "KeyValues",
    "Params",
    "Transformer",
    "TransformerConfig",
    "cast_params",
    "decode",
    "forward",
    "init_cache",
    "init_params",
    "logits",
    "prefill",
]

Params = dict[str, Any]


class KeyValues(NamedTuple):
    """Keys (already rotated) and values of every layer: `[layers, rows, length, G, d]`."""

    k: Float[Array, "layers rows length G d"]
    v: Float[Array, "layers rows length G d"]


class _Context(NamedTuple):
    """What all layers of one call share."""

    cos: Float[Array, "N Q 1 h"]
    sin: Float[Array, "N Q 1 h"]
    query_position: Int[Array, "N Q"]
    key_position: Int[Array, "N K"]
    mask: Bool[Array, "N Q K"] | None
    lengths: Int[Array, " N"] | None


def per_feature(vector: Float[Array, " D"], ndim: int) -> Float[Array, "..."]:
    """A vector over the last axis, ready to meet an array of `ndim` axes."""
    return jnp.expand_dims(vector, tuple(range(ndim - 1)))


class RMSNorm(nnx.Module):
    """Root-mean-square norm over the last axis, computed in float32."""

    def __init__(self, size: int, eps: float):
        self.scale = nnx.Param(jnp.ones(size))
        self.eps = eps

    def __call__(self, x: Float[Array, "*batch size"]) -> Float[Array, "*batch size"]:
        wide = x.astype(jnp.float32)
        wide *= jax.lax.rsqrt(jnp.mean(wide**2, axis=-1, keepdims=True) + self.eps)
        return wide.astype(x.dtype) * per_feature(self.scale[...].astype(x.dtype), x.ndim)


class Linear(nnx.Module):
    """`x @ kernel`, with an optional bias and an optional low-rank adapter beside the kernel."""

    def __init__(
        self,
        features_in: int,
        features_out: int,
        *,
        rngs: nnx.Rngs,
        bias: bool = False,
        std_factor: float = 1.0,
        rank: int = 0,
        alpha: float = 1.0,
    ):
        std = std_factor / math.sqrt(features_in)
        shape = (features_in, features_out)
        self.kernel = nnx.Param(std * jax.random.normal(rngs.params(), shape))
        if bias:
            self.bias = nnx.Param(jnp.zeros(features_out))
        if rank:
            down = jax.random.normal(rngs.params(), (features_in, rank))
            self.lora_a = nnx.Param(down / math.sqrt(features_in))
            self.lora_b = nnx.Param(jnp.zeros((rank, features_out)))
        self.use_bias = bias
        self.adapter_scale = alpha / rank if rank else 0.0

    def __call__(self, x: Float[Array, "*batch i"]) -> Float[Array, "*batch o"]:
        y = x @ self.kernel[...].astype(x.dtype)
        if self.use_bias:
            y += per_feature(self.bias[...].astype(x.dtype), y.ndim)
        if self.adapter_scale:
            low = x @ self.lora_a[...].astype(x.dtype)
            y += (low @ self.lora_b[...].astype(x.dtype)) * self.adapter_scale
        return y


def _linear(
    config: TransformerConfig, name: str, features_in: int, features_out: int, **options: Any
) -> Linear:
    """A projection by name, so that the config can say which ones carry adapters."""
    rank = config.lora_rank if name in config.lora_targets else 0
    return Linear(features_in, features_out, rank=rank, alpha=config.lora_alpha, **options)


class Attention(nnx.Module):
    """Projections and norms of grouped-query attention."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        width = config.num_heads * config.head_dim
        kv_width = config.num_kv_heads * config.head_dim
        hidden, bias = config.hidden_size, config.qkv_bias
        residual = 1 / math.sqrt(2 * config.num_layers)
        self.q = _linear(config, "q", hidden, width, bias=bias, rngs=rngs)
        self.k = _linear(config, "k", hidden, kv_width, bias=bias, rngs=rngs)
        self.v = _linear(config, "v", hidden, kv_width, bias=bias, rngs=rngs)
        self.o = _linear(config, "o", width, hidden, std_factor=residual, rngs=rngs)
        if config.qk_norm:
            self.q_norm = RMSNorm(config.head_dim, config.norm_eps)
            self.k_norm = RMSNorm(config.head_dim, config.norm_eps)
        self.qk_norm, self.head_dim = config.qk_norm, config.head_dim

    def project(
        self, x: Float[Array, "N Q D"], cos: Float[Array, "N Q 1 h"], sin: Float[Array, "N Q 1 h"]
    ) -> tuple[Float[Array, "N Q H d"], Float[Array, "N Q G d"], Float[Array, "N Q G d"]]:
        """Query, key and value by head; query and key normed and rotated."""
        query, key, value = (
            y.reshape(*y.shape[:-1], -1, self.head_dim) for y in (self.q(x), self.k(x), self.v(x))
        )
        if self.qk_norm:
            query, key = self.q_norm(query), self.k_norm(key)
        return rotate(query, cos, sin), rotate(key, cos, sin), value

    def merge(self, heads: Float[Array, "N Q H d"]) -> Float[Array, "N Q D"]:
        return self.o(heads.reshape(*heads.shape[:-2], -1))


class MLP(nnx.Module):
    """SwiGLU."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        hidden, wide = config.hidden_size, config.intermediate_size
        residual = 1 / math.sqrt(2 * config.num_layers)
        self.gate = _linear(config, "gate", hidden, wide, rngs=rngs)
        self.up = _linear(config, "up", hidden, wide, rngs=rngs)
        self.down = _linear(config, "down", wide, hidden, std_factor=residual, rngs=rngs)

    def __call__(self, x: Float[Array, "N Q D"]) -> Float[Array, "N Q D"]:
        return self.down(jax.nn.silu(self.gate(x)) * self.up(x))


class Block(nnx.Module):
    """One layer: attention and MLP, each normed before and added to the residual stream."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        self.attention_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.attention = Attention(config, rngs=rngs)
        self.mlp_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.mlp = MLP(config, rngs=rngs)


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


@functools.lru_cache(maxsize=64)
def _block_definition(config: TransformerConfig) -> nnx.GraphDef:
    return nnx.split(nnx.eval_shape(lambda: Block(config, rngs=nnx.Rngs(0))))[0]


def _block(config: TransformerConfig, params: Params) -> Block:
    """One layer's module around that layer's parameters."""
    return nnx.merge(_block_definition(config), nnx.State(params))


def init_params(config: TransformerConfig, key: Key[Array, ""]) -> Params:
    """Fresh float32 parameters; kernels have standard deviation `1 / sqrt(fan_in)`.

    Projections back into the residual stream are smaller by `sqrt(2 * num_layers)`.
    """
    _, state = nnx.split(Transformer(config, rngs=nnx.Rngs(params=key)))
    return nnx.to_pure_dict(state)


def cast_params(params: Params, dtype: Any) -> Params:
    """Compute weights from float32 masters: once an update, for learner and sampler alike."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype), params)


def _norm(scale: Params, x: Float[Array, "*batch D"], config: TransformerConfig):
    norm = RMSNorm(config.hidden_size, config.norm_eps)
    norm.scale = nnx.Param(scale["scale"])
    return norm(x)


def _embed(
    params: Params, config: TransformerConfig, tokens: Int[Array, "N Q"]
) -> Float[Array, "N Q D"]:
    x = params["embedding"][tokens].astype(config.dtype)
    return x * math.sqrt(config.hidden_size) if config.embedding_scale else x


def _windows(config: TransformerConfig) -> Int[Array, " layers"] | None:
    """Window of each layer (unbounded where none binds), or `None` where no layer has one."""
    if not config.windowed_layers:
        return None
    unbounded = jnp.full(config.num_layers, jnp.iinfo(jnp.int32).max, jnp.int32)
    return unbounded.at[jnp.asarray(config.windowed_layers)].set(config.sliding_window)


def _mask(context: _Context, window: Int[Array, ""] | None) -> Bool[Array, "N Q K"] | None:
    if window is None:
        return context.mask
    near = window_mask(context.query_position, context.key_position, window)
    return near if context.mask is None else near & context.mask


def _add_block(
    block: Block, x: Float[Array, "N Q D"], heads: Float[Array, "N Q H d"]
) -> Float[Array, "N Q D"]:
    """Residual stream after a layer whose attention read `heads`."""
    x = x + block.attention.merge(heads)
    return x + block.mlp(block.mlp_norm(x))


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
    context: _Context,
    prefix: KeyValues | None,
    *,
    keep: bool,
) -> tuple[Float[Array, "N L D"], KeyValues | None]:
    """All layers over whole rows; `keep` returns the rows' own keys and values."""

    def body(x, layer):
        layer_params, before, window = layer
        block = _block(config, layer_params)
        query, key, value = block.attention.project(
            block.attention_norm(x), context.cos, context.sin
        )
        keys, values = key, value
        if before is not None:
            shared = jax.tree.map(lambda a: jnp.broadcast_to(a, (x.shape[0], *a.shape[1:])), before)
            keys = jnp.concatenate([shared.k.astype(key.dtype), key], axis=1)
            values = jnp.concatenate([shared.v.astype(value.dtype), value], axis=1)
        heads = attend(
            query,
            keys,
            values,
            mask=_mask(context, window),
            lengths=context.lengths,
            implementation=config.attention,
        )
        return _add_block(block, x, heads), KeyValues(key, value) if keep else None

    layers = (params["layers"], prefix, _windows(config))
    x, kept = jax.lax.scan(_checkpointed(config, body), _embed(params, config, tokens), layers)
    return _norm(params["final_norm"], x, config), kept


def _row_context(
    config: TransformerConfig,
    tokens: Int[Array, "N L"],
    lengths: Int[Array, " N"] | None,
    token_mask: Bool[Array, "N L"] | None,
    positions: Int[Array, "N L"] | None,
    segments: Int[Array, "N L"] | None,
    prefix_length: int,
) -> _Context:
    rows, length = tokens.shape
    if (lengths is None) == (token_mask is None):
        raise ValueError("forward: give either lengths or token_mask, and not both")
    if positions is None:
        positions = jnp.broadcast_to(prefix_length + jnp.arange(length), (rows, length))
    before = jnp.broadcast_to(jnp.arange(prefix_length), (rows, prefix_length))
    key_position = jnp.concatenate([before, positions], axis=1)
    cos, sin = angles(positions, config.head_dim, config.rope_theta, config.rope_scaling)
    plain = segments is None and not prefix_length and not config.windowed_layers
    if lengths is not None and plain and config.attention == "cudnn":
        return _Context(cos, sin, positions, key_position, None, lengths)
    if token_mask is None:
        token_mask = jnp.arange(length)[None] < lengths[:, None]
    mask = row_mask(token_mask, segments, prefix_length)
    return _Context(cos, sin, positions, key_position, mask, None)


def forward(
    params: Params,
    config: TransformerConfig,
    tokens: Int[Array, "N L"],
    *,
    lengths: Int[Array, " N"] | None = None,
    token_mask: Bool[Array, "N L"] | None = None,
    positions: Int[Array, "N L"] | None = None,
    segments: Int[Array, "N L"] | None = None,
    prefix: KeyValues | None = None,
) -> Float[Array, "N L D"]:
    """Causal forward pass over whole rows; the final norm is applied.

    Say which tokens are real by `lengths` (right-padded rows) or by `token_mask`; what stands at
    padding is unspecified. `positions` default to 0, 1, ... after the prefix. `segments` packs
    several sequences into a row, sharing segment 0 (see `row_mask`); `positions` must then restart
    with each segment. `prefix` holds keys and values that every row continues, `[layers, 1 or N,
    length, G, d]`.
    """
    before = 0 if prefix is None else prefix.k.shape[2]
    context = _row_context(config, tokens, lengths, token_mask, positions, segments, before)
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
    before = 0 if prefix is None else prefix.k.shape[2]
    context = _row_context(config, tokens, lengths, None, None, None, before)
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
    attend_to: int | None = None,
) -> tuple[Float[Array, "S D"], KeyValues]:
    """One token a slot: write its key and value at `position`, attend to `0..position`.

    `attend_to` (static) reads only that many leading cache entries: a bucket that covers the live
    ones. Donate the cache; the loop over layers carries it, so that it is updated in place.
    """
    slots = jnp.arange(token.shape[0])
    cos, sin = angles(position[:, None], config.head_dim, config.rope_theta, config.rope_scaling)
    reach = attend_to or cache.k.shape[2]
    at = jnp.broadcast_to(jnp.arange(reach), (token.shape[0], reach))
    seen = (at <= position[:, None])[:, None, :]
    context = _Context(cos, sin, position[:, None], at, seen, None)

    def body(carry, layer):
        x, cache = carry
        layer_params, index, window = layer
        block = _block(config, layer_params)
        query, key, value = block.attention.project(block.attention_norm(x), cos, sin)
        cache = KeyValues(
            cache.k.at[index, slots, position].set(key[:, 0].astype(cache.k.dtype)),
            cache.v.at[index, slots, position].set(value[:, 0].astype(cache.v.dtype)),
        )
        keys, values = (a[index][:, :reach].astype(x.dtype) for a in cache)
        heads = attend(query, keys, values, mask=_mask(context, window))
        return (_add_block(block, x, heads), cache), None

    layers = (params["layers"], jnp.arange(config.num_layers), _windows(config))
    x = _embed(params, config, token[:, None])
    (x, cache), _ = jax.lax.scan(body, (x, cache), layers, unroll=config.decode_unroll)
    return _norm(params["final_norm"], x, config)[:, 0], cache


def logits(
    params: Params, config: TransformerConfig, hidden: Float[Array, "*batch D"]
) -> Float[Array, "*batch V"]:
    """Next-token logits in float32 (products in the compute dtype, sums in float32)."""
    if config.tie_embeddings:
        weights, contract = params["embedding"], 1
    else:
        weights, contract = params["unembedding"]["kernel"], 0
    return jax.lax.dot_general(
        hidden,
        weights.astype(hidden.dtype),
        (((hidden.ndim - 1,), (contract,)), ((), ())),
        preferred_element_type=jnp.float32,
    )


def init_cache(config: TransformerConfig, slots: int, length: int) -> KeyValues:
    """An empty cache in the compute dtype."""
    shape = (config.num_layers, slots, length, config.num_kv_heads, config.head_dim)
    return KeyValues(jnp.zeros(shape, config.dtype), jnp.zeros(shape, config.dtype))
