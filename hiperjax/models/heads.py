"""Three value heads (low, high, term): linear read-outs of hidden states, fitted or trained."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

Heads = dict[str, Any]

NUM_HEADS = 3
LOW, HIGH, TERM = range(NUM_HEADS)


def _affine(layer: Heads, x: Float[Array, "*batch i"]) -> Float[Array, "*batch o"]:
    y = x @ layer["kernel"]
    return y + jnp.expand_dims(layer["bias"], tuple(range(y.ndim - 1)))


def init_heads(num_features: int) -> Heads:
    """Zeros: every value starts at 0."""
    return {"kernel": jnp.zeros((num_features, NUM_HEADS)), "bias": jnp.zeros(NUM_HEADS)}


def apply_heads(heads: Heads, features: Float[Array, "*batch F"]) -> Float[Array, "*batch 3"]:
    """Values in float32, in the order low, high, term."""
    return _affine(heads, features.astype(jnp.float32))


def apply_own_head(heads: Heads, features: Float[Array, "*n 3 F"]) -> Float[Array, "*n 3"]:
    """Each head at a position of its own."""
    return (
        jnp.einsum("...hf,fh->...h", features.astype(jnp.float32), heads["kernel"]) + heads["bias"]
    )


def token_values(heads: Heads, states: Float[Array, "*batch D"]) -> Float[Array, "*batch"]:
    """The term head, at the states that predict reply tokens."""
    return apply_heads(heads, states)[..., TERM]


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
