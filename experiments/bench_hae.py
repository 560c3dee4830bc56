"""HAE's kernels against the plain loop oracle and the memory floor.

    python -m experiments.bench_hae [--turns 6400 100000 1000000] [--repeats 30]

Ratio: time of the loop oracle on the same inputs over ours (measured up to 6,400 turns, linear
beyond). Floor: bytes of inputs and outputs over the bandwidth of a copy of the same size, measured
here. Temporary: what the compiled program allocates beside inputs and outputs.
"""

import argparse
import time
from collections.abc import Callable
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
    """Best seconds of a call, its result waited for."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return min(times)


def measure(name: str, face: Callable, args: tuple, repeats: int, oracle: float) -> None:
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
    seconds = clock(lambda: jitted(*args), repeats)
    moved = size(args) + size(outputs)
    flat = jnp.zeros(moved // 8, jnp.float32)
    copy = jax.jit(lambda x: x + 1)
    jax.block_until_ready(copy(flat))
    floor = clock(lambda: copy(flat), repeats)
    memory = compiled.memory_analysis()
    extra = getattr(memory, "temp_size_in_bytes", 0) / size(args)
    print(
        f"{name:24} {outputs.adv_low.size:9,} {seconds * 1e6:12,.1f} {oracle / seconds:10,.0f} "
        f"{moved / 1e6:9.2f} {seconds / floor:9.1f} {extra:10.2f} {compile_s:9.2f} "
        f"{len(traces) - 1:8}"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, nargs="+", default=[6400, 100_000, 1_000_000])
    parser.add_argument("--repeats", type=int, default=30)
    chosen = parser.parse_args()
    small = make_inputs(min(chosen.turns[0], 6400))
    oracle_s = clock(lambda: hae_reference(small, **LAMBDAS), 10) / small.mask.size
    print(f"backend {jax.default_backend()}; loop oracle {oracle_s * 1e6:.2f} us a turn")
    print(
        f"{'face':24} {'turns':>9} {'us':>12} {'ratio':>10} {'MB':>9} {'x floor':>9} "
        f"{'temp/input':>10} {'compile s':>9} {'retraces':>8}"
    )
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
            measure(name, face, args, repeats, oracle_s * turns)


if __name__ == "__main__":
    main()
