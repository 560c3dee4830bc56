"""A scripted expert that speaks Plan-Execute and sees only observations.

A subgoal holds until it is achieved: "find a mug" until the mug is in hand, "heat the mug" until it
is hot, "put the mug in the cabinet" until it lies there. Within a subgoal the expert reacts to the
admissible commands; between receptacles it searches in one of three orders:

- "onward": the first place listed. Needs no memory, but a world that lists places from the agent's
  own onward, round the room: everything the expert looks at is in its last observation and the
  admissible list.
- "likely": the likeliest unsearched place first, remembering what was seen where.
- "tour": the same places in the same order, but onward from where it stands, and round again. From
  the start it is "likely"; after a detour it does not turn back. For a policy that remembers little
  it is easier to imitate: where it stands says what comes next, and no two places send it to each
  other.
"""

import collections
import dataclasses
import random
import re
from collections.abc import Iterable
from typing import Literal

from hiperjax.envs import base
from hiperjax.envs.alfworld.catalog import OPENABLE, load_priors
from hiperjax.types import Observation

Search = Literal["onward", "likely", "tour"]
SEARCHES = ("onward", "likely", "tour")
_OPENABLE = frozenset(name.lower() for name in OPENABLE)
_APPLIANCES = {"clean": ("sinkbasin",), "heat": ("microwave",), "cool": ("fridge",)}
_TASKS = (
    (r"put two (?P<object>\w+) in (?P<target>\w+)", "two"),
    (r"find two (?P<object>\w+) and put them in (?P<target>\w+)", "two"),
    (r"look at (?P<object>\w+) under the (?P<target>\w+)", "look"),
    (r"examine the (?P<object>\w+) with the (?P<target>\w+)", "look"),
    (r"put a (?P<verb>clean|hot|cool) (?P<object>\w+) in (?P<target>\w+)", "treat"),
    (r"(?P<verb>clean|heat|cool) some (?P<object>\w+) and put it in (?P<target>\w+)", "treat"),
    (r"put (?:a|some) (?P<object>\w+) (?:in|on) (?P<target>\w+)", "place"),
)
_TASK_PATTERNS = tuple((re.compile(pattern + r"\.?"), kind) for pattern, kind in _TASKS)
_VIEW = re.compile(
    r"(?:On the|The) (?P<place>[a-z]+ \d+)"
    r"(?: is open\. In it)?, you see (?P<list>[^.]*)\.|The (?P<closed>[a-z]+ \d+) is closed\."
)
_NAME = re.compile(r"[a-z]+ \d+")
_FACING = "You are facing the "
_CARRIED = "You are carrying: a "


@dataclasses.dataclass(frozen=True, slots=True)
class Task:
    """What an instruction asks for."""

    kind: str
    """"place", "two", "look" or "treat" (clean, heat or cool first)"""
    verb: str
    """"clean", "heat" or "cool" where `kind` is "treat", otherwise empty"""
    object: str
    target: str


def parse_task(sentence: str) -> Task:
    """Read an ALFWorld instruction."""
    for pattern, kind in _TASK_PATTERNS:
        match = pattern.fullmatch(sentence.strip().lower())
        if match:
            words = match.groupdict()
            verb = (words.get("verb") or "").replace("hot", "heat")
            return Task(kind, verb, words["object"], words["target"])
    raise ValueError(
        f"task {sentence!r}: found no ALFWorld instruction;"
        ' expected one like "put a hot mug in cabinet."'
    )


def _class_of(name: str) -> str:
    return name.split(" ", 1)[0]


