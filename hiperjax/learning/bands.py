"""Clipping by a band of log ratios, as PARL does (Kimi K2.5, arXiv 2602.02276, section 3)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def is_inside(log_ratio: Float[Array, "*n"], band: tuple[float, float]) -> Bool[Array, "*n"]:
    """Where a log ratio lies in the band, its ends included."""
    return (log_ratio >= band[0]) & (log_ratio <= band[1])


def band_surrogate(
    log_ratio: Float[Array, "*n"],
    advantage: Float[Array, "*n"],
    *,
    band: tuple[float, float],
    square_penalty: float,
) -> Float[Array, "*n"]:
    """Per token `-A w + square_penalty (log w)^2`, with w the importance ratio.

    Outside the band the first term has no gradient, whatever the sign of the advantage: a token
    that moved too far is not learned from in either direction, where PPO's clip lets a bad move be
    undone. The penalty holds everywhere. (The paper's formula clips w itself; its text says this.)
    """
    ratio = jnp.exp(log_ratio)
    ratio = jnp.where(is_inside(log_ratio, band), ratio, jax.lax.stop_gradient(ratio))
    return -advantage * ratio + square_penalty * log_ratio**2
