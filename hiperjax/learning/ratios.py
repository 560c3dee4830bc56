"""Importance ratios of tokens, blocks and replies, and how the losses of their tokens are averaged.

A unit is what has one ratio: a token (PPO), a block of a reply, or a whole reply (GSPO; GAGPO,
whose action is all that is written at a turn). No unit reaches over the end of its row, so packing
and micro-batches cannot tear one apart.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Level = Literal["token", "block", "reply"]
"""What has an importance ratio of its own."""
LEVELS: tuple[Level, ...] = ("token", "block", "reply")
Average = Literal["ratio", "token", "reply", "constant"]
"""What counts alike in the policy loss: every ratio, token, reply, or a token with no regard to how
many there are."""
BLOCKS = 3
"""Units of a reply: switch block, subgoal block, and the action with what lies outside the two."""


def find_units(
    mask: Bool[Array, "*n R"], block: Int[Array, "*n R"], level: Level
) -> Bool[Array, "*n R U"]:
    """Which counted tokens belong to which unit of their row; `level` is block or reply."""
    if level == "reply":
        return mask[..., None]
    return mask[..., None] & (block[..., None] == jnp.arange(BLOCKS))


def count_units(mask: Bool[Array, "*n R"], block: Int[Array, "*n R"], level: Level) -> Array:
    """How many units have a counted token."""
    if level == "token":
        return mask.sum()
    return find_units(mask, block, level).any(axis=-2).sum()


def average_by_unit(x: Float[Array, "*n R"], units: Bool[Array, "*n R U"]) -> Float[Array, "*n R"]:
    """The mean of each token's unit; zero outside of all."""
    count = jnp.maximum(units.sum(axis=-2, keepdims=True), 1)
    mean = jnp.where(units, x[..., None], 0.0).sum(axis=-2, keepdims=True) / count
    return jnp.where(units, mean, 0.0).sum(axis=-1)


def unit_log_ratio(
    log_ratio: Float[Array, "*n R"],
    mask: Bool[Array, "*n R"],
    block: Int[Array, "*n R"],
    level: Level,
) -> Float[Array, "*n R"]:
    """Log of the importance ratio of each token's unit: the mean log-ratio of the unit's tokens.

    Above the token it is that of GSPO-token: the unit's in value, and as many parts of its gradient
    as it has tokens, each through its own token. Where all tokens of a unit have one
    advantage, a mean over them has the gradient of GSPO; where they differ, each token keeps its
    own.

    Args:
      log_ratio: log-probs less old ones; zero where masked.
      mask: tokens that count; the others have no say in a unit's ratio.
      block: 0 switch, 1 subgoal, 2 the rest.
      level: what has one ratio.
    """
    if level == "token":
        return log_ratio
    mean = average_by_unit(log_ratio, find_units(mask, block, level))
    still = jax.lax.stop_gradient
    return still(mean) + (log_ratio - still(log_ratio))


def weigh_tokens(
    mask: Bool[Array, "*n R"], block: Int[Array, "*n R"], level: Level
) -> Float[Array, "*n R"]:
    """Weights of counted tokens that sum to 1 over each block or reply."""
    units = find_units(mask, block, level)
    count = jnp.where(units, units.sum(axis=-2, keepdims=True), 0).sum(axis=-1)
    return jnp.where(mask, 1.0 / jnp.maximum(count, 1), 0.0)
