"""A stop is heard in every long phase, and what is resumed equals the uninterrupted run."""

import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest
from helpers.small_runs import small_run

from hiperjax.acting import demonstrations
from hiperjax.acting.rollout import _Run
from hiperjax.config import RunConfig
from hiperjax.envs.ladder import SCRIPTS, LadderEnv, LadderSuite
from hiperjax.envs.workers import make_workers
from hiperjax.stop import REQUEST, StopAsked
from hiperjax.training import trainer, warm_start
from hiperjax.training.checkpoint import Checkpoints, SaveError, wait_for
from hiperjax.training.interrupt import StopRequest
from hiperjax.training.metrics import METRICS
from hiperjax.training.run_folder import CHECKPOINTS, IMITATION
from hiperjax.training.trainer import train
from hiperjax.training.unfinished import Unfinished


def tiny(out: pathlib.Path) -> RunConfig:
    return small_run(out, {"imitation": dict(steps=40)}, iterations=3, checkpoint_every=3)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    """The record of a run that nobody stops."""
    return (train(tiny(tmp_path_factory.mktemp("whole") / "run")) / METRICS).read_bytes()


@pytest.fixture
def stop_at(monkeypatch):
    """Send this process signals before a call of a function, the n-th from now."""

    def plan(owner, name: str, number: int, *signals: int):
        function, calls = getattr(owner, name), []

        def call(*args, **kwargs):
            calls.append(name)
            if len(calls) == number:
                for each in signals:
                    os.kill(os.getpid(), each)
            return function(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)
        return lambda: monkeypatch.setattr(owner, name, function)

    return plan


def rows(folder: pathlib.Path) -> int:
    path = folder / METRICS
    return len(path.read_bytes().splitlines()) if path.exists() else 0


PLACES = (
    (demonstrations, "_demonstrate_one", 405, "giving up the expert episodes", 0, ""),
    (warm_start, "imitate", 2, "imitation up to its measurement at step 20", 0, "in imitation"),
    (warm_start, "imitate", 2, "imitation up to its measurement at step 40", 0, "in imitation"),
    (trainer, "evaluate", 1, "giving up the evaluation at iteration 0", 0, "after iteration 0"),
    (_Run, "harvest", 12, "giving up the ", 0, "after iteration"),
    (trainer, "learn", 1, "once more to stop at once", 2, "after iteration 1"),
    (trainer, "evaluate", 1, "giving up the evaluation at iteration 2", 2, "after iteration 2"),
)
"""Where a signal comes, what is said, rows recorded then, and where the run was stopped."""


def test_a_stop_is_heard_in_every_phase_and_the_run_is_the_same(whole, tmp_path, stop_at, capsys):
    """One run, stopped and resumed at every place in turn."""
    folder = tmp_path / "run"
    for count, (owner, name, number, said, least, where) in enumerate(PLACES):
        undo = stop_at(owner, name, number, signal.SIGTERM)
        train(RunConfig() if count else tiny(folder), resume=folder if count else None)
        undo()
        printed = capsys.readouterr().out
        assert "SIGTERM: " in printed and said in printed, printed
        assert f"stopped {where}" in printed and "--resume" in printed and "done: " not in printed
        assert least <= rows(folder) < 4 and not REQUEST.asked
        assert Checkpoints(folder / CHECKPOINTS).exists() == where.startswith("after")
        assert (folder / IMITATION).exists() == (where == "in imitation")
        if count in (2, 3):
            assert f"imitation: going on after step {20 * (count - 1)} of 40" in printed
    train(RunConfig(), resume=folder)
    assert (folder / METRICS).read_bytes() == whole


