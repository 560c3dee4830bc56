"""One layer of the trunk, as flax.nnx definitions.

Axes: `N` rows, `Q` query positions, `D` hidden size, `H` heads, `G` key-value heads, `d` head size.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from hiperjax.models.architecture import TransformerConfig
from hiperjax.models.rope import rotate


def per_feature(vector: Float[Array, " D"], ndim: int) -> Float[Array, "..."]:
    """A vector over the last axis, ready to meet an array of `ndim` axes."""
    return jnp.expand_dims(vector, tuple(range(ndim - 1)))


def rms_norm(
    x: Float[Array, "*batch D"], scale: Float[Array, " D"], eps: float
) -> Float[Array, "*batch D"]:
    """Root-mean-square norm over the last axis, computed in float32."""
    wide = x.astype(jnp.float32)
    wide *= jax.lax.rsqrt(jnp.mean(wide**2, axis=-1, keepdims=True) + eps)
    return wide.astype(x.dtype) * per_feature(scale.astype(x.dtype), x.ndim)


class RMSNorm(nnx.Module):
    """`rms_norm` with a learned scale."""

    def __init__(self, size: int, eps: float):
        self.scale = nnx.Param(jnp.ones(size))
        self.eps = eps

    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        return rms_norm(x, self.scale[...], self.eps)


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
        # One matrix: XLA's CPU products over two leading axes, and their gradients, are slower.
        rows = self._apply(x.reshape(-1, x.shape[-1]))
        return rows.reshape(*x.shape[:-1], rows.shape[-1])

    def _apply(self, x: Float[Array, "n i"]) -> Float[Array, "n o"]:
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

    def finish(
        self, x: Float[Array, "N Q D"], heads: Float[Array, "N Q H d"]
    ) -> Float[Array, "N Q D"]:
        """Residual stream after the layer, given what its attention read."""
        x = x + self.attention.merge(heads)
        return x + self.mlp(self.mlp_norm(x))


@functools.lru_cache(maxsize=64)
def _definition(config: TransformerConfig) -> nnx.GraphDef:
    return nnx.split(nnx.eval_shape(lambda: Block(config, rngs=nnx.Rngs(0))))[0]


def block_of(config: TransformerConfig, params: dict[str, Any]) -> Block:
    """One layer's module around that layer's parameters."""
    return nnx.merge(_definition(config), nnx.State(params))
