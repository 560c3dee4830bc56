"""Games for the ALFWorld tests: one by hand, and the official ones where they are at hand."""

import dataclasses
import functools
import pathlib
import tarfile
import tempfile

import pytest
from helpers.paths import SHARED

from hiperjax.envs.alfworld.export import format_problem
from hiperjax.envs.alfworld.problem import HELP, Goal, Problem

DATA = SHARED / "data" / "alfworld"
ARCHIVE = DATA / "alfworld_games.tar.xz"
TRANSCRIPTS = DATA / "textworld_transcripts.jsonl.gz"

_RECEPTACLES = {  # id -> (type, location, openable)
    "cabinet_bar_1": ("cabinettype", "loc_bar_1", True),
    "cabinet_bar_2": ("cabinettype", "loc_bar_1", True),
    "fridge_bar_1": ("fridgetype", "loc_bar_2", True),
    "microwave_bar_1": ("microwavetype", "loc_bar_3", True),
    "sink_bar_1_bar_sinkbasin": ("sinkbasintype", "loc_bar_4", False),
    "shelf_bar_1": ("shelftype", "loc_bar_5", False),
    "shelf_bar_2": ("shelftype", "loc_bar_5", False),
    **{f"hook_bar_{i:02d}": ("hooktype", f"loc_bar_6{i}", False) for i in range(10)},
}
_OBJECTS = {  # id -> (places, predicates)
    "apple_bar_1": (("shelf_bar_1",), "pickupable cleanable heatable coolable sliceable"),
    "apple_bar_2": (("cabinet_bar_1",), "pickupable cleanable heatable coolable sliceable"),
    "bowl_bar_1": (("shelf_bar_1", "shelf_bar_2"), "pickupable cleanable isreceptacleobject"),
    "spoon_bar_1": ((), "pickupable cleanable"),
    "knife_bar_1": (("shelf_bar_2",), "pickupable cleanable"),
    "desklamp_bar_1": (("shelf_bar_1",), "toggleable"),
    "pot_bar_1": (("fridge_bar_1",), "pickupable coolable iscool"),
}


def make_problem(
    kind: str = "pick_and_place_simple", wanted: str = "apple", target: str = "fridge"
) -> Problem:
    """A game by hand, small enough to follow, with every oddity of the official ones."""
    facts: list[tuple[str, ...]] = [("atlocation", "agent1", "loc_bar_9")]
    for name, (type_, location, openable) in _RECEPTACLES.items():
        facts += [("receptacletype", name, type_), ("receptacleatlocation", name, location)]
        facts += [("openable", name)] * openable
    for name, (places, predicates) in _OBJECTS.items():
        facts.append(("objecttype", name, f"{name.split('_bar_')[0]}type"))
        facts += [(predicate, name) for predicate in predicates.split()]
        for place in places:
            facts.append(("inreceptacle", name, place))
            facts.append(("objectatlocation", name, _RECEPTACLES[place][1]))
    facts.append(("inreceptacleobject", "spoon_bar_1", "bowl_bar_1"))
    fits = {"shelf", "cabinet", "fridge", "microwave", "sinkbasin"}
    facts += [
        ("cancontain", f"{place}type", f"{name}type")
        for place in sorted(fits)
        for name in ("apple", "bowl", "knife", "pot")
    ]
    return Problem(
        facts=tuple(facts),
        goal=Goal(kind, f"{wanted}type", f"{target}type"),
        sentence=f"put a {wanted} in {target}.",
        walkthrough=(),
        dialect="move",
        help_text=HELP,
    )


def write_file(folder: pathlib.Path, problem: Problem | None = None, **changes: object) -> None:
    """Write a `game.tw-pddl` file; `changes` replace parts of the problem."""
    problem = dataclasses.replace(problem or make_problem(), **changes)  # type: ignore[arg-type]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "game.tw-pddl").write_text(format_problem(problem))


@functools.cache
def _make_folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="official-games-")  # gone when the process ends


@functools.cache
def extract_official(*splits: str) -> pathlib.Path:
    """A folder with the official games of these splits; skips where the archive is absent."""
    if not ARCHIVE.is_file():
        pytest.skip(f"{ARCHIVE} is missing: official games are not part of this project")
    folder = pathlib.Path(_make_folder().name) / "-".join(splits)
    with tarfile.open(ARCHIVE) as archive:
        wanted = (member for member in archive if member.name.split("/")[1] in splits)
        archive.extractall(folder, wanted, filter="data")
    return folder / "json_2.1.1"
