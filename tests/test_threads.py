"""Worlds that wait: threads hand out answers as they come, and a rollout goes on meanwhile."""

import asyncio
import threading
import time

import pytest

from hiperjax.envs.base import Outcome, Step
from hiperjax.envs.ladder import LadderEnv, LadderSuite
from hiperjax.envs.registry import make_suite
from hiperjax.envs.threads import ThreadWorkers
from hiperjax.envs.workers import EnvFailure, make_workers
from hiperjax.types import Ending, Observation


class WaitingEnv(LadderEnv):
    """Waits as long as the action says."""

    def step(self, action: str) -> Step:
        if action == "boom":
            raise ZeroDivisionError("boom")
        if action.startswith("wait "):
            time.sleep(float(action.removeprefix("wait ")))
        return super().step("walk on")

    def score(self, ending: Ending) -> Outcome | None:
        return Outcome(score=0.5, reward=1.0, satisfied=frozenset({ending.value}))


class AsyncEnv(WaitingEnv):
    """The same, by coroutines."""

    async def reset(self, task_id: str) -> Observation:  # type: ignore[override]
        await asyncio.sleep(0)
        return super().reset(task_id)

    async def step(self, action: str) -> Step:  # type: ignore[override]
        if action.startswith("wait "):
            await asyncio.sleep(float(action.removeprefix("wait ")))
        return super().step("walk on")


class WaitingSuite(LadderSuite):
    env = WaitingEnv

    def make_env(self) -> LadderEnv:
        return self.env(self._rung, self._scripts)


class AsyncSuite(WaitingSuite):
    env = AsyncEnv


@pytest.fixture(params=[WaitingSuite, AsyncSuite])
def suite(request):
    rung = make_suite("ladder/discounting")
    return request.param("discounting", rung._scripts)  # type: ignore[attr-defined]


def open_slots(suite, threads: int, slots: int, limit: float | None = None) -> ThreadWorkers:
    workers = make_workers(suite, "threads", threads, limit)
    assert isinstance(workers, ThreadWorkers)
    opened = workers.reset(range(slots), ["walk"] * slots)
    assert all(isinstance(each, Observation) for each in opened)
    return workers


def test_calls_wait_side_by_side_and_the_quick_come_first(suite):
    workers = open_slots(suite, 8, 8)
    started = time.monotonic()
    workers.ask("step", range(8), ["wait 0.6", *["wait 0.2"] * 7])
    first = []
    while len(first) < 7:
        first += workers.take(wait=True)
    assert 0 not in dict(first) and len(first) == 7
    assert [slot for slot, _ in workers.take(wait=True)] == [0]
    assert time.monotonic() - started < 1.6, "one after the other they take 2 s"
    assert workers.take(wait=True) == [], "nothing is asked for"
    workers.close()


def test_an_answer_that_is_late_costs_its_episode_and_no_other(suite):
    workers = open_slots(suite, 1, 2, limit=0.2)
    stuck, fine = workers.step([0, 1], ["wait 1.0", "walk on"])
    assert isinstance(stuck, EnvFailure) and isinstance(fine, Step)
    assert "StepTimeout" in stuck.error and "env.step_timeout 0.2 s" in stuck.error
    with pytest.raises(RuntimeError, match="no live episode"):
        workers.step([0], ["walk on"])
    (again,) = workers.reset([0], ["walk"])
    assert isinstance(again, Observation)
    workers.close()


def test_what_is_raised_is_data_and_the_end_is_told(suite):
    workers = open_slots(suite, 2, 2)
    assert workers.score([1], [Ending.TRUNCATED]) == [
        Outcome(0.5, 1.0, frozenset({"truncated"}), None)
    ]
    if suite.env is WaitingEnv:
        failed, _ = workers.step([0, 1], ["boom", "walk on"])
        assert isinstance(failed, EnvFailure) and failed.error.startswith("ZeroDivisionError: boom")
    lost = workers.reset([1], ["no such task"])
    assert isinstance(lost[0], EnvFailure)
    workers.close()


def test_what_nobody_waits_for_is_forgotten(suite):
    workers = open_slots(suite, 2, 1)
    workers.ask("step", [0], ["wait 0.3"])
    workers.forget()
    (opened,) = workers.reset([0], ["walk"])
    assert isinstance(opened, Observation)
    time.sleep(0.4)
    assert workers.take(wait=False) == []
    workers.close()


def test_a_world_says_how_many_may_be_busy(suite):
    suite.max_concurrency = 1
    before = sum(thread.name == "environment" for thread in threading.enumerate())
    workers = open_slots(suite, 6, 2)
    assert sum(t.name == "environment" for t in threading.enumerate()) <= before + 1
    workers.close()
    with pytest.raises(ValueError, match="num_workers: found 0"):
        make_workers(suite, "threads", 0)


@pytest.mark.parametrize("backend", ["inline", "process"])
def test_every_backend_tells_the_end(backend):
    rung = make_suite("ladder/discounting")
    suite = WaitingSuite("discounting", rung._scripts)  # type: ignore[attr-defined]
    workers = make_workers(suite, backend, 1)
    workers.reset([3], ["walk"])
    (outcome,) = workers.score([3], [Ending.TERMINATED])
    assert outcome == Outcome(0.5, 1.0, frozenset({"terminated"}), None)
    workers.close()
    with pytest.raises(RuntimeError, match=r"slot 9"):
        make_workers(suite, "inline").score([9], [Ending.TERMINATED])
