"""Drawing a whole room, with the real distribution of receptacles, things, shared locations."""

import dataclasses
import functools
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from hiperjax.envs.alfworld.catalog import load_things
from hiperjax.envs.alfworld.scenes import (
    Dials,
    Scene,
    is_held_out_layout,
    is_held_out_pair,
    suits,
)

ROOMS_OF = {
    "pick_clean_then_place_in_recep": {"kitchen": 8, "bathroom": 2},
    "pick_heat_then_place_in_recep": {"kitchen": 1},
    "pick_cool_then_place_in_recep": {"kitchen": 1},
    "look_at_obj_in_light": {"bedroom": 8, "living": 2},
    "pick_and_place_simple": {"kitchen": 2, "bedroom": 5, "living": 4, "bathroom": 5},
    "pick_two_obj_and_place": {"kitchen": 2, "bedroom": 5, "living": 4, "bathroom": 5},
}
"""Weights of room kinds for each task type."""
SHARED = {"kitchen": 0.12, "bedroom": 0.12, "living": 0.05, "bathroom": 0.1}
"""Probability that a receptacle shares the location of an earlier neighbor."""
NEIGHBORS = (
    {"Cabinet", "Drawer"},
    {"CoffeeMachine", "CounterTop"},
    {"CounterTop", "Toaster"},
    {"Drawer", "Dresser"},
    {"Drawer", "SideTable"},
    {"Desk", "Drawer"},
    {"Shelf", "TVStand"},
    {"HandTowelHolder", "TowelHolder"},
)
"""Different classes that stand at one location now and then; those of one class always may."""
DOUBLES = (
    ("StoveBurner", ("StoveBurner",), 0.25),
    ("StoveBurner", ("CounterTop",), 0.12),
    ("CoffeeMachine", ("CounterTop", "DiningTable"), 0.9),
    ("SinkBasin", ("CounterTop",), 0.03),
)
"""A thing in the first lies, with this probability, also in one of the second."""
SMALL_RECEPTACLES, SMALL_THINGS = 2, 0.5
"""Size `small`: at most so many receptacles a class, and this share of classes of things."""


@dataclasses.dataclass(frozen=True, slots=True)
class Stock:
    """How many of a class a room has."""

    name: str
    presence: float
    least: int
    mean: float
    greatest: int

    def draw(self, rng: random.Random) -> int:
        """A number: 0 with probability `1 - presence`, otherwise `mean` on average."""
        spread = self.greatest - self.least
        if rng.random() >= self.presence:
            return 0
        if not spread or self.mean <= self.least:
            return self.least
        skew = spread / (self.mean - self.least) - 1  # E[u ** skew] = 1 / (skew + 1)
        return self.least + round(spread * rng.random() ** skew)


@functools.cache
def load_rooms() -> Mapping[str, Mapping[str, Sequence[Stock]]]:
    """Room kind -> role (receptacle, thing, lamp, fixture) -> stock."""
    rooms: dict[str, dict[str, list[Stock]]] = {}
    table = Path(__file__).with_name("rooms.txt").read_text(encoding="utf-8")
    for line in table.splitlines():
        if line.startswith("#"):
            continue
        room, role, name, presence, least, mean, greatest = line.split()
        stock = Stock(name, float(presence), int(least), float(mean), int(greatest))
        rooms.setdefault(room, {}).setdefault(role, []).append(stock)
    return rooms


