"""HAE's kernels against the plain loop oracle and the memory floor.

    python -m experiments.benchmarks.hae [--turns 6400 100000 1000000] [--repeats 30]

Two times, and the ratio to the loop oracle of each: of one call from Python, whose dispatch alone
costs about 60 us on a CPU, and of one evaluation inside a compiled program, as the learner has it
(a loop of evaluations, each waiting for all six outputs of the last). The oracle runs on the same
inputs, before and after the kernels (measured at up to 6,400 turns, linear beyond). Floor: bytes of
inputs and outputs over the bandwidth of a copy of the same size, measured here. Temporary: what
the compiled program allocates beside inputs and outputs.
"""

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hiperjax_kernels.hae import HaeInputs, hae_batch
from hiperjax_kernels.packed import (
    hae_packed,
    hae_packed_associative,
    hae_packed_scan,
    pack_stream,
)
from hiperjax_kernels.reference import hae_reference

LENGTH = 50
LAMBDAS = {"lambda_turn": 1.0, "lambda_segment": 0.95, "lambda_boundary": 0.5}


def make_inputs(turns: int, *, switch_share: float = 0.2, seed: int = 0) -> HaeInputs:
    """Full trajectories of 50 turns, terminal, as numpy arrays `[B, 50]`."""
    rng, shape = np.random.default_rng(seed), (turns // LENGTH, LENGTH)
    boundary = rng.random(shape) < switch_share
    boundary[:, 0] = True
    discount = np.full(shape, 0.97, np.float32)
    discount[:, -1] = 0
    values = [rng.normal(size=shape).astype(np.float32) for _ in range(4)]
    fields: dict[str, Any] = dict(zip(("reward", "v_low", "v_high", "v_term"), values, strict=True))
    fields |= {"discount": discount, "boundary": boundary, "mask": np.ones(shape, bool)}
    fields |= dict.fromkeys(("bootstrap_low", "bootstrap_high"), np.zeros(shape[0], np.float32))
    return HaeInputs(**fields)


def size(tree: Any) -> int:
    """Bytes of a tree of arrays."""
    return sum(x.nbytes for x in jax.tree.leaves(tree))


def clock(call: Callable[[], Any], repeats: int) -> float:
    """Median seconds of a call, its result waited for."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return statistics.median(times)


@dataclasses.dataclass(frozen=True)
class Row:
    """What was measured of one face at one size; seconds and bytes."""

    name: str
    turns: int
    call: float
    inside: float
    copy: float
    moved: int
    temporary: float
    compile: float
    retraces: int

    def print(self, oracle: float) -> None:
        """A line of the table; `oracle` is the loop's seconds per turn."""
        loop = oracle * self.turns
        print(
            f"{self.name:22} {self.turns:9,} {self.call * 1e6:11,.1f} {loop / self.call:7,.0f} "
            f"{self.inside * 1e6:11,.1f} {loop / self.inside:7,.0f} {self.moved / 1e6:8.2f} "
            f"{self.inside / self.copy:8.1f} {self.temporary:10.2f} {self.compile:9.2f} "
            f"{self.retraces:8}"
        )


HEADER = (
    f"{'face':22} {'turns':>9} {'us per call':>11} {'ratio':>7} {'us inside':>11} {'ratio':>7} "
    f"{'MB':>8} {'x floor':>8} {'temp/input':>10} {'compile s':>9} {'retraces':>8}"
)


def measure(name: str, face: Callable, args: tuple, repeats: int) -> Row:
    """One row of the table."""
    traces = []

    def traced(*args: Any) -> Any:
        traces.append(1)
        return face(*args, **LAMBDAS)

    jitted = jax.jit(traced)
    start = time.perf_counter()
    compiled = jitted.lower(*args).compile()
    compile_s = time.perf_counter() - start
    outputs = jax.block_until_ready(jitted(*args))
    turns = outputs.adv_low.size
    rounds = max(1, 640_000 // turns)

    def evaluate_often(inputs: HaeInputs, *rest: Any) -> Any:
        def once(_: Any, reward: Any) -> Any:
            out = face(inputs._replace(reward=reward), *rest, **LAMBDAS)
            return inputs.reward + 1e-6 * sum(jax.tree.leaves(out))

        return jax.lax.fori_loop(0, rounds, once, inputs.reward)

    often = jax.jit(evaluate_often)
    jax.block_until_ready(often(*args))
    moved = size(args) + size(outputs)
    flat = jnp.zeros(moved // 8, jnp.float32)
    copy = jax.jit(lambda x: x + 1)
    jax.block_until_ready(copy(flat))
    return Row(
        name=name,
        turns=turns,
        call=clock(lambda: jitted(*args), repeats),
        inside=clock(lambda: often(*args), max(3, repeats // rounds)) / rounds,
        copy=clock(lambda: copy(flat), repeats),
        moved=moved,
        temporary=getattr(compiled.memory_analysis(), "temp_size_in_bytes", 0) / size(args),
        compile=compile_s,
        retraces=len(traces) - 1,
    )


def parse_args(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, nargs="+", default=[6400, 100_000, 1_000_000])
    parser.add_argument("--repeats", type=int, default=30)
    return parser.parse_args(words)


def main() -> None:
    """Print the table."""
    chosen = parse_args()
    small = make_inputs(min(chosen.turns[0], 6400))
    oracle = []

    def time_oracle() -> None:
        oracle.append(clock(lambda: hae_reference(small, **LAMBDAS), 9) / small.mask.size)

    rows = []
    time_oracle()
    for turns in chosen.turns:
        inputs = jax.tree.map(jnp.asarray, make_inputs(turns))
        stream = pack_stream(inputs)
        repeats = max(3, chosen.repeats if turns > 10_000 else 20 * chosen.repeats)
        for name, face, args in (
            ("batch (vmapped scan)", hae_batch, (inputs,)),
            ("packed, scan", hae_packed_scan, stream),
            ("packed, associative", hae_packed_associative, stream),
            ("packed, default", hae_packed, stream),
        ):
            rows.append(measure(name, face, args, repeats))
        time_oracle()
    seconds = statistics.median(oracle)
    readings = ", ".join(f"{1e6 * x:.2f}" for x in oracle)
    print(f"backend {jax.default_backend()}; loop oracle, us per turn: {readings}; median taken")
    print(HEADER)
    for row in rows:
        row.print(seconds)


if __name__ == "__main__":
    main()
