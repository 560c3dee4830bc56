"""What the benchmarks share: alternating clocks, tables, a policy that plays, this machine.

Two sides of a ratio are timed in turns, in one process, so that a busy machine slows both. Wall
seconds are what a user waits; CPU seconds of the process are quoted beside them, because on a
shared machine they say more.
"""

import contextlib
import dataclasses
import importlib.metadata
import math
import os
import pathlib
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from hiperjax.acting.rollout import Rollout
from hiperjax.config import RunConfig
from hiperjax.distributed.rollout import DistributedRollout
from hiperjax.models.transformer import Params, TransformerConfig, abstract_params
from hiperjax.presets import PRESETS
from hiperjax.training.build import build_components, restore_run
from hiperjax.training.components import RunComponents
from hiperjax.training.console import Progress
from hiperjax.training.tasks import choose_tasks
from hiperjax.training.warm_start import imitate_expert
from hiperjax.validation import validate

IMITATION = 400
"""Steps that teach replies of ordinary length and about 0.85 of the tasks; 40 CPU seconds."""


@dataclasses.dataclass(frozen=True)
class Timing:
    """Medians of several runs."""

    wall: float
    cpu: float

    def over(self, other: "Timing") -> tuple[float, float]:
        """How many times as long this takes: by wall, by CPU seconds."""
        return self.wall / other.wall, self.cpu / other.cpu


def clock(call: Callable[[], Any]) -> tuple[float, float]:
    """Wall and CPU seconds of one call, its result waited for."""
    wall, cpu = time.perf_counter(), time.process_time()
    jax.block_until_ready(call())
    return time.perf_counter() - wall, time.process_time() - cpu


def alternate(calls: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, Timing]:
    """Median times of calls made in turns: a, b, a, b, ...; each warm already."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            found[name].append(clock(call))
    return {
        name: Timing(*(statistics.median(column) for column in zip(*times, strict=True)))
        for name, times in found.items()
    }


def format_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Columns as wide as their widest cell, names to the left and figures to the right."""
    cells = [[_show(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = (
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    )
    return "\n".join(lines)


def _show(cell: Any) -> str:
    if isinstance(cell, float):
        return f"{cell:,.0f}" if abs(cell) >= 1000 else f"{cell:.3g}"
    return f"{cell:,}" if isinstance(cell, int) else str(cell)


def verdict(value: float, target: float, *, at_most: bool = False) -> str:
    """A figure beside its target."""
    met = value <= target if at_most else value >= target
    return f"{'<=' if at_most else '>='} {target:g}: {'met' if met else 'MISSED'}"


# -- a policy that plays ---------------------------------------------------------------------------


def prepare(
    run: pathlib.Path | None,
    *,
    preset: str,
    slots: int,
    episodes: int,
    imitation: int = IMITATION,
    quiet: bool = False,
) -> tuple[RunComponents, Params]:
    """An agent and a policy whose replies have ordinary lengths: a trained run's, or a preset's
    that has imitated the scripted expert for a while."""
    if run is not None:
        components, state = restore_run(run, "best")
        resized = dataclasses.replace(
            components.config.rollout, slots=slots, episodes=episodes, group_size=1
        )
        config = dataclasses.replace(
            components.config, rollout=resized, credit=components.config.credit
        )
        return build_components(config, run), state.policy
    config = PRESETS[preset][1]
    config = dataclasses.replace(
        config,
        rollout=dataclasses.replace(config.rollout, slots=slots, episodes=episodes),
        imitation=dataclasses.replace(
            config.imitation,
            steps=imitation,
            episodes=4 * imitation,
            check_every=max(1, imitation // 4),
            stop_loss=0.0,
        ),
    )
    return imitated(validate(config), quiet=quiet)


def imitated(config: RunConfig, *, quiet: bool = False) -> tuple[RunComponents, Params]:
    """An agent built from a configuration, and what imitation makes of its policy."""
    components = build_components(config)
    progress = Progress(1, quiet=True)
    started = time.process_time()
    policy = imitate_expert(components, components.init_policy(), progress)
    if not quiet:
        spent = time.process_time() - started
        print(f"policy: {config.imitation.steps} steps of imitation, {spent:.0f} CPU s")
    return components, policy


def widen(
    params: Params, config: TransformerConfig, times: int
) -> tuple[Params, TransformerConfig]:
    """The same policy in a model `times` as wide: zeros around its weights, more heads, no change
    in what it says. So both sides of a ratio play the same episodes at every width.
    """
    wide = dataclasses.replace(
        config,
        hidden_size=times * config.hidden_size,
        intermediate_size=times * config.intermediate_size,
        num_heads=times * config.num_heads,
        num_kv_heads=times * config.num_kv_heads,
        norm_eps=config.norm_eps / times,
    )

    def pad(path: tuple[Any, ...], leaf: Array, target: Any) -> Array:
        grown = [(0, new - old) for old, new in zip(leaf.shape, target.shape, strict=True)]
        # A norm divides by the mean square over all of the width, zeros included.
        return jnp.pad(leaf, grown) / (
            math.sqrt(times) if "norm" in jax.tree_util.keystr(path) else 1
        )

    return jax.tree_util.tree_map_with_path(pad, params, abstract_params(wide)), wide


def bare_rollout(components: RunComponents) -> Rollout:
    """The run's own engine, without what shares it among processes."""
    rollout = components.rollout
    engine = rollout.rollout if isinstance(rollout, DistributedRollout) else rollout
    if not isinstance(engine, Rollout):
        raise TypeError(f"rollout is a {type(engine).__name__}; expected a Rollout")
    return engine


def pick_tasks(components: RunComponents, count: int, seed: int = 0) -> list[str]:
    """Training tasks, as the first iteration of a run would have them."""
    return choose_tasks(components.suite.tasks("train"), seed, 0, count)


# -- this machine ----------------------------------------------------------------------------------


def describe_machine() -> dict[str, Any]:
    """What a result depends on besides the code."""
    device = jax.devices()[0]
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "numpy")}
    return {
        "platform": platform.platform(),
        "python": platform.python_version(),
        "backend": device.platform,
        "device": device.device_kind,
        "devices": jax.device_count(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "versions": versions,
    }


def peak_memory() -> float | None:
    """Most bytes the first device has held, where it says so."""
    stats = jax.devices()[0].memory_stats()
    return None if not stats else float(stats.get("peak_bytes_in_use", 0)) or None


@contextlib.contextmanager
def private_cache(folder: pathlib.Path | None = None) -> Iterator[pathlib.Path]:
    """A persistent compilation cache that starts empty (unless a folder is given), so that a cold
    and a warm start can be told apart."""
    with contextlib.ExitStack() as stack:
        name = folder or stack.enter_context(tempfile.TemporaryDirectory())
        before = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
        jax.config.update("jax_compilation_cache_dir", str(name))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        reset_cache()
        try:
            yield pathlib.Path(name)
        finally:
            jax.config.update("jax_compilation_cache_dir", before)
            reset_cache()


def reset_cache() -> None:
    """Let JAX read the cache folder's setting again."""
    from jax.experimental.compilation_cache import compilation_cache

    compilation_cache.reset_cache()
