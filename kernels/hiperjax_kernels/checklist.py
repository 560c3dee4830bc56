"""Checklist rewards: a criterion pays once, when it first holds after all it depends on has held.

After CM2 (arXiv 2602.12268), whose step is our turn and whose turn is our request. Written for one
episode of `T` turns and `C` criteria; `vmap` makes batches. A criterion of no weight is none.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class Progress(NamedTuple):
    """What becomes of each criterion, turn by turn."""

    eligible: Bool[Array, "T C"]
    """before the turn it has not held, and all it depends on has"""
    paid: Bool[Array, "T C"]
    """the turn made it pay; at most once in an episode"""


def follow(
    satisfied: Bool[Array, "T C"],
    depends: Bool[Array, "C C"],
    mask: Bool[Array, " T"],
    *,
    latch: bool = False,
) -> Progress:
    """Which criteria each turn may make pay, and which it does.

    What held once counts as held: a criterion pays once, whatever becomes of it. One that holds
    before all it depends on has held never pays (the strict reading of the paper's formula).

    Args:
      satisfied: criteria that hold after each turn; before the first none does.
      depends: `depends[c, d]`: c depends on d.
      mask: turns.
      latch: it does pay, at the turn that completes what it depends on.
    """
    held = jax.lax.cummax((satisfied & mask[:, None]).astype(jnp.int32), axis=0).astype(bool)
    before = jnp.pad(held, ((1, 0), (0, 0)))[:-1]
    ready_before = _all_held(depends, before)
    if latch:
        done = held & _all_held(depends, held)
        done_before = before & ready_before
        return Progress(~done_before & ready_before & mask[:, None], done & ~done_before)
    eligible = ready_before & ~before & mask[:, None]
    return Progress(eligible, eligible & held)


def _all_held(depends: Bool[Array, "C C"], held: Bool[Array, "T C"]) -> Bool[Array, "T C"]:
    return (~depends | held[:, None, :]).all(axis=-1)


def potential(
    paid: Bool[Array, "T C"],
    weight: Float[Array, " C"],
    mask: Bool[Array, " T"],
    terminated: Bool[Array, ""],
    *,
    gamma: float,
) -> Float[Array, " T"]:
    """gamma Phi(s') - Phi(s), where Phi is the weight of what has paid: shaping that leaves the
    best policy what it is. Phi is 0 at a terminal state; after a cut it stays, since the critic's
    value of that state stands for what would have followed.
    """
    after = jnp.cumsum((paid * weight).sum(axis=-1))
    before = jnp.pad(after, (1, 0))[:-1]
    last = mask & ~jnp.pad(mask, (0, 1))[1:]
    after = jnp.where(last & terminated, 0.0, after)
    return jnp.where(mask, gamma * after - before, 0.0)


def count_requests(weight: Float[Array, "*b C"], request: Int[Array, "*b C"]) -> Int[Array, "*b"]:
    """Requests of a task, at least 1: one more than the highest that a criterion belongs to."""
    return 1 + jnp.where(weight > 0, request, 0).max(axis=-1)
