"""Three value heads (low, high, term): linear read-outs of hidden states, fitted or trained."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

Heads = dict[str, Any]

NUM_HEADS = 3


def _affine(layer: Heads, x: Float[Array, "*batch i"]) -> Float[Array, "*batch o"]:
    y = x @ layer["kernel"]
    return y + jnp.expand_dims(layer["bias"], tuple(range(y.ndim - 1)))


def init_heads(num_features: int) -> Heads:
    """Zeros: every value starts at 0."""
    return {"kernel": jnp.zeros((num_features, NUM_HEADS)), "bias": jnp.zeros(NUM_HEADS)}


def apply_heads(heads: Heads, features: Float[Array, "*batch F"]) -> Float[Array, "*batch 3"]:
    """Values in float32, in the order low, high, term."""
    return _affine(heads, features.astype(jnp.float32))


def init_projection(key: Key[Array, ""], hidden_size: int, count: int = 192) -> Heads:
    """A frozen random layer for `random_features`: `count` units with random biases."""
    kernel_key, bias_key = jax.random.split(key)
    kernel = jax.random.normal(kernel_key, (hidden_size, count)) / math.sqrt(hidden_size)
    return {"kernel": kernel, "bias": jax.random.normal(bias_key, (count,))}


def random_features(
    hidden: Float[Array, "*batch D"], projection: Heads
) -> Float[Array, "*batch F"]:
    """Hidden states beside their frozen random ReLU features: `F = D + count`.

    What a linear fit on the hidden states alone cannot bend, it can with these.
    """
    hidden = hidden.astype(jnp.float32)
    bent = jax.nn.relu(_affine(projection, hidden))
    return jnp.concatenate([hidden, bent], axis=-1)


def _fit_one(
    features: Float[Array, "N F"],
    target: Float[Array, " N"],
    weight: Float[Array, " N"],
    ridge: Float[Array, ""],
) -> tuple[Float[Array, " F"], Float[Array, ""]]:
    """Weighted ridge regression of one target on standardized features, intercept unpenalized.

    Centering takes the intercept out of the penalty; scaling makes `ridge` mean the same for every
    feature and keeps the float32 normal equations well conditioned. With no weight at all the fit
    is zero.
    """
    total = jnp.maximum(weight.sum(), 1.0)
    mean = weight @ features / total
    centered = (features - mean[None]) * jnp.sqrt(weight)[:, None]
    scale = jnp.sqrt((centered**2).sum(axis=0) / total)
    scale = jnp.where(scale > 1e-6, scale, 1.0)
    x = centered / scale[None]
    center = weight @ target / total
    y = (target - center) * jnp.sqrt(weight)
    gram = x.T @ x / total + ridge * jnp.eye(x.shape[1])
    slope = jnp.linalg.solve(gram, x.T @ y / total) / scale
    return slope, center - mean @ slope


def fit_heads(
    features: Float[Array, "N F"],
    targets: Float[Array, "N 3"],
    masks: Float[Array, "N 3"],
    ridge: float | Float[Array, ""] = 1e-2,
) -> Heads:
    """Closed-form fit of the three heads, each on the rows its mask selects.

    Minimizes, for each head, the masked mean of `(value - target)^2` plus `ridge * |slope|^2` with
    the slope in units of standardized features. `masks` may be weights in [0, 1].
    """
    features = features.astype(jnp.float32)
    fit = jax.vmap(_fit_one, in_axes=(None, 1, 1, None), out_axes=(1, 0))
    kernel, bias = fit(features, targets, masks, jnp.asarray(ridge, jnp.float32))
    return {"kernel": kernel, "bias": bias}
