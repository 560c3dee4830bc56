"""Many environments behind one interface: in this process, threads, processes, Ray actors.

Each slot holds one environment. What an environment raises, or returns against the contract, is
data: an `EnvFailure` in place of its result, and its slot waits for the next reset. Results do not
depend on the backend. Time limits do: a worker process that answers too late is killed and
replaced, a thread is left to itself; the inline backend has no limit.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from hiperjax.envs.base import Suite
from hiperjax.envs.inline import NO_EPISODE, EnvFailure, EnvWorkers, InlineWorkers, Method
from hiperjax.envs.remotes import (
    CLOSE_SECONDS,
    ProcessRemote,
    RayRemote,
    Remote,
    WorkerDied,
    import_ray,
)
from hiperjax.envs.threads import ThreadWorkers

__all__ = [
    "BACKENDS",
    "EnvFailure",
    "EnvWorkers",
    "InlineWorkers",
    "ShardedWorkers",
    "make_workers",
]

BACKENDS = ("inline", "threads", "process", "ray")


class ShardedWorkers(EnvWorkers):
    """Slots spread over workers elsewhere: slot `i` lives in worker `i % num_workers`.

    A worker that dies, or answers later than it may, loses its episodes, each reported as an
    `EnvFailure`, and is replaced.
    """

    def __init__(self, suite: Suite, remote: Callable[[Suite], Remote], num_workers: int) -> None:
        if num_workers < 1:
            raise ValueError(f"num_workers: found {num_workers}; expected at least 1")
        self._suite, self._remote = suite, remote
        self._workers = [remote(suite) for _ in range(num_workers)]
        self._tasks: dict[int, str] = {}
        self._lost: dict[int, str] = {}
        """slot -> why its episode is gone"""

    def call(self, method: Method, slots: Sequence[int], values: Sequence[Any]) -> list[Any]:
        for slot, value in zip(slots, values, strict=True):
            if method == "reset":
                self._tasks[slot] = value
                self._lost.pop(slot, None)  # nobody asked for that episode any more
            elif slot not in self._tasks:
                raise RuntimeError(f"{method} in slot {slot}: {NO_EPISODE}")
        return self._distribute(method, slots, values)

    def close(self) -> None:
        for worker in self._workers:
            worker.hang_up()
        until = time.monotonic() + CLOSE_SECONDS  # all of them together, not one after another
        for worker in self._workers:
            worker.close(until)
        self._workers = []

    def _distribute(self, method: str, slots: Sequence[int], values: Sequence[Any]) -> list[Any]:
        shards: dict[int, list[int]] = {}
        for position, slot in enumerate(slots):
            if slot not in self._lost:
                shards.setdefault(slot % len(self._workers), []).append(position)
        for worker, positions in shards.items():
            self._workers[worker].send(
                method, [slots[p] for p in positions], [values[p] for p in positions]
            )
        results: list[Any] = [None] * len(slots)
        for worker, positions in shards.items():
            for position in positions:
                try:
                    results[position] = self._workers[worker].receive()
                except WorkerDied as error:
                    task = self._tasks[slots[position]]
                    where = f"suite {self._suite.name}, task {task}, {method}"
                    self._replace(worker, f"{type(error).__name__}: {where}: {error}")
                    break
        for position, slot in enumerate(slots):
            if slot in self._lost:
                results[position] = EnvFailure(self._tasks[slot], self._lost.pop(slot))
            if isinstance(results[position], EnvFailure):
                del self._tasks[slot]  # reported: nothing lives here until the next reset
        return results

    def _replace(self, worker: int, reason: str) -> None:
        for slot in self._tasks:
            if slot % len(self._workers) == worker:
                self._lost[slot] = reason
        self._workers[worker].close()
        self._workers[worker] = self._remote(self._suite)


def make_workers(
    suite: Suite,
    backend: str = "inline",
    num_workers: int = 2,
    step_timeout: float | None = None,
) -> EnvWorkers:
    """Workers of a backend. The others than inline pickle the suite.

    Args:
      suite: whose environments they run.
      backend: one of `BACKENDS`.
      num_workers: threads, processes or actors; inline ignores it.
      step_timeout: seconds that a reset or a step may take; 0 or None: for ever. Inline ignores it.
    """
    limit = step_timeout or None
    if backend == "inline":
        return InlineWorkers(suite)
    if backend == "process":
        return ShardedWorkers(suite, partial(ProcessRemote, limit=limit), num_workers)
    if backend == "threads":
        return ThreadWorkers(suite, num_workers, limit)
    if backend == "ray":
        import_ray()
        return ShardedWorkers(suite, partial(RayRemote, limit=limit), num_workers)
    raise ValueError(f"backend {backend!r} of environment workers: expected one of {BACKENDS}")