def test_a_second_signal_stops_at_once_and_loses_no_saved_state(whole, tmp_path, stop_at, capsys):
    """And a damaged state of imitation is no obstacle: it begins anew."""
    folder = tmp_path / "run"
    undo = stop_at(warm_start, "imitate", 1, signal.SIGINT)
    train(tiny(folder))
    undo()
    (folder / IMITATION / "iteration_000010.json").write_text("{")
    capsys.readouterr()
    for owner, name, number in ((trainer, "evaluate", 1), (_Run, "harvest", 14)):
        undo = stop_at(owner, name, number, signal.SIGTERM, signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            train(RunConfig(), resume=folder)
        undo()
    printed = capsys.readouterr().out
    assert "imitation begins anew" in printed and "no good one is left" in printed
    train(RunConfig(), resume=folder)
    assert (folder / METRICS).read_bytes() == whole


class SleepyEnv(LadderEnv):
    def step(self, action):
        time.sleep(600)


class SleepySuite(LadderSuite):
    def make_env(self):
        return SleepyEnv(self._rung, self._scripts)


@pytest.mark.parametrize("limit", [600.0, None])
def test_a_stop_is_heard_while_a_world_is_waited_for(limit, monkeypatch):
    workers = make_workers(SleepySuite("action", SCRIPTS["action"]), "process", 2, limit)
    monkeypatch.setattr(REQUEST, "asked", False)
    workers.reset([0, 1], ["red", "red"])
    timer = threading.Timer(0.5, lambda: setattr(REQUEST, "asked", True))
    timer.start()
    started = time.perf_counter()
    with pytest.raises(StopAsked):
        workers.step([0, 1], ["look", "look"])
    workers.close()
    assert time.perf_counter() - started < 30, "two hung workers are killed after a grace"
    timer.join()


def test_a_worker_stopped_amid_a_message_is_killed():
    """What it has written is a part: the one who reads the rest would wait for ever."""
    workers = make_workers(SleepySuite("action", SCRIPTS["action"]), "process", 1, 1.5)
    workers.reset([0], ["red"])
    remote = workers._workers[0]  # type: ignore[attr-defined]
    remote._process.kill()
    remote._process.join()
    import multiprocessing

    mine, theirs = multiprocessing.Pipe()
    helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    remote._pipe = mine
    remote._message._kill = lambda: (helper.kill(), theirs.close())
    os.write(theirs.fileno(), b"\x00\x00\x40\x00half")
    started = time.perf_counter()
    failure = workers.step([0], ["look"])[0]
    assert "WorkerDied" in failure.error and time.perf_counter() - started < 30
    workers.close()
    helper.wait(timeout=10)


def test_before_anything_is_at_stake_the_first_signal_stops():
    with pytest.raises(KeyboardInterrupt), StopRequest():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_signal_that_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest():
            os.kill(os.getpid(), signal.SIGHUP)
            assert not REQUEST.asked
    finally:
        signal.signal(signal.SIGHUP, before)


def test_who_is_no_main_thread_trains_without_signals_to_stop_it():
    def enter():
        with StopRequest():
            entered.append(1)

    entered: list[int] = []
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert entered


def test_a_wait_for_a_faulty_disk_has_an_end(tmp_path, monkeypatch):
    with pytest.raises(TimeoutError, match=r"not written after 0.05 s"):
        wait_for(lambda: time.sleep(5), 0.05)
    with pytest.raises(ZeroDivisionError):
        wait_for(lambda: 1 // 0, 5.0)
    checkpoints = Checkpoints(tmp_path)
    monkeypatch.setattr("hiperjax.training.checkpoint.SAVE_SECONDS", 0.05)
    monkeypatch.setattr(checkpoints._checkpointer, "wait_until_finished", lambda: time.sleep(5))
    with pytest.raises(SaveError, match="the disk does not answer"):
        import numpy as np

        checkpoints.save(1, {"a": np.ones(3)}, meta={"best": 1.0}, best=True)


def test_what_a_stop_leaves_unfinished_survives_json():
    one = Unfinished({"b": 0.1, "a": 2.0}, {"waste": 1 / 3}, {"rollout": 1.5})
    assert Unfinished.load(one.dump()) == one and list(one.metrics) == ["b", "a"]
    for raw in (None, [], {}, {"metrics": {}}, one.dump() | {"seconds": {"a": "b"}}):
        assert Unfinished.load(raw) is None
