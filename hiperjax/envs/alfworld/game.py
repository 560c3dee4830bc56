"""A game as the engine wants it: `Game` holds what never changes, `State` all that does.

Ids are indices here: receptacles and objects are numbered in ascending order of their ids, which is
the order of every list the world prints. Sets of receptacles or objects are bit masks.
"""

import dataclasses
import functools
import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from hiperjax.envs.alfworld.problem import DIALECTS, Goal, Problem, ProblemError

EMPTY_HANDED = -1
KNIVES = frozenset({"knifetype", "butterknifetype"})
_OBJECT_PREDICATES = (
    "objecttype",
    "objectatlocation",
    "inreceptacle",
    "pickupable",
    "cleanable",
    "heatable",
    "coolable",
    "sliceable",
    "toggleable",
    "iscool",
    "isreceptacleobject",
)
SINKS = frozenset({"sinktype", "sinkbasintype"})


class State(NamedTuple):
    """All that changes in a game. Hashable; a clone is the value itself."""

    location: int
    held: int
    """the held object, or `EMPTY_HANDED`"""
    contents: tuple[tuple[int, ...], ...]
    """objects in each receptacle, ascending; one object may lie in two receptacles at once"""
    opened: int
    """bit mask of receptacles"""
    clean: int
    hot: int
    cool: int
    sliced: int
    toggled: int
    """bit masks of objects"""
    near: frozenset[tuple[int, int]]
    """(object, location) facts; only `slice` and `look` read them"""
    left: frozenset[tuple[int, int]]
    """(object, receptacle) removals not undone; only `look` reads them"""


@dataclasses.dataclass(frozen=True, eq=False)
class Game:
    """Everything about a game that never changes."""

    goal: Goal
    sentence: str
    walkthrough: tuple[str, ...]
    old_dialect: bool
    help_text: str
    receptacles: tuple[str, ...]
    """display names, in ascending order of ids"""
    objects: tuple[str, ...]
    location_of: tuple[int, ...]
    """location of each receptacle"""
    location_names: tuple[str, ...]
    openable: int
    sinks: int
    microwaves: int
    fridges: int
    """bit masks of receptacles"""
    pickupable: int
    cleanable: int
    heatable: int
    coolable: int
    sliceable: int
    toggleable: int
    nested: Mapping[int, tuple[int, ...]]
    """what lies inside each object that holds things (never changes)"""
    knives: int
    fits: tuple[int, ...]
    """for each receptacle, the bit mask of objects it can contain"""
    goal_objects: int
    goal_receptacles: tuple[int, ...]
    start: State

    @functools.cached_property
    def receptacle_of(self) -> Mapping[str, int]:
        return {name: i for i, name in enumerate(self.receptacles)}

    @functools.cached_property
    def object_of(self) -> Mapping[str, int]:
        return {name: i for i, name in enumerate(self.objects)}

    @functools.cached_property
    def receptacles_at(self) -> tuple[tuple[int, ...], ...]:
        """Receptacles that share each location."""
        at: list[list[int]] = [[] for _ in self.location_names]
        for receptacle, location in enumerate(self.location_of):
            at[location].append(receptacle)
        return tuple(map(tuple, at))

    def list_travel(self, location: int) -> tuple[str, ...]:
        """The sorted commands that are admissible at a location whatever else holds."""
        if location not in self._travel:
            commands = [command for there, command in self._journeys if there != location]
            commands += [f"examine {self.receptacles[r]}" for r in self.receptacles_at[location]]
            commands += ["inventory", "look"] if self.old_dialect else ["help", "inventory", "look"]
            self._travel[location] = tuple(sorted(commands))
        return self._travel[location]

    @functools.cached_property
    def _travel(self) -> dict[int, tuple[str, ...]]:
        return {}

    @functools.cached_property
    def _journeys(self) -> tuple[tuple[int, str], ...]:
        pairs = zip(self.location_of, self.receptacles, strict=True)
        journeys = [(location, f"go to {name}") for location, name in pairs]
        return tuple(sorted(journeys, key=lambda journey: journey[1]))


