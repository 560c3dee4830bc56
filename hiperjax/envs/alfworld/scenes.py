"""Drawing one household: which receptacles stand where, what is asked, where every thing lies."""

import dataclasses
import random
import zlib
from collections.abc import Callable, Sequence

from hiperjax.envs.alfworld.catalog import OPENABLE, Thing, load_things

TINY_APPLIANCES = ("Fridge", "Microwave", "SinkBasin")
TINY_STORAGE = ("Cabinet", "CounterTop", "DiningTable", "Drawer", "Shelf", "SideTable")
TINY_THINGS = (
    *("Apple", "Mug", "Plate", "Cup", "Potato", "Egg", "Tomato", "Bowl", "Bread", "Pan"),
    *("Lettuce", "Pot", "Knife", "Fork", "Spoon", "SoapBar", "Kettle", "Ladle"),
)
SIZES = ("tiny", "small", "full")
HELD_OUT = 4
"""One layout in this many, and one (object, target) pair in this many, is held out."""
PROPERTY_OF = {
    "pick_clean_then_place_in_recep": "cleanable",
    "pick_heat_then_place_in_recep": "heatable",
    "pick_cool_then_place_in_recep": "coolable",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Dials:
    """How hard generated games are."""

    size: str = "tiny"
    """tiny, small or full"""
    receptacles: int = 5
    """tiny: a fridge, a microwave, a sink basin, and storage for the rest"""
    objects: int = 5
    """tiny: things that can be picked up; a lamp comes on top"""
    object_classes: int = 6
    """tiny: how many classes things are drawn from"""

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            raise ValueError(f"size of generated games: found {self.size!r}; expected {SIZES}")
        limits = {
            "receptacles": (5, len(TINY_APPLIANCES) + len(TINY_STORAGE)),
            "objects": (2, 40),
            "object_classes": (2, len(TINY_THINGS)),
        }
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(
                    f"{name} of generated games: found {getattr(self, name)};"
                    f" expected {low} to {high}"
                )


@dataclasses.dataclass(frozen=True, slots=True)
class Scene:
    """One drawn household and its task, in the class names of the catalog."""

    kind: str
    wanted: str
    target: str
    """receptacle class, or lamp class"""
    receptacles: tuple[tuple[str, int], ...]
    """(class, location); several may share a location"""
    things: tuple[tuple[str, tuple[int, ...]], ...]
    """(class, receptacles it lies in): lamps and things to pick up"""
    fixtures: tuple[str, ...]
    """classes of things that lie nowhere and do nothing"""
    fits: Callable[[str, str], bool]
    """whether a receptacle class can contain an object class"""


def is_held_out_layout(classes: Sequence[str]) -> bool:
    """Whether a room with these receptacles belongs to `unseen`."""
    return zlib.crc32(" ".join(sorted(classes)).encode()) % HELD_OUT == 0


def is_held_out_pair(wanted: str, target: str) -> bool:
    """Whether this (object, target) pair belongs to `unseen`; balanced over both."""
    order = sorted(load_things())
    return (order.index(wanted) + zlib.crc32(target.encode())) % HELD_OUT == 0


def draw_tiny(rng: random.Random, kind: str, dials: Dials, unseen: bool) -> Scene | None:
    """A kitchenette; None where the drawn layout belongs to another split or offers no task."""
    storage = rng.sample(TINY_STORAGE, dials.receptacles - len(TINY_APPLIANCES))
    surfaces = [name for name in storage if name not in OPENABLE]
    classes: list[str] = sorted((*TINY_APPLIANCES, *storage))
    if not surfaces or is_held_out_layout(classes) != unseen:
        return None
    known = TINY_THINGS[: dials.object_classes]
    look = kind == "look_at_obj_in_light"
    things = load_things()
    pairs = [
        (wanted, target)
        for wanted in known
        for target in (["DeskLamp"] if look else sorted(storage))
        if is_held_out_pair(wanted, target) == unseen and suits(kind, things[wanted])
    ]
    if not pairs:
        return None
    wanted, target = rng.choice(pairs)
    copies = 2 if kind == "pick_two_obj_and_place" else 1
    others = [name for name in known if name != wanted]
    rng.shuffle(others)
    count = dials.objects - copies
    others = [others[i % len(others)] for i in range(count)]
    allowed = [i for i, name in enumerate(classes) if name != target]
    placed = [(wanted, (rng.choice(allowed),)) for _ in range(copies)]
    placed += [(name, (rng.randrange(len(classes)),)) for name in others]
    placed.append(("DeskLamp", (classes.index(rng.choice(surfaces)),)))
    return Scene(
        kind=kind,
        wanted=wanted,
        target=target,
        receptacles=tuple((name, i) for i, name in enumerate(classes)),
        things=tuple(placed),
        fixtures=(),
        fits=_everything_fits,
    )


def suits(kind: str, thing: Thing) -> bool:
    """Whether a thing can be treated as the task asks."""
    return PROPERTY_OF.get(kind) in (None, *thing.properties)


def _everything_fits(receptacle: str, thing: str) -> bool:
    return True
