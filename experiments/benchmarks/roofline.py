"""What a device does at best, by its datasheet or as measured here; a decode step beside it."""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.common import clock
from hiperjax.acting.lane_sizes import LaneShape
from hiperjax.acting.sampler import advance, init_state
from hiperjax.devices import DEVICES, Device, parse_device
from hiperjax.models.transformer import Params, TransformerConfig, cast_params


def measure_peak(dtype: Any = jnp.float32, size: int = 0, repeats: int = 5) -> float:
    """Operations a second of one large matrix product: the peak that MFU is measured against."""
    size = size or (1024 if jax.default_backend() == "cpu" else 8192)
    a = jnp.ones((size, size), dtype)
    multiply = jax.jit(lambda a, b: a @ b)
    jax.block_until_ready(multiply(a, a))
    best = min(clock(lambda: multiply(a, a))[0] for _ in range(repeats))
    return 2 * size**3 / best


def measure_bandwidth(megabytes: int = 0, repeats: int = 5) -> float:
    """Bytes a second that one large addition reads and writes."""
    megabytes = megabytes or (256 if jax.default_backend() == "cpu" else 4096)
    x = jnp.ones(megabytes * 250_000, jnp.float32)
    add = jax.jit(lambda x: x + 1)
    jax.block_until_ready(add(x))
    return 2 * x.nbytes / min(clock(lambda: add(x))[0] for _ in range(repeats))


def find_device(name: str | None) -> tuple[Device, str]:
    """A device by its datasheet, this machine's where it is known, else as measured."""
    if name:
        return parse_device(name)[0], f"{name} by its datasheet"
    kind = jax.devices()[0].device_kind.lower()
    for known, device in DEVICES.items():
        if known in kind:
            return device, f"{known} by its datasheet"
    dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    flops, bandwidth = measure_peak(jnp.dtype(dtype)), measure_bandwidth()
    what = f"this machine as measured: {flops / 1e9:.0f} GFLOP/s, {bandwidth / 1e9:.1f} GB/s"
    return Device(0.0, bandwidth, flops), what


def measure_decode(
    policy: Params,
    model: TransformerConfig,
    shape: LaneShape,
    context: int,
    steps: int = 32,
    repeats: int = 5,
) -> float:
    """Median seconds of a decode step, every slot live with this much context."""
    params = cast_params(policy, model.dtype)
    found = []
    room = shape.prompt + max(shape.reply, steps + 1)
    for _ in range(repeats + 1):
        state = init_state(model, shape.slots, room - steps - 1, steps + 1)
        state = state._replace(
            position=jnp.full(shape.slots, context, jnp.int32),
            live=jnp.ones(shape.slots, bool),
        )
        reach = min(room, -(-(context + steps) // 64) * 64)
        jax.block_until_ready(state)
        started = time.perf_counter()
        state = advance(
            params,
            state,
            np.zeros(shape.slots, bool),
            np.int32(shape.slots),
            None,
            steps=steps,
            attend_to=reach,
            config=model,
            temperature=1.0,
            top_p=1.0,
            stop_ids=(),
        )
        jax.block_until_ready(state.steps)
        found.append((time.perf_counter() - started) / steps)
    return float(np.median(found[1:]))
