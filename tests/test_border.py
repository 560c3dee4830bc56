"""Where worlds enter: what they return wrongly is data that names suite, task, turn and field."""

import asyncio
import dataclasses
import math
import signal
import threading
import time
from typing import Any

import numpy as np
import pytest

from hiperjax.acting.demonstrations import EpisodeLost, demonstrate
from hiperjax.envs.base import Expert, Step
from hiperjax.envs.ladder import SCRIPTS, LadderEnv, LadderSuite
from hiperjax.envs.workers import EnvFailure, make_workers
from hiperjax.training.evaluation import tally_episodes
from hiperjax.types import Observation

SEEN = Observation("A red lamp glows.", "press", ("press red",))


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


GOOD = Step(SEEN, 0.5, False, False)


def seeing(**changes: Any) -> Step:
    """A step whose observation is not as it should be; past the shape checker of the tests."""
    observation = dataclasses.replace(SEEN)
    for name, value in changes.items():
        object.__setattr__(observation, name, value)
    return GOOD._replace(observation=observation)


STEPS: dict[str, tuple[Any, str]] = {
    "nothing": (None, "step is None (NoneType); expected a hiperjax.envs.base.Step"),
    "gym": ((SEEN, 0.0, False, False, {}), "step is (Observation("),
    "reward": (GOOD._replace(reward=None), "reward is None (NoneType); expected a finite number"),
    "text": (GOOD._replace(reward="1"), "reward is '1' (str); expected a finite number"),
    "nan": (GOOD._replace(reward=math.nan), "reward is nan (float); expected a finite number"),
    "huge": (GOOD._replace(reward=10**400), "reward is 1000"),
    "double": (GOOD._replace(reward=1e39), "reward is 1e+39 (float); expected a finite number"),
    "flag": (GOOD._replace(terminated=0), "terminated is 0 (int); expected True or False"),
    "success": (GOOD._replace(success=None), "success is None (NoneType); expected True or False"),
    "score": (GOOD._replace(score=1.5), "score is 1.5 (float); expected a number in [0, 1]"),
    "string": (GOOD._replace(observation="hi"), "observation is 'hi' (str); expected"),
    "odd": (GOOD._replace(observation=Unprintable()), "observation is no repr: RuntimeError (Unpr"),
    "bytes": (seeing(text=b"x"), "observation.text is b'x' (bytes)"),
    "list": (
        seeing(admissible=["go"]),
        "observation.admissible is ['go']",
    ),
    "command": (
        seeing(admissible=("go", 3)),
        "observation.admissible[1] is 3 (int); expected a string",
    ),
    "half": (seeing(text="a\udc80"), "without lone surrogates"),
    "pin": (seeing(pinned="B"), "observation.pinned is 'B' (str)"),
}


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


class Word(str):
    """Text that cannot be sent to another process."""

    def __reduce__(self) -> Any:
        raise TypeError("no")


RAISED: dict[str, tuple[BaseException, str]] = {
    "exit": (SystemExit("enough"), "SystemExit: enough"),
    "cancel": (asyncio.CancelledError("by a server"), "CancelledError: by a server"),
    "mute": (Mute(), "Mute: no text: RuntimeError"),
    "long": (ValueError("one\ntwo" + "x" * 10**6), f"ValueError: one two{'x' * 493}"),
    "half a character": (ValueError("\udc80"), "ValueError: ?"),
}


class ForeignEnv(LadderEnv):
    """Answers an action with what stands under its name above; hangs and exits when asked to."""

    def reset(self, task_id: str) -> Any:
        if task_id == "bare":
            return "just text"
        if task_id == "stuck":
            _hang()
        return SEEN

    def step(self, action: str) -> Any:
        if action == "hang":
            _hang()
        if action in RAISED:
            raise RAISED[action][0]
        if action == "words":
            return seeing(text=Word("A lamp"), admissible=(Word("press"),))
        if action == "slow":
            time.sleep(0.3)
        if action == "numpy":
            info = {"lock": threading.Lock()}
            return GOOD._replace(reward=np.float32(0.5), terminated=np.bool_(True), info=info)
        return STEPS[action][0] if action in STEPS else GOOD


