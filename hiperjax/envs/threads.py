"""Environments in threads of this process, for worlds that wait: for a network, a server, a clock.

Every answer is handed out as it comes, so that a slow episode holds up only itself. A thread cannot
be stopped: one whose call takes too long is left to itself with its environment, its episode is
lost, and another thread takes its place.
"""

import contextlib
import dataclasses
import queue
import threading
import time
from collections.abc import Sequence
from typing import Any

from hiperjax.envs.base import Suite
from hiperjax.envs.border import CheckedEnv, describe_error
from hiperjax.envs.inline import NO_EPISODE, Answer, EnvFailure, EnvWorkers, Method
from hiperjax.stop import REQUEST

POLL_SECONDS = 0.1
"""How often a wait for an answer looks at deadlines, and whether a stop was asked for."""


@dataclasses.dataclass(eq=False)
class _Call:
    """One call of an environment."""

    slot: int
    method: Method
    value: Any
    task_id: str
    env: CheckedEnv | None
    """None: one is to be made"""
    began: float | None = None
    given_up: bool = False


class ThreadWorkers(EnvWorkers):
    """Threads that call environments, one slot's one call at a time.

    Args:
      suite: whose environments they run.
      num_threads: calls under way at one time; no more than the suite's `max_concurrency`.
      limit: seconds that a call may take, from when a thread takes it up; None: for ever.
    """

    def __init__(self, suite: Suite, num_threads: int, limit: float | None) -> None:
        if num_threads < 1:
            raise ValueError(f"num_workers: found {num_threads}; expected at least 1")
        self._suite, self._limit = suite, limit
        self._envs: dict[int, CheckedEnv] = {}
        self._tasks: dict[int, str] = {}
        self._calls: dict[int, _Call] = {}
        """slot -> the call that is asked for and not answered"""
        self._asked: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[tuple[_Call, Any]] = queue.SimpleQueue()
        self._num_threads = min(num_threads, suite.max_concurrency or num_threads)
        for _ in range(self._num_threads):
            self._start_thread()

    def ask(self, method: Method, slots: Sequence[int], values: Sequence[Any]) -> None:
        for slot, value in zip(slots, values, strict=True):
            if slot in self._calls:
                raise RuntimeError(f"{method} in slot {slot}: it has not answered the last call")
            if method == "reset":
                self._tasks[slot] = value
            elif slot not in self._envs:
                raise RuntimeError(f"{method} in slot {slot}: {NO_EPISODE}")
            call = _Call(slot, method, value, self._tasks[slot], self._envs.get(slot))
            self._calls[slot] = call
            self._asked.put(call)

    def take(self, *, wait: bool) -> list[tuple[int, Answer]]:
        taken: list[tuple[int, Answer]] = []
        while True:
            block = wait and bool(self._calls) and not taken
            try:
                call, answer = self._done.get(timeout=POLL_SECONDS if block else 0)
            except queue.Empty:
                taken += self._give_up_late()
                if not block or taken:
                    return taken
                REQUEST.check()
                continue
            if not call.given_up:
                taken.append((call.slot, self._note(call, answer)))

    def forget(self) -> None:
        for call in list(self._calls.values()):
            self._give_up(call)

    def close(self) -> None:
        for _ in range(self._num_threads):
            self._asked.put(None)
        busy = {call.slot for call in self._calls.values()}
        for slot, env in self._envs.items():
            if slot not in busy:
                with contextlib.suppress(Exception):  # other people's code, and nothing follows
                    env.close()
        self._envs.clear()

    def call(self, method: Method, slots: Sequence[int], values: Sequence[Any]) -> list[Any]:
        self.ask(method, slots, values)
        found: dict[int, Any] = {}
        while len(found) < len(slots):
            found.update(self.take(wait=True))
        return [found[slot] for slot in slots]

    def _note(self, call: _Call, answer: Any) -> Any:
        del self._calls[call.slot]
        if isinstance(answer, EnvFailure):
            self._envs.pop(call.slot, None)  # its state cannot be trusted
        elif call.env is not None:
            self._envs[call.slot] = call.env
        return answer

    def _give_up_late(self) -> list[tuple[int, Answer]]:
        late: list[tuple[int, Answer]] = []
        for call in list(self._calls.values()):
            began, limit = call.began, self._limit
            if limit is not None and began is not None and time.monotonic() - began > limit:
                self._give_up(call)
                where = f"suite {self._suite.name}, task {call.task_id}, {call.method}"
                error = f"StepTimeout: {where}: no answer within env.step_timeout {limit:g} s"
                late.append((call.slot, EnvFailure(call.task_id, error)))
        return late

    def _give_up(self, call: _Call) -> None:
        """Leave a call to itself, and its environment."""
        call.given_up = True
        del self._calls[call.slot]
        self._envs.pop(call.slot, None)
        self._start_thread()  # in place of the one that is stuck

    def _start_thread(self) -> None:
        threading.Thread(target=self._serve, name="environment", daemon=True).start()

    def _serve(self) -> None:
        while (call := self._asked.get()) is not None:
            call.began = time.monotonic()
            try:  # other people's code runs here; what it raises is reported as data
                call.env = call.env or CheckedEnv(self._suite)
                answer = getattr(call.env, call.method)(call.value)
            except BaseException as error:
                answer = EnvFailure(call.task_id, describe_error(error))
            self._done.put((call, answer))
            if call.given_up:  # another thread took its place
                with contextlib.suppress(Exception):
                    if call.env is not None:
                        call.env.close()
                return
