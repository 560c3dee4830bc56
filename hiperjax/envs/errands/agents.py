"""Sub-agents: each sees its errand and its room, and comes back with one line."""

import zlib
from typing import NamedTuple

from hiperjax.envs.alfworld.expert import ScriptedExpert, Task, parse_task
from hiperjax.envs.errands.rooms import Room

_PUT, _LIT = ("You move the ", "You put the "), "You turn on the "


class Report(NamedTuple):
    """What a sub-agent comes back with."""

    turns: int
    """that it took"""
    claims: bool
    """whether it says that it is done"""
    text: str
    """the last thing it saw, or why it gave up, in one line"""


def seed_agent(seed: int, episode: str, stage: int, name: str) -> int:
    """Seed of a sub-agent: a function of episode, stage and agent, whoever else is at work."""
    return zlib.crc32(f"{seed}/{episode}/{stage}/{name}".encode())


def run_script(
    room: Room, sentence: str, *, turns: int, noise: float, seed: int, search: str
) -> Report:
    """The household's expert, doing as the sentence says, right or wrong.

    Args:
      room: where.
      sentence: an errand, as the sub-agent was told it.
      turns: that it may take; it then gives up, whatever it is at.
      noise: share of its commands that are random.
      seed: of these.
      search: its order of search.
    """
    try:
        task = parse_task(sentence)
    except ValueError:
        return Report(0, False, "I do not understand.")
    if not turns:
        return Report(0, False, "No time is left.")
    seen = room.enter(sentence)
    expert = ScriptedExpert(seed, noise, search)
    expert.reset(seen)
    put = 0
    for turn in range(1, turns + 1):
        try:
            decision = expert.decide(seen)
        except ValueError:  # nothing here is what the sentence names
            return Report(turn - 1, False, "There is no such place.")
        step = room.act(decision.action)
        seen, text = step.observation, step.observation.text
        put += _serves(task, text)
        if step.success or put >= 1 + (task.kind == "two"):
            return Report(turn, True, text)
    return Report(turns, False, seen.text)


def _serves(task: Task, text: str) -> bool:
    """Whether a reply of the world tells that the last thing asked for was done."""
    if task.kind == "look":
        return text.startswith(f"{_LIT}{task.target} ")
    return text.startswith(tuple(f"{x}{task.object} " for x in _PUT)) and f" {task.target} " in text
