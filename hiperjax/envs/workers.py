"""Many environments behind one interface: in this process, in worker processes, in Ray actors.

Each slot holds one environment. What an environment raises, or returns against the contract, is
data: an `EnvFailure` in place of its result, and its slot waits for the next reset. Results do not
depend on the backend. Time limits do: a worker process that answers too late is killed and
replaced; within this process nothing can be stopped, so the inline backend has no limit.
"""

import abc
import collections
import contextlib
import dataclasses
import math
import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from hiperjax.envs.base import Step, Suite
from hiperjax.envs.border import CheckedEnv, describe_error
from hiperjax.envs.parent import end_with_parent
from hiperjax.stop import REQUEST
from hiperjax.types import Observation

BACKENDS = ("inline", "process", "ray")
START_SECONDS = 300.0
"""A worker process that is not up after so long is given up."""
CLOSE_SECONDS = 5.0
"""A worker process that has not ended so long after it was asked to is killed."""
POLL_SECONDS = 0.2
"""How often a wait for an answer looks whether a stop was asked for."""


@dataclasses.dataclass(frozen=True, slots=True)
class EnvFailure:
    """An environment raised, broke the contract or answered too late; its episode is lost."""

    task_id: str
    error: str
    """the cause in one line; where the environment raised, the end of the traceback follows"""

    @property
    def cause(self) -> str:
        """The first line of the error."""
        return self.error.partition("\n")[0]


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
        self._envs: dict[int, CheckedEnv] = {}
        self._tasks: dict[int, str] = {}

    def reset(
        self, slots: Sequence[int], task_ids: Sequence[str]
    ) -> list[Observation | EnvFailure]:
        return [self._reset(slot, task) for slot, task in zip(slots, task_ids, strict=True)]

    def step(self, slots: Sequence[int], actions: Sequence[str]) -> list[Step | EnvFailure]:
        return [self._step(slot, action) for slot, action in zip(slots, actions, strict=True)]

    def close(self) -> None:
        for env in self._envs.values():
            with contextlib.suppress(Exception):  # other people's code, and nothing follows
                env.close()
        self._envs.clear()

    def _reset(self, slot: int, task_id: str) -> Observation | EnvFailure:
        self._tasks[slot] = task_id
        try:  # other people's code runs here; what it raises is reported as data
            if slot not in self._envs:
                self._envs[slot] = CheckedEnv(self._suite)
            return self._envs[slot].reset(task_id)
        except BaseException as error:
            return self._fail(slot, error)

    def _step(self, slot: int, action: str) -> Step | EnvFailure:
        if slot not in self._envs:
            raise RuntimeError(f"step in slot {slot}: no live episode there; reset it first")
        try:
            return self._envs[slot].step(action)
        except BaseException as error:  # not every exception is an `Exception`: CancelledError
            return self._fail(slot, error)

    def _fail(self, slot: int, error: BaseException) -> EnvFailure:
        env = self._envs.pop(slot, None)  # not to be trusted: the next reset makes a new one
        if isinstance(error, KeyboardInterrupt):  # a person's, not the environment's
            raise error
        if env is not None:
            with contextlib.suppress(Exception):
                env.close()
        return EnvFailure(self._tasks[slot], describe_error(error))


class WorkerDied(RuntimeError):
    """A worker went away (killed, out of memory) or is given up; its episodes are lost."""


class StepTimeout(WorkerDied):
    """A reset or a step took longer than its limit."""


class _Remote(abc.ABC):
    """One worker elsewhere that holds an `InlineWorkers`. Answers come one a slot, in order."""

    @abc.abstractmethod
    def send(self, method: str, slots: list[int], values: list[str]) -> None:
        """Ask; do not wait."""

    @abc.abstractmethod
    def receive(self) -> Any:
        """Wait for the answer of the next slot; `WorkerDied` if there will be none."""

    def hang_up(self) -> None:  # noqa: B027 - not all have something to do
        """Ask it to end; do not wait."""

    @abc.abstractmethod
    def close(self, until: float | None = None) -> None:
        """End it, whatever it does; by force from `until` on (of `time.monotonic`)."""


class _Watchdog:
    """Kills a worker process when a deadline passes, wherever the one who waits for it is stuck:
    amid a message, say, of which only a part came."""

    def __init__(self, kill: Callable[[], None], limit: float) -> None:
        self._kill, self._limit = kill, limit
        self._deadline: float | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def __enter__(self) -> None:
        self._deadline = time.monotonic() + self._limit

    def __exit__(self, *error: object) -> None:
        self._deadline = None

    def _watch(self) -> None:
        while not self._over.wait(min(1.0, self._limit)):
            deadline = self._deadline
            if deadline is not None and time.monotonic() > deadline:
                self._kill()

    def close(self) -> None:
        self._over.set()
        self._thread.join(timeout=CLOSE_SECONDS)


