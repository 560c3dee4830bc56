"""A game as facts, and its two spellings: official `game.tw-pddl` files in, the same files out.

A `game.tw-pddl` file is JSON around a PDDL problem and a grammar. The domain is the same for every
game, so only the problem is read, and two rules of the grammar: task sentence and help text.
"""

import dataclasses
import re
from pathlib import Path

from hiperjax.files import parse_json

TASK_TYPES = (
    "pick_and_place_simple",
    "look_at_obj_in_light",
    "pick_clean_then_place_in_recep",
    "pick_heat_then_place_in_recep",
    "pick_cool_then_place_in_recep",
    "pick_two_obj_and_place",
)
DIALECTS = ("move", "put")
HELP = """Available commands:
  look:                             look around your current location
  inventory:                        check your current inventory
  go to (receptacle):               move to a receptacle
  open (receptacle):                open a receptacle
  close (receptacle):               close a receptacle
  take (object) from (receptacle):  take an object from a receptacle
  move (object) to (receptacle):  place an object in or on a receptacle
  examine (something):              examine a receptacle or an object
  use (object):                     use an object
  heat (object) with (receptacle):  heat an object using a receptacle
  clean (object) with (receptacle): clean an object using a receptacle
  cool (object) with (receptacle):  cool an object using a receptacle
  slice (object) with (object):     slice an object using a sharp object
"""
"""The reply to `help`, letter for letter that of the official games."""

Fact = tuple[str, ...]

_FACT = re.compile(r"\(([^()]*)\)")
_SENTENCE = re.compile(r"Your task is to: ([^\"]*)\"")
_HELP = re.compile(r"action help \{.*?feedback :: \"(.*?)\";", re.DOTALL)
_GOAL_PROPERTIES = {
    "ishot": "pick_heat_then_place_in_recep",
    "iscool": "pick_cool_then_place_in_recep",
    "isclean": "pick_clean_then_place_in_recep",
    "istoggled": "look_at_obj_in_light",
}


class ProblemError(ValueError):
    """A game that cannot be played: says what is wrong with its facts."""


@dataclasses.dataclass(frozen=True, slots=True)
class Goal:
    kind: str
    """one of `TASK_TYPES`"""
    object_type: str
    """lower case, as in the facts: "mugtype" """
    target_type: str
    """type of the target receptacle, or of the lamp to look under"""


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """One game: initial facts (lower case, in file order), goal, and the words around them."""

    facts: tuple[Fact, ...]
    goal: Goal
    sentence: str
    walkthrough: tuple[str, ...]
    dialect: str
    """ "move" (alfworld 0.4.0 and later) or "put" (before)"""
    help_text: str


def read_problem(path: Path) -> Problem:
    """Read one `game.tw-pddl` file; `ProblemError` names the file and what is wrong with it."""
    try:
        return parse_problem(path.read_text(encoding="utf-8"))
    except (ProblemError, UnicodeDecodeError) as error:
        raise ProblemError(f"{path}: {error}; download or generate this game again") from error


def parse_problem(text: str) -> Problem:
    """Read the text of a `game.tw-pddl` file."""
    try:
        document = parse_json(text, strict=False)
    except ValueError as error:
        raise ProblemError(f"not JSON ({error}); the file may be cut short") from error
    if not isinstance(document, dict):
        raise ProblemError(f"holds a {type(document).__name__}; expected a game.tw-pddl file")
    missing = {"pddl_problem", "grammar", "walkthrough", "solvable"} - set(document)
    if missing:
        raise ProblemError(f"keys {sorted(missing)} are missing; expected a game.tw-pddl file")
    for key, kind in (("pddl_problem", str), ("grammar", str), ("walkthrough", list)):
        if not isinstance(document[key], kind):
            found = type(document[key]).__name__
            raise ProblemError(f"key {key!r} holds a {found}; expected a {kind.__name__}")
    if not document["solvable"]:
        raise ProblemError("the game is marked unsolvable")
    grammar, pddl = document["grammar"], document["pddl_problem"].lower()
    sentence, help_text = _SENTENCE.search(grammar), _HELP.search(grammar)
    if sentence is None:
        raise ProblemError('the grammar has no "task" rule with "Your task is to: ..."')
    start, end = pddl.find("(:init"), pddl.find("(:goal")
    if not 0 <= start < end:
        raise ProblemError("the PDDL problem has no (:init ...) before its (:goal ...)")
    return Problem(
        facts=tuple(tuple(fact.split()) for fact in _FACT.findall(pddl[start + 6 : end])),
        goal=parse_goal(pddl[end:]),
        sentence=sentence[1],
        walkthrough=tuple(document["walkthrough"]),
        dialect="put" if "put {o} in/on {r}" in grammar else "move",
        help_text=help_text[1].removeprefix("\n") if help_text else HELP,
    )


def parse_goal(pddl: str) -> Goal:
    """The goal of a lower-case `(:goal ...)` expression: what it asks, of which types."""
    facts = [tuple(fact.split()) for fact in _FACT.findall(pddl)]
    predicates = {fact[0] for fact in facts if fact}
    kinds = [kind for predicate, kind in _GOAL_PROPERTIES.items() if predicate in predicates]
    if not kinds:
        two = "=" in predicates
        kinds = ["pick_two_obj_and_place" if two else "pick_and_place_simple"]
    objects = [fact[2] for fact in facts if fact[0] == "objecttype"]
    targets = [fact[2] for fact in facts if fact[0] == "receptacletype"]
    if kinds == ["look_at_obj_in_light"]:
        lamps = {fact[1] for fact in facts if fact[0] == "istoggled"}
        targets = [f[2] for f in facts if f[0] == "objecttype" and f[1] in lamps]
        objects = [f[2] for f in facts if f[0] == "objecttype" and f[1] not in lamps]
    if len(kinds) != 1 or len(set(objects)) != 1 or len(set(targets)) != 1:
        raise ProblemError(
            f"goal asks {kinds} of object types {objects} and target types {targets};"
            f" expected one of {TASK_TYPES} with one type each"
        )
    return Goal(kind=kinds[0], object_type=objects[0], target_type=targets[0])
