"""Rotary position embedding and its published ways of stretching to longer contexts."""

import dataclasses
import math
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """How the rotary frequencies differ from the plain geometric series."""

    kind: Literal["linear", "llama3", "yarn"]
    factor: float
    """How much longer the context is than the one trained on."""
    original_length: int = 0
    """Context the model was trained on (`llama3`, `yarn`)."""
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    """Factor on cosine and sine; `None` is yarn's 0.1 ln(factor) + 1."""


def _yarn(inverse: np.ndarray, head_dim: int, theta: float, scaling: RopeScaling) -> np.ndarray:
    """Fast dimensions keep their frequency, slow ones are stretched, a ramp lies between."""

    def dimension(rotations: float) -> float:
        turns = scaling.original_length / (rotations * 2 * math.pi)
        return head_dim * math.log(turns) / (2 * math.log(theta))

    low = max(math.floor(dimension(scaling.beta_fast)), 0)
    high = min(math.ceil(dimension(scaling.beta_slow)), head_dim - 1)
    ramp = np.clip((np.arange(head_dim // 2) - low) / max(high - low, 1e-3), 0, 1)
    return inverse / scaling.factor * ramp + inverse * (1 - ramp)


def _llama3(inverse: np.ndarray, scaling: RopeScaling) -> np.ndarray:
    """Wavelengths beyond the trained context are stretched, short ones kept, a blend between."""
    turns = scaling.original_length * inverse / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    blend = np.clip((turns - low) / (high - low), 0, 1)
    return (1 - blend) * inverse / scaling.factor + blend * inverse


def frequencies(
    head_dim: int, theta: float, scaling: RopeScaling | None
) -> tuple[np.ndarray, float]:
    """Angular frequency of each pair of dimensions, and the factor on cosine and sine."""
    inverse = theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    if scaling is None:
        return inverse.astype(np.float32), 1.0
    if scaling.kind == "linear":
        return (inverse / scaling.factor).astype(np.float32), 1.0
    if scaling.kind == "llama3":
        return _llama3(inverse, scaling).astype(np.float32), 1.0
    factor = scaling.attention_factor
    if factor is None:
        factor = 0.1 * math.log(scaling.factor) + 1.0 if scaling.factor > 1 else 1.0
    return _yarn(inverse, head_dim, theta, scaling).astype(np.float32), factor


def angles(
    positions: Int[Array, "N Q"], head_dim: int, theta: float, scaling: RopeScaling | None
) -> tuple[Float[Array, "N Q 1 h"], Float[Array, "N Q 1 h"]]:
    """Cosine and sine of every position, float32, ready to broadcast over heads."""
    inverse, factor = frequencies(head_dim, theta, scaling)
    angle = positions[..., None].astype(jnp.float32) * inverse[None, None]
    return jnp.cos(angle)[:, :, None] * factor, jnp.sin(angle)[:, :, None] * factor


def rotate(
    x: Float[Array, "N Q H d"], cos: Float[Array, "N Q 1 h"], sin: Float[Array, "N Q 1 h"]
) -> Float[Array, "N Q H d"]:
    """Rotate pairs `(i, i + d/2)` by the position's angle, in float32."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x.dtype)
