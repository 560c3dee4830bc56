"""Where an episode ends: discounts after its last turn, and what it is continued by."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from hiperjax.learning.credit.types import CreditInputs


def turn_discount(
    mask: Bool[Array, "B T"],
    terminated: Bool[Array, " B"],
    gamma: float,
    cost: Float[Array, "B T"] | None = None,
) -> Float[Array, "B T"]:
    """gamma to the power of the turn's critical steps, and 0 at the last turn of a terminated
    episode; a turn without `cost` is one step (a semi-Markov decision process else)."""
    last = jnp.arange(mask.shape[1])[None] == last_turn(mask)[:, None]
    follows = gamma if cost is None else gamma ** jnp.where(mask, cost, 1.0)
    return jnp.where(last & terminated[:, None], 0.0, follows)


def last_turn(mask: Bool[Array, "B T"]) -> Array:
    """Index of the last live turn, -1 in an empty trajectory."""
    return jnp.max(jnp.where(mask, jnp.arange(mask.shape[1])[None], -1), axis=1)


def bootstrap_last_turn(inputs: CreditInputs) -> CreditInputs:
    """Continue truncated episodes as the official code does: from values of turns already acted.

    The low tail gets the last turn's own value, the high and term tail that of the last segment's
    start. The proper bootstrap, the critic on the state after the last turn, is what `bootstrap_*`
    hold when they come from the learner; zeros there mean none.
    """
    last = jnp.maximum(last_turn(inputs.mask), 0)
    start = jnp.maximum(last_turn(inputs.mask & inputs.boundary), 0)
    rows = jnp.arange(last.shape[0])
    return inputs._replace(
        bootstrap_low=inputs.v_low[rows, last],
        bootstrap_high=inputs.v_high[rows, start],
        bootstrap_term=inputs.v_term[rows, last],
    )
