"""Expert episodes without end, in portions: played, tokenized and handed over, in a fixed order.

Portion `n` is a function of the plan and `n` alone, whoever plays it: this process, when it is
asked for, or others, ahead of it.
"""

import collections
import concurrent.futures
import dataclasses
import multiprocessing
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import NamedTuple

from hiperjax.acting.demonstrations import demonstrate, transcribe
from hiperjax.acting.prompts import Prompter
from hiperjax.envs.base import Suite
from hiperjax.envs.parent import end_with_parent
from hiperjax.envs.remotes import CLOSE_SECONDS, POLL_SECONDS
from hiperjax.envs.workers import EnvFailure
from hiperjax.stop import REQUEST
from hiperjax.types import Trajectory

AHEAD = 2
"""Portions per process that are played before they are asked for."""
ATTEMPTS = 3
"""How often processes may end at one portion."""


class PlayersLost(RuntimeError):
    """Processes that play the expert end whenever they begin."""


class Portion(NamedTuple):
    """Some episodes of the expert."""

    trajectories: list[Trajectory]
    failures: list[EnvFailure]
    """of episodes that the environment lost"""


@dataclasses.dataclass(frozen=True)
class PortionPlan:
    """What portions hold."""

    suite: Suite
    prompter: Prompter
    max_turns: int
    seed: int
    noise: float
    mistakes: float
    episodes: int
    """of each portion"""
    backend: str = "inline"
    """that holds the environment, one at a time; see `make_workers`"""
    step_timeout: float = 0.0
    """seconds that a reset or a step may take, where the backend has a limit; 0: for ever"""

    def play(self, number: int) -> Portion:
        """Portion `number`: training tasks from the end of the list backwards, and again.

        Portion -1 has the tasks at its head.
        """
        tasks, first = self.suite.tasks("train"), number * self.episodes
        ids = [tasks[-1 - (first + i) % len(tasks)] for i in range(self.episodes)]
        failures: list[EnvFailure] = []
        demos = demonstrate(
            self.suite,
            ids,
            max_turns=self.max_turns,
            seed=self.seed * 1_000_000 + first,
            noise=self.noise,
            mistakes=self.mistakes,
            failures=failures,
            backend=self.backend,
            step_timeout=self.step_timeout,
        )
        return Portion(transcribe(self.prompter, list(demos)), failures)


class ExpertStream:
    """Portions in order from number `first`; `workers` processes play ahead."""

    def __init__(self, plan: PortionPlan, *, workers: int = 0, first: int = 0) -> None:
        self.number = first
        """of the next portion"""
        self._plan = plan
        self._queue: collections.deque[Future[Portion]] = collections.deque()
        self._workers, self._ahead = workers, AHEAD * workers
        self._pool = self._start() if workers else None

    def _start(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            self._workers,
            multiprocessing.get_context("spawn"),  # forking would copy the threads of XLA
            initializer=_begin,
            initargs=(self._plan,),
        )

    def __iter__(self) -> Iterator[Portion]:
        return self

    def __next__(self) -> Portion:
        """The next portion; where a process ended on its way, others play it again.

        Raises:
          PlayersLost: processes end at one portion again and again.
          StopAsked: looked at while it waits.
        """
        portion = self._plan.play(self.number) if self._pool is None else self._take()
        self.number += 1
        return portion

    def _take(self) -> Portion:
        for _ in range(ATTEMPTS):
            pool = self._pool = self._pool or self._start()
            try:
                while len(self._queue) <= self._ahead:
                    self._queue.append(pool.submit(_play, self.number + len(self._queue)))
                portion = _wait(self._queue[0])
            except BrokenProcessPool:
                self.close()
            else:
                self._queue.popleft()
                return portion
        raise PlayersLost(
            f"a process that plays the expert ended {ATTEMPTS} times at portion {self.number} "
            "(killed, or out of memory); lower imitation.workers, or set it to 0"
        )

    def close(self) -> None:
        """End the processes; what they are at is thrown away."""
        pool, self._pool = self._pool, None
        self._queue.clear()
        if pool is None:
            return
        players = list((pool._processes or {}).values())  # no public name before Python 3.14
        pool.shutdown(wait=False, cancel_futures=True)
        for player in players:  # amid a portion, which may take long
            player.kill()
        for player in players:
            player.join(timeout=CLOSE_SECONDS)


def _wait(future: "Future[Portion]") -> Portion:
    while True:
        REQUEST.check()
        with_answer, _ = concurrent.futures.wait([future], timeout=POLL_SECONDS)
        if with_answer:
            return future.result()


_PLAN: PortionPlan | None = None
"""Of a process that plays for another."""


def _begin(plan: PortionPlan) -> None:
    global _PLAN
    _PLAN = plan
    end_with_parent()
    for name in ("SIGINT", "SIGHUP"):  # Ctrl-C, a closed terminal: for the parent, which finishes
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def _play(number: int) -> Portion:
    assert _PLAN is not None, "the process has begun"
    return _PLAN.play(number)
