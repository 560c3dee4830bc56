"""Workers in other processes: each holds an `InlineWorkers`, behind a pipe or as a Ray actor."""

import abc
import collections
import contextlib
import math
import multiprocessing
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from hiperjax.envs.base import Suite
from hiperjax.envs.inline import InlineWorkers
from hiperjax.envs.parent import end_with_parent
from hiperjax.stop import REQUEST

START_SECONDS = 300.0
"""A worker process that is not up after so long is given up."""
CLOSE_SECONDS = 5.0
"""A worker process that has not ended so long after it was asked to is killed."""
POLL_SECONDS = 0.2
"""How often a wait for an answer looks whether a stop was asked for."""


class WorkerDied(RuntimeError):
    """A worker went away (killed, out of memory) or is given up; its episodes are lost."""


class StepTimeout(WorkerDied):
    """A reset or a step took longer than its limit."""


class Remote(abc.ABC):
    """One worker elsewhere that holds an `InlineWorkers`. Answers come one a slot, in order."""

    @abc.abstractmethod
    def send(self, method: str, slots: list[int], values: list[Any]) -> None:
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


class ProcessRemote(Remote):
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

    def send(self, method: str, slots: list[int], values: list[Any]) -> None:
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


class RayRemote(Remote):
    """A Ray actor, wherever the cluster has room for it; a time limit holds for its slots' sum."""

    def __init__(self, suite: Suite, limit: float | None) -> None:
        ray = import_ray()
        if not ray.is_initialized():
            ray.init(log_to_driver=False, include_dashboard=False)
        self._ray, self._limit = ray, limit
        self._actor = ray.remote(InlineWorkers).remote(suite)
        self._answers: collections.deque[Any] = collections.deque()

    def send(self, method: str, slots: list[int], values: list[Any]) -> None:
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


def import_ray() -> Any:
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            "backend 'ray': Ray is not installed; pip install 'hiperjax[ray]'"
        ) from error
    return ray
