"""Hierarchical Advantage Estimation: one trajectory, three streams, linear reverse recurrences.

Use it where a policy speaks in two voices: a planner that keeps or switches a subgoal, and an
executor that acts under it. Each turn gets three advantages: `low` for the action, `high` for the
subgoal (at boundaries), `term` for the decision to switch. A boundary is the first turn of a
segment, a segment a maximal run of turns under one subgoal.

The recursion, for a turn t whose successor t+1 is live, with g_t the discount and r_t the reward:

    G_t = r_t + g_t (boundary_{t+1} ? V_high_{t+1} : G_{t+1})        return to the segment's end
    D_t =       g_t (boundary_{t+1} ? A_high_{t+1} : D_{t+1})        next segment's advantage, here
    W_t =            boundary_{t+1} ? V_high_{t+1} + lambda_boundary A_high_{t+1}
                                    : V_low_{t+1} + lambda_turn A_low_{t+1}

    R_high_t = G_t + lambda_segment  D_t        A_high_t = R_high_t - V_high_t    (boundaries only)
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

How it runs. G, then D given G, then W given both, are first-order linear recurrences
x_t = gain_t x_{t+1} + offset_t, whose gain is zero at a boundary: `link_successors` writes down
gains and offsets of all turns at once and leaves the solving to its caller. Three scans of one
multiply-add each beat one scan that carries all three on a CPU (a step of XLA's loop costs by the
operation, and the rest is then one fused pass over all turns), and the same recurrences serve the
packed stream and its associative twin (`packed`).

Example. Four turns, a second segment from turn 2 on, a reward of 1 at the end, where the episode
terminates. The paper's estimator credits the first segment with what V_high hoped for at turn 2
(0.6 - 0.5), `lambda_boundary` 1 with what came of it (1 - 0.5):

>>> import jax.numpy as jnp
>>> from hiperjax_kernels import HaeInputs, hae
>>> half, zero = jnp.full(4, 0.5), jnp.zeros(())
>>> inputs = HaeInputs(
...     reward=jnp.array([0.0, 0, 0, 1]), discount=jnp.array([1.0, 1, 1, 0]),
...     v_low=half, v_high=jnp.array([0.4, 0, 0.6, 0]), v_term=half,
...     boundary=jnp.array([True, False, True, False]), mask=jnp.ones(4, bool),
...     bootstrap_low=zero, bootstrap_high=zero)
>>> paper, ours = hae(inputs, lambda_segment=0.5), hae(inputs, lambda_boundary=1.0)
>>> [round(x, 2) for x in paper.adv_low.tolist()]
[0.1, 0.1, 0.5, 0.5]
>>> [round(x, 2) for x in ours.adv_low.tolist()]
[0.5, 0.5, 0.5, 0.5]
>>> [round(x, 2) for x in paper.adv_high.tolist()]
[0.4, 0.0, 0.4, 0.0]

Reference: HiPER (arXiv 2602.16165). `R_high` is defined at every turn, not only at boundaries: the
return if t were one, so that V_high can be fitted wherever it may be read.
"""

from collections.abc import Callable
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
    """What each turn needs to know of the one after it."""

    segment_return: Float[Array, "*batch T"]
    """V_high at a boundary, else G"""
    next_advantage: Float[Array, "*batch T"]
    """A_high at a boundary, else D"""
    low_value: Float[Array, "*batch T"]
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

    def solve(gain: Array, offset: Array, end: Array) -> Array:
        return jnp.concatenate([step_backward(gain, offset, end)[1:], end[None]])

    return read_credit(inputs, link_successors(inputs, lambdas, solve), lambdas)


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


def step_backward(
    gain: Float[Array, " T"], offset: Float[Array, " T"], end: Float[Array, ""]
) -> Float[Array, " T"]:
    """x_t = gain_t x_{t+1} + offset_t, from x_T = `end` down, turn by turn."""

    def step(after, slot):
        now = slot[0] * after + slot[1]
        return now, now

    return jax.lax.scan(step, end, (gain, offset), reverse=True)[1]


def link_successors(
    inputs: HaeInputs, lambdas: Lambdas, solve: Callable[[Array, Array, Array], Array]
) -> Successor:
    """Each turn's successor by three linear recurrences: G, then D, then W.

    Args:
      inputs: with masked slots blank; such a slot hands its successor on.
      solve: (gain, offset, end) to y_t = x_{t+1}, where x_t = gain_t x_{t+1} + offset_t, and
        y = end after a trajectory's last turn.
    """
    mask, cut, g = inputs.mask, inputs.mask & inputs.boundary, inputs.discount
    one, zero = jnp.ones_like(g), jnp.zeros_like(g)
    segment_return = solve(
        jnp.where(cut, zero, jnp.where(mask, g, one)),
        jnp.where(cut, inputs.v_high, inputs.reward),
        inputs.bootstrap_high,
    )
    excess = inputs.reward + g * segment_return - inputs.v_high
    next_advantage = solve(
        jnp.where(cut, lambdas.segment * g, jnp.where(mask, g, one)),
        jnp.where(cut, excess, zero),
        jnp.zeros_like(inputs.bootstrap_high),
    )
    adv_high = excess + lambdas.segment * g * next_advantage
    low_value = solve(
        jnp.where(cut, zero, jnp.where(mask, lambdas.turn * g, one)),
        jnp.where(
            cut,
            inputs.v_high + lambdas.boundary * adv_high,
            inputs.v_low + lambdas.turn * (inputs.reward - inputs.v_low),
        ),
        inputs.bootstrap_low,
    )
    return Successor(segment_return, next_advantage, low_value)


def read_credit(inputs: HaeInputs, after: Successor, lambdas: Lambdas) -> HaeOutputs:
    """The outputs, turn by turn, once every turn knows its successor."""
    g_t = inputs.reward + inputs.discount * after.segment_return
    d_t = inputs.discount * after.next_advantage
    ret_low = inputs.reward + inputs.discount * after.low_value
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