def _hang() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT])
    time.sleep(600)


class ForeignSuite(LadderSuite):
    def make_env(self) -> LadderEnv:
        return ForeignEnv(self._rung, self._scripts)


FOREIGN = ForeignSuite("action", SCRIPTS["action"])


@pytest.fixture(scope="module", params=["inline", "process"])
def workers(request):
    made = make_workers(FOREIGN, request.param, 1)
    yield made
    made.close()


@pytest.mark.parametrize("action", STEPS)
def test_a_breach_names_suite_task_turn_and_field(workers, action):
    workers.reset([0], ["red"])
    workers.step([0], ["press red"])
    (failure,) = workers.step([0], [action])
    assert isinstance(failure, EnvFailure) and failure.task_id == "red"
    assert failure.error.startswith("suite ladder/action, task red, turn 2: ")
    assert STEPS[action][1] in failure.error and "\n" not in failure.error


def test_a_reset_is_checked_too(workers):
    (failure,) = workers.reset([0], ["bare"])
    assert failure.error.startswith(
        "suite ladder/action, task bare, turn 0: observation is 'just text' (str); expected a"
    )


def test_what_passes_has_plain_types_and_leaves_info_behind(workers):
    workers.reset([0], ["red"])
    (step,) = workers.step([0], ["numpy"])
    assert step == Step(SEEN, 0.5, True, False) and step.info == {}
    assert type(step.reward) is float and type(step.terminated) is bool


def test_text_of_another_class_becomes_plain(workers):
    workers.reset([0], ["red"])
    (step,) = workers.step([0], ["words"])
    seen = step.observation
    assert (seen.text, seen.admissible) == ("A lamp", ("press",))
    assert type(seen.text) is str and type(seen.admissible[0]) is str


@pytest.mark.parametrize("action", RAISED)
def test_whatever_a_world_raises_loses_its_episode(workers, action):
    workers.reset([0], ["red"])
    (failure,) = workers.step([0], [action])
    assert failure.cause == RAISED[action][1] and len(failure.error) < 9000


def test_what_a_person_interrupts_is_no_fault_of_the_world():
    env = LadderSuite.make_env(FOREIGN)
    env.step = lambda action: signal.raise_signal(signal.SIGINT)  # type: ignore[method-assign]
    suite = ForeignSuite("action", SCRIPTS["action"])
    suite.make_env = lambda: env  # type: ignore[method-assign]
    workers = make_workers(suite)
    workers.reset([0], ["red"])
    with pytest.raises(KeyboardInterrupt):
        workers.step([0], ["press red"])


def test_an_environment_that_failed_is_closed():
    closed = []

    class Env(ForeignEnv):
        def close(self) -> None:
            closed.append(self)
            raise RuntimeError("and again")

    suite = ForeignSuite("action", SCRIPTS["action"])
    suite.make_env = lambda: Env("action", SCRIPTS["action"])  # type: ignore[method-assign]
    workers = make_workers(suite)
    workers.reset([0], ["red"])
    (failure,) = workers.step([0], ["exit"])
    assert failure.cause == "SystemExit: enough" and len(closed) == 1


def test_a_suite_with_scores_must_give_one_at_the_end():
    class Scored(ForeignSuite):
        reports_scores = True

    workers = make_workers(Scored("action", SCRIPTS["action"]))
    workers.reset([0], ["red"])
    (failure,) = workers.step([0], ["numpy"])
    assert "score is None (NoneType); expected a number in [0, 1]" in failure.error


