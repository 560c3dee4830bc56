"""Where worlds enter: whatever a reset or a step returns is checked here before anyone reads it.

Environments are other people's code. What they raise is data (an `EnvFailure`, made in workers.py),
and so is what they return wrongly: a `BorderError` that names suite, task, turn and field.
"""

import math
import numbers
import traceback
from typing import Any

import numpy as np

from hiperjax.envs.base import Outcome, Step, Suite, TextEnv
from hiperjax.envs.coroutines import finish
from hiperjax.files import is_unicode
from hiperjax.types import NO_DELEGATION, Delegation, Ending, Observation, Tool

LARGEST = float(np.finfo(np.float32).max)
"""What rewards may be: they are float32 later."""
FLAGS = ("terminated", "truncated", "success", "milestone")

_TRACEBACK_LINES, _MOST_TEXT = 12, 500


class BorderError(ValueError):
    """An environment returned what the contract does not allow; one line, for a person to read."""


class CheckedEnv(TextEnv):
    """An environment of a suite, every answer of which is checked and has plain Python types."""

    def __init__(self, suite: Suite) -> None:
        self._suite, self._env = suite, suite.make_env()
        self._task_id, self._turn = "", 0

    def reset(self, task_id: str) -> Observation:
        """Open a task. Raises `BorderError`, and whatever the environment raises."""
        self._task_id, self._turn = task_id, 0
        return self._check_observation(finish(self._env.reset(task_id)), "observation")

    def step(self, action: str) -> Step:
        """Act. Raises `BorderError`, and whatever the environment raises.

        `info` stays behind: nobody here reads it, and not everything in it can be sent elsewhere.
        """
        self._turn += 1
        found: Any = finish(self._env.step(action))
        self._require(isinstance(found, Step), "step", found, "a hiperjax.envs.base.Step")
        observation = self._check_observation(found.observation, "observation")
        flags: dict[str, Any] = {x: self._check_flag(x, getattr(found, x)) for x in FLAGS}
        reward = self._check_number("reward", found.reward, -LARGEST, LARGEST)
        score = found.score
        ended = flags["terminated"] or flags["truncated"]
        if score is not None or (ended and self._suite.reports_scores):
            score = self._check_number("score", score, 0.0, 1.0)
        satisfied = self._check_names("satisfied", found.satisfied)
        delegation = self._check_delegation(found.delegation)
        kinds: dict[str, Any] = {"satisfied": satisfied, "delegation": delegation}
        return Step(observation, reward, score=score, **kinds, **flags)

    def score(self, ending: Ending) -> Outcome | None:
        """What the episode comes to. Raises `BorderError`, and whatever the environment raises."""
        found: Any = finish(self._env.score(ending))
        if found is None:
            return None
        expected = "a hiperjax.envs.base.Outcome, or None"
        self._require(isinstance(found, Outcome), "score", found, expected)
        score, satisfied, success = found.score, found.satisfied, found.success
        if score is not None:
            score = self._check_number("score", score, 0.0, 1.0)
        if satisfied is not None:
            satisfied = self._check_names("score.satisfied", satisfied)
        if success is not None:
            success = self._check_flag("score.success", success)
        reward = self._check_number("score.reward", found.reward, -LARGEST, LARGEST)
        return Outcome(score, reward, satisfied, success)

    def close(self) -> None:
        self._env.close()

    def _check_delegation(self, found: Any) -> Delegation:
        if found is NO_DELEGATION:  # most worlds, at every step
            return NO_DELEGATION
        expected = "a hiperjax.types.Delegation: names, as many counts of turns, counts from 0"
        self._require(isinstance(found, Delegation), "delegation", found, expected)
        names, turns, *counts = found
        listed = isinstance(names, tuple) and isinstance(turns, tuple) and len(names) == len(turns)
        named = listed and all(isinstance(name, str) for name in names)
        counted = named and all(type(n) is int and n >= 0 for n in (*turns, *counts))
        self._require(counted, "delegation", found, expected)
        return found

    def _check_names(self, field: str, found: Any) -> frozenset[str]:
        if found == frozenset():  # most worlds, at every step
            return frozenset()
        plain = isinstance(found, frozenset | set) and all(isinstance(x, str) for x in found)
        self._require(plain, field, found, "a frozenset of strings")
        return frozenset(found)

    def _check_observation(self, found: Any, field: str) -> Observation:
        self._require(isinstance(found, Observation), field, found, "a hiperjax.types.Observation")
        text, task, pinned = (
            self._check_text(f"{field}.{name}", getattr(found, name))
            for name in ("text", "task", "pinned")
        )
        commands = found.admissible
        listed = isinstance(commands, tuple)
        self._require(listed, f"{field}.admissible", commands, "a tuple of strings")
        admissible = tuple(
            self._check_text(f"{field}.admissible[{number}]", command)
            for number, command in enumerate(commands)
        )
        request = found.request
        number = isinstance(request, int) and not isinstance(request, bool) and request >= 0
        self._require(number, f"{field}.request", request, "a whole number from 0")
        if found.tools != ():  # most worlds have none
            plain = isinstance(found.tools, tuple) and all(isinstance(x, Tool) for x in found.tools)
            self._require(plain, f"{field}.tools", found.tools, "a tuple of hiperjax.types.Tool")
        opens = text.startswith(pinned)
        self._require(opens, f"{field}.pinned", pinned, "the opening of observation.text")
        return Observation(text, task, admissible, pinned, request=request, tools=found.tools)

    def _check_text(self, field: str, found: Any) -> str:
        self._require(isinstance(found, str), field, found, "a string")
        text = str.__str__(found)  # a plain one: what a subclass adds cannot be sent everywhere
        if not text.isascii():
            self._require(is_unicode(text), field, found, "a string without lone surrogates")
        return text

    def _check_flag(self, field: str, found: Any) -> bool:
        self._require(isinstance(found, bool | np.bool_), field, found, "True or False")
        return bool(found)

    def _check_number(self, field: str, found: Any, low: float, high: float) -> float:
        expected = "a finite number" if high == LARGEST else f"a number in [{low:g}, {high:g}]"
        self._require(isinstance(found, numbers.Real), field, found, expected)
        try:
            value = float(found)
        except Exception:  # too large, or a type of their own that fails
            value = math.nan
        self._require(low <= value <= high, field, found, expected)
        return value

    def _require(self, holds: bool, field: str, found: Any, expected: str) -> None:
        if not holds:
            raise BorderError(
                f"suite {self._suite.name}, task {self._task_id}, turn {self._turn}: {field} is "
                f"{_show(found)}; expected {expected}"
            )


def _show(found: Any, limit: int = 80) -> str:
    """A value and its type in one short line, whatever its `repr` does."""
    try:
        text = ascii(found)
    except Exception as error:
        text = f"no repr: {type(error).__name__}"
    text = " ".join(text.split())
    shown = text if len(text) <= limit else f"{text[:limit]}..."
    return f"{shown} ({type(found).__name__})"


def describe_error(error: BaseException) -> str:
    """What other people's code raised: the cause in one line, then the end of the traceback."""
    if isinstance(error, BorderError):
        return str(error)
    try:
        said = str(error)
    except Exception as worse:
        said = f"no text: {type(worse).__name__}"
    lines = "".join(traceback.format_exception(error)).rstrip().splitlines()
    summary = " ".join(f"{type(error).__name__}: {said[:_MOST_TEXT]}".split())
    shown = [line[:_MOST_TEXT] for line in lines[-_TRACEBACK_LINES:]]
    return "\n".join([summary, *shown]).encode(errors="replace").decode()
