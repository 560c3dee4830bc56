"""HAE over one flat stream of many trajectories, and the associative twin of the scan.

A stream holds whole trajectories one after the other, turns in order, padding anywhere. A reset at
the last turn of each trajectory replaces the running successor by that trajectory's own end, so
nothing is padded to the longest episode.

Two ways to run the recursion, same signature and same results to rounding:

- `hae_packed_scan`: one step a turn. XLA's CPU backend compiles the whole loop to scalar code.
- `hae_packed_associative`: three `lax.associative_scan`s, since G, then D given G, then W given
  both, are first-order linear recurrences x_t = a_t x_{t+1} + b_t whose a_t is zero at resets.

`hae_packed` takes the scan on CPU, where it is the faster at every length (see
`experiments/bench_hae.py`), and the twin on accelerators, where a step of a loop costs a launch.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from hiperjax_kernels.hae import (
    HaeInputs,
    HaeOutputs,
    Lambdas,
    Successor,
    become_successor,
    blank_masked,
    read_credit,
    select,
)

NOBODY = -1
"""trajectory after the last of a stream"""


def hae_packed(
    inputs: HaeInputs,
    trajectory: Int[Array, " N"],
    *,
    lambda_turn: float | Float[Array, ""] = 1.0,
    lambda_segment: float | Float[Array, ""] = 0.95,
    lambda_boundary: float | Float[Array, ""] = 0.0,
) -> HaeOutputs:
    """HAE of a stream of trajectories, by whichever way suits the backend it is compiled for.

    Args:
      inputs: turns `[N]`; `bootstrap_*` are `[N]` too and read at the last turn of a trajectory.
        The first turn of every trajectory is a boundary.
      trajectory: id of the trajectory of each turn, not negative; equal ids are contiguous up to
        masked slots.
      lambda_turn, lambda_segment, lambda_boundary: as for `hae`.

    Returns:
      Outputs `[N]`, zero where masked.
    """
    lambdas = Lambdas(lambda_turn, lambda_segment, lambda_boundary)
    return jax.lax.platform_dependent(
        inputs,
        trajectory,
        cpu=partial(run_scan, lambdas=lambdas),
        default=partial(run_associative, lambdas=lambdas),
    )


def hae_packed_scan(
    inputs: HaeInputs,
    trajectory: Int[Array, " N"],
    *,
    lambda_turn: float | Float[Array, ""] = 1.0,
    lambda_segment: float | Float[Array, ""] = 0.95,
    lambda_boundary: float | Float[Array, ""] = 0.0,
) -> HaeOutputs:
    """`hae_packed` by a sequential scan."""
    lambdas = Lambdas(lambda_turn, lambda_segment, lambda_boundary)
    return run_scan(inputs, trajectory, lambdas=lambdas)


def hae_packed_associative(
    inputs: HaeInputs,
    trajectory: Int[Array, " N"],
    *,
    lambda_turn: float | Float[Array, ""] = 1.0,
    lambda_segment: float | Float[Array, ""] = 0.95,
    lambda_boundary: float | Float[Array, ""] = 0.0,
) -> HaeOutputs:
    """`hae_packed` by associative scans."""
    lambdas = Lambdas(lambda_turn, lambda_segment, lambda_boundary)
    return run_associative(inputs, trajectory, lambdas=lambdas)


def run_scan(inputs: HaeInputs, trajectory: Int[Array, " N"], *, lambdas: Lambdas) -> HaeOutputs:
    """The stream one turn at a time, from its end; credit is read on the way, in the same loop."""
    zero = jnp.zeros((), inputs.reward.dtype)
    nothing = (Successor(zero, zero, zero), jnp.full((), NOBODY, trajectory.dtype))

    def step(carry, slot):
        (after, following), (turn, here) = carry, slot
        turn = blank_masked(turn)
        end = Successor(turn.bootstrap_high, zero, turn.bootstrap_low)
        after = select(here != following, end, after)
        passed_on = (become_successor(turn, after, lambdas), here)
        carry = jax.tree.map(lambda new, old: jnp.where(turn.mask, new, old), passed_on, carry)
        return carry, read_credit(turn, after, lambdas)

    _, outputs = jax.lax.scan(step, nothing, (inputs, trajectory), reverse=True)
    return outputs


def run_associative(
    inputs: HaeInputs, trajectory: Int[Array, " N"], *, lambdas: Lambdas
) -> HaeOutputs:
    """The stream by associative scans, then credit for all turns at once."""
    inputs = blank_masked(inputs)
    return read_credit(inputs, associate_successors(inputs, trajectory, lambdas), lambdas)


def last_turns(trajectory: Int[Array, " N"], mask: Bool[Array, " N"]) -> Bool[Array, " N"]:
    """Live turns after which their trajectory has no other."""
    slot = jnp.arange(mask.shape[0])
    live_at = jnp.where(mask, slot, mask.shape[0])
    after = jax.lax.cummin(live_at, reverse=True)
    after = jnp.concatenate([after[1:], jnp.full(1, mask.shape[0])])
    following = jnp.take(trajectory, after, mode="clip")
    return mask & ((after == mask.shape[0]) | (following != trajectory))


def associate_successors(
    inputs: HaeInputs, trajectory: Int[Array, " N"], lambdas: Lambdas
) -> Successor:
    """Each turn's successor by three linear recurrences: G, then D, then W."""
    last = last_turns(trajectory, inputs.mask)
    mask, cut, g = inputs.mask, inputs.mask & inputs.boundary, inputs.discount
    solve = partial(solve_backward, last=last)
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
        zero,
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


