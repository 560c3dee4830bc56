"""Writing generated games as `game.tw-pddl` files that ALFWorld's own engine loads and plays."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from hiperjax.envs.alfworld.games import GAME_FILE
from hiperjax.envs.alfworld.generator import generate_problem
from hiperjax.envs.alfworld.problem import TASK_TYPES, Goal, Problem
from hiperjax.envs.alfworld.scenes import Dials
from hiperjax.files import write_json, write_text

_TYPES_OF_ACTIONS = {
    "rtype": ("sinkbasintype", "microwavetype", "fridgetype"),
    "otype": ("knifetype", "butterknifetype"),
}
"""types that the domain's actions name, present in a game or not"""
_TREATED = {
    "pick_clean_then_place_in_recep": ("cleanable", "isClean"),
    "pick_heat_then_place_in_recep": ("heatable", "isHot"),
    "pick_cool_then_place_in_recep": ("coolable", "isCool"),
}


def write_games(
    folder: Path,
    split: str,
    count: int,
    *,
    task_types: Sequence[str] = TASK_TYPES,
    seed: int = 0,
    dials: Dials | None = None,
) -> list[Path]:
    """Write `count` generated games below `folder/split`, task types in turn; their files.

    They are the first `count` tasks of `HouseholdSuite` with the same size, types, seed and dials.
    """
    dials = dials or Dials()
    paths = []
    for index in range(count):
        kind = task_types[index % len(task_types)]
        problem = generate_problem(seed, split, index, kind, dials)
        paths.append(write_game(folder / split, problem, f"trial_{dials.size}_{seed}_{index:06d}"))
    return paths


def write_game(folder: Path, problem: Problem, trial: str) -> Path:
    """Write one game into `folder/TASK/TRIAL`, named as official games are."""
    goal = problem.goal
    wanted, target = (t.removesuffix("type") for t in (goal.object_type, goal.target_type))
    task = f"{goal.kind}-{wanted}-None-{target}-0"
    path = folder / task / trial / GAME_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, format_problem(problem, trial))
    # the official loader asks for this file beside every game, and for nothing in it but the type
    write_json(path.with_name("traj_data.json"), {"task_type": goal.kind})
    return path


def format_problem(problem: Problem, name: str = "generated") -> str:
    """The text of a `game.tw-pddl` file."""
    here = Path(__file__)
    grammar = here.with_name("grammar.twl2").read_text(encoding="utf-8")
    document = {
        "pddl_domain": here.with_name("domain.pddl").read_text(encoding="utf-8"),
        "grammar": grammar.replace("<<TASK>>", problem.sentence).replace(
            "<<HELP>>", problem.help_text
        ),
        "pddl_problem": "\n".join(_format_pddl(problem, name)),
        "solvable": True,
        "walkthrough": list(problem.walkthrough),
    }
    return json.dumps(document)


def _format_pddl(problem: Problem, name: str) -> Iterator[str]:
    yield f"(define (problem {name}) (:domain alfred)"
    yield "(:objects"
    for identifier, kind in sorted(_type_ids(problem).items()):
        yield f"  {identifier} - {kind}"
    yield ")\n(:init"
    for fact in problem.facts:
        yield f"  ({' '.join(fact)})"
    yield f")\n(:goal {_format_goal(problem.goal)}))"


def _type_ids(problem: Problem) -> dict[str, str]:
    """The PDDL type of everything that a fact or an action names."""
    columns = {
        "receptacletype": ("receptacle", "rtype"),
        "objecttype": ("object", "otype"),
        "cancontain": ("rtype", "otype"),
        "receptacleatlocation": ("receptacle", "location"),
        "objectatlocation": ("object", "location"),
        "atlocation": ("agent", "location"),
    }
    kinds = {name: kind for kind, names in _TYPES_OF_ACTIONS.items() for name in names}
    kinds[problem.goal.object_type] = "otype"
    look = problem.goal.kind == "look_at_obj_in_light"
    kinds[problem.goal.target_type] = "otype" if look else "rtype"
    for predicate, *arguments in problem.facts:
        kinds.update(zip(arguments, columns.get(predicate, ()), strict=False))
    return kinds


def _format_goal(goal: Goal) -> str:
    of_type = f"(objectType ?o {goal.object_type})"
    in_target = f"(receptacleType ?r {goal.target_type}) (inReceptacle ?o ?r)"
    if goal.kind == "look_at_obj_in_light":
        return (
            "(and (exists (?t - object ?r - receptacle ?a - agent ?l - location)"
            f" (and (objectType ?t {goal.target_type}) (toggleable ?t) (isToggled ?t)"
            " (receptacleAtLocation ?r ?l) (atLocation ?a ?l) (inReceptacle ?t ?r)))"
            f" (exists (?o - object ?a - agent) (and {of_type} (holds ?a ?o))))"
        )
    if goal.kind == "pick_two_obj_and_place":
        return (
            f"(and (exists (?r - receptacle) (exists (?o - object) (and {of_type} {in_target}"
            f" (exists (?p - object) (and (not (= ?o ?p)) (objectType ?p {goal.object_type})"
            " (inReceptacle ?p ?r)))))))"
        )
    treated = " ".join(f"({predicate} ?o)" for predicate in _TREATED.get(goal.kind, ()))
    return (
        "(and (exists (?r - receptacle) (exists (?o - object)"
        f" (and {of_type} {treated} {in_target}))))"
    )
