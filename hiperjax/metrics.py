"""Scalars to the run folder: JSON lines and TensorBoard events.

`metrics.jsonl` holds what a seed determines, and nothing else: a resumed run's file equals that of
a run that was never interrupted. What a clock measures stands in `timings.jsonl`.
"""

import collections
import contextlib
import json
import math
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence

import jax
import jax.monitoring
import numpy as np
from tensorboardX import SummaryWriter

METRICS, TIMINGS, EVENTS = "metrics.jsonl", "timings.jsonl", "events"
_RESAMPLES = 1000


def wilson_interval(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """95 % confidence interval of a share (Wilson's score interval); (0, 1) without trials."""
    if trials == 0:
        return 0.0, 1.0
    p = successes / trials
    center = (p + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials))
    half /= 1 + z * z / trials
    return max(0.0, center - half), min(1.0, center + half)


def bound_mean(values: Sequence[float], groups: Sequence[str]) -> tuple[float, float]:
    """Bootstrap 95 % interval of a mean, resampling whole groups (tasks, or their products)."""
    names, group = np.unique(np.array(groups), return_inverse=True)
    sums = np.bincount(group, np.array(values, np.float64))
    counts = np.bincount(group)
    draws = np.random.default_rng(0).integers(len(names), size=(_RESAMPLES, len(names)))
    means = sums[draws].sum(1) / counts[draws].sum(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def read_lines(path: pathlib.Path) -> list[dict]:
    """Records of a JSON-lines file; a last line cut short by a crash is dropped."""
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _rewind(path: pathlib.Path, iteration: int) -> None:
    kept = [r for r in read_lines(path) if r["iteration"] <= iteration]
    path.write_text("".join(json.dumps(r) + "\n" for r in kept))


class _Compiler:
    """Seconds that XLA has compiled in this process, as JAX reports them."""

    seconds = 0.0
    listens = False

    @classmethod
    def listen(cls) -> None:
        if not cls.listens:
            jax.monitoring.register_event_duration_secs_listener(cls._hear)
            cls.listens = True

    @classmethod
    def _hear(cls, event: str, duration_secs: float, **_: object) -> None:
        if event.endswith(("backend_compile_duration", "jaxpr_to_mlir_module_duration")):
            cls.seconds += duration_secs


class Timer:
    """Wall seconds since it was made, in named phases; compiling is a phase of its own, taken out
    of the one it happens in."""

    def __init__(self) -> None:
        _Compiler.listen()
        self.seconds: dict[str, float] = collections.defaultdict(float)
        self._start = time.perf_counter()

    @property
    def elapsed(self) -> float:
        return time.perf_counter() - self._start

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start, before = time.perf_counter(), _Compiler.seconds
        try:
            yield
        finally:
            compiled = _Compiler.seconds - before
            self.seconds[name] += time.perf_counter() - start - compiled
            if compiled:
                self.seconds["compile"] += compiled


class Recorder:
    """Writes one record an iteration; opening it at an iteration forgets everything later."""

    def __init__(self, folder: pathlib.Path, *, iteration: int = -1):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        for name in (METRICS, TIMINGS):
            _rewind(folder / name, iteration)
        self._events = SummaryWriter(str(folder / EVENTS), purge_step=iteration + 1)

    def write(
        self, iteration: int, metrics: Mapping[str, float], timings: Mapping[str, float]
    ) -> None:
        """Append the iteration's scalars; `metrics` must not depend on the clock."""
        self._append(METRICS, iteration, metrics)
        self._append(TIMINGS, iteration, timings)
        for group, values in (("", metrics), ("seconds/", timings)):
            for name, value in values.items():
                self._events.add_scalar(group + name, value, iteration)
        self._events.flush()

    def _append(self, name: str, iteration: int, values: Mapping[str, float]) -> None:
        record = {"iteration": iteration} | {k: float(v) for k, v in values.items()}
        with (self.folder / name).open("a") as file:
            file.write(json.dumps(record) + "\n")

    def close(self) -> None:
        self._events.close()


class Unrecorded:
    """The recorder of a process that is not the first: another one writes."""

    def write(
        self, iteration: int, metrics: Mapping[str, float], timings: Mapping[str, float]
    ) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""