def solve_backward(
    gain: Float[Array, " N"],
    offset: Float[Array, " N"],
    end: Float[Array, " N"],
    *,
    last: Bool[Array, " N"],
) -> Float[Array, " N"]:
    """y_t = x_{t+1} where x_t = gain_t y_t + offset_t, and y_t = end_t at a last turn."""
    offset = jnp.where(last, offset + gain * end, offset)
    gain = jnp.where(last, 0, gain)

    def compose(later, earlier):
        return earlier[0] * later[0], earlier[0] * later[1] + earlier[1]

    _, x = jax.lax.associative_scan(compose, (gain, offset), reverse=True)
    return jnp.where(last, end, jnp.concatenate([x[1:], jnp.zeros_like(x[:1])]))


def pack_stream(inputs: HaeInputs) -> tuple[HaeInputs, Int[Array, " N"]]:
    """A batch `[B, T]` as a stream of `B * T` slots, and the trajectory ids."""
    b, t = inputs.mask.shape
    ids = jnp.repeat(jnp.arange(b), t)
    spread = {
        name: jnp.repeat(getattr(inputs, name), t) for name in ("bootstrap_low", "bootstrap_high")
    }
    turns = {name: x.reshape(-1) for name, x in inputs._asdict().items() if name not in spread}
    return HaeInputs(**turns, **spread), ids


def planner_rewards(
    inputs: HaeInputs, segment: Int[Array, " N"], num_segments: int
) -> tuple[Float[Array, " S"], Float[Array, " S"]]:
    """The planner's own semi-Markov step: reward and discount of each segment.

        reward_k = sum_j (prod_{i<j} g_{b_k+i}) r_{b_k+j}      discount_k = prod_j g_{b_k+j}

    With them A_high is plain GAE(lambda_segment) over segments: the other way to the high stream.

    Args:
      inputs: a stream `[N]` of turns.
      segment: id of the segment of each turn, below `num_segments`; rising along the stream.
    """
    inputs = blank_masked(inputs)

    def compose(earlier, later):
        reset = later[1]
        return jnp.where(reset, later[0], earlier[0] * later[0]), earlier[1] | reset

    opens = inputs.mask & inputs.boundary
    gain = jnp.where(inputs.mask, inputs.discount, 1)
    through, _ = jax.lax.associative_scan(compose, (gain, opens))
    before = jnp.where(opens, 1, jnp.concatenate([jnp.ones_like(through[:1]), through[:-1]]))
    total = partial(jax.ops.segment_sum, segment_ids=segment, num_segments=num_segments)
    reward = total(jnp.where(inputs.mask, before * inputs.reward, 0))
    closes = last_turns(segment, inputs.mask)
    return reward, total(jnp.where(closes, through, 0))
