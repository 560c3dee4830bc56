"""Everything that training changes, as one pytree: donated to the update, saved as it is.

And what an iteration's learning hands back: the new state, its metrics, the work it took.
"""

from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, Key

from hiperjax.learning import least_squares
from hiperjax.learning.credit.types import CreditInputs
from hiperjax.learning.losses import Metrics
from hiperjax.models.heads import Heads, init_heads, init_projection, random_features
from hiperjax.models.lora import combine, init_adapters, split_trained
from hiperjax.models.transformer import Params, TransformerConfig
from hiperjax.types import PyTree


class CriticState(NamedTuple):
    """The value heads and what belongs to them; parts a kind of critic has no use for are None."""

    heads: Heads
    trunk: Params | None
    """separate: parameters of the network of its own; lora: adapters of its own"""
    optimizer: PyTree
    """shared, separate, lora"""
    projection: Heads | None
    """features: the frozen random layer"""
    memory: least_squares.Moments | None
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
    """float32 masters; below adapters a frozen base, in the compute dtype"""
    optimizer: PyTree
    """optimizer state of what is trained: all of the policy, or its adapters"""
    critic: CriticState
    reference: Params | None
    """of the KL term: what training started from, of the parameters that are trained, in the
    compute dtype; None where it is off"""


class Work(NamedTuple):
    """How much one iteration's learning ran, for the account of where its time went."""

    score_passes: float
    """forward passes over the batch"""
    score_sequences: int
    """sequences of a slice of such a pass"""
    update_passes: int
    """forward and backward passes over the batch"""
    minibatch_sizes: tuple[int, ...]
    """sequences that each optimizer step of such a pass sees"""


class LearnResult(NamedTuple):
    """What one iteration's learning hands back."""

    state: TrainState
    metrics: Metrics
    work: Work
    inputs: CreditInputs
    """rewards and values that the policy's step was taken with"""


def features_of(critic: CriticState, hidden: Array) -> Array:
    """What the value heads read of hidden states."""
    if critic.projection is None:
        return hidden.astype(jnp.float32)
    return random_features(hidden, critic.projection)


def trunk_of(state: TrainState, config: TransformerConfig) -> Params:
    """The network that the value heads read."""
    if state.critic.trunk is None:
        return state.policy
    return combine(state.critic.trunk, split_trained(state.policy, config)[1])


def reference_of(
    state: TrainState, config: TransformerConfig
) -> tuple[Params, TransformerConfig] | None:
    """The policy that the KL term holds on to, and its shape; None where the term is off."""
    if state.reference is None:
        return None
    return combine(state.reference, split_trained(state.policy, config)[1]), config


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
    optimizer: optax.GradientTransformation,
    kind: Literal["shared", "separate", "lora"],
    policy: Params,
    config: TransformerConfig,
    key: Key[Array, ""],
) -> CriticState:
    """Heads trained by gradient: on the policy's trunk, a copy of it, or adapters of their own."""
    trunk: Params | None = None
    if kind == "separate":
        trunk = jax.tree.map(jnp.copy, policy)
    elif kind == "lora":
        trunk = init_adapters(config, key)
    heads = init_heads(config.hidden_size)
    return CriticState(heads, trunk, optimizer.init((heads, trunk)), None, None)  # type: ignore


def init_state(
    policy: Params,
    config: TransformerConfig,
    optimizer: optax.GradientTransformation,
    critic: CriticState,
    *,
    reference: bool,
) -> TrainState:
    """A fresh state around policy parameters; the reference is a copy of what is trained."""
    zero = partial(jnp.zeros, (), jnp.int32)
    copy = partial(jnp.array, dtype=config.dtype)
    trained = split_trained(policy, config)[0]
    return TrainState(
        step=zero(),
        batches=zero(),
        skipped=zero(),
        policy=policy,
        optimizer=optimizer.init(trained),
        critic=critic,
        reference=jax.tree.map(copy, trained) if reference else None,
    )