def draw_room(rng: random.Random, kind: str, dials: Dials, unseen: bool) -> Scene | None:
    """A room; None where the draw belongs to another split or offers no task of this kind."""
    weights = ROOMS_OF[kind]
    room = rng.choices(list(weights), list(weights.values()))[0]
    stock = load_rooms()[room]
    small = dials.size == "small"
    classes = _draw(rng, stock["receptacle"], cap=SMALL_RECEPTACLES if small else None)
    if is_held_out_layout(classes) != unseen:
        return None
    things = _draw(rng, stock["thing"], share=SMALL_THINGS if small else 1.0)
    lamps = _draw(rng, stock.get("lamp", ()))
    task = _choose_task(rng, kind, classes, things, lamps, unseen)
    if task is None:
        return None
    wanted, target = task
    receptacles = _place_receptacles(rng, classes, SHARED[room])
    lying = []
    for name in (*things, *lamps):
        # what is asked for must not lie there already; what needs treatment may
        avoid = target if name == wanted and suits_untreated(kind) else None
        lying.append((name, _place_thing(rng, name, receptacles, avoid)))
    scene = Scene(
        kind=kind,
        wanted=wanted,
        target=target,
        receptacles=receptacles,
        things=tuple(lying),
        fixtures=tuple(_draw(rng, stock.get("fixture", ()))),
        fits=fits,
    )
    return scene if _has_enough(scene) else None


def suits_untreated(kind: str) -> bool:
    """Whether a task would be won by things that lie at the target from the start."""
    return kind in ("pick_and_place_simple", "pick_two_obj_and_place")


def fits(receptacle: str, thing: str) -> bool:
    """Whether the catalog lets a receptacle class contain a class of things."""
    return receptacle in load_things()[thing].places


def _draw(
    rng: random.Random, stock: Sequence[Stock], *, cap: int | None = None, share: float = 1.0
) -> list[str]:
    names = []
    for item in stock:
        if share == 1.0 or rng.random() < share:
            count = item.draw(rng)
            names += [item.name] * (count if cap is None else min(count, cap))
    return names


def _choose_task(
    rng: random.Random,
    kind: str,
    classes: Sequence[str],
    things: Sequence[str],
    lamps: Sequence[str],
    unseen: bool,
) -> tuple[str, str] | None:
    needed = 2 if kind == "pick_two_obj_and_place" else 1
    look = kind == "look_at_obj_in_light"
    pairs = [
        (wanted, target)
        for wanted in sorted(set(things))
        if things.count(wanted) >= needed and suits(kind, load_things()[wanted])
        for target in sorted(set(lamps if look else classes))
        if (look or fits(target, wanted)) and is_held_out_pair(wanted, target) == unseen
    ]
    return rng.choice(pairs) if pairs else None


def _place_receptacles(
    rng: random.Random, classes: Sequence[str], shared: float
) -> tuple[tuple[str, int], ...]:
    placed: list[tuple[str, int]] = []
    for name in classes:
        near = [
            location for other, location in placed if other == name or {other, name} in NEIGHBORS
        ]
        if near and rng.random() < shared:
            placed.append((name, rng.choice(near)))
        else:
            placed.append((name, len(placed)))
    return tuple(placed)


def _place_thing(
    rng: random.Random, name: str, receptacles: Sequence[tuple[str, int]], avoid: str | None
) -> tuple[int, ...]:
    """Receptacles that a thing lies in; none where the room has no place for it."""
    lamp = name not in load_things()
    places = _LAMP_PLACES if lamp else load_things()[name].places
    by_class: dict[str, list[int]] = {}
    for index, (kind, _) in enumerate(receptacles):
        if places.get(kind, 0) and kind != avoid:
            by_class.setdefault(kind, []).append(index)
    if not by_class:
        return ()
    chosen = rng.choices(list(by_class), [places[kind] for kind in by_class])[0]
    first = rng.choice(by_class[chosen])
    for source, others, probability in DOUBLES:
        if chosen == source and not lamp and rng.random() < probability:
            second = [
                i
                for i, (kind, _) in enumerate(receptacles)
                if kind in others and i != first and kind != avoid
            ]
            if second:
                return (first, rng.choice(second))
    return (first,)


_LAMP_PLACES = {"SideTable": 40, "Desk": 29, "Dresser": 21, "Shelf": 9, "CoffeeTable": 2}


def _has_enough(scene: Scene) -> bool:
    """Whether what the task needs lies within reach."""
    needed = 2 if scene.kind == "pick_two_obj_and_place" else 1
    reachable = [name for name, places in scene.things if places]
    if scene.kind == "look_at_obj_in_light" and scene.target not in reachable:
        return False
    return reachable.count(scene.wanted) >= needed
