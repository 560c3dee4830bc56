"""Looking at what was trained: evaluation of a run, and episodes played before one's eyes."""

import json
import pathlib
import time
from typing import Annotated, Any, Literal

import tyro

from hiperjax.assembly import fold, restore_run
from hiperjax.checkpoint import Which
from hiperjax.envs.base import Suite
from hiperjax.envs.registry import make_suite
from hiperjax.evaluation import evaluate
from hiperjax.learning.health import describe
from hiperjax.play import Recorded, Recording, play
from hiperjax.transcript import render_trajectory

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
    agent, state = restore_run(pathlib.Path(target), which)
    c = agent.config.eval
    split = split or c.splits[0]
    heat = c.temperature if temperature is None else temperature
    result = evaluate(
        agent.rollout,
        state.policy,
        agent.suite,
        split,
        key=fold(seed, 5),
        temperature=heat,
        max_tasks=max_tasks,
    )
    dialect = getattr(agent.suite, "dialect", None)
    how = "greedy" if heat == 0 else f"sampled at temperature {heat}, seed {seed}"
    print(
        f"{target}, {which} state: {agent.suite.name}"
        f"{f' ({dialect} dialect)' if dialect else ''}, split {split}, "
        f"{result.overall.trials} tasks in fixed order, at most {agent.max_turns} turns, {how}"
    )
    print(result.table())
    health = describe(result.trajectories) if result.trajectories else {}
    shown = ("episode_length", "switch_share", "segment_length", "malformed_share")
    print("  ".join(f"{name} {health[name]:.3f}" for name in shown if name in health))
    if result.failures:
        print(f"{result.failures} episodes were lost to errors and count as not solved")
    if agent.suite.name == "webshop":
        from hiperjax.verification.webshop_scripts import evaluate_scripts

        scripts = evaluate_scripts(
            agent.suite,  # type: ignore[arg-type]
            split,
            max_tasks or 300,
            agent.max_turns,
        )
        print(f"\nto be read against\n{scripts}")
    if out is not None:
        record = {"target": target, "which": which, "split": split, "temperature": heat}
        out.write_text(json.dumps(record | result.metrics() | health, indent=1) + "\n")


def _evaluate_scripts(
    target: str, split: str | None, max_tasks: int, options: dict[str, Any]
) -> None:
    from hiperjax.verification.webshop_scripts import evaluate_scripts

    if target != "webshop":
        raise FileNotFoundError(f"{target}: no scripted baselines; expected webshop")
    suite = make_suite("webshop", **options)
    print(evaluate_scripts(suite, split, max_tasks))  # type: ignore[arg-type]


def play_suite(
    suite: Annotated[str, Positional] = "household",
    /,
    *,
    run: pathlib.Path | None = None,
    expert: bool = False,
    recording: pathlib.Path | None = None,
    save: pathlib.Path | None = None,
    games: pathlib.Path | None = None,
    data: pathlib.Path | None = None,
    split: str | None = None,
    number: int = 0,
    temperature: float = 0.0,
    delay: float = 0.5,
) -> None:
    """Play a game yourself; or watch a trained policy, the expert, or a recording.

    Args:
      suite: household, alfworld, webshop, ladder/RUNG; not needed with --run.
      run: watch the policy of this run: its switch, subgoal and action, turn by turn.
      expert: watch the scripted expert.
      recording: watch an episode saved by --save.
      save: save the episode.
      games: folder of official games (suite alfworld).
      data: folder of official files (suite webshop).
      split: split the task is from; default: the suite's last.
      number: number of the task in its split.
      temperature: of the watched policy; 0 is greedy.
      delay: seconds between turns, when watching.
    """
    if run is not None:
        _watch_policy(run, split, number, temperature, delay)
        return
    folders = {"games": games, "data": data}
    world = make_suite(suite, **{name: f for name, f in folders.items() if f is not None})
    task_id = pick_task(world, split, number)
    player = world.make_expert(seed=0) if expert else None
    if recording is not None:
        kept = Recording.load(recording)
        player, task_id = Recorded(kept), kept.task_id
    done = play(world, task_id, player, delay=delay if player else 0.0)
    if save is not None:
        done.save(save)


def pick_task(suite: Suite, split: str | None, number: int) -> str:
    """Task `number` of a split; the suite's last split by default."""
    tasks = suite.tasks(split or suite.splits[-1])
    if not 0 <= number < len(tasks):
        raise FileNotFoundError(f"task number {number}: the split has tasks 0 to {len(tasks) - 1}")
    return tasks[number]


def _watch_policy(
    run: pathlib.Path, split: str | None, number: int, temperature: float, delay: float
) -> None:
    agent, state = restore_run(run, "best")
    task_id = pick_task(agent.suite, split or agent.config.eval.splits[0], number)
    result = agent.rollout.collect(
        state.policy, [task_id], key=fold(number, 5), temperature=temperature
    )
    for trajectory in result.trajectories:
        for paragraph in render_trajectory(trajectory, agent.prompter.tokenizer).split("-- turn"):
            print(("-- turn" if paragraph.startswith(" ") else "") + paragraph, end="")
            time.sleep(delay)
    for failure in result.failures:
        print(f"the episode was lost: {failure.error}")
