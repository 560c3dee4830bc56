"""Errands as a suite of tasks."""

import random
from collections.abc import Sequence
from typing import Any

from hiperjax.envs.alfworld.suites import HouseholdSuite, TaskIds
from hiperjax.envs.base import Expert, Suite, TextEnv
from hiperjax.envs.errands.calls import ACT, read_calls
from hiperjax.envs.errands.env import ErrandsEnv
from hiperjax.envs.errands.expert import ErrandsExpert, report_plans
from hiperjax.envs.errands.tasks import (
    MOST_ROOMS,
    SPLITS,
    ErrandsOptions,
    Task,
    draw_task,
    find_kind,
    find_least_cost,
    make_task,
)
from hiperjax.types import Observation, PromptHints

ROLE = (
    "You see to it that errands in a household are done, each in the room of its number: by "
    "sub-agents, who work side by side, or yourself. Several calls in one reply, one after the "
    "other, are one step; it costs 1, and the turns of the sub-agent that took longest."
)
LOOKED_AT = 8
"""Tasks that a budget is tried on before anything is played."""
REPORTED = 40
"""Tasks that the expert plays at most to report what it comes to."""


class ErrandsSuite(Suite):
    """Errands in a household. Arguments are the fields of `ErrandsOptions`."""

    Options = ErrandsOptions
    name = "errands"
    role = ROLE
    hints = PromptHints(
        actions="tools",
        unstarred=("put", "errand", "after", *map(str, range(1, MOST_ROOMS + 1))),
        phrases=("arrive at", "pick up", "gave up"),
    )
    splits = tuple(SPLITS)
    reports_milestones = True
    reports_scores = True
    delegates = True
    search = "onward"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.options = o = ErrandsOptions(*args, **kwargs)
        _check(o)
        self.max_turns = o.budget
        self.household = HouseholdSuite(task_types=o.task_types, seed=o.seed, search=self.search)
        least = [find_least_cost(self.household, self.get_task(t)) for t in self._sample()]
        if min(least) > o.budget:
            raise ValueError(
                f"budget is {o.budget} critical steps; expected at least {min(least)}: no plan "
                f"does all errands of any of the first {len(least)} tasks in fewer"
            )

    def _sample(self) -> list[str]:
        return [f"{self.name}/train/{n}" for n in range(LOOKED_AT)]

    def tasks(self, split: str) -> Sequence[str]:
        if split not in SPLITS:
            raise KeyError(f"split {split!r} of {self.name}: expected one of {self.splits}")
        return TaskIds(f"{self.name}/{split}", SPLITS[split])

    def task_type(self, task_id: str) -> str:
        return find_kind(*self._draw(task_id))

    def get_task(self, task_id: str) -> Task:
        """The task of an id; `KeyError` naming it if there is none."""
        return make_task(self.household, *self._draw(task_id))

    def _draw(self, task_id: str) -> tuple[list[str], dict[int, int]]:
        name, split, index = (*task_id.split("/"), "", "")[:3]
        if name != self.name or split not in SPLITS or not index.isdigit():
            raise KeyError(f"task {task_id!r}: expected {self.name}/SPLIT/NUMBER")
        if int(index) >= SPLITS[split]:
            raise KeyError(f"task {task_id!r}: {split} has {SPLITS[split]} tasks")
        o = self.options
        kinds = {"count": o.errands, "dependent": o.dependent, "seed": o.seed}
        return draw_task(self.household, split, int(index), **kinds)

    def is_admissible(self, action: str, observation: Observation) -> bool:
        """Whether it is calls of tools, every one of them, that the tools' schemas accept."""
        calls, refused = read_calls(action)
        alone = len(calls) == 1 or all(call.name != ACT for call in calls)
        return not refused and alone

    def make_mistake(self, observation: Observation, rng: random.Random) -> str:
        return rng.choice(("act[1 | look]", "assign[nobody | 1]", "create[ann | helper]"))

    def report_baselines(self, split: str, *, max_turns: int, episodes: int) -> str | None:
        """What the expert does of a split when it does all itself, and when it sends sub-agents."""
        tasks = self.tasks(split)[: min(episodes, REPORTED)]
        return f"{report_plans(self, tasks, max_turns=max_turns)}\n{self._count_hopeless(tasks)}"

    def _count_hopeless(self, tasks: Sequence[str]) -> str:
        least = [find_least_cost(self.household, self.get_task(task)) for task in tasks]
        hopeless = sum(cost > self.options.budget for cost in least)
        return (
            f"within the budget of {self.options.budget} critical steps some plan does all errands "
            f"in {len(least) - hopeless} of these {len(least)} tasks"
        )

    def make_env(self) -> TextEnv:
        return ErrandsEnv(self.options, self.household, self.get_task)

    def make_expert(self, seed: int, noise: float = 0.0) -> Expert:
        return ErrandsExpert(seed, noise, self.options.spawn)


def _check(o: ErrandsOptions) -> None:
    """Refuse numbers that mean nothing."""
    for name, low, high in (
        ("errands", 1, MOST_ROOMS),
        ("dependent", 0, 1),
        ("budget", 1, 10_000),
        ("agents", 0, 64),
        ("sub_turns", 1, 10_000),
        ("sub_noise", 0, 1),
        ("spawn", 0, 1),
    ):
        value = getattr(o, name)
        if not low <= value <= high:
            raise ValueError(f"{name} is {value}; expected {low} to {high}")