def build_game(problem: Problem) -> Game:
    """Index the facts of a problem."""
    return _Builder(problem).build()


def speak(game: Game, dialect: str) -> Game:
    """The same game in a dialect: "move" (alfworld 0.4.0 and later) or "put" (before)."""
    if dialect not in DIALECTS:
        raise ValueError(f"dialect {dialect!r}: expected one of {DIALECTS}")
    return dataclasses.replace(game, old_dialect=dialect == "put")


def encode_game(game: Game) -> bytes:
    """A game as JSON, for `decode_game`."""
    fields = [getattr(game, field.name) for field in dataclasses.fields(game)]
    return json.dumps(fields, default=_encode, separators=(",", ":")).encode()


def _encode(value: object) -> list:
    if isinstance(value, frozenset):
        return sorted(value)
    assert isinstance(value, Goal), type(value)
    return [value.kind, value.object_type, value.target_type]


def decode_game(data: bytes) -> Game:
    """The game of `encode_game`."""
    names = [field.name for field in dataclasses.fields(Game)]
    fields = dict(zip(names, _freeze(json.loads(data)), strict=True))
    fields["goal"] = Goal(*fields["goal"])
    fields["nested"] = {int(outer): inner for outer, inner in fields["nested"].items()}
    *rest, near, left = fields["start"]
    fields["start"] = State(*rest, near=frozenset(near), left=frozenset(left))
    return Game(**fields)


def _freeze(value: Any) -> Any:
    """Lists to tuples, all the way down."""
    if isinstance(value, list):
        return tuple(map(_freeze, value))
    if isinstance(value, dict):
        return {key: _freeze(inner) for key, inner in value.items()}
    return value


