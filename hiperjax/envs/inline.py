"""What all backends of environment workers share, and the plainest: a loop in this process.

Each slot holds one environment. What an environment raises, or returns against the contract, is
data: an `EnvFailure` in place of its result, and its slot waits for the next reset.
"""

import abc
import contextlib
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Literal

from hiperjax.envs.base import Outcome, Step, Suite
from hiperjax.envs.border import CheckedEnv, describe_error
from hiperjax.types import Ending, Observation


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


Method = Literal["reset", "step", "score"]
NO_EPISODE = "no live episode there; reset it first"
Answer = Observation | Step | Outcome | EnvFailure | None


class EnvWorkers(abc.ABC):
    """Slots of live episodes. A slot is any non-negative int; environments are made on demand."""

    def reset(
        self, slots: Sequence[int], task_ids: Sequence[str]
    ) -> list[Observation | EnvFailure]:
        """Open one task in each slot."""
        return self.call("reset", slots, task_ids)

    def step(self, slots: Sequence[int], actions: Sequence[str]) -> list[Step | EnvFailure]:
        """Act once in each slot."""
        return self.call("step", slots, actions)

    def score(
        self, slots: Sequence[int], endings: Sequence[Ending]
    ) -> list[Outcome | EnvFailure | None]:
        """Ask what the episode in each slot comes to, now that it is over."""
        return self.call("score", slots, endings)

    @abc.abstractmethod
    def call(self, method: Method, slots: Sequence[int], values: Sequence[Any]) -> list[Any]:
        """Call a method in each slot; returns the answers, in the order of the slots.

        Raises:
          RuntimeError: a slot where no episode was opened.
        """

    def ask(self, method: Method, slots: Sequence[int], values: Sequence[Any]) -> None:
        """Begin a method in each slot; `take` hands out what comes of it."""
        answers = self.call(method, slots, values)
        self._answered.extend(zip(slots, answers, strict=True))

    def take(self, *, wait: bool) -> list[tuple[int, Answer]]:
        """Slots whose answers have come since, in any order, with their answers.

        Args:
          wait: for one at least, if any is to come.

        Raises:
          StopAsked: while it waited.
        """
        taken = list(self._answered)
        self._answered.clear()
        return taken

    def forget(self) -> None:
        """Nobody waits any more for what was asked for and not taken."""
        self._answered.clear()

    @functools.cached_property
    def _answered(self) -> list[tuple[int, Any]]:
        """What backends have answered that do not let others wait for it."""
        return []

    @abc.abstractmethod
    def close(self) -> None:
        """Release every environment and worker."""


class InlineWorkers(EnvWorkers):
    """A plain loop in this process: the fastest for worlds that cost microseconds."""

    def __init__(self, suite: Suite) -> None:
        self._suite = suite
        self._envs: dict[int, CheckedEnv] = {}
        self._tasks: dict[int, str] = {}

    def call(self, method: Method, slots: Sequence[int], values: Sequence[Any]) -> list[Any]:
        return [self._call(method, *each) for each in zip(slots, values, strict=True)]

    def close(self) -> None:
        for env in self._envs.values():
            with contextlib.suppress(Exception):  # other people's code, and nothing follows
                env.close()
        self._envs.clear()

    def _call(self, method: Method, slot: int, value: Any) -> Any:
        if method == "reset":
            self._tasks[slot] = value
        elif slot not in self._envs:
            raise RuntimeError(f"{method} in slot {slot}: {NO_EPISODE}")
        try:  # other people's code runs here; what it raises is reported as data
            if slot not in self._envs:
                self._envs[slot] = CheckedEnv(self._suite)
            return getattr(self._envs[slot], method)(value)
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
