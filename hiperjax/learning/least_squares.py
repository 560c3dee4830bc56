"""The least-squares critic: value heads fitted in closed form on features of the frozen policy.

What the fit needs of a batch are its moments, a fixed-shape sum over rows; those of the last few
batches are remembered in a ring, so the state of the critic is a plain pytree that checkpoints bit
for bit. A critic that is fitted has no learning rate, is warm before the first policy step and
sends no gradient into the policy's trunk.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from hiperjax.models.heads import Heads


class Moments(NamedTuple):
    """Sums over rows of phi phi^T and of target phi, with phi the features and a one, per head."""

    gram: Float[Array, "*ring 3 E E"]
    cross: Float[Array, "*ring 3 E"]


def empty_memory(features: int, batches: int) -> Moments:
    """A ring of `batches` empty moments."""
    size = features + 1
    return Moments(jnp.zeros((batches, 3, size, size)), jnp.zeros((batches, 3, size)))


def measure(
    features: Float[Array, "N 3 F"], targets: Float[Array, "N 3"], mask: Bool[Array, "N 3"]
) -> Moments:
    """Moments of one batch; a row counts for the heads its mask selects."""
    phi = jnp.concatenate([features, jnp.ones((*features.shape[:2], 1))], axis=-1)
    weighted = jnp.where(mask[..., None], phi, 0.0)
    gram = jnp.einsum("nhf,nhg->hfg", weighted, phi)
    cross = jnp.einsum("nhf,nh->hf", weighted, jnp.where(mask, targets, 0.0))
    return Moments(gram, cross)


def remember(memory: Moments, batch: Moments, slot: Int[Array, ""]) -> Moments:
    """Put a batch's moments into the ring, over the oldest."""
    return jax.tree.map(lambda ring, new: ring.at[slot].set(new), memory, batch)


def solve(memory: Moments, ridge: float) -> Heads:
    """Ridge regression of every head on all remembered rows, intercept unpenalized.

    Minimizes the sum of (value - target)^2 + ridge * |slope|^2, with all features measured in one
    common unit, their root mean variance. Not each in its own: a random unit that is alive in one
    row of a batch would then count as much as the others, and its values elsewhere blow up. A head
    that no row selects is zero.
    """

    def solve_one(gram: Array, cross: Array) -> tuple[Array, Array]:
        count = jnp.maximum(gram[-1, -1], 1.0)
        mean, center = gram[-1, :-1] / count, cross[-1] / count
        cov = gram[:-1, :-1] / count - jnp.outer(mean, mean)
        unit = jnp.maximum(jnp.trace(cov) / len(cov), 1e-8)
        penalty = ridge * unit / count * jnp.eye(len(cov))
        slope = jnp.linalg.solve(cov + penalty, cross[:-1] / count - mean * center)
        return slope, center - mean @ slope

    total = jax.tree.map(lambda ring: ring.sum(axis=0), memory)
    # One head after the other: on CPU a batched solve waits for threads of the pool that runs the
    # mesh's other devices, and they for it.
    slopes, bias = jax.lax.map(lambda head: solve_one(*head), (total.gram, total.cross))
    return {"kernel": slopes.T, "bias": bias}