class _ProcessRemote(_Remote):
    """A spawned process: forking would copy the threads of a live XLA."""

    def __init__(self, suite: Suite, limit: float | None) -> None:
        context = multiprocessing.get_context("spawn")
        self._limit = limit
        self._pipe, child = context.Pipe()
        self._process = context.Process(target=_serve, args=(child, suite), daemon=True)
        self._process.start()
        child.close()
        self._started = False
        self._dead: WorkerDied | None = None
        self._message = contextlib.nullcontext()
        if limit is not None:
            self._message = _Watchdog(self._process.kill, limit)

    def send(self, method: str, slots: list[int], values: list[str]) -> None:
        try:
            if not self._started:
                self._wait(START_SECONDS, f"worker process did not start in {START_SECONDS:g} s")
                self._started = True
            with self._message:
                self._pipe.send((method, slots, values))
        except WorkerDied as error:
            self._dead = error  # `receive` raises it
        except (BrokenPipeError, ConnectionResetError):
            pass  # `receive` finds the pipe at its end

    def receive(self) -> Any:
        if self._dead is not None:
            raise self._dead
        late = f"no answer within env.step_timeout {self._limit:g} s" if self._limit else ""
        return self._wait(self._limit, late)

    def _wait(self, limit: float | None, late: str) -> Any:
        deadline = math.inf if limit is None else time.monotonic() + limit
        try:
            while not self._pipe.poll(min(POLL_SECONDS, max(0.0, deadline - time.monotonic()))):
                REQUEST.check()
                if time.monotonic() >= deadline:
                    self._process.kill()  # it may hang where nothing milder is heard
                    raise StepTimeout(late)
                if not self._process.is_alive() and not self._pipe.poll():
                    raise EOFError  # though children it left behind may hold the pipe open
            with self._message:
                return self._pipe.recv()
        except (EOFError, ConnectionResetError):
            self._process.join(timeout=CLOSE_SECONDS)
        raise WorkerDied(f"worker process ended with exit code {self._process.exitcode}")

    def hang_up(self) -> None:
        self._pipe.close()

    def close(self, until: float | None = None) -> None:
        self.hang_up()
        left = CLOSE_SECONDS if until is None else until - time.monotonic()
        self._process.join(timeout=max(0.0, left))
        if self._process.is_alive():
            self._process.kill()
            self._process.join(timeout=CLOSE_SECONDS)
        if isinstance(self._message, _Watchdog):
            self._message.close()


def _serve(pipe: Any, suite: Suite) -> None:
    end_with_parent()
    for name in ("SIGINT", "SIGHUP"):  # Ctrl-C, a closed terminal: for the parent, which finishes
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    workers = InlineWorkers(suite)
    pipe.send("ready")
    while True:
        try:
            method, slots, values = pipe.recv()
        except (EOFError, ConnectionResetError):
            workers.close()
            return
        for slot, value in zip(slots, values, strict=True):
            (answer,) = getattr(workers, method)([slot], [value])
            try:
                pipe.send(answer)
            except BrokenPipeError:
                return


class _RayRemote(_Remote):
    """A Ray actor, wherever the cluster has room for it; a time limit holds for its slots' sum."""

    def __init__(self, suite: Suite, limit: float | None) -> None:
        ray = _import_ray()
        if not ray.is_initialized():
            ray.init(log_to_driver=False, include_dashboard=False)
        self._ray, self._limit = ray, limit
        self._actor = ray.remote(InlineWorkers).remote(suite)
        self._answers: collections.deque[Any] = collections.deque()

    def send(self, method: str, slots: list[int], values: list[str]) -> None:
        self._count, self._answers = len(slots), collections.deque()
        self._asked = getattr(self._actor, method).remote(slots, values)

    def receive(self) -> Any:
        if not self._answers:
            limit = None if self._limit is None else self._limit * self._count
            try:
                self._answers.extend(self._ray.get(self._asked, timeout=limit))
            except self._ray.exceptions.GetTimeoutError as error:
                raise StepTimeout(f"no answer for {self._count} slots in {limit:g} s") from error
            except self._ray.exceptions.RayActorError as error:
                raise WorkerDied(f"Ray actor is gone: {error}") from error
        return self._answers.popleft()

    def close(self, until: float | None = None) -> None:
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

    A worker that dies, or answers later than it may, loses its episodes, each reported as an
    `EnvFailure`, and is replaced.
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
            worker.hang_up()
        until = time.monotonic() + CLOSE_SECONDS  # all of them together, not one after another
        for worker in self._workers:
            worker.close(until)
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
      num_workers: processes or actors; inline ignores it.
      step_timeout: seconds that a reset or a step may take; 0 or None: for ever. Inline ignores it.
    """
    limit = step_timeout or None
    if backend == "inline":
        return InlineWorkers(suite)
    if backend == "process":
        return ShardedWorkers(suite, partial(_ProcessRemote, limit=limit), num_workers)
    if backend == "ray":
        _import_ray()
        return ShardedWorkers(suite, partial(_RayRemote, limit=limit), num_workers)
    raise ValueError(f"backend {backend!r} of environment workers: expected one of {BACKENDS}")
