"""What exists in a generated household: classes of things, and where they may lie.

The table stands in `objects.txt`; it is the compatibility table of generated games and the
expert's common sense about where to look first.
"""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path

OPENABLE = frozenset({"Cabinet", "Drawer", "Fridge", "Microwave", "Safe"})
LAMPS = ("DeskLamp", "FloorLamp")
_FLAGS = {"c": "cleanable", "h": "heatable", "f": "coolable", "s": "sliceable"}


@dataclasses.dataclass(frozen=True, slots=True)
class Thing:
    """A class of things that can be picked up."""

    name: str
    """as in official ids: "SoapBottle" """
    properties: tuple[str, ...]
    """predicates of `game.tw-pddl`: cleanable, heatable, coolable, sliceable"""
    holds_things: bool
    places: Mapping[str, int]
    """receptacle class -> percent of instances that lie there at the start"""


@functools.cache
def load_things() -> Mapping[str, Thing]:
    """All classes of things, by name."""
    things = {}
    table = Path(__file__).with_name("objects.txt").read_text(encoding="utf-8")
    for line in table.splitlines():
        if line.startswith("#"):
            continue
        name, flags, *places = line.split()
        things[name] = Thing(
            name=name,
            properties=tuple(word for flag, word in _FLAGS.items() if flag in flags),
            holds_things="r" in flags,
            places=dict(zip(places[::2], map(int, places[1::2]), strict=True)),
        )
    return things


def list_names() -> tuple[str, ...]:
    """Display names of all classes: things, the places they may lie in, lamps."""
    things = load_things().values()
    places = (place for thing in things for place in thing.places)
    names = (*(thing.name for thing in things), *places, *OPENABLE, *LAMPS)
    return tuple(sorted({name.lower() for name in names}))


@functools.cache
def load_priors() -> Mapping[str, Mapping[str, int]]:
    """The same places in display names: object class -> receptacle class -> percent."""
    return {
        thing.name.lower(): {place.lower(): percent for place, percent in thing.places.items()}
        for thing in load_things().values()
    }
