"""Two named sets of rules, and the splits that go with each.

`hiper` is the shop as HiPER's authors ran it: one goal order per worker seed, goals 0 to 499 of
each order for validation and the rest for training (so that validation goals of one seed lie in
the training slices of others), reward 10 for a perfect purchase alone, the `pair` option rule, the
original's way of reading actions, hidden search commands included.

`strict` is for results one can trust: one goal order for everybody, splits disjoint by index and
by product, the score itself as reward, the `value` option rule, every search a plain search and
every option clickable.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from typing import Literal, overload

import numpy as np

from hiperjax.envs.webshop.goals import GoalKind
from hiperjax.envs.webshop.reward import OptionRule
from hiperjax.envs.webshop.shop import Shop

ProfileName = Literal["strict", "hiper"]
_VALIDATION_GOALS = 500
_VALIDATION_SEED_STEP = 1000
_HELD_OUT_PERCENT = {"test": 15, "dev": 15}


@dataclasses.dataclass(frozen=True, slots=True)
class Profile:
    """The rules of one profile."""

    name: ProfileName
    splits: tuple[str, ...]
    seed: int
    """default seed of the goal order"""
    option_rule: OptionRule
    quirks: bool
    """whether actions are read as in the original, see `Session.quirks`"""
    success_reward: float | None
    """reward of a perfect purchase, all others giving 0; None: the score is the reward"""
    show_selected: bool
    """whether the suite's observations name the chosen options, which the shop's pages do not"""


PROFILES: dict[str, Profile] = {
    "strict": Profile("strict", ("train", "dev", "test"), 233, "value", False, None, True),
    "hiper": Profile("hiper", ("train", "validation"), 0, "pair", True, 10.0, False),
}


def get_profile(name: str) -> Profile:
    if name not in PROFILES:
        raise ValueError(f"webshop profile {name!r}: expected one of {', '.join(PROFILES)}")
    return PROFILES[name]


@dataclasses.dataclass(frozen=True, slots=True)
class TaskSlice(Sequence[str]):
    """Task ids of some goals of some seeds, written out on demand."""

    goals: dict[int, Sequence[int]]
    """goal numbers by seed"""

    def __len__(self) -> int:
        return sum(map(len, self.goals.values()))

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            return [self[number] for number in range(*place.indices(len(self)))]
        offset = place
        for seed, numbers in self.goals.items():
            if 0 <= offset < len(numbers):
                return write_task_id(seed, numbers[offset])
            offset -= len(numbers)
        raise IndexError(f"task {place}: expected 0 to {len(self) - 1}")


def write_task_id(seed: int, goal: int) -> str:
    return f"seed{seed}-goal{goal}"


def read_task_id(task_id: str) -> tuple[int, int]:
    """(seed, goal) of a task id; `KeyError` where it is none."""
    seed, _, goal = task_id.removeprefix("seed").partition("-goal")
    if not (seed.isdecimal() and goal.isdecimal()):
        raise KeyError(f"task {task_id!r}: expected a webshop task such as 'seed233-goal17'")
    return int(seed), int(goal)


@functools.lru_cache(maxsize=1 << 16)
def split_title(title: str) -> str:
    """The strict split of a product, by a hash of its title.

    So a product keeps its split in any catalogue and under any seed, and products listed twice
    under one title stay together.
    """
    digest = hashlib.sha256(" ".join(title.lower().split()).encode("utf-8", "replace")).digest()
    percent = int.from_bytes(digest[:8]) % 100
    for split, share in _HELD_OUT_PERCENT.items():
        if percent < share:
            return split
        percent -= share
    return "train"


def list_tasks(
    shop: Shop, profile: Profile, kind: GoalKind, split: str, seed: int, workers: int
) -> TaskSlice:
    """The tasks of a split."""
    if split not in profile.splits:
        raise KeyError(
            f"split {split!r} of webshop ({profile.name}): expected {', '.join(profile.splits)}"
        )
    if profile.name == "strict":
        goals = shop.list_goals(kind, seed)
        wanted = [place for place, p in enumerate(shop.products) if split_title(p.title) == split]
        return TaskSlice({seed: np.flatnonzero(np.isin(goals.targets, wanted)).tolist()})
    if split == "validation":
        seed += _VALIDATION_SEED_STEP
        count = len(shop.list_goals(kind, seed))
        return TaskSlice({seed: range(min(_VALIDATION_GOALS, count))})
    count = len(shop.list_goals(kind, seed))
    return TaskSlice({seed + worker: range(_VALIDATION_GOALS, count) for worker in range(workers)})
