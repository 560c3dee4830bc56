"""What is to hold in the course of a household game, as a checklist that the engine verifies.

The parts of the goal that BEACON calls milestones, and two steps on the way: the wanted object was
seen, the place it belongs to was opened.
"""

from hiperjax.envs.alfworld.engine import list_reached
from hiperjax.envs.alfworld.game import Game, State
from hiperjax.envs.criteria import make_checklist
from hiperjax.types import Checklist

SEEN, OPENED = "seen", "opened"
PASSED = frozenset({SEEN, "held", "lit"})
"""Criteria that stay satisfied once they were; the others may be undone."""
_STEPS = (
    (SEEN, "Has the agent seen an object of the kind that the task names?", ()),
    ("held", "Has the agent picked up an object of the kind that the task names?", (SEEN,)),
    ("treated", "Is such an object clean, hot or cool, as the task asks?", ("held",)),
    ("lit", "Does the agent hold it beside the lamp, and is the lamp on?", ("held",)),
    (OPENED, "Was the place opened that the object belongs to?", ()),
    ("placed 1", "Does one such object lie where the task wants it?", ("held", "treated", OPENED)),
    ("placed 2", "Do two such objects lie where the task wants them?", ("placed 1", "held")),
)


def list_satisfied(game: Game, state: State) -> frozenset[str]:
    """Criteria that hold in this state."""
    found = set(list_reached(game, state))
    if "held" in found or _sees(game, state):
        found.add(SEEN)
    if any(state.opened & game.openable & 1 << r for r in game.goal_receptacles):
        found.add(OPENED)
    return frozenset(found)


def _sees(game: Game, state: State) -> bool:
    """Whether an object of the wanted kind lies open where the agent stands."""
    return any(
        game.goal_objects >> o & 1
        for r in game.receptacles_at[state.location]
        if not game.openable >> r & 1 or state.opened >> r & 1
        for o in state.contents[r]
    )


def write_checklist(game: Game) -> Checklist | None:
    """The criteria of a game, all of the same weight, but for those that hold at its start."""
    kind, start = game.goal.kind, list_satisfied(game, game.start)
    asked = {SEEN, "held"}
    if kind == "look_at_obj_in_light":
        asked.add("lit")
    else:
        asked |= {"placed 1"} | ({"placed 2"} if kind == "pick_two_obj_and_place" else set())
        if all(game.openable >> r & 1 for r in game.goal_receptacles):
            asked.add(OPENED)
        if kind in ("pick_clean_then_place_in_recep", "pick_heat_then_place_in_recep",
                    "pick_cool_then_place_in_recep"):  # fmt: skip
            asked.add("treated")
    return make_checklist(step for step in _STEPS if step[0] in asked - start)
