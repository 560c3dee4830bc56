"""Games without downloads, in the fact vocabulary of the official ones.

Which split a drawn scene belongs to is a property of its content, so splits cannot overlap: a
quarter of all layouts and of all (object, target) pairs are held out, and `unseen` games have both
a held-out layout and a held-out pair, `train` and `seen` games neither. Of the latter, one
signature (names, placements, task) in four is `seen`, the others are `train`.

Results on generated games are synthetic: never call them ALFWorld scores.
"""

import dataclasses
import functools
import random
import zlib

from hiperjax.envs.alfworld.catalog import LAMPS, OPENABLE, load_things
from hiperjax.envs.alfworld.game import Game
from hiperjax.envs.alfworld.planner import solve
from hiperjax.envs.alfworld.problem import HELP, Fact, Goal, Problem
from hiperjax.envs.alfworld.rooms import draw_room
from hiperjax.envs.alfworld.scenes import Dials, Scene, draw_tiny

SPLITS = ("train", "seen", "unseen")
SEEN = 4
"""One signature in this many is `seen`."""
MAX_DRAWS = 20_000
COOL_IN_FRIDGE = 0.05
"""Share of things in a fridge that are cool at the start; none in tasks that ask for it."""
_SENTENCES = {
    "pick_and_place_simple": ("put a {o} in {t}.", "put some {o} on {t}."),
    "look_at_obj_in_light": ("look at {o} under the {t}.", "examine the {o} with the {t}."),
    "pick_clean_then_place_in_recep": (
        "put a clean {o} in {t}.",
        "clean some {o} and put it in {t}.",
    ),
    "pick_heat_then_place_in_recep": ("put a hot {o} in {t}.", "heat some {o} and put it in {t}."),
    "pick_cool_then_place_in_recep": ("put a cool {o} in {t}.", "cool some {o} and put it in {t}."),
    "pick_two_obj_and_place": ("put two {o} in {t}.", "find two {o} and put them in {t}."),
}


@functools.lru_cache(maxsize=512)  # episodes of a group open the same games
def generate_game(seed: int, split: str, index: int, kind: str, dials: Dials) -> Game:
    """The `index`-th game of a split: the same for the same arguments, and proved solvable."""
    return solve(_draw_problem(seed, split, index, kind, dials))


def generate_problem(seed: int, split: str, index: int, kind: str, dials: Dials) -> Problem:
    """The same game as facts, with a walkthrough that wins."""
    problem = _draw_problem(seed, split, index, kind, dials)
    return dataclasses.replace(problem, walkthrough=solve(problem).walkthrough)


def _draw_problem(seed: int, split: str, index: int, kind: str, dials: Dials) -> Problem:
    if split not in SPLITS:
        raise KeyError(f"split {split!r} of generated games: expected one of {SPLITS}")
    rng = random.Random(f"{seed}/{dials.size}/{split}/{index}/{kind}")
    draw = draw_tiny if dials.size == "tiny" else draw_room
    for _ in range(MAX_DRAWS):
        scene = draw(rng, kind, dials, unseen=split == "unseen")
        if scene is not None and split in ("unseen", _split_by_signature(scene)):
            return _write_down(scene, rng)
    raise ValueError(
        f"no {kind} game of split {split!r} in {MAX_DRAWS} draws with {dials};"
        " allow more receptacles or object classes"
    )


def _split_by_signature(scene: Scene) -> str:
    names = [name for name, _ in scene.receptacles]
    lying = sorted((thing, tuple(names[r] for r in places)) for thing, places in scene.things)
    signature = f"{scene.kind} {scene.wanted} {scene.target} {scene.receptacles} {lying}"
    return "seen" if zlib.crc32(signature.encode()) % SEEN == 0 else "train"


def _write_down(scene: Scene, rng: random.Random) -> Problem:
    goal = Goal(scene.kind, f"{scene.wanted}type".lower(), f"{scene.target}type".lower())
    words = {"o": scene.wanted.lower(), "t": scene.target.lower()}
    return Problem(
        facts=_list_facts(scene, rng),
        goal=goal,
        sentence=rng.choice(_SENTENCES[scene.kind]).format(**words),
        walkthrough=(),
        dialect="move",
        help_text=HELP,
    )


def _list_facts(scene: Scene, rng: random.Random) -> tuple[Fact, ...]:
    ids = _Ids(rng)
    catalog = load_things()
    locations: dict[int, str] = {}
    receptacles, facts = [], []
    for name, location in scene.receptacles:
        identifier = ids.make(name)
        receptacles.append(identifier)
        where = locations.setdefault(location, ids.make("loc"))
        facts.append(("receptacletype", identifier, f"{name}Type".lower()))
        facts.append(("receptacleatlocation", identifier, where))
        if name in OPENABLE:
            facts.append(("openable", identifier))
    for name, places in scene.things:
        identifier = ids.make(name)
        facts.append(("objecttype", identifier, f"{name}Type".lower()))
        for place in places:
            facts.append(("inreceptacle", identifier, receptacles[place]))
            where = locations[scene.receptacles[place][1]]
            facts.append(("objectatlocation", identifier, where))
            if scene.receptacles[place][0] == "Fridge" and _starts_cool(scene, rng):
                facts.append(("iscool", identifier))
        if not places:
            facts.append(("objectatlocation", identifier, rng.choice(sorted(locations.values()))))
        if name in LAMPS:
            facts.append(("toggleable", identifier))
        elif name in catalog:
            facts.append(("pickupable", identifier))
            facts += [(predicate, identifier) for predicate in catalog[name].properties]
            if catalog[name].holds_things:
                facts.append(("isreceptacleobject", identifier))
    for name in scene.fixtures:
        identifier = ids.make(name)
        facts.append(("objecttype", identifier, f"{name}Type".lower()))
        facts.append(("objectatlocation", identifier, rng.choice(sorted(locations.values()))))
    facts += _list_fits(scene)
    facts.append(("atlocation", "agent1", ids.make("loc")))
    return tuple(dict.fromkeys(facts))


def _list_fits(scene: Scene) -> list[Fact]:
    catalog = load_things()
    return [
        ("cancontain", f"{place}Type".lower(), f"{thing}Type".lower())
        for place in sorted({name for name, _ in scene.receptacles})
        for thing in sorted({name for name, _ in scene.things if name in catalog})
        if scene.fits(place, thing)
    ]


def _starts_cool(scene: Scene, rng: random.Random) -> bool:
    return scene.kind != "pick_cool_then_place_in_recep" and rng.random() < COOL_IN_FRIDGE


class _Ids:
    """Makes ids in the official spelling, each once: `cabinet_bar__minus_00_dot_93_bar_...`."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._made: set[str] = set()

    def make(self, name: str) -> str:
        basin = f"_bar_{name}" if name.endswith("Basin") else ""
        while True:
            numbers = [self._rng.randrange(-399, 400) for _ in range(3)]
            if name == "loc":
                body = "_bar_".join(f"{'_minus_' * (n < 0)}{abs(n) % 16}" for n in (*numbers, 30))
            else:
                body = "_bar_".join(
                    f"_{'minus' if n < 0 else 'plus'}_{abs(n) // 100:02d}_dot_{abs(n) % 100:02d}"
                    for n in numbers
                )
            identifier = f"{name.removesuffix('Basin')}_bar_{body}{basin}".lower()
            if identifier not in self._made:
                self._made.add(identifier)
                return identifier
