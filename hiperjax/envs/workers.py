"""Many environments behind one interface: in this process, in worker processes, in Ray actors.

Each slot holds one environment. What an environment raises is data: an `EnvFailure` in place of its
result, and its slot waits for the next reset. Results do not depend on the backend.
"""

import abc
import dataclasses
import multiprocessing
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from hiperjax.envs.base import Step, Suite, TextEnv
from hiperjax.types import Observation

BACKENDS = ("inline", "process", "ray")
_TRACEBACK_LINES = 12


@dataclasses.dataclass(frozen=True, slots=True)
class EnvFailure:
    """An environment raised; its episode is lost, nothing else."""

    task_id: str
    error: str
    """exception type, message, and the end of the traceback"""


class EnvWorkers(abc.ABC):
    """Slots of live episodes. A slot is any non-negative int; environments are made on demand."""

    @abc.abstractmethod
    def reset(
        self, slots: Sequence[int], task_ids: Sequence[str]
    ) -> list[Observation | EnvFailure]:
        """Open one task in each slot."""

    @abc.abstractmethod
    def step(self, slots: Sequence[int], actions: Sequence[str]) -> list[Step | EnvFailure]:
        """Act once in each slot."""

    @abc.abstractmethod
    def close(self) -> None:
        """Release every environment and worker."""


class InlineWorkers(EnvWorkers):
    """A plain loop in this process: the fastest for worlds that cost microseconds."""

    def __init__(self, suite: Suite) -> None:
        self._suite = suite
        self._envs: dict[int, TextEnv] = {}
        self._tasks: dict[int, str] = {}

    def reset(
        self, slots: Sequence[int], task_ids: Sequence[str]
    ) -> list[Observation | EnvFailure]:
        return [self._reset(slot, task) for slot, task in zip(slots, task_ids, strict=True)]

    def step(self, slots: Sequence[int], actions: Sequence[str]) -> list[Step | EnvFailure]:
        return [self._step(slot, action) for slot, action in zip(slots, actions, strict=True)]

    def close(self) -> None:
        for env in self._envs.values():
            env.close()
        self._envs.clear()

    def _reset(self, slot: int, task_id: str) -> Observation | EnvFailure:
        self._tasks[slot] = task_id
        try:  # other people's code runs here; what it raises is reported as data
            if slot not in self._envs:
                self._envs[slot] = self._suite.make_env()
            return self._envs[slot].reset(task_id)
        except Exception as error:
            return self._fail(slot, error)

    def _step(self, slot: int, action: str) -> Step | EnvFailure:
        if slot not in self._envs:
            raise RuntimeError(f"step in slot {slot}: no live episode there; reset it first")
        try:
            return self._envs[slot].step(action)
        except Exception as error:
            return self._fail(slot, error)

    def _fail(self, slot: int, error: Exception) -> EnvFailure:
        self._envs.pop(slot, None)  # its state cannot be trusted: the next reset makes a new one
        lines = "".join(traceback.format_exception(error)).rstrip().splitlines()
        summary = f"{type(error).__name__}: {error}"
        return EnvFailure(self._tasks[slot], "\n".join([summary, *lines[-_TRACEBACK_LINES:]]))


class WorkerDied(RuntimeError):
    """A worker went away (killed, out of memory); every episode it held is lost."""


class _Remote(abc.ABC):
    """One worker elsewhere that holds an `InlineWorkers`. Receives in the order of its sends."""

    @abc.abstractmethod
    def send(self, method: str, slots: list[int], values: list[str]) -> None:
        """Ask; do not wait."""

    @abc.abstractmethod
    def receive(self) -> list[Any]:
        """Wait for the answer; `WorkerDied` if there will be none."""

    @abc.abstractmethod
    def close(self) -> None: ...


