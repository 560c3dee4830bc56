"""What `check_accelerator` runs, one stage per process; each writes a file as it goes."""

import argparse
import dataclasses
import functools
import itertools
import json
import pathlib
import platform
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.common import clock
from experiments.benchmarks.roofline import (
    find_device,
    measure_bandwidth,
    measure_decode,
    measure_peak,
)
from hiperjax.acting.lane_sizes import LaneShape
from hiperjax.capacity import decode_step_seconds, forward_flops
from hiperjax.learning.layout import lay_out_rows
from hiperjax.models.shapes import SHAPES
from hiperjax.models.transformer import (
    Params,
    TransformerConfig,
    cast_params,
    forward,
    init_params,
    prefill,
)
from hiperjax.training.model import ROW_COLUMNS, choose_attention, find_platform

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")
REPEATS = 5
TOLERANCE = 0.05
"""Largest difference of two kernels in bfloat16, over the largest number."""
TINY = TransformerConfig(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_layers=2, num_heads=4,
    num_kv_heads=2, head_dim=8, dtype="bfloat16", remat="full",
)  # fmt: skip


def write(out: pathlib.Path, name: str, found: Any) -> None:
    """Keep what is known so far."""
    (out / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")


def median_seconds(run: Callable[[], Any]) -> float:
    """Of some calls after a first one, each waited for."""
    jax.block_until_ready(run())
    return float(np.median([clock(run)[0] for _ in range(REPEATS)]))


def shape_of(tiny: bool) -> TransformerConfig:
    """The model that is timed."""
    if tiny:
        return TINY
    attention = choose_attention("auto", "bfloat16", find_platform())
    published = SHAPES["qwen2.5-1.5b"]
    return dataclasses.replace(published, dtype="bfloat16", remat="full", attention=attention)


def make_params(config: TransformerConfig) -> Params:
    """Random weights in the compute dtype."""
    build = jax.jit(lambda key: cast_params(init_params(config, key), config.dtype))
    return build(jax.random.key(0))


# -- stages ----------------------------------------------------------------------------------------


def check_machine(out: pathlib.Path, tiny: bool) -> None:
    """What there is, and what it does at best."""
    device = jax.devices()[0]
    size, megabytes = (256, 16) if tiny else (0, 0)
    write(
        out,
        "machine",
        {
            "python": platform.python_version(),
            "packages": {name: metadata.version(name) for name in PACKAGES},
            "platform": find_platform(),
            "device": device.device_kind,
            "devices": jax.device_count(),
            "memory": device.memory_stats(),
            "bf16_flops": measure_peak(jnp.bfloat16, size),
            "copy_bytes_per_second": measure_bandwidth(megabytes),
        },
    )


def packed_batch(
    rows: int, tokens: int, windows: int, prefix: int, vocabulary: int
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Packed sequences with uneven windows behind a prefix, and their attention rows."""
    rng = np.random.default_rng(0)
    shape = (rows, tokens)
    segment, position = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    position[:, :prefix] = np.arange(prefix)
    mask = np.zeros(shape, bool)
    mask[:, :prefix] = True
    for row in range(rows):
        share = (tokens - prefix) // windows
        at = prefix
        for window in range(1, windows + 1):
            size = int(rng.integers(max(1, share // 2), share + 1))
            part = slice(at, at + size)
            segment[row, part], mask[row, part] = window, True
            position[row, part] = prefix + np.arange(size)
            at += size
    given = {
        "tokens": rng.integers(0, vocabulary, shape).astype(np.int32),
        "token_mask": mask,
        "positions": position,
        "segments": segment,
    }
    return given, lay_out_rows(segment, mask, multiple=ROW_COLUMNS if tokens > ROW_COLUMNS else 8)


def differentiate(
    params: Params, config: TransformerConfig, given: dict[str, Any], rows: Any
) -> tuple[jax.Array, Params]:
    """Hidden states of the real tokens, and the gradient of a sum of them."""

    def loss(params: Params) -> tuple[jax.Array, jax.Array]:
        hidden = forward(params, config, rows=rows, **given).astype(jnp.float32)
        hidden = jnp.where(given["token_mask"][..., None], hidden, 0.0)
        weight = jnp.cos(jnp.arange(hidden.size, dtype=jnp.float32)).reshape(hidden.shape)
        return jnp.sum(hidden * weight), hidden

    gradient, hidden = jax.grad(loss, has_aux=True)(params)
    return hidden, gradient


def compare(found: Any, expected: Any) -> float:
    """Largest difference of two trees over the largest number."""
    pairs = list(zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True))
    worst = [jnp.abs(a.astype(jnp.float32) - b.astype(jnp.float32)).max() for a, b in pairs]
    scale = [jnp.abs(b.astype(jnp.float32)).max() for _, b in pairs]
    return float(max(w / jnp.maximum(s, 1e-6) for w, s in zip(worst, scale, strict=True)))


def check_kernels(out: pathlib.Path, tiny: bool) -> None:
    """The device's own attention on rows against the mask, by head size and odd lengths.

    Raises:
      SystemExit: they differ by more than 16 bits explain.
    """
    native = choose_attention("auto", "bfloat16", find_platform())
    sizes = (8,) if tiny else (64, 128)
    layouts = ((61, 5),) if tiny else ((1000, 187), (1024, 0))
    found: list[dict[str, Any]] = []
    for head in sizes:
        config = dataclasses.replace(TINY, head_dim=head)
        params = make_params(config)
        for length, before in layouts:
            given, rows = packed_batch(2, length, 3, before, config.vocab_size)
            run = jax.jit(differentiate, static_argnums=1)
            masked = run(params, config, given, None)
            for kernel in dict.fromkeys(("xla", native)):
                rowed = dataclasses.replace(config, attention=kernel)
                values, gradient = run(params, rowed, given, rows)
                found.append(
                    {
                        "kernel": kernel,
                        "head": head,
                        "tokens": length,
                        "prefix": before,
                        "values": compare(values, masked[0]),
                        "gradients": compare(gradient, masked[1]),
                    }
                )
                write(out, "kernels", found)
    wrong = [x for x in found if max(x["values"], x["gradients"]) > TOLERANCE]
    if wrong:
        raise SystemExit(f"kernels differ by more than {TOLERANCE} of the largest number: {wrong}")


def check_decode(out: pathlib.Path, tiny: bool) -> None:
    """Decode steps beside the roofline."""
    config = shape_of(tiny)
    params, (device, where) = make_params(config), find_device(None)
    found: list[dict[str, Any]] = []
    for slots in (4,) if tiny else (128, 32, 256):
        for room in (64,) if tiny else (640, 1216):
            context = room - 48
            shape = LaneShape(slots=slots, prompt=context, reply=48, chunk=32, refill=1)
            step = measure_decode(params, config, shape, context - 33, steps=32)
            least = decode_step_seconds(config, device, slots, context)
            row = {"slots": slots, "room": room, "seconds": step, "share": least / step}
            found.append(row | {"roofline": where})
            write(out, "decode", found)


def check_prefill(out: pathlib.Path, tiny: bool) -> None:
    """Prompts computed at a time."""
    config, length = shape_of(tiny), 32 if tiny else 448
    params, (device, _) = make_params(config), find_device(None)
    found = []
    for rows in (2,) if tiny else (8, 4, 16, 32):
        tokens, lengths = jnp.ones((rows, length), jnp.int32), jnp.full(rows, length, jnp.int32)
        run = jax.jit(functools.partial(prefill, config=config))
        seconds = median_seconds(lambda: run(params, tokens=tokens, lengths=lengths))  # noqa: B023
        least = forward_flops(config, rows * length, length, 0) / device.flops
        found.append({"rows": rows, "seconds": seconds, "share": least / seconds})
        write(out, "prefill", found)


def time_pass(
    params: Params, config: TransformerConfig, given: dict[str, Any], rows: Any, peak: float
) -> dict[str, Any]:
    """Seconds and scratch memory of a forward and backward pass; or why there are none."""
    run = jax.jit(differentiate, static_argnums=1)
    micro, length = given["tokens"].shape
    try:
        memory = run.lower(params, config, given, rows).compile().memory_analysis()
        seconds = median_seconds(lambda: run(params, config, given, rows))
    except jax.errors.JaxRuntimeError as error:  # most likely: out of memory
        return {"error": str(error).splitlines()[0]}
    work = 3 * forward_flops(config, micro * length, length // 5, 0)
    temp = getattr(memory, "temp_size_in_bytes", None)
    return {"seconds": seconds, "mfu": work / seconds / peak, "temp_bytes": temp}


def check_update(out: pathlib.Path, tiny: bool) -> None:
    """Forward and backward pass over a micro-batch, the ways it can be computed."""
    config, length = shape_of(tiny), 64 if tiny else 2560
    params, (device, _) = make_params(config), find_device(None)
    ways = dict.fromkeys(((config.attention, True), ("xla", True), ("xla", False)))
    found = []
    for remat, (kernel, by_rows), micro in itertools.product(
        ("full", "dots"), ways, (2,) if tiny else (4, 8)
    ):
        given, rows = packed_batch(micro, length, 5, length // 14, config.vocab_size)
        way = dataclasses.replace(config, attention=kernel, remat=remat)
        took = time_pass(params, way, given, rows if by_rows else None, device.flops)
        row = {"attention": kernel, "rows": by_rows, "remat": remat, "micro": micro}
        found.append(row | took)
        write(out, "update", found)


def check_trace(out: pathlib.Path, tiny: bool) -> None:
    """A profile of decode steps."""
    config = shape_of(tiny)
    params = make_params(config)
    shape = LaneShape(slots=128, prompt=592, reply=48, chunk=3, refill=1)
    measure_decode(params, config, shape, 500, steps=3, repeats=1)
    with jax.profiler.trace(str(out / "trace")):
        measure_decode(params, config, shape, 500, steps=3, repeats=1)


STAGES: dict[str, Callable[[pathlib.Path, bool], None]] = {
    "machine": check_machine,
    "kernels": check_kernels,
    "decode": check_decode,
    "prefill": check_prefill,
    "update": check_update,
    "trace": check_trace,
}


def main(words: Sequence[str] | None = None) -> int:
    """Run one stage."""
    parser = argparse.ArgumentParser(description="One stage of check_accelerator.")
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args(words)
    STAGES[args.stage](args.out, args.tiny)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