class Memory:
    """What an agent knows from the observations of one episode."""

    def __init__(self, observation: Observation) -> None:
        places = {c[6:] for c in observation.admissible if c[:6] == "go to "}
        if observation.text.startswith(_FACING):  # who comes in where another stopped
            places |= set(_NAME.findall(observation.text.partition(".")[0]))
        self.places = tuple(sorted(places))
        self.here: str | None = None
        self.held: str | None = None
        self.treated: set[tuple[str, str]] = set()
        """(verb, object) pairs that hold now"""
        self.seen: dict[str, str] = {}
        """last known place of each object"""
        self.searched: set[str] = set()

    def update(self, observation: Observation) -> None:
        """Take in the reply to the last command and the commands that are admissible now."""
        text = observation.text
        words = text.split(" ")
        names = _NAME.findall(text)
        if text.startswith("You pick up the "):
            self.held, self.here = names[0], names[1]
            self.seen.pop(names[0], None)
        elif text.startswith(("You move the ", "You put the ")):
            self.held, self.here = None, names[1]
            self.seen[names[0]] = names[1]
        elif words[1] in _APPLIANCES and words[0] == "You":
            self._treat(words[1], names[0])
        elif _CARRIED in text:
            self.held = names[-1]
        for match in _VIEW.finditer(text):
            self._view(match["place"], match["closed"], match["list"])
        admissible = observation.admissible
        for command in admissible:
            verb, _, rest = command.partition(" ")
            if verb == "take":
                thing, place = rest.split(" from ")
                self.seen[thing] = place
            elif verb == "examine" and self.held is None and f"open {rest}" not in admissible:
                self.searched.add(rest)  # whatever lies there is offered, looked at or not

    def _treat(self, verb: str, thing: str) -> None:
        undone = {"heat": "cool", "cool": "heat"}.get(verb)
        self.treated.discard((undone or "", thing))
        self.treated.add((verb, thing))

    def _view(self, place: str | None, closed: str | None, listing: str | None) -> None:
        if closed is not None:
            self.here = closed
            return
        assert place is not None and listing is not None
        self.here = place
        self.searched.add(place)
        gone = [thing for thing, where in self.seen.items() if where == place]
        for thing in gone:
            del self.seen[thing]
        for thing in _NAME.findall(listing):
            self.seen[thing] = place


