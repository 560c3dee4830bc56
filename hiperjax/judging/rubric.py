"""Rubrics: criteria by importance, and what comes of a comparison by them.

After OpenRS (arXiv 2602.14069): a criterion's score is -2 to 2, above 0 where the first of two
episodes is better. Its rubrics are written anew for every pair; here one is given for the run.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any, Literal, get_args

Importance = Literal["core", "important", "highlight", "fatal"]
WEIGHTS: Mapping[str, float] = {"core": 5.0, "important": 2.0, "highlight": 1.0}
FATAL = "fatal"
"""A criterion of this importance outweighs all that are not."""


class RubricError(ValueError):
    """A rubric that nobody can judge by."""


@dataclasses.dataclass(frozen=True, slots=True)
class RubricItem:
    """One fact by which two episodes are compared."""

    name: str
    question: str
    """what a judge is asked: which of the two is better in this"""
    importance: Importance
    fact: str = ""
    """for the judge that is a program: the fact of an episode (`list_facts`) that it compares"""
    better: Literal["higher", "lower"] = "higher"
    step: float = 0.5
    """difference of the fact that scores 1; twice as much scores 2"""


FIELDS = tuple(field.name for field in dataclasses.fields(RubricItem))
Rubric = tuple[RubricItem, ...]

DEFAULT: Rubric = (
    RubricItem(
        "done", "Which episode comes closer to what the task asks?", "core", "score", step=0.25
    ),
    RubricItem(
        "repeats", "Which episode repeats itself less?", "important", "repeated", "lower", 0.25
    ),
    RubricItem("brief", "Which episode wastes fewer turns?", "highlight", "turns", "lower", 4.0),
)
"""What a run is judged by that brings no rubric."""


def aggregate(scores: Mapping[str, float], rubric: Rubric) -> float:
    """The score of a comparison: the weighted mean of the criteria that tell the two apart.

    Criteria with score 0 leave the denominator too. Where a fatal criterion tells them apart, the
    result is the sum of the fatal scores alone; where none does, 0.
    """
    fatal = [scores[item.name] for item in rubric if item.importance == FATAL]
    if any(fatal):
        return float(sum(fatal))
    told = [(WEIGHTS[i.importance], scores[i.name]) for i in rubric if i.importance != FATAL]
    told = [(weight, score) for weight, score in told if score]
    if not told:
        return 0.0
    return sum(weight * score for weight, score in told) / sum(weight for weight, _ in told)


def decide(forward: float, backward: float, margin: float = 0.0) -> int:
    """Which of two episodes is better, compared in both orders: 1 the first, -1 the second.

    Args:
      forward: score of the first against the second.
      backward: score of the second against the first.
      margin: by so much, at least, one order has to say so, and the other must not contradict.
    """
    if forward > margin and backward <= -margin:
        return 1
    if backward > margin and forward <= -margin:
        return -1
    return 0


def load_rubric(path: pathlib.Path | None) -> Rubric:
    """A rubric from a JSON file: a list of objects with the fields of `RubricItem`; None: ours.

    Raises:
      RubricError: says file, entry and field.
    """
    if path is None:
        return DEFAULT
    try:
        rows: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        raise RubricError(f"rubric {path}: {said}; expected a JSON list of criteria") from error
    if not isinstance(rows, list) or not rows:
        raise RubricError(f"rubric {path}: expected a JSON list of criteria")
    items = tuple(_read_item(row, f"rubric {path}, criterion {n}") for n, row in enumerate(rows, 1))
    names = [item.name for item in items]
    if len(set(names)) < len(names):
        raise RubricError(f"rubric {path}: found the names {names}; expected each once")
    return items


def _read_item(row: Any, where: str) -> RubricItem:
    if not isinstance(row, dict):
        raise RubricError(f"{where}: found {row!r:.60}; expected an object")
    for name in row:
        if name not in FIELDS:
            raise RubricError(f"{where}: found {name!r}; expected {', '.join(FIELDS)}")
    for name in ("name", "question", "fact"):
        found = row.get(name, "")
        if not isinstance(found, str) or not (found or name == "fact"):
            raise RubricError(f"{where}: {name} is {row.get(name)!r}; expected a text")
    for name, allowed in (("importance", get_args(Importance)), ("better", ("higher", "lower"))):
        found = row.get(name, "higher" if name == "better" else None)
        if found not in allowed:
            raise RubricError(f"{where}: {name} is {found!r}; expected one of {', '.join(allowed)}")
    step = row.get("step", 0.5)
    if isinstance(step, bool) or not isinstance(step, int | float) or not step > 0:
        raise RubricError(f"{where}: step is {step!r}; expected a number above 0")
    fields: dict[str, Any] = row | {"step": float(step)}
    return RubricItem(**fields)
