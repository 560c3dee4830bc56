"""Hierarchical Advantage Estimation: one trajectory is one reverse scan.

Three advantages a turn: `low` for the action, `high` for the subgoal (at boundaries), `term` for
the decision to switch. A boundary is the first turn of a segment, a segment a maximal run of turns
under one subgoal.

The recursion, for a turn t whose successor t+1 is live, with g_t the discount and r_t the reward:

    G_t = r_t + g_t (boundary_{t+1} ? V_high_{t+1} : G_{t+1})        return to the segment's end
    D_t =       g_t (boundary_{t+1} ? A_high_{t+1} : D_{t+1})        next segment's advantage, here
    W_t =            boundary_{t+1} ? V_high_{t+1} + lambda_boundary A_high_{t+1}
                                    : V_low_{t+1} + lambda_turn A_low_{t+1}

    R_high_t = G_t + lambda_segment  D_t        A_high_t = R_high_t - V_high_t
    R_term_t = G_t + lambda_boundary D_t        A_term_t = R_term_t - V_term_t
    R_low_t  = r_t + g_t W_t                    A_low_t  = R_low_t  - V_low_t

After the last turn G, D and W start from `bootstrap_high`, 0 and `bootstrap_low`. A terminal turn
has g_t = 0, a truncated one keeps its discount and is continued by the bootstraps.

`lambda_boundary` (0 in the paper) lets credit pass a boundary. At 0 the low and the switch return
end at the boundary and trust V_high there, whatever the other lambdas: that is the estimator's
variance reduction and its bias. In its place stands the mixture V_high + lambda_boundary A_high.
With all lambdas 1 it telescopes: G_t + D_t = r_t + g_t (G_{t+1} + D_{t+1}) on both sides of a
boundary, so R_low, R_high and R_term are all the episode's own return, and the estimator is
unbiased for any critic while each stream keeps its own baseline. (Why the switch stream needs
nothing but lambda_boundary D_t: let E be its return less G. At a boundary
E_t = g_t lambda_boundary A_high_{t+1}, elsewhere E_t = g_t E_{t+1}: lambda_boundary times the
recursion of D.)

Special cases. No boundary after turn 0: A_low is flat GAE(lambda_turn) on V_low, and A_high_0 is
the discounted return minus V_high_0. Every turn a boundary: A_high is flat GAE(lambda_segment) on
V_high and, at lambda_boundary 0, A_low is the one-step TD error r_t + g_t V_high_{t+1} - V_low_t.

Reference: HiPER (arXiv 2602.16165). `R_high` is defined at every turn, not only at boundaries: the
return if t were one, so that V_high can be fitted wherever it may be read.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


class HaeInputs(NamedTuple):
    """One trajectory of `T` turn slots; masked slots are ignored, whatever they hold."""

    reward: Float[Array, "*batch T"]
    discount: Float[Array, "*batch T"]
    """gamma, and 0 at a terminal turn"""
    v_low: Float[Array, "*batch T"]
    """value given state and subgoal in force"""
    v_high: Float[Array, "*batch T"]
    """value given a switch; read at boundaries as advantage baseline and as bootstrap"""
    v_term: Float[Array, "*batch T"]
    """value before the decision to switch"""
    boundary: Bool[Array, "*batch T"]
    """first turn of a segment; True at the first live turn"""
    mask: Bool[Array, "*batch T"]
    bootstrap_low: Float[Array, "*batch"]
    """value of the state after the last turn, for the low stream; 0 if none"""
    bootstrap_high: Float[Array, "*batch"]
    """the same for the high and the switch stream"""


class HaeOutputs(NamedTuple):
    """Advantages and value targets, zero where masked; `adv_high` lives at boundaries only."""

    adv_low: Float[Array, "*batch T"]
    adv_high: Float[Array, "*batch T"]
    adv_term: Float[Array, "*batch T"]
    ret_low: Float[Array, "*batch T"]
    ret_high: Float[Array, "*batch T"]
    ret_term: Float[Array, "*batch T"]


class Successor(NamedTuple):
    """What a turn needs to know of the one after it: the carry of the scan."""

    segment_return: Float[Array, "*batch"]
    """V_high at a boundary, else G"""
    next_advantage: Float[Array, "*batch"]
    """A_high at a boundary, else D"""
    low_value: Float[Array, "*batch"]
    """W"""


class Lambdas(NamedTuple):
    """The three lambdas, each in [0, 1]."""

    turn: float | Float[Array, ""] = 1.0
    segment: float | Float[Array, ""] = 0.95
    boundary: float | Float[Array, ""] = 0.0


def hae(
    inputs: HaeInputs,
    *,
    lambda_turn: float | Float[Array, ""] = 1.0,
    lambda_segment: float | Float[Array, ""] = 0.95,
    lambda_boundary: float | Float[Array, ""] = 0.0,
) -> HaeOutputs:
    """HAE of one trajectory; the module's docstring has the recursion.

    Args:
      inputs: one trajectory, arrays `[T]` and scalars `[]`.
      lambda_turn: lambda between turns of one segment, in [0, 1].
      lambda_segment: lambda between segments in the high stream, in [0, 1].
      lambda_boundary: lambda across a boundary in the low and switch streams, in [0, 1].

    Returns:
      Raw advantages and lambda-return targets of the three streams.
    """
    inputs = blank_masked(inputs)
    lambdas = Lambdas(lambda_turn, lambda_segment, lambda_boundary)

    def step(after: Successor, turn: HaeInputs) -> tuple[Successor, Successor]:
        return select(turn.mask, become_successor(turn, after, lambdas), after), after

    end = end_of(inputs)
    _, after = jax.lax.scan(step, end, without_ends(inputs), reverse=True)
    return read_credit(inputs, after, lambdas)


def hae_batch(
    inputs: HaeInputs,
    *,
    lambda_turn: float | Float[Array, ""] = 1.0,
    lambda_segment: float | Float[Array, ""] = 0.95,
    lambda_boundary: float | Float[Array, ""] = 0.0,
) -> HaeOutputs:
    """HAE of a batch `[B, T]` of trajectories, independent of each other."""
    one = partial(
        hae,
        lambda_turn=lambda_turn,
        lambda_segment=lambda_segment,
        lambda_boundary=lambda_boundary,
    )
    return jax.vmap(one)(inputs)


def blank_masked(inputs: HaeInputs) -> HaeInputs:
    """The inputs with masked slots zeroed, so that no NaN of theirs reaches a gradient."""
    blank = {
        name: jnp.where(inputs.mask, getattr(inputs, name), 0)
        for name in ("reward", "discount", "v_low", "v_high", "v_term")
    }
    return inputs._replace(**blank)


def end_of(inputs: HaeInputs) -> Successor:
    """The successor of a trajectory's last turn."""
    none = jnp.zeros_like(inputs.bootstrap_high)
    return Successor(inputs.bootstrap_high, none, inputs.bootstrap_low)