def test_a_step_past_its_time_is_stopped_and_named():
    """The worker is replaced, even one that hears no SIGTERM; a slow but lawful batch passes."""
    workers = make_workers(FOREIGN, "process", 1, step_timeout=5.0)
    workers.reset([0, 1, 2], ["red", "blue", "red"])  # waits for the start, which may be slow
    workers.close()
    workers = make_workers(FOREIGN, "process", 1, step_timeout=1.0)
    workers.reset([0, 1, 2], ["red", "blue", "red"])
    assert all(isinstance(s, Step) for s in workers.step([0, 1, 2], ["slow"] * 3))
    started = time.perf_counter()
    first, second = workers.step([0, 1], ["press red", "hang"])
    assert time.perf_counter() - started < 20
    where = "suite ladder/action, task blue, step"
    told = f"StepTimeout: {where}: no answer within env.step_timeout 1 s"
    assert (second.task_id, second.error) == ("blue", told)
    assert (first.task_id, first.error) == ("red", told), "it shared the worker"
    assert workers.step([2], ["press red"])[0].error == told
    (stuck,) = workers.reset([0], ["stuck"])
    assert "task stuck, reset: no answer" in stuck.error
    assert isinstance(workers.reset([0], ["red"])[0], Observation)
    workers.close()


def test_demonstrations_count_what_is_lost():
    failures: list[EnvFailure] = []
    options: dict[str, Any] = dict(max_turns=2, seed=0, noise=0.0)
    (kept,) = demonstrate(FOREIGN, ["bare", "red"], failures=failures, **options)
    assert kept.task_id == "red" and [f.task_id for f in failures] == ["bare"]
    with pytest.raises(EpisodeLost, match=r"task bare: suite ladder/action, task bare, turn 0"):
        list(demonstrate(FOREIGN, ["bare"], **options))


@pytest.mark.parametrize(
    ("decided", "told"),
    [
        (ZeroDivisionError("no plan"), "expert: ZeroDivisionError: no plan"),
        (None, "decided None; expected a Decision"),
        ("press red", "decided 'press red'; expected a Decision"),
    ],
)
def test_an_expert_that_fails_loses_its_episode(decided, told):
    class Failing(Expert):
        def reset(self, observation):
            pass

        def decide(self, observation):
            if isinstance(decided, Exception):
                raise decided
            return decided

    suite = ForeignSuite("action", SCRIPTS["action"])
    suite.make_expert = lambda seed, noise=0.0: Failing()  # type: ignore[method-assign]
    failures: list[EnvFailure] = []
    options: dict[str, Any] = dict(max_turns=2, seed=0, noise=0.0)
    assert not list(demonstrate(suite, ["red"], failures=failures, **options))
    assert told in failures[0].cause and failures[0].task_id == "red"


def test_an_expert_plays_where_a_world_that_hangs_is_stopped():
    failures: list[EnvFailure] = []
    options: dict[str, Any] = dict(max_turns=2, seed=0, noise=0.0)
    where: dict[str, Any] = dict(backend="process", step_timeout=1.0)
    (kept,) = demonstrate(FOREIGN, ["stuck", "red"], failures=failures, **where, **options)
    assert kept.task_id == "red" and "task stuck, reset: no answer" in failures[0].cause


def test_an_evaluation_says_what_it_lost():
    from helpers.episodes import make_batch

    played = [
        dataclasses.replace(t, task_id=task, success=task == "red")
        for t, task in zip(make_batch(0, [2, 3]), ["red", "blue"], strict=True)
    ]
    tasks = ["red", "blue", "green", "gray"]
    lost = [EnvFailure("green", "boom"), EnvFailure("gray", "boom")]
    result = tally_episodes(FOREIGN, "train", tasks, played, lost)
    assert (result.overall.rate, result.played.rate) == (0.25, 0.5)
    assert result.metrics()["eval/train/lost"] == 2
    assert result.metrics()["eval/train/success_played"] == 0.5
    assert "2 of 4 tasks were lost in the environment; 0.500 of the 2 played" in result.table()
    assert result.may_choose(0.5) and not result.may_choose(0.49)
    nothing = tally_episodes(FOREIGN, "train", tasks, [], [EnvFailure(t, "boom") for t in tasks])
    assert nothing.metrics() == {"eval/train/lost": 4} and not nothing.may_choose(1.0)
    assert "none was played" in nothing.table() and "0.000" not in nothing.table()
    whole = tally_episodes(FOREIGN, "train", tasks[:2], played, [])
    assert not whole.describe_losses() and "eval/train/lost" not in whole.metrics()
