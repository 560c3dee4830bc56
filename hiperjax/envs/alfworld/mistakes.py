"""Commands that a beginner would try: plausible in words, wrong where he stands.

Demonstrations execute some of them, so that what is imitated shows the way out.
"""

import random

from hiperjax.envs.alfworld.expert import Task, parse_task
from hiperjax.types import Observation

WANDER = 0.7
"""Share of mistakes that the world understands."""
OPEN, AWAY = 0.7, 0.8
"""Of these: opening what is closed here; else going elsewhere. What was visited in which order is
then no guide to what to visit next, and only the record of it is."""


def make_mistake(observation: Observation, rng: random.Random) -> str:
    """A command that does not help: any admissible one, or one that names what is not there."""
    if rng.random() < WANDER:
        closed = [command for command in observation.admissible if command.startswith("open ")]
        away = [command for command in observation.admissible if command.startswith("go to ")]
        found = closed if closed and rng.random() < OPEN else away if rng.random() < AWAY else ()
        return rng.choice(found or observation.admissible)
    places = [command[6:] for command in observation.admissible if command.startswith("go to ")]
    if not places:
        return rng.choice(observation.admissible)
    return rng.choice(_list_wishes(parse_task(observation.task), places, rng))


def _list_wishes(task: Task, places: list[str], rng: random.Random) -> list[str]:
    place = rng.choice(places)
    thing = f"{task.object} {rng.choice((1, 1, 1, 2, 2, 3))}"
    near = f"{place.split(' ')[0]} {rng.randint(1, 9)}"
    wishes = [f"take {thing} from {place}", f"take {thing} from {near}", f"go to {near}"]
    wishes += [f"open {place}", f"move {thing} to {place}", f"move {thing} to {task.target} 1"]
    if task.kind == "treat":
        wishes.append(f"{task.verb} {thing} with {place}")
    if task.kind == "look":
        wishes.append(f"use {task.target} {rng.randint(1, 2)}")
    return wishes
