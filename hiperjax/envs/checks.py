"""`check_suite`: holds a world to its contract; `hiperjax.testing` shows it to the outside.

Nothing here imports jax, so a world can be checked where there is none.
"""

import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from hiperjax.envs.base import Decision, Expert, Step, Suite
from hiperjax.envs.border import BorderError, CheckedEnv
from hiperjax.types import Observation

NONSENSE = "no world understands this command"
_FRESH = """
import pickle, sys
suite = pickle.load(sys.stdin.buffer)
suite.make_env().reset(suite.tasks(suite.splits[0])[0])
print(*{"jax", "jaxlib", "flax", "torch"} & sys.modules.keys())
"""


class CheckFailed(AssertionError):
    """A suite does not keep its contract."""


def _require(holds: bool, where: str, found: Any, expected: str) -> None:
    if not holds:
        raise CheckFailed(f"{where}: found {found!r}; expected {expected}")


class Fumbler(Expert):
    """Plays where there is no expert: the first command listed, or nonsense."""

    def reset(self, observation: Observation) -> None:
        """Nothing."""

    def decide(self, observation: Observation) -> Decision:
        return Decision(True, "see what happens", next(iter(observation.admissible), NONSENSE))


def check_suite(suite: Suite, *, tasks: int = 3, fresh_process: bool = True) -> None:
    """Play a few tasks of every split and hold the suite to its contract.

    Checked are splits, tasks and their types; the types of all that environments return; that an
    episode is a function of its task and the actions; that any string is a legal action; that the
    scripted expert acts admissibly and solves a task of the training split; flags; and, in a
    process of its own, that the suite travels to workers and wakes no accelerator library there.

    Args:
      suite: what to check.
      tasks: how many tasks of each split are played.
      fresh_process: whether to start a Python process for the last check.

    Raises:
      CheckFailed: says what was found, what is expected and where.
    """
    _require(isinstance(suite, Suite), "suite", type(suite).__name__, "a hiperjax.envs.base.Suite")
    for name, kind in (("name", str), ("role", str), ("max_turns", int), ("splits", tuple)):
        value = getattr(suite, name, None)
        fits = isinstance(value, kind) and bool(value)
        _require(fits, f"suite.{name}", value, f"a {kind.__name__} that is not empty or zero")
    where = f"suite {suite.name}"
    _require("train" in suite.splits, f"{where}.splits", suite.splits, "train among them")
    _require(suite.max_turns > 0, f"{where}.max_turns", suite.max_turns, "at least 1")
    for split in suite.splits:
        _check_tasks(suite, split)
        solved = [_check_episode(suite, task) for task in suite.tasks(split)[:tasks]]
        if split == "train" and suite.has_expert:
            told = f"{sum(solved)} of {len(solved)} tasks of {split} solved by the expert"
            _require(any(solved), where, told, f"at least 1 within {suite.max_turns} turns")
    _check_unknown(suite)
    if fresh_process:
        _check_fresh_process(suite)


def _check_tasks(suite: Suite, split: str) -> None:
    where = f"suite {suite.name}, split {split}"
    found = suite.tasks(split)
    _require(len(found) > 0, f"{where}, number of tasks", len(found), "at least 1")
    first = list(found[:50])
    _require(all(isinstance(t, str) for t in first), f"{where}, task ids", first[:3], "strings")
    _require(len(set(first)) == len(first), f"{where}, task ids", first[:3], "no id twice")
    again = list(suite.tasks(split)[:50])
    _require(again == first, f"{where}, task ids asked for again", again[:3], f"{first[:3]}")
    kind = suite.task_type(first[0])
    _require(isinstance(kind, str), f"{where}, type of task {first[0]}", kind, "a string")


def _check_unknown(suite: Suite) -> None:
    """What a suite does not have is a `KeyError`, which says so."""
    for what, ask in (
        ("tasks('no such split')", lambda: suite.tasks("no such split")),
        ("reset('no such task')", lambda: suite.make_env().reset("no such task")),
    ):
        try:
            ask()
        except KeyError:
            continue
        except Exception as error:
            found = f"{type(error).__name__}: {error}"
        else:
            found = "no error"
        _require(False, f"suite {suite.name}, {what}", found, "a KeyError")


def _check_episode(suite: Suite, task: str) -> bool:
    """One task played by the expert, and again by its actions; whether it was solved."""
    where = f"suite {suite.name}, task {task}"
    try:
        seen, actions, steps = _play(suite, task)
        repeated = _repeat(suite, task, actions)
        _check_nonsense(suite, task)
    except BorderError as error:
        raise CheckFailed(str(error)) from error
    for turn, (first, second) in enumerate(zip([seen, *steps], repeated, strict=True)):
        _require(first == second, f"{where}, turn {turn}, played again", second, f"{first!r}")
    for turn, step in enumerate(steps, start=1):
        if step.milestone:
            flag = f"{where}, turn {turn}, milestone"
            _require(suite.reports_milestones, flag, True, "False: reports_milestones is False")
        if step.score is not None:
            flag = f"{where}, turn {turn}, score"
            _require(suite.reports_scores, flag, step.score, "None: reports_scores is False")
    return bool(steps) and steps[-1].success


def _play(suite: Suite, task: str) -> tuple[Observation, list[str], list[Step]]:
    env, expert = CheckedEnv(suite), suite.make_expert(seed=0) if suite.has_expert else Fumbler()
    seen = observation = env.reset(task)
    expert.reset(observation)
    actions: list[str] = []
    steps: list[Step] = []
    while len(steps) < suite.max_turns:
        where = f"suite {suite.name}, task {task}, turn {len(steps) + 1}, expert"
        decision = expert.decide(observation)
        _require(isinstance(decision, Decision), where, decision, "a hiperjax.envs.base.Decision")
        texts = isinstance(decision.subgoal, str) and isinstance(decision.action, str)
        _require(texts and bool(decision.subgoal), where, decision, "a subgoal and an action")
        allowed = not suite.has_expert or suite.is_admissible(decision.action, observation)
        _require(allowed, f"{where}, action", decision.action, "an admissible one")
        steps.append(env.step(decision.action))
        actions.append(decision.action)
        observation = steps[-1].observation
        if steps[-1].terminated or steps[-1].truncated:
            break
    env.close()
    return seen, actions, steps


def _repeat(suite: Suite, task: str, actions: Sequence[str]) -> list[Observation | Step]:
    """The same actions in an environment that has played before."""
    env = CheckedEnv(suite)
    env.reset(task)
    env.step(actions[0])
    found = [env.reset(task), *map(env.step, actions)]
    env.close()
    return found


def _check_nonsense(suite: Suite, task: str) -> None:
    env = CheckedEnv(suite)
    env.reset(task)
    for action in (NONSENSE, ""):
        try:
            step = env.step(action)
        except BorderError:
            raise
        except Exception as error:
            where = f"suite {suite.name}, task {task}, step({action!r})"
            found = f"{type(error).__name__}: {error}"
            told = f"{where}: found {found!r}; expected a Step: any string is legal"
            raise CheckFailed(told) from error
        if step.terminated or step.truncated:
            break
    env.close()


def _check_fresh_process(suite: Suite) -> None:
    where = f"suite {suite.name} in a process of its own"
    done = subprocess.run(
        [sys.executable, "-c", _FRESH],
        input=pickle.dumps(suite),
        capture_output=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=300,
        check=False,
    )
    told = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
    _require(done.returncode == 0, where, told, "that it unpickles and resets")
    awake = done.stdout.decode().split()
    _require(not awake, f"{where}, libraries imported", awake, "none of them")
