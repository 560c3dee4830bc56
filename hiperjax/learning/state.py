"""Everything that training changes, as one pytree: donated to the update, saved as it is."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, Key

from hiperjax.learning import critic as least_squares
from hiperjax.models.heads import init_heads, init_projection
from hiperjax.models.transformer import Params


class CriticState(NamedTuple):
    """The value heads and what belongs to them; parts a kind of critic has no use for are None."""

    heads: Any
    trunk: Any
    """separate: parameters of the network of its own"""
    optimizer: Any
    """shared, separate"""
    projection: Any
    """features: the frozen random layer"""
    memory: Any
    """features: moments of the last batches"""


class TrainState(NamedTuple):
    """Everything that training changes, and the reference it is tied to."""

    step: Int[Array, ""]
    """optimizer steps of the policy"""
    batches: Int[Array, ""]
    """batches learned from"""
    skipped: Int[Array, ""]
    """consecutive policy steps skipped for a non-finite gradient"""
    policy: Params
    optimizer: Any
    critic: CriticState
    reference: Any
    """frozen parameters of the KL term; None where it is off"""


def init_features_critic(
    key: Key[Array, ""], width: int, random_features: int, batches: int
) -> CriticState:
    """Heads on the policy's features and frozen random ones, fitted by least squares."""
    features = width + random_features
    return CriticState(
        heads=init_heads(features),
        trunk=None,
        optimizer=None,
        projection=init_projection(key, width, random_features),
        memory=least_squares.empty_memory(features, batches),
    )


def init_gradient_critic(
    optimizer: optax.GradientTransformation, width: int, trunk: Params | None
) -> CriticState:
    """Heads trained by gradient, on a network of their own (`trunk`, copied) or the policy's."""
    trained: Any = (init_heads(width), None if trunk is None else jax.tree.map(jnp.copy, trunk))
    heads, trunk = trained
    return CriticState(heads, trunk, optimizer.init(trained), None, None)


def init_state(
    policy: Params,
    optimizer: optax.GradientTransformation,
    critic: CriticState,
    *,
    reference: bool,
) -> TrainState:
    """A fresh state around policy parameters; the reference is a copy of them."""
    zero = partial(jnp.zeros, (), jnp.int32)
    return TrainState(
        step=zero(),
        batches=zero(),
        skipped=zero(),
        policy=policy,
        optimizer=optimizer.init(policy),
        critic=critic,
        reference=jax.tree.map(jnp.copy, policy) if reference else None,
    )
