"""Games played before one's eyes: by a person, an expert, a policy, a recording."""

import pathlib
import time
from typing import Annotated, Any

from hiperjax.acting.collector import RolloutResult
from hiperjax.commands.arguments import Data, Games, Positional, UsageError
from hiperjax.commands.terminal import Recorded, Recording, play
from hiperjax.envs.base import Suite
from hiperjax.envs.registry import SuiteError, make_suite, parse_options
from hiperjax.random_keys import Stream, derive_key
from hiperjax.training.build import restore_run
from hiperjax.training.samples import render_trajectory
from hiperjax.training.suites import check_split


def play_suite(
    suite: Annotated[str | None, Positional] = None,
    /,
    *,
    run: pathlib.Path | None = None,
    expert: bool = False,
    recording: pathlib.Path | None = None,
    save: pathlib.Path | None = None,
    games: Games = None,
    data: Data = None,
    options: tuple[str, ...] = (),
    split: str | None = None,
    number: int = 0,
    temperature: float = 0.0,
    delay: float = 0.5,
    show_context: bool = False,
    accept_changed_prompt: bool = False,
) -> None:
    """Play a game yourself; or watch a trained policy, the expert, or a recording.

    Args:
      suite: household (default), alfworld, webshop, desk, errands, ladder/RUNG, or one that is
        installed; not needed with --run.
      run: watch the policy of this run, or of a shipped agent (agent:NAME): its switch, subgoal and
        action, turn by turn.
      expert: watch the scripted expert.
      recording: watch an episode saved by --save.
      save: save the episode.
      games: folder of official games (suite alfworld).
      data: folder of official files (suite webshop).
      options: other options of the suite, each KEY=VALUE.
      split: split the task is from; default: the suite's last.
      number: number of the task in its split.
      temperature: Sampling temperature of the watched policy; 0 is greedy.
      delay: seconds between turns, when watching.
      show_context: Also print the watched policy's prompt as it sees it, turn by turn.
      accept_changed_prompt: Watch a policy that was trained on another prompt than today's.
    """
    if run is not None:
        components, state = restore_run(
            run, "best", accept_changed_prompt=accept_changed_prompt, games=games, data=data
        )
        known = components.config.env.suite
        if suite not in (None, known):
            raise UsageError(
                f"{run} was trained on the suite {known}; asked to play {suite}: expected no other"
            )
        task_id = pick_task(components.suite, split or components.config.eval.splits[0], number)
        result = components.rollout.collect(
            state.policy,
            [task_id],
            key=derive_key(number, Stream.EVALUATION),
            temperature=temperature,
        )
        show_result(result, components.prompter.tokenizer, delay, show_context)
        return
    folders = {"games": games, "data": data}
    given = {name: folder for name, folder in folders.items() if folder is not None}
    name = suite or "household"
    world = make_suite(name, **given, **parse_options(name, options))
    task_id = pick_task(world, split, number)
    if expert and not world.has_expert:
        raise SuiteError(f"suite {world.name} has no scripted expert; play it without --expert")
    player = world.make_expert(seed=0) if expert else None
    if recording is not None:
        kept = Recording.load(recording)
        player, task_id = Recorded(kept), kept.task_id
    done = play(world, task_id, player, delay=delay if player else 0.0)
    if save is not None:
        done.save(save)


def pick_task(suite: Suite, split: str | None, number: int) -> str:
    """Task `number` of a split; the suite's last split by default.

    Raises:
      FileNotFoundError: there is none of that number.
      ConfigError: there is no such split.
    """
    split = split or suite.splits[-1]
    check_split(suite, split, "--split")
    tasks = suite.tasks(split)
    if not 0 <= number < len(tasks):
        raise FileNotFoundError(f"task number {number}: the split has tasks 0 to {len(tasks) - 1}")
    return tasks[number]


def show_result(result: RolloutResult, tokenizer: Any, delay: float, show_context: bool) -> None:
    """Print what a policy played, turn by turn."""
    for trajectory in result.trajectories:
        text = render_trajectory(trajectory, tokenizer, context=show_context)
        for paragraph in text.split("-- turn"):
            print(("-- turn" if paragraph.startswith(" ") else "") + paragraph, end="")
            time.sleep(delay)
    for failure in result.failures:
        print(f"the episode was lost: {failure.error}")
