"""Looking at what was trained: evaluation of a run, and episodes played before one's eyes."""

import pathlib
from typing import Annotated, Literal

import tyro

from hiperjax.commands.arguments import Data, Games, Positional
from hiperjax.envs.base import Suite
from hiperjax.envs.registry import SuiteError, make_suite, parse_options
from hiperjax.files import write_json
from hiperjax.options.planning import BoundaryRule
from hiperjax.random_keys import Stream, derive_key
from hiperjax.training.build import restore_run
from hiperjax.training.checkpoint import Which
from hiperjax.training.diagnostics import describe, judge_boundaries, loop_share
from hiperjax.training.evaluation import HEALTH, Evaluation, evaluate
from hiperjax.training.run_folder import AGENT_PREFIX
from hiperjax.training.suites import check_split
from hiperjax.training.trainer import BASELINE_EPISODES

Boundaries = Annotated[BoundaryRule | None, tyro.conf.arg(name="plan.boundaries")]
Every = Annotated[int | None, tyro.conf.arg(name="plan.every")]
SwitchRate = Annotated[float | None, tyro.conf.arg(name="plan.switch-rate")]


def evaluate_run(
    target: Annotated[str, Positional],
    /,
    *,
    split: str | None = None,
    which: Which = "best",
    temperature: float | None = None,
    seed: int = 0,
    max_tasks: int | None = None,
    out: pathlib.Path | None = None,
    policy: Literal["run", "script"] = "run",
    data: Data = None,
    games: Games = None,
    options: tuple[str, ...] = (),
    boundaries: Boundaries = None,
    every: Every = None,
    switch_rate: SwitchRate = None,
    accept_changed_prompt: bool = False,
) -> int:
    """Success per task type on a full split, with 95 % Wilson intervals.

    Exit code 1 where the environment lost more episodes than the run's env.max_failure_rate.

    Args:
      target: a run folder, or a shipped agent (agent:NAME); or the name of a suite, with --policy
        script.
      split: split of the run's suite; default: the one that chose its best checkpoint.
      which: the run's best state, its last, or the one training started from.
      temperature: Sampling temperature; default: as in the run's own evaluations (0 is greedy).
      seed: Seed for sampling.
      max_tasks: only the first so many tasks of the split.
      out: also write the result there, as JSON.
      policy: the run's, or the suite's scripted baselines.
      data: folder of official files (suite webshop); default: the run's own.
      games: folder of official games (suite alfworld); default: the run's own.
      options: with --policy script: other options of the suite, each KEY=VALUE.
      boundaries: where segments begin, if not as in the run: where the policy says so (learned), or
        by a rule, as in training.
      every: turns of a segment, by the rule every_k.
      switch_rate: chance of a boundary at each turn, by the rule random.
      accept_changed_prompt: evaluate although the prompt is not the one the run was trained on.
    """
    if policy == "script":
        folders = {"data": data, "games": games}
        given = {name: folder for name, folder in folders.items() if folder is not None}
        _evaluate_scripts(make_suite(target, **given, **parse_options(target, options)),
                          split, max_tasks or BASELINE_EPISODES)  # fmt: skip
        return 0
    plan = {"boundaries": boundaries, "every": every, "switch_rate": switch_rate}
    plan = {name: value for name, value in plan.items() if value is not None}
    components, state = restore_run(
        target,
        which,
        accept_changed_prompt=accept_changed_prompt,
        games=games,
        data=data,
        plan=plan,
    )
    c = components.config.eval
    split = split or c.splits[0]
    check_split(components.suite, split, "--split")
    temperature = c.temperature if temperature is None else temperature
    result = evaluate(
        components.rollout,
        state.policy,
        components.suite,
        split,
        key=derive_key(seed, Stream.EVALUATION),
        temperature=temperature,
        max_tasks=max_tasks,
    )
    how = "greedy" if temperature == 0 else f"sampled at temperature {temperature}, seed {seed}"
    state_of = "" if target.startswith(AGENT_PREFIX) else f", {which} state"
    print(
        f"{target}{state_of}: {components.suite.describe()}, split {split}, "
        f"{result.overall.trials} tasks in fixed order, at most {components.max_turns} turns, {how}"
        + (f", boundaries {components.config.plan.boundaries}" if plan else "")
    )
    health = _report(result, milestones=components.suite.reports_milestones)
    scripts = components.suite.report_baselines(
        split, max_turns=components.max_turns, episodes=max_tasks or BASELINE_EPISODES
    )
    if scripts is not None:
        print(f"\nto be read against\n{scripts}")
    if out is not None:
        record = {"target": target, "which": which, "split": split, "temperature": temperature}
        write_json(out, record | result.metrics() | health)
    return 0 if result.may_choose(components.config.env.max_failure_rate) else 1


def _report(result: Evaluation, *, milestones: bool) -> dict[str, float]:
    """Print a result and what its episodes were like; returns the latter."""
    print(result.table())
    health = describe(result.trajectories) if result.trajectories else {}
    if health:
        health["loop_share"] = loop_share(result.trajectories)
        health |= judge_boundaries(result.trajectories) if milestones else {}
    shown = (*HEALTH, "loop_share", "boundary_f1")
    print("  ".join(f"{name} {health[name]:.3f}" for name in shown if name in health))
    for failure in result.failures:
        print(f"episode of task {failure.task_id} lost: {failure.cause}")
    return health


def _evaluate_scripts(suite: Suite, split: str | None, max_tasks: int) -> None:
    split = split or suite.splits[-1]
    check_split(suite, split, "--split")
    report = suite.report_baselines(split, max_turns=suite.max_turns, episodes=max_tasks)
    if report is None:
        raise SuiteError(
            f"suite {suite.name} has no scripted baselines; expected one with report_baselines"
        )
    print(report)
