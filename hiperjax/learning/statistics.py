"""Statistics over the entries that a mask selects."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def masked_mean(x: Float[Array, "*n"], mask: Bool[Array, "*n"]) -> Float[Array, ""]:
    """Mean over the mask; 0 over none."""
    return jnp.where(mask, x, 0).sum() / jnp.maximum(mask.sum(), 1)


def masked_variance(x: Float[Array, "*n"], mask: Bool[Array, "*n"]) -> Float[Array, ""]:
    """Variance over the mask, in two passes."""
    return masked_mean((x - masked_mean(x, mask)) ** 2, mask)


def explained_variance(
    value: Float[Array, "*n"], target: Float[Array, "*n"], mask: Bool[Array, "*n"]
) -> Float[Array, ""]:
    """1 - Var(target - value) / Var(target) over the mask; 0 where targets do not vary."""
    variance = masked_variance(jnp.where(mask, target, 0), mask)
    error = masked_variance(jnp.where(mask, target - value, 0), mask)
    return jnp.where(variance > 0, 1 - error / jnp.where(variance > 0, variance, 1), 0)
