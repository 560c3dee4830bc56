"""What a result on WebShop is to be read against: the ceiling, and scripts that learn nothing.

The ceiling is the perfect purchase: the goal's own product with its own options, clicked on its
page. The baseline searches the instruction, opens the first hit, clicks what the goal names, buys.
"""

import dataclasses
import random
from collections.abc import Callable, Sequence

from hiperjax.envs.base import Decision, Expert
from hiperjax.envs.playing import play_expert
from hiperjax.envs.webshop.expert import is_results, list_candidates, read_request
from hiperjax.envs.webshop.pages import Page, Session, act
from hiperjax.envs.webshop.suite import WebShopSuite
from hiperjax.types import Observation


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """How one episode ended."""

    asin: str
    """the goal's product: goals of one product are not independent"""
    score: float
    success: bool
    turns: int


class FirstHitShopper(Expert):
    """Search the instruction, open the first hit, click the options it names, buy."""

    def reset(self, observation: Observation) -> None:
        self.wanted = list(read_request(observation.task).options)

    def decide(self, observation: Observation) -> Decision:
        return Decision(True, "buy the first hit", self._act(observation))

    def _act(self, observation: Observation) -> str:
        if is_results(observation):
            hits = list_candidates(observation)
            return f"click[{next(iter(hits))}]" if hits else "click[back to search]"
        if "click[buy now]" not in observation.admissible:
            return f"search[{observation.task}]"
        while self.wanted:
            click = f"click[{self.wanted.pop(0)}]"
            if click in observation.admissible:
                return click
        return "click[buy now]"


def play(
    suite: WebShopSuite, expert: Expert, task_id: str, max_turns: int | None = None
) -> Outcome:
    """One episode; cut at the turn limit (None: the suite's own), it scores 0."""
    limit = max_turns or suite.max_turns
    steps = play_expert(suite, expert, task_id, max_turns=limit)
    last, asin = steps[-1], suite.get_goal(task_id).asin
    if last.terminated:
        return Outcome(asin, last.score or 0.0, last.success, len(steps))
    return Outcome(asin, 0.0, False, limit)


def buy_perfectly(suite: WebShopSuite, task_id: str) -> Outcome:
    """Buy the goal's own product with its own options, as far as they can be clicked."""
    goal = suite.get_goal(task_id)
    session = Session(suite.shop, goal, suite.profile.quirks, random.Random(0), page=Page.ITEM)
    session.product = suite.shop.get(goal.asin)
    for value in goal.option_values:
        act(session, f"click[{value}]")
    score = suite.score(task_id, goal.asin, session.chosen).score
    return Outcome(goal.asin, score, score == 1.0, len(goal.options) + 3)


def compare_splits(suite: WebShopSuite) -> tuple[bool, str]:
    """What two splits share: goal numbers, tasks (product and options), products, titles."""
    kinds: dict[str, Callable[[str], object]] = {
        "goal numbers": lambda task: task,
        "tasks": lambda task: (suite.get_goal(task).asin, suite.get_goal(task).options),
        "products": lambda task: suite.get_goal(task).asin,
        "titles": lambda task: suite.get_goal(task).title,
    }
    held = {
        split: {kind: {key(task) for task in suite.tasks(split)} for kind, key in kinds.items()}
        for split in suite.splits
    }
    disjoint, lines = True, []
    for place, first in enumerate(suite.splits):
        for second in suite.splits[place + 1 :]:
            shared = {kind: len(held[first][kind] & held[second][kind]) for kind in kinds}
            disjoint &= not any(shared.values())
            told = ", ".join(
                f"{count} of {len(held[second][kind])} {kind}" for kind, count in shared.items()
            )
            lines.append(f"{first} and {second} share {told}")
    verdict = "splits are disjoint" if disjoint else "splits OVERLAP: training sees held-out tasks"
    return disjoint, "\n".join([*lines, verdict])


def take_evenly(tasks: Sequence[str], limit: int) -> list[str]:
    """At most `limit` tasks, spread evenly over the sequence."""
    count = min(limit, len(tasks))
    return [tasks[place * len(tasks) // count] for place in range(count)]
