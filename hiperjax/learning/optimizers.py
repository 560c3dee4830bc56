"""Optimizers of policy and critic, and both schedules of the policy's learning rate.

The warm-up counts optimizer steps, the fall to the end counts iterations: a run knows how many
iterations it has, and learns only on the way how many steps each of them takes.
"""

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int


def warm_up(learning_rate: float, steps: int) -> optax.Schedule:
    """Learning rate by optimizer step: rises in a straight line, then stays."""
    return optax.linear_schedule(learning_rate / (steps + 1), learning_rate, steps)


def share_at(batch: Int[Array, ""], *, iterations: int, end: float) -> Float[Array, ""]:
    """Share of the learning rate when `batch` batches have been learned from.

    It falls in a straight line from 1 at batch 0 to `end` at batch `iterations - 1`, and stays
    there; 0 iterations or an `end` of 1: no fall.
    """
    if iterations == 0 or end >= 1:
        return jnp.ones(())
    done = jnp.clip(batch / max(1, iterations - 1), 0.0, 1.0)
    return 1 - (1 - end) * done


def make_policy_optimizer(
    *, learning_rate: float, warmup_steps: int, beta2: float, weight_decay: float, grad_clip: float
) -> optax.GradientTransformation:
    """AdamW behind a clip of the global gradient norm, with the warm-up built in."""
    rate = warm_up(learning_rate, warmup_steps)
    return optax.chain(
        optax.clip_by_global_norm(grad_clip),
        optax.adamw(rate, b2=beta2, weight_decay=weight_decay),
    )


def make_critic_optimizer(
    *, learning_rate: float, grad_clip: float
) -> optax.GradientTransformation:
    """AdamW at a constant rate behind a clip of the global gradient norm."""
    return optax.chain(optax.clip_by_global_norm(grad_clip), optax.adamw(learning_rate))
