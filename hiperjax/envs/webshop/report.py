"""WebShop played by scripts: what an agent's result on a split is to be read against."""

from collections.abc import Callable, Sequence

from hiperjax.envs.webshop.baseline import (
    FirstHitShopper,
    Outcome,
    buy_perfectly,
    compare_splits,
    play,
    take_evenly,
)
from hiperjax.envs.webshop.suite import WebShopSuite
from hiperjax.intervals import bound_mean, wilson_interval


def describe_outcomes(name: str, outcomes: Sequence[Outcome]) -> str:
    """One line: success with its intervals, score with its interval, turns."""
    count, asins = len(outcomes), [outcome.asin for outcome in outcomes]
    successes = [float(outcome.success) for outcome in outcomes]
    scores = [outcome.score for outcome in outcomes]
    wilson = wilson_interval(int(sum(successes)), count)
    by_product, score = bound_mean(successes, asins), bound_mean(scores, asins)
    turns = sum(outcome.turns for outcome in outcomes) / count
    return (
        f"{name:<10} success {sum(successes) / count:6.1%} [{wilson[0]:.1%}, {wilson[1]:.1%}]"
        f"  by product [{by_product[0]:.1%}, {by_product[1]:.1%}]"
        f"  score {sum(scores) / count:.3f} [{score[0]:.3f}, {score[1]:.3f}]  turns {turns:.1f}"
    )


def evaluate_scripts(
    suite: WebShopSuite,
    split: str | None = None,
    episodes: int = 300,
    max_turns: int | None = None,
) -> str:
    """The report beside which an agent's result on a split is to be read.

    `max_turns` is the agent's turn limit; None for the suite's own.
    """
    limit = max_turns or suite.max_turns
    split = split or suite.splits[-1]
    tasks = suite.tasks(split)
    if not len(tasks):
        raise ValueError(f"webshop {suite.profile.name}, split {split}: no tasks to evaluate on")
    chosen = take_evenly(tasks, episodes)
    policies: dict[str, Callable[[str], Outcome]] = {
        "ceiling": lambda task: buy_perfectly(suite, task),
        "first hit": lambda task: play(suite, FirstHitShopper(), task, limit),
        "expert": lambda task: play(suite, suite.make_expert(0), task, limit),
    }
    head = (
        f"webshop, profile {suite.profile.name}, catalogue {suite.shop.name}, {suite.kind} goals,"
        f" seed {suite.seed}, split {split}: {len(chosen)} of {len(tasks)} tasks,"
        f" at most {limit} turns; 95 % intervals: Wilson, then bootstrap over products"
    )
    lines = [describe_outcomes(name, [buy(t) for t in chosen]) for name, buy in policies.items()]
    return "\n".join([head, *lines, compare_splits(suite)[1]])
