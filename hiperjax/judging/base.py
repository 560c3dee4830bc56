"""What a judge is asked, and what it answers.

A judge gets requests and gives one verdict for each, in their order. What goes wrong with one of
them (a server that is down, an answer that cannot be read) is a `Failed` in its place, never an
exception: a verdict is data, and so is its absence.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from hiperjax.types import Trajectory


@dataclasses.dataclass(frozen=True, slots=True)
class JudgedTurn:
    """One turn as a judge sees it."""

    number: int
    """from 1"""
    observation: str
    subgoal: str
    action: str
    result: str
    """what the action led to"""

    @property
    def texts(self) -> tuple[str, ...]:
        """All that was said at the turn."""
        return self.observation, self.subgoal, self.action, self.result


@dataclasses.dataclass(frozen=True, slots=True)
class Transcript:
    """An episode, or how it began."""

    task: str
    turns: tuple[JudgedTurn, ...]
    satisfied: frozenset[str] = frozenset()
    """criteria that the world says hold after the last of the turns"""
    facts: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """what the program knows of the episode, for judges that are programs; no prompt shows it"""


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
    """One criterion to be judged."""

    name: str
    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """What a judge is asked about one episode, or about two of one task."""

    questions: tuple[Question, ...]
    episode: Transcript
    other: Transcript | None = None
    """the episode it is compared with; None: each question is to be answered by yes or no"""


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """A number for each question: 1 or 0 for yes or no; -2 to 2 in a comparison, above 0 where the
    episode is better than the other."""

    marks: Mapping[str, float]
    ungrounded: tuple[str, ...] = ()
    """questions whose evidence quotes what was never said: they count as no, or as equal"""


@dataclasses.dataclass(frozen=True, slots=True)
class Failed:
    """There is no verdict, and why, in one line."""

    reason: str


@runtime_checkable
class Judge(Protocol):
    """Who answers."""

    def verdicts(self, requests: Sequence[Request]) -> list[Verdict | Failed]:
        """One answer for each request, in their order.

        Raises:
          StopAsked: the process was asked to stop meanwhile.
        """
        ...


def transcribe_episode(trajectory: Trajectory, turns: int | None = None) -> Transcript:
    """An episode, or its first `turns`, as judges see it."""
    shown = trajectory.turns[:turns]
    seen = [turn.observation for turn in trajectory.turns] + [trajectory.final_observation]
    return Transcript(
        task=trajectory.task,
        turns=tuple(
            JudgedTurn(t + 1, seen[t], turn.blocks.subgoal, turn.blocks.action, seen[t + 1])
            for t, turn in enumerate(shown)
        ),
        satisfied=shown[-1].satisfied,
    )


def check_marks(request: Request, marks: Mapping[str, Any]) -> Verdict | Failed:
    """A verdict of these marks, if there is one for each question, of the right size."""
    low, high = (0.0, 1.0) if request.other is None else (-2.0, 2.0)
    found: dict[str, float] = {}
    for question in request.questions:
        mark = marks.get(question.name)
        if not isinstance(mark, bool | int | float) or not low <= float(mark) <= high:
            return Failed(
                f"criterion {question.name}: found {mark!r}; expected a number from {low:g} to "
                f"{high:g}"
            )
        found[question.name] = float(mark)
    return Verdict(found)
