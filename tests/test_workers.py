"""One interface, one behavior: backends agree, and what raises is data."""

import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import pytest

import hiperjax.envs.workers as workers_module
from hiperjax.envs.base import Step
from hiperjax.envs.ladder import LadderEnv, LadderSuite
from hiperjax.envs.registry import make_suite
from hiperjax.envs.workers import EnvFailure, InlineWorkers, make_workers
from hiperjax.types import Observation


class FragileEnv(LadderEnv):
    """A world that raises, or takes its whole process with it."""

    def reset(self, task_id: str) -> Observation:
        if task_id == "cursed":
            raise RuntimeError("this task is cursed")
        return super().reset("walk")

    def step(self, action: str) -> Step:
        if action == "boom":
            raise ZeroDivisionError("boom")
        if action == "die":
            os._exit(7)
        if action == "leave a child" and os.fork():  # which keeps this end of the pipe open
            os._exit(7)
        if action in ("leave a child", "hang"):
            time.sleep(20)
            os._exit(0)
        if action == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        return super().step("look")


class FragileSuite(LadderSuite):
    def make_env(self) -> LadderEnv:
        return FragileEnv(self._rung, self._scripts)


@pytest.fixture(scope="module")
def fragile():
    rung = make_suite("ladder/discounting")
    return FragileSuite("discounting", rung._scripts)  # type: ignore[attr-defined]


def play_through(suite, backend):
    """Everything seen in eight episodes of scripted length, in slots out of order."""
    workers = make_workers(suite, backend=backend, num_workers=2)
    slots, seen = [5, 0, 3, 9], []
    for start in (0, 4):
        observations = workers.reset(slots, list(suite.tasks("train")[start : start + 4]))
        seen.append(observations)
        for turn in range(6):
            actions = [o.admissible[turn % len(o.admissible)] for o in observations]
            steps = workers.step(slots, actions)
            seen.append(steps)
            observations = [step.observation for step in steps]
    workers.close()
    return seen


def test_process_workers_equal_inline_ones():
    suite = make_suite("household")
    assert play_through(suite, "process") == play_through(suite, "inline")


def test_ray_workers_equal_inline_ones():
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    suite = make_suite("household")
    assert play_through(suite, "ray") == play_through(suite, "inline")


@pytest.mark.parametrize("backend", ["inline", "process"])
def test_an_environment_that_raises_loses_only_its_episode(fragile, backend):
    workers = make_workers(fragile, backend=backend, num_workers=1)
    good, cursed = workers.reset([0, 1], ["only", "cursed"])
    assert isinstance(good, Observation) and isinstance(cursed, EnvFailure)
    assert cursed.task_id == "cursed"
    assert cursed.error.startswith("RuntimeError: this task is cursed\n")
    assert "in reset" in cursed.error
    workers.reset([1], ["only"])
    fine, failed = workers.step([0, 1], ["look", "boom"])
    assert isinstance(fine, Step) and isinstance(failed, EnvFailure)
    assert failed.error.startswith("ZeroDivisionError: boom\n")
    assert isinstance(workers.reset([1], ["only"])[0], Observation)
    workers.close()


@pytest.mark.parametrize(("backend", "reason"), [("process", "exit code 7"), ("ray", "Ray actor")])
def test_a_worker_that_dies_is_replaced_and_its_episodes_are_reported(fragile, backend, reason):
    if backend == "ray":
        ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
        # actors cannot import this file
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    workers = make_workers(fragile, backend=backend, num_workers=2)
    workers.reset([0, 1, 2, 3], ["only"] * 4)
    results = workers.step([0, 1], ["die", "look"])
    assert isinstance(results[0], EnvFailure) and reason in results[0].error
    assert isinstance(results[1], Step)
    lost, kept = workers.step([2, 3], ["look", "look"])  # slot 2 lived in the same worker
    assert isinstance(lost, EnvFailure) and isinstance(kept, Step)
    with pytest.raises(RuntimeError, match="slot 2"):
        workers.step([2], ["look"])
    opened = workers.reset([0, 2], ["only", "only"])
    assert all(isinstance(o, Observation) for o in opened)
    assert isinstance(workers.step([2], ["look"])[0], Step)
    workers.close()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_worker_that_dies_and_leaves_a_child_is_noticed(fragile):
    """Without a time limit, too."""
    workers = make_workers(fragile, "process", 1)
    workers.reset([0], ["only"])
    started = time.monotonic()
    (lost,) = workers.step([0], ["leave a child"])
    assert isinstance(lost, EnvFailure) and "exit code 7" in lost.error
    workers.close()
    assert time.monotonic() - started < 15


def test_workers_that_hang_are_closed_together(fragile, monkeypatch):
    monkeypatch.setattr(workers_module, "CLOSE_SECONDS", 1.0)
    workers = make_workers(fragile, "process", 3)
    workers.reset([0, 1, 2], ["only"] * 3)
    for worker, slot in zip(workers._workers, range(3), strict=True):  # type: ignore[attr-defined]
        worker.send("step", [slot], ["hang"])
    started = time.monotonic()
    workers.close()
    assert 1.0 <= time.monotonic() - started < 2.5


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a worker ends at its next word")
def test_workers_do_not_outlive_a_process_that_is_killed(fragile):
    """Not even one that is stopped, or stuck amid a step."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    trainer = context.Process(target=_train, args=(theirs, fragile))
    trainer.start()
    pids = ours.recv()
    assert len(pids) == 2
    trainer.kill()
    trainer.join(timeout=30)
    deadline = time.monotonic() + 10
    while any(_state(pid) not in ("", "Z", "X") for pid in pids):
        assert time.monotonic() < deadline, "a worker is left over"
        time.sleep(0.02)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def _train(pipe, suite) -> None:
    """A process with a worker that hangs and one that is stopped."""
    workers = make_workers(suite, "process", 2)
    workers.reset([0, 1], ["only", "only"])
    remotes = workers._workers  # type: ignore[attr-defined]
    for slot, action in enumerate(("hang", "stop")):
        remotes[slot].send("step", [slot], [action])
    pids = [remote._process.pid for remote in remotes]
    while _state(pids[1]) != "T":
        time.sleep(0.02)
    pipe.send(pids)
    time.sleep(60)


def test_a_step_without_a_reset_is_a_bug_of_the_caller(fragile):
    with pytest.raises(RuntimeError, match="slot 4"):
        InlineWorkers(fragile).step([4], ["look"])


def test_unknown_backends_and_empty_pools_are_refused(fragile):
    with pytest.raises(ValueError, match=r"'fibers'.*inline"):
        make_workers(fragile, backend="fibers")
    with pytest.raises(ValueError, match="num_workers: found 0"):
        make_workers(fragile, backend="process", num_workers=0)
