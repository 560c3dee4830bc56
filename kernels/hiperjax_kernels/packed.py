"""HAE over one flat stream of many trajectories, and the associative twin of the scan.

A stream holds whole trajectories one after the other, turns in order, padding anywhere. The
recurrences of `hae` run over the whole stream, with gain zero and the trajectory's own end at each
last turn, so nothing is padded to the longest episode.

Two ways to solve them, same signature and same results to rounding: `hae_packed_scan` steps through
the turns, `hae_packed_associative` composes them in a tree. `hae_packed` takes the scan on CPU,
the faster of the two but for a tie near 100,000 turns (`experiments/benchmarks/hae.py`), and the
twin on accelerators, where every step of a loop is a kernel launch.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from hiperjax_kernels.hae import (
    HaeInputs,
    HaeOutputs,
    Lambdas,
    blank_masked,
    link_successors,
    read_credit,
    step_backward,
)

Solver = Callable[[Array, Array, Array], Array]
"""as `step_backward`"""


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
        cpu=partial(solve_stream, lambdas=lambdas, solve=step_backward),
        default=partial(solve_stream, lambdas=lambdas, solve=compose_backward),
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
    return solve_stream(inputs, trajectory, lambdas=lambdas, solve=step_backward)


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
    return solve_stream(inputs, trajectory, lambdas=lambdas, solve=compose_backward)


def solve_stream(
    inputs: HaeInputs, trajectory: Int[Array, " N"], *, lambdas: Lambdas, solve: Solver
) -> HaeOutputs:
    """HAE of a stream, its recurrences cut at last turns and then solved by `solve`."""
    inputs = blank_masked(inputs)
    last = last_turns(trajectory, inputs.mask)

    def solve_cut(gain: Array, offset: Array, end: Array) -> Array:
        offset = jnp.where(last, offset + gain * end, offset)
        x = solve(jnp.where(last, 0, gain), offset, jnp.zeros((), gain.dtype))
        return jnp.where(last, end, jnp.concatenate([x[1:], jnp.zeros_like(x[:1])]))

    return read_credit(inputs, link_successors(inputs, lambdas, solve_cut), lambdas)


def compose_backward(
    gain: Float[Array, " N"], offset: Float[Array, " N"], end: Float[Array, ""]
) -> Float[Array, " N"]:
    """`step_backward`, the steps composed in a tree."""
    offset = offset.at[-1].add(gain[-1] * end)

    def compose(later, earlier):
        return earlier[0] * later[0], earlier[0] * later[1] + earlier[1]

    return jax.lax.associative_scan(compose, (gain, offset), reverse=True)[1]


def last_turns(trajectory: Int[Array, " N"], mask: Bool[Array, " N"]) -> Bool[Array, " N"]:
    """Live turns after which their trajectory has no other."""
    slot = jnp.arange(mask.shape[0])
    live_at = jnp.where(mask, slot, mask.shape[0])
    after = jax.lax.cummin(live_at, reverse=True)
    after = jnp.concatenate([after[1:], jnp.full(1, mask.shape[0])])
    following = jnp.take(trajectory, after, mode="clip")
    return mask & ((after == mask.shape[0]) | (following != trajectory))


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
