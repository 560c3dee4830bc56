"""Episodes of one task compared in pairs: who is compared with whom, and what each is worth."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Literal

from hiperjax.judging.base import Failed, Judge, Question, Request, Transcript, Verdict, check_marks
from hiperjax.judging.rubric import Rubric, RubricError, RubricItem, aggregate, decide
from hiperjax.types import Ending, Trajectory

Against = Literal["random", "all"]
"""One episode of the group, drawn, with which the others are compared; or each with each."""
Grade = Literal["verdict", "score"]
"""1, 0 or -1, where both orders agree; or the mean score of both orders, from -2 to 2."""


@dataclasses.dataclass(frozen=True)
class Pairing:
    """How the episodes of a group are compared."""

    rubric: Rubric
    against: Against = "random"
    grade: Grade = "verdict"
    margin: float = 0.0
    both_orders: bool = True
    """False: only the episode against the other, half as many requests"""


@dataclasses.dataclass(frozen=True)
class Compared:
    """What became of the episodes of a group."""

    worth: tuple[float | None, ...]
    """of each; None where a verdict that it needs failed"""
    answers: tuple[Verdict | Failed, ...]
    disagreed: int
    """pairs of which the two orders say different things"""
    pairs: int


class FactJudge:
    """Compares two episodes by facts of theirs that no prompt shows: a judge that is a program."""

    def __init__(self, rubric: Rubric) -> None:
        for item in rubric:
            if not item.fact:
                raise RubricError(
                    f"rubric, criterion {item.name}: no fact; the judge that is a program compares "
                    "facts, another judge.kind reads"
                )
        self._items = {item.name: item for item in rubric}

    def verdicts(self, requests: Sequence[Request]) -> list[Verdict | Failed]:
        """A score for each criterion, by how far the facts are apart."""
        return [self._compare(request) for request in requests]

    def _compare(self, request: Request) -> Verdict | Failed:
        other = request.other
        if other is None:
            return Failed("one episode; expected two")
        missing = [
            item.fact
            for item in self._items.values()
            if not (item.fact in request.episode.facts and item.fact in other.facts)
        ]
        if missing:
            known = ", ".join(sorted(request.episode.facts))
            return Failed(f"no fact {missing[0]!r}; expected one of {known}")
        marks = {
            name: _mark(item, request.episode.facts, other.facts)
            for name, item in self._items.items()
        }
        return check_marks(request, marks)


def _mark(item: RubricItem, own: Mapping[str, float], other: Mapping[str, float]) -> float:
    apart = (own[item.fact] - other[item.fact]) / item.step
    apart = apart if item.better == "higher" else -apart
    return float(max(-2, min(2, int(apart + 1e-9 if apart > 0 else apart - 1e-9))))


def list_facts(trajectory: Trajectory) -> dict[str, float]:
    """What the program knows of an episode."""
    turns = trajectory.turns
    actions = [turn.blocks.action for turn in turns]
    return {
        "success": float(trajectory.success),
        "score": float(trajectory.success if trajectory.score is None else trajectory.score),
        "turns": float(len(turns)),
        "repeated": 1 - len(set(actions)) / len(actions),
        "distinct": float(len(set(actions))),
        "malformed": sum(not turn.blocks.well_formed for turn in turns) / len(turns),
        "inadmissible": sum(not turn.admissible for turn in turns) / len(turns),
        "truncated": float(trajectory.ending is Ending.TRUNCATED),
        "switches": sum(turn.blocks.switch for turn in turns[1:]) / max(1, len(turns) - 1),
    }


def compare_groups(
    judge: Judge, pairing: Pairing, groups: Sequence[Sequence[Transcript]], draws: Sequence[str]
) -> list[Compared]:
    """What each group's episodes are worth beside each other; all groups are judged at once.

    Args:
      judge: who compares.
      pairing: whom, and by what.
      groups: each of episodes of one task.
      draws: what the choice of an episode of each group depends on, and nothing else.
    """
    pairs = [
        choose_pairs(len(group), pairing.against, draw)
        for group, draw in zip(groups, draws, strict=True)
    ]
    orders = [
        (g, i, j)
        for g, own in enumerate(pairs)
        for pair in own
        for i, j in (pair, pair[::-1])[: 1 + pairing.both_orders]
    ]
    questions = tuple(Question(item.name, item.question) for item in pairing.rubric)
    requests = [Request(questions, groups[g][i], groups[g][j]) for g, i, j in orders]
    answers = dict(zip(orders, judge.verdicts(requests), strict=True))
    found = []
    for g, (group, own) in enumerate(zip(groups, pairs, strict=True)):
        given = {(i, j): answers[h, i, j] for h, i, j in orders if h == g}
        found.append(_settle(pairing, len(group), own, given))
    return found


def _settle(
    pairing: Pairing,
    count: int,
    pairs: Sequence[tuple[int, int]],
    answers: Mapping[tuple[int, int], Verdict | Failed],
) -> Compared:
    scores = {
        order: aggregate(answer.marks, pairing.rubric)
        for order, answer in answers.items()
        if isinstance(answer, Verdict)
    }
    worth: list[list[float | None]] = [[] for _ in range(count)]
    disagreed = 0
    for i, j in pairs:
        forward, backward = scores.get((i, j)), scores.get((j, i))
        if not pairing.both_orders and forward is not None:
            backward = -forward
        own = None
        if forward is not None and backward is not None:
            own = _grade(pairing, forward, backward)
            disagreed += forward * backward > 0
        worth[i].append(own)
        if pairing.against == "all":
            worth[j].append(None if own is None else -own)
    return Compared(tuple(map(_mean, worth)), tuple(answers.values()), disagreed, len(pairs))


def _grade(pairing: Pairing, forward: float, backward: float) -> float:
    if pairing.grade == "verdict":
        return float(decide(forward, backward, pairing.margin))
    return (forward - backward) / 2


def _mean(values: Sequence[float | None]) -> float | None:
    """Of comparisons; 0 of the one drawn, which is compared with nobody; None where one failed."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    return sum(known) / len(known) if known else 0.0


def choose_pairs(count: int, against: Against, draw: str) -> list[tuple[int, int]]:
    """Which episodes of a group are compared: (episode, the one drawn), or each pair once."""
    if against == "all":
        return [(i, j) for i in range(count) for j in range(i + 1, count)]
    chosen = int.from_bytes(hashlib.sha256(draw.encode()).digest()[:8]) % count
    return [(i, chosen) for i in range(count) if i != chosen]
