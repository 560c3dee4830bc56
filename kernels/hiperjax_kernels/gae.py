"""Generalized Advantage Estimation (Schulman et al., arXiv 1506.02438), without hierarchy.

    delta_t = r_t + g_t V_{t+1} - V_t
    A_t     = delta_t + g_t lambda A_{t+1}        R_t = A_t + V_t

over the live slots of one stream: a masked slot is skipped, so the same function serves turns
`[T]` and the reply tokens of a concatenated episode, where observation tokens lie between.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


class GaeOutputs(NamedTuple):
    """Advantages and lambda-returns, zero where masked."""

    adv: Float[Array, "*batch T"]
    ret: Float[Array, "*batch T"]


def gae(
    reward: Float[Array, " T"],
    discount: Float[Array, " T"],
    value: Float[Array, " T"],
    mask: Bool[Array, " T"],
    bootstrap: Float[Array, ""],
    *,
    lambda_turn: float | Float[Array, ""] = 1.0,
) -> GaeOutputs:
    """GAE of one stream.

    Special cases: lambda 0 is the one-step TD error; lambda 1 is the discounted return
    (continued by `bootstrap`) minus the value. It is HAE's low stream where there is one segment.

    Args:
      reward, value: per slot.
      discount: gamma, and 0 at a terminal slot.
      mask: slots that count; what the others hold does not matter.
      bootstrap: value after the last live slot, 0 if none.
      lambda_turn: lambda between turns, in [0, 1].
    """
    reward, discount, value = (jnp.where(mask, x, 0) for x in (reward, discount, value))

    def step(after, slot):
        """`after` is V + lambda A of the next live slot."""
        r_t, g_t, v_t, live = slot
        ret = r_t + g_t * after
        adv = ret - v_t
        out = GaeOutputs(jnp.where(live, adv, 0), jnp.where(live, ret, 0))
        return jnp.where(live, v_t + lambda_turn * adv, after), out

    _, outputs = jax.lax.scan(step, bootstrap, (reward, discount, value, mask), reverse=True)
    return outputs


@jax.jit
def gae_batch(
    reward: Float[Array, "B T"],
    discount: Float[Array, "B T"],
    value: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    bootstrap: Float[Array, " B"],
    *,
    lambda_turn: float | Float[Array, ""] = 1.0,
) -> GaeOutputs:
    """GAE of a batch of independent streams."""
    one = partial(gae, lambda_turn=lambda_turn)
    return jax.vmap(one)(reward, discount, value, mask, bootstrap)


def discounted_returns(
    reward: Float[Array, "B T"], mask: Bool[Array, "B T"], gamma: float
) -> Float[Array, "B T"]:
    """Return-to-go of each live slot: GAE with no critic at lambda 1."""
    zeros = jnp.zeros_like(reward)
    discount = jnp.full_like(reward, gamma)
    return gae_batch(reward, discount, zeros, mask, zeros[:, 0], lambda_turn=1.0).ret
