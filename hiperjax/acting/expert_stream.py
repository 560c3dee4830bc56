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
from hiperjax.envs.workers import POLL_SECONDS, EnvFailure
from hiperjax.stop import REQUEST
from hiperjax.types import Trajectory

AHEAD = 2
"""Portions per process that are played before they are asked for."""


class PlayersLost(RuntimeError):
    """A process that played the expert is gone."""


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
        )
        return Portion(transcribe(self.prompter, list(demos)), failures)


class ExpertStream:
    """Portions in order from number `first`; `workers` processes play ahead."""

    def __init__(self, plan: PortionPlan, *, workers: int = 0, first: int = 0) -> None:
        self.number = first
        """of the next portion"""
        self._plan = plan
        self._queue: collections.deque[Future[Portion]] = collections.deque()
        self._pool = None
        self._ahead = AHEAD * workers
        if workers:
            self._pool = ProcessPoolExecutor(
                workers,
                multiprocessing.get_context("spawn"),  # forking would copy the threads of XLA
                initializer=_begin,
                initargs=(plan,),
            )

    def __iter__(self) -> Iterator[Portion]:
        return self

    def __next__(self) -> Portion:
        """The next portion.

        Raises:
          PlayersLost: a process ended on its way.
          StopAsked: looked at while it waits.
        """
        pool, number = self._pool, self.number
        if pool is None:
            portion = self._plan.play(number)
        else:
            try:
                while len(self._queue) <= self._ahead:
                    self._queue.append(pool.submit(_play, number + len(self._queue)))
                portion = _wait(self._queue[0])
            except BrokenProcessPool as error:
                raise PlayersLost(
                    f"a process that plays the expert ended at portion {number} (killed, or out of "
                    "memory); lower imitation.workers, or set it to 0"
                ) from error
            self._queue.popleft()
        self.number += 1
        return portion

    def close(self) -> None:
        """End the processes; what they are at is thrown away."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)


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
    for name in ("SIGINT", "SIGHUP"):  # Ctrl-C, a closed terminal: for the parent, which finishes
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def _play(number: int) -> Portion:
    assert _PLAN is not None, "the process has begun"
    return _PLAN.play(number)