class _Builder:
    """Facts of one problem, by predicate, on the way to a `Game`."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.facts: dict[str, list[tuple[str, ...]]] = {}
        for predicate, *arguments in problem.facts:
            self.facts.setdefault(predicate, []).append(tuple(arguments))
        self.types = {r: t for r, t in self.pairs("receptacletype")}
        self.object_types = {o: t for o, t in self.pairs("objecttype")}
        self.receptacle_ids = sorted(self.types)
        # a few official games have objects without a type (a cracked egg)
        self.object_ids = sorted(
            {fact[0] for predicate in _OBJECT_PREDICATES for fact in self.pairs(predicate)}
        )
        self.receptacle_index = {r: i for i, r in enumerate(self.receptacle_ids)}
        self.object_index = {o: i for i, o in enumerate(self.object_ids)}
        self.names = _name_ids(problem.facts)
        locations = {location for _, location in self.pairs("receptacleatlocation")}
        locations |= {location for _, location in self.pairs("objectatlocation")}
        locations |= {location for _, location in self.pairs("atlocation")}
        self.location_ids = sorted(locations)
        self.location_index = {location: i for i, location in enumerate(self.location_ids)}

    def pairs(self, predicate: str) -> list[tuple[str, ...]]:
        return self.facts.get(predicate, [])

    def object_mask(self, predicate: str) -> int:
        return _mask(self.object_index[o] for (o,) in self.pairs(predicate))

    def build(self) -> Game:
        problem = self.problem
        locations = {r: location for r, location in self.pairs("receptacleatlocation")}
        return Game(
            goal=problem.goal,
            sentence=problem.sentence,
            walkthrough=problem.walkthrough,
            old_dialect=problem.dialect == "put",
            help_text=problem.help_text,
            receptacles=tuple(self.names[r] for r in self.receptacle_ids),
            objects=tuple(self.names[o] for o in self.object_ids),
            location_of=tuple(self.location_index[locations[r]] for r in self.receptacle_ids),
            location_names=tuple(self.names.get(loc, loc) for loc in self.location_ids),
            openable=_mask(self.receptacle_index[r] for (r,) in self.pairs("openable")),
            sinks=_mask(self.receptacles_of_types(*SINKS)),
            microwaves=_mask(self.receptacles_of_types("microwavetype")),
            fridges=_mask(self.receptacles_of_types("fridgetype")),
            pickupable=self.object_mask("pickupable"),
            cleanable=self.object_mask("cleanable"),
            heatable=self.object_mask("heatable"),
            coolable=self.object_mask("coolable"),
            sliceable=self.object_mask("sliceable"),
            toggleable=self.object_mask("toggleable"),
            nested=self.list_nested(),
            knives=_mask(self.objects_of_types(*KNIVES)),
            fits=self.list_fits(),
            goal_objects=_mask(self.objects_of_types(problem.goal.object_type)),
            goal_receptacles=tuple(self.receptacles_of_types(problem.goal.target_type)),
            start=self.start(),
        )

    def receptacles_of_types(self, *types: str) -> list[int]:
        return [i for r, i in self.receptacle_index.items() if self.types[r] in types]

    def objects_of_types(self, *types: str) -> list[int]:
        return [i for o, i in self.object_index.items() if self.object_types.get(o) in types]

    def list_nested(self) -> dict[int, tuple[int, ...]]:
        nested: dict[int, list[int]] = {
            self.object_index[o]: [] for (o,) in self.pairs("isreceptacleobject")
        }
        for inner, outer in self.pairs("inreceptacleobject"):
            nested.setdefault(self.object_index[outer], []).append(self.object_index[inner])
        return {outer: tuple(sorted(inner)) for outer, inner in nested.items()}

    def list_fits(self) -> tuple[int, ...]:
        by_type: dict[str, int] = {}
        for object_id, index in self.object_index.items():
            kind = self.object_types.get(object_id, "")
            by_type[kind] = by_type.get(kind, 0) | 1 << index
        fits: dict[str, int] = {}
        for receptacle_type, object_type in self.pairs("cancontain"):
            fits[receptacle_type] = fits.get(receptacle_type, 0) | by_type.get(object_type, 0)
        return tuple(fits.get(self.types[r], 0) for r in self.receptacle_ids)

    def start(self) -> State:
        contents: list[set[int]] = [set() for _ in self.receptacle_ids]
        for object_id, receptacle in self.pairs("inreceptacle"):
            contents[self.receptacle_index[receptacle]].add(self.object_index[object_id])
        agent = [location for _, location in self.pairs("atlocation")]
        if len(agent) != 1:
            raise ProblemError(
                f"found {len(agent)} atLocation facts; expected one: where the agent starts"
            )
        return State(
            location=self.location_index[agent[0]],
            held=EMPTY_HANDED,
            contents=tuple(tuple(sorted(inside)) for inside in contents),
            opened=0,
            clean=0,
            hot=0,
            cool=self.object_mask("iscool"),
            sliced=0,
            toggled=0,
            near=frozenset(
                (self.object_index[o], self.location_index[location])
                for o, location in self.pairs("objectatlocation")
                if o in self.object_index
            ),
            left=frozenset(),
        )


def _mask(indices: Iterable[int]) -> int:
    mask = 0
    for index in indices:
        mask |= 1 << index
    return mask


def _name_ids(facts: Iterable[tuple[str, ...]]) -> dict[str, str]:
    """Display names: numbered downwards inside each class, in ascending order of ids."""
    ids = sorted({argument for fact in facts for argument in fact[1:] if "_bar_" in argument})
    classes = [i.split("_bar_", 1)[0] + ("basin" if "basin" in i else "") for i in ids]
    left: dict[str, int] = {}
    for name in classes:
        left[name] = left.get(name, 0) + 1
    names = {}
    for identifier, name in zip(ids, classes, strict=True):
        names[identifier] = f"{name} {left[name]}"
        left[name] -= 1
    return names