class _ProcessRemote(_Remote):
    """A spawned process: forking would copy the threads of a live XLA."""

    def __init__(self, suite: Suite) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, child = context.Pipe()
        self._process = context.Process(target=_serve, args=(child, suite), daemon=True)
        self._process.start()
        child.close()
        self._sent = True

    def send(self, method: str, slots: list[int], values: list[str]) -> None:
        try:
            self._pipe.send((method, slots, values))
            self._sent = True
        except (BrokenPipeError, ConnectionResetError):
            self._sent = False  # `receive` tells

    def receive(self) -> list[Any]:
        try:
            if self._sent:
                return self._pipe.recv()
        except (EOFError, ConnectionResetError):
            pass
        self._process.join(timeout=5)
        raise WorkerDied(f"worker process ended with exit code {self._process.exitcode}")

    def close(self) -> None:
        self._pipe.close()
        self._process.join(timeout=5)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join()


def _serve(pipe: Any, suite: Suite) -> None:
    workers = InlineWorkers(suite)
    while True:
        try:
            method, slots, values = pipe.recv()
        except (EOFError, KeyboardInterrupt):
            workers.close()
            return
        pipe.send(getattr(workers, method)(slots, values))


class _RayRemote(_Remote):
    """A Ray actor, wherever the cluster has room for it."""

    def __init__(self, suite: Suite) -> None:
        ray = _import_ray()
        if not ray.is_initialized():
            ray.init(log_to_driver=False, include_dashboard=False)
        self._ray = ray
        self._actor = ray.remote(InlineWorkers).remote(suite)

    def send(self, method: str, slots: list[int], values: list[str]) -> None:
        self._answer = getattr(self._actor, method).remote(slots, values)

    def receive(self) -> list[Any]:
        try:
            return self._ray.get(self._answer)
        except self._ray.exceptions.RayActorError as error:
            raise WorkerDied(f"Ray actor is gone: {error}") from error

    def close(self) -> None:
        self._ray.kill(self._actor)


def _import_ray() -> Any:
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            "backend 'ray': Ray is not installed; pip install 'hiperjax[ray]'"
        ) from error
    return ray


class ShardedWorkers(EnvWorkers):
    """Slots spread over workers elsewhere: slot `i` lives in worker `i % num_workers`.

    A worker that dies loses its episodes, each reported as an `EnvFailure`, and is replaced.
    """

    def __init__(self, suite: Suite, remote: Callable[[Suite], _Remote], num_workers: int) -> None:
        if num_workers < 1:
            raise ValueError(f"num_workers: found {num_workers}; expected at least 1")
        self._suite, self._remote = suite, remote
        self._workers = [remote(suite) for _ in range(num_workers)]
        self._tasks: dict[int, str] = {}
        self._lost: dict[int, str] = {}
        """slot -> why its episode is gone"""

    def reset(
        self, slots: Sequence[int], task_ids: Sequence[str]
    ) -> list[Observation | EnvFailure]:
        for slot, task_id in zip(slots, task_ids, strict=True):
            self._tasks[slot] = task_id
            self._lost.pop(slot, None)  # nobody asked for that episode any more
        return self._call("reset", slots, task_ids)

    def step(self, slots: Sequence[int], actions: Sequence[str]) -> list[Step | EnvFailure]:
        for slot in slots:
            if slot not in self._tasks:
                raise RuntimeError(f"step in slot {slot}: no live episode there; reset it first")
        return self._call("step", slots, actions)

    def close(self) -> None:
        for worker in self._workers:
            worker.close()
        self._workers = []

    def _call(self, method: str, slots: Sequence[int], values: Sequence[str]) -> list[Any]:
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
            try:
                answers = self._workers[worker].receive()
            except WorkerDied as error:
                self._replace(worker, f"WorkerDied: {error}")
                continue
            for position, answer in zip(positions, answers, strict=True):
                results[position] = answer
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


def make_workers(suite: Suite, backend: str = "inline", num_workers: int = 2) -> EnvWorkers:
    """Workers of a backend. The other backends pickle the suite; inline ignores `num_workers`."""
    if backend == "inline":
        return InlineWorkers(suite)
    if backend == "process":
        return ShardedWorkers(suite, _ProcessRemote, num_workers)
    if backend == "ray":
        _import_ray()
        return ShardedWorkers(suite, _RayRemote, num_workers)
    raise ValueError(f"backend {backend!r} of environment workers: expected one of {BACKENDS}")
