"""Looking at what was trained: evaluation of a run, and episodes played before one's eyes."""

import pathlib
from typing import Annotated, Any, Literal

import tyro

from hiperjax.envs.registry import make_suite
from hiperjax.files import write_json
from hiperjax.random_keys import Stream, derive_key
from hiperjax.training.build import restore_run
from hiperjax.training.checkpoint import Which
from hiperjax.training.diagnostics import describe
from hiperjax.training.evaluation import evaluate

Positional = tyro.conf.Positional


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
    profile: Literal["strict", "hiper"] = "strict",
    data: pathlib.Path | None = None,
    goals: Literal["synthetic", "human"] = "synthetic",
    tiny: bool = False,
) -> None:
    """Success per task type on a full split, with 95 % Wilson intervals.

    Args:
      target: a run folder; or `webshop`, with --policy script.
      split: split of the run's suite; default: the one that chose its best checkpoint.
      which: the run's best state, its last, or the one training started from.
      temperature: of sampling; default: as in the run's own evaluations (0 is greedy).
      seed: of sampling.
      max_tasks: only the first so many tasks of the split.
      out: also write the result there, as JSON.
      policy: the run's, or the suite's scripted baselines.
      profile: of WebShop, for its scripts.
      data: folder of official WebShop files, for its scripts.
      goals: of WebShop, for its scripts: written by a template, or by people.
      tiny: take the small generated catalogue, which webshop-tiny trains on, for WebShop's scripts.
    """
    if policy == "script":
        options = {"profile": profile, "data": data, "goals": goals, "tiny": tiny}
        _evaluate_scripts(target, split, max_tasks or 300, options)
        return
    components, state = restore_run(pathlib.Path(target), which)
    c = components.config.eval
    split = split or c.splits[0]
    heat = c.temperature if temperature is None else temperature
    result = evaluate(
        components.rollout,
        state.policy,
        components.suite,
        split,
        key=derive_key(seed, Stream.EVALUATION),
        temperature=heat,
        max_tasks=max_tasks,
    )
    dialect = getattr(components.suite, "dialect", None)
    how = "greedy" if heat == 0 else f"sampled at temperature {heat}, seed {seed}"
    print(
        f"{target}, {which} state: {components.suite.name}"
        f"{f' ({dialect} dialect)' if dialect else ''}, split {split}, "
        f"{result.overall.trials} tasks in fixed order, at most {components.max_turns} turns, {how}"
    )
    print(result.table())
    health = describe(result.trajectories) if result.trajectories else {}
    shown = ("episode_length", "switch_share", "segment_length", "malformed_share")
    print("  ".join(f"{name} {health[name]:.3f}" for name in shown if name in health))
    for failure in result.failures:
        print(f"episode of task {failure.task_id} lost: {failure.cause}")
    if components.suite.name == "webshop":
        from hiperjax.envs.webshop.report import evaluate_scripts

        scripts = evaluate_scripts(
            components.suite,  # type: ignore[arg-type]
            split,
            max_tasks or 300,
            components.max_turns,
        )
        print(f"\nto be read against\n{scripts}")
    if out is not None:
        record = {"target": target, "which": which, "split": split, "temperature": heat}
        write_json(out, record | result.metrics() | health)


def _evaluate_scripts(
    target: str, split: str | None, max_tasks: int, options: dict[str, Any]
) -> None:
    from hiperjax.envs.webshop.report import evaluate_scripts

    if target != "webshop":
        raise FileNotFoundError(f"{target}: no scripted baselines; expected webshop")
    suite = make_suite("webshop", **options)
    print(evaluate_scripts(suite, split, max_tasks))  # type: ignore[arg-type]
