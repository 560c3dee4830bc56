"""What is to be done: errands in rooms of their own, some of which wait for another."""

import dataclasses
import random

from hiperjax.envs.alfworld.suites import HouseholdSuite

SPLITS = {"train": 100_000, "seen": 140, "unseen": 134, "single": 134}
"""Tasks of each split; `single` are tasks of one errand, from the games of `unseen`."""
SINGLE, FREE, ORDERED = "single", "free", "ordered"
"""Kinds of task: one errand; several, none of which waits for another; or some of which do."""
MOST_ROOMS = 8


@dataclasses.dataclass(frozen=True, slots=True)
class ErrandsOptions:
    """How many errands, what they cost, who does them."""

    errands: int = 4
    """rooms of a task, 1 to 8, each with an errand; the split `single` has one"""
    dependent: float = 0.25
    """chance of a pair of errands that what is wanted in the second appears after the first"""
    budget: int = 24
    """critical steps of an episode; it is cut as soon as they are used up"""
    agents: int = 8
    """sub-agents that can be created"""
    sub_turns: int = 16
    """turns of a sub-agent at most; it then gives up"""
    sub_noise: float = 0.0
    """share of random commands among a sub-agent's"""
    spawn: float = 1.0
    """share of episodes in which the expert sends sub-agents; in the others it does all itself"""
    task_types: tuple[str, ...] = ()
    """household tasks of these types only; none means all six"""
    seed: int = 0
    """another one draws other tasks"""


@dataclasses.dataclass(frozen=True)
class Errand:
    """One household game, in a room of its own."""

    room: int
    """from 1, in the order of the task's text"""
    game: str
    """task id of the household suite"""
    sentence: str
    """what is to be done there"""
    after: int | None = None
    """room whose errand has to be done before what is wanted here appears"""


@dataclasses.dataclass(frozen=True)
class Task:
    """Errands of one episode."""

    errands: tuple[Errand, ...]

    @property
    def text(self) -> str:
        """The instruction."""
        return " ".join(
            f"Errand {e.room}{'' if e.after is None else f' after {e.after}'}: {e.sentence}"
            for e in self.errands
        )


def draw_order(rng: random.Random, count: int, dependent: float) -> dict[int, int]:
    """Room -> the room it waits for: disjoint pairs, each with chance `dependent`."""
    rooms = rng.sample(range(1, count + 1), count)
    pairs = zip(rooms[::2], rooms[1::2], strict=False)
    return {second: first for first, second in pairs if rng.random() < dependent}


def draw_task(
    household: HouseholdSuite, split: str, index: int, *, count: int, dependent: float, seed: int
) -> tuple[list[str], dict[int, int]]:
    """Games of a task, and which room waits for which; the same for the same arguments."""
    rng = random.Random(f"errands/{seed}/{split}/{index}")
    games = household.tasks("unseen" if split == SINGLE else split)
    numbers = rng.sample(range(len(games)), 1 if split == SINGLE else count)
    return [games[n] for n in numbers], draw_order(rng, len(numbers), dependent)


def find_kind(games: list[str], order: dict[int, int]) -> str:
    """The kind of a task."""
    return SINGLE if len(games) == 1 else ORDERED if order else FREE


def make_task(household: HouseholdSuite, games: list[str], order: dict[int, int]) -> Task:
    """The task of these games."""
    return Task(
        tuple(
            Errand(room, game, household.open_game(game).sentence, order.get(room))
            for room, game in enumerate(games, start=1)
        )
    )


def find_least_cost(household: HouseholdSuite, task: Task) -> int:
    """Critical steps that no plan gets below: the longest chain of shortest walkthroughs."""
    length = {e.room: len(household.open_game(e.game).walkthrough) for e in task.errands}
    return max(length[e.room] + (length[e.after] if e.after else 0) for e in task.errands)