def without_ends(inputs: HaeInputs) -> HaeInputs:
    """The fields a scan slices by turn: the bootstraps are no part of a turn."""
    return inputs._replace(bootstrap_low=None, bootstrap_high=None)


def become_successor(turn: HaeInputs, after: Successor, lambdas: Lambdas) -> Successor:
    """What `turn`, given its own successor, is to the turn before it: one step of the recursion."""
    g_t, d_t, ret_low = look_ahead(turn, after)
    adv_low = ret_low - turn.v_low
    adv_high = g_t + lambdas.segment * d_t - turn.v_high
    within = Successor(g_t, d_t, turn.v_low + lambdas.turn * adv_low)
    across = Successor(turn.v_high, adv_high, turn.v_high + lambdas.boundary * adv_high)
    return select(turn.boundary, across, within)


def look_ahead(turn: HaeInputs, after: Successor) -> tuple[Array, Array, Array]:
    """G_t, D_t and R_low_t of a turn, or of all turns at once."""
    return (
        turn.reward + turn.discount * after.segment_return,
        turn.discount * after.next_advantage,
        turn.reward + turn.discount * after.low_value,
    )


def read_credit(inputs: HaeInputs, after: Successor, lambdas: Lambdas) -> HaeOutputs:
    """The outputs, turn by turn, once every turn knows its successor."""
    g_t, d_t, ret_low = look_ahead(inputs, after)
    ret_high = g_t + lambdas.segment * d_t
    ret_term = g_t + lambdas.boundary * d_t
    outputs = HaeOutputs(
        adv_low=ret_low - inputs.v_low,
        adv_high=jnp.where(inputs.boundary, ret_high - inputs.v_high, 0),
        adv_term=ret_term - inputs.v_term,
        ret_low=ret_low,
        ret_high=ret_high,
        ret_term=ret_term,
    )
    return jax.tree.map(lambda x: jnp.where(inputs.mask, x, 0), outputs)


def select(condition: Bool[Array, "*batch"], yes: Successor, no: Successor) -> Successor:
    """Field-wise `where`."""
    return jax.tree.map(lambda y, n: jnp.where(condition, y, n), yes, no)