class ScriptedExpert(base.Expert):
    """Solves ALFWorld games from observations; `noise` is its share of random commands."""

    def __init__(self, seed: int, noise: float = 0.0, search: str = "likely") -> None:
        if not 0.0 <= noise <= 1.0:
            raise ValueError(f"noise of the expert: found {noise}; expected a share in [0, 1]")
        if search not in SEARCHES:
            raise ValueError(f"search of the expert: found {search!r}; expected one of {SEARCHES}")
        self._random = random.Random(seed)
        self._noise = noise
        self._search = search

    def reset(self, observation: Observation) -> None:
        self._task = parse_task(observation.task)
        self._memory = Memory(observation)
        self._subgoal = ""

    def decide(self, observation: Observation) -> base.Decision:
        self._memory.update(observation)
        subgoal, action = self._choose(observation.admissible)
        switch = subgoal != self._subgoal
        self._subgoal = subgoal
        if self._noise and self._random.random() < self._noise:
            action = self._random.choice(observation.admissible)
        return base.Decision(switch=switch, subgoal=subgoal, action=action)

    def _choose(self, admissible: tuple[str, ...]) -> tuple[str, str]:
        task, held = self._task, self._memory.held
        if held is None or _class_of(held) != task.object:
            another = task.kind == "two" and self._placed()
            return (
                f"find {'another' if another else 'a'} {task.object}",
                self._fetch(admissible),
            )
        if task.kind == "treat" and (task.verb, held) not in self._memory.treated:
            return f"{task.verb} the {task.object}", self._treat(admissible, held)
        if task.kind == "look":
            return f"use the {task.target}", self._use(admissible)
        return f"put the {task.object} in the {task.target}", self._put(admissible, held)

    # -- one subgoal each: the next command towards it ------------------------------------------

    def _fetch(self, admissible: tuple[str, ...]) -> str:
        """Towards holding an object of the wanted class."""
        if self._memory.held is not None:  # the wrong thing is in hand: lay it down
            drops = _starting(admissible, ("move ", "put "))
            return drops[0] if drops else self._open_or_go(admissible, self._memory.held)
        taken = self._placed_at()
        for command in _starting(admissible, (f"take {self._task.object} ",)):
            if command.split(" from ")[1] != taken:
                return command
        return self._open_or_go(admissible, self._task.object)

    def _treat(self, admissible: tuple[str, ...], held: str) -> str:
        verb = self._task.verb
        ready = _starting(admissible, (f"{verb} {held} with ",))
        if ready:
            return ready[0]
        places = [p for p in self._memory.places if _class_of(p) in _APPLIANCES[verb]]
        return self._go_to_one_of(admissible, places)

    def _use(self, admissible: tuple[str, ...]) -> str:
        ready = _starting(admissible, (f"use {self._task.target} ",))
        return ready[0] if ready else self._open_or_go(admissible, self._task.target)

    def _put(self, admissible: tuple[str, ...], held: str) -> str:
        target = self._target()
        for opening in ("move", "put"):
            ready = [
                c for c in _starting(admissible, (f"{opening} {held} ",)) if c.endswith(target)
            ]
            if ready:
                return ready[0]
        if f"open {target}" in admissible:
            return f"open {target}"
        return self._go_to_one_of(admissible, [target])

    # -- where things are, and where to look ----------------------------------------------------

    def _target(self) -> str:
        """The receptacle to fill: where an object lies already, else a near one."""
        if self._placed():
            return self._placed_at() or ""
        places = [p for p in self._memory.places if _class_of(p) == self._task.target]
        if not places:
            raise ValueError(
                f"no {self._task.target} among the places {self._memory.places}; expected one,"
                f" for the task asks to put the {self._task.object} there"
            )
        here = self._memory.here
        return here if here in places and self._search != "onward" else places[0]

    def _placed_at(self) -> str | None:
        """The receptacle of a two-object task that holds the most objects already, if any does."""
        if self._task.kind != "two":
            return None
        filled = [
            place
            for thing, place in self._memory.seen.items()
            if _class_of(thing) == self._task.object and _class_of(place) == self._task.target
        ]
        return max(sorted(set(filled)), key=filled.count) if filled else None

    def _placed(self) -> bool:
        return self._placed_at() is not None

    def _go_to_one_of(self, admissible: tuple[str, ...], places: Iterable[str]) -> str:
        for place in places:
            if f"go to {place}" in admissible:
                return f"go to {place}"
        return self._open_or_go(admissible, self._task.target)

    def _open_or_go(self, admissible: tuple[str, ...], thing: str) -> str:
        """Look for a thing: into what is closed here, then at the next place."""
        if self._search == "onward":
            opens = _starting(admissible, ("open ",))
            return (opens or _starting(admissible, ("go to ",)) or admissible)[0]
        return self._search_likely(admissible, _class_of(thing))

    def _search_likely(self, admissible: tuple[str, ...], wanted: str) -> str:
        memory = self._memory
        known = [p for t, p in memory.seen.items() if _class_of(t) == wanted]
        known = [p for p in known if p != self._placed_at()]
        ways = _list_ways(admissible)
        fresh = [p for p in memory.places if p not in memory.searched]
        candidates = [p for p in known or fresh or memory.places if p in ways]
        if not candidates:
            return self._random.choice(admissible)
        prior = load_priors().get(wanted, {})
        alike = collections.Counter(map(_class_of, memory.places))

        def cost(place: str) -> tuple[float, int]:
            kind = _class_of(place)
            likely = (prior.get(kind, 0) + 0.1) / alike[kind]
            return (1 + (kind in _OPENABLE)) / likely, memory.places.index(place)

        here = memory.here
        if self._search == "likely" or known or here is None:
            return ways[min(candidates, key=cost)]
        return ways[min(candidates, key=lambda place: (cost(place) < cost(here), cost(place)))]


def _list_ways(admissible: Iterable[str]) -> dict[str, str]:
    """For each place that can be looked into, the first command towards it."""
    ways: dict[str, str] = {}
    for command in admissible:
        if command.startswith("go to "):
            ways[command[6:]] = command
        elif command.startswith("open "):
            ways[command[5:]] = command
        elif command.startswith("examine "):
            ways.setdefault(command[8:], command)
    return ways


def _starting(commands: Iterable[str], openings: tuple[str, ...]) -> list[str]:
    return [command for command in commands if command.startswith(openings)]
