"""A short storm: a tiny run is struck and resumed, and equals the uninterrupted one."""

import dataclasses
import errno
import os
import shutil
import struct
import sys
import threading

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from experiments.studies import fault_run
from experiments.studies.fault_blows import BLOWS, LOSSES
from experiments.studies.fault_session import StormError
from experiments.studies.fault_world import NONSENSE, FaultyEnv, FaultySuite
from experiments.studies.soak import Held, Player, soak, tabulate
from hiperjax.envs.registry import make_suite
from hiperjax.envs.workers import EnvFailure, InlineWorkers, make_workers
from hiperjax.training.checkpoint import Checkpoints, SaveError
from hiperjax.training.events import Events

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@linux
@pytest.mark.slow  # some twenty processes start one after another
def test_a_short_storm_of_faults_changes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("JAX_DISABLE_MOST_OPTIMIZATIONS", raising=False)
    kinds = (*BLOWS, *LOSSES)
    study = fault_run.Study(seed=3, blows=len(kinds), folder=tmp_path, out=tmp_path / "out.json")
    assert fault_run.main(study) == 0, capsys.readouterr()
    printed = capsys.readouterr().out
    assert f"{len(kinds)} blows" in printed or "skipped: no small disk" in printed
    assert (tmp_path / "out.json").exists()


@linux
@pytest.mark.slow  # five processes start one after another, each for some ten seconds
def test_three_faults_change_nothing(tmp_path, capsys):
    kinds = ("SIGTERM", "SIGKILL", "checkpoint cut")
    study = fault_run.Study(seed=1, blows=3, iterations=9, kinds=kinds, folder=tmp_path)
    assert fault_run.main(study) == 0, capsys.readouterr()
    printed = capsys.readouterr().out
    assert "3 blows in" in printed and "all 10 rows equal" in printed
    storm = fault_run.Storm(study, tmp_path)
    storm.reference = [b"{}\n"]
    with pytest.raises(StormError, match="row 0 differs"):
        storm.check(dataclasses.replace(make_session(tmp_path), folder=tmp_path / "disk" / "run2"))


def make_session(tmp_path):
    from experiments.studies.fault_session import Session

    folder = tmp_path / "disk" / "run2"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text('{"iteration": 0}\n{"iteration": 1')
    return Session(folder, "none", [], tmp_path / "log", None)  # type: ignore[arg-type]


def test_a_faulty_world_obeys_each_order_once(tmp_path):
    workers = InlineWorkers(FaultySuite(tmp_path))
    task = FaultySuite(tmp_path).tasks("train")[0]
    for order in ("raise", "nonsense"):
        workers.reset([0, 1], [task, task])
        (tmp_path / order).touch()
        one, two = workers.step([0, 1], ["look", "look"])
        assert isinstance(one, EnvFailure) and not isinstance(two, EnvFailure)
        assert not list(tmp_path.iterdir())
    for step in NONSENSE:
        env = FaultyEnv(FaultySuite(tmp_path).make_env(), tmp_path)
        env._count = NONSENSE.index(step) - 1
        env.reset(task)
        (tmp_path / "nonsense").touch()
        assert env.step("look") is step


# -- soak ------------------------------------------------------------------------------------------


@linux
@pytest.mark.parametrize("name", ["household", "ladder/action"])
def test_soak_a_world_holds_no_more_at_the_end(name):
    row = soak(name, Player(make_suite(name)).play, 2000)
    assert row.end.files == row.start.files and row.end.threads == row.start.threads
    assert row.end.resident_mb < row.start.resident_mb + 25
    assert f"| {name} | " in tabulate([row]) and row.start.resident_mb > 10


@linux
def test_soak_workers_that_are_opened_and_closed_hold_nothing():
    suite = make_suite("ladder/action")

    def work(count: int) -> None:
        for _ in range(count):
            workers = make_workers(suite, "process", 1, 30.0)
            workers.reset([0], ["red"])
            workers.close()

    row = soak("workers", work, 4)
    assert (row.end.files, row.end.threads) == (row.start.files, row.start.threads)


@linux
def test_soak_measures_this_process():
    held = soak("nothing", lambda amount: None, 10).end
    assert isinstance(held, Held) and held.files >= 3 and held.threads >= 1
    before = len(os.listdir("/proc/self/fd"))
    assert abs(held.files - before) <= 2


# -- a full disk -----------------------------------------------------------------------------------


@pytest.fixture
def full_disk(tmp_path):
    """A folder with some 100 kB of room left; skips where no small disk can be mounted."""
    with fault_run.make_disk(tmp_path / "disk") as skipped:
        if skipped:
            pytest.skip(skipped)
        free = shutil.disk_usage(tmp_path / "disk").free
        (tmp_path / "disk" / "ballast").write_bytes(bytes(free - 100_000))
        yield tmp_path / "disk"


@linux
def test_a_full_disk_is_a_fault_told_in_one_line(full_disk, capfd):
    """Orbax would log hundreds, from threads of its own."""
    checkpoints = Checkpoints(full_disk / "checkpoints")
    state = {"a": jnp.asarray(np.random.default_rng(0).random(100_000))}
    with pytest.raises(SaveError, match="no space left on the disk of") as refused:
        checkpoints.save(1, state, meta={}, best=True)
    assert "\n" not in str(refused.value) and not checkpoints.exists()
    assert capfd.readouterr() == ("", "")


@linux
def test_events_of_a_full_disk_are_a_fault_and_no_wait(full_disk):
    """tensorboardX's own writer waits for ever: its thread has died."""
    events, threads = Events(full_disk / "events", first=0), threading.active_count()
    with pytest.raises(OSError) as refused:
        for iteration in range(100_000):
            events.write(iteration, {"a": 1.0, "undefined": float("nan")})
    assert refused.value.errno == errno.ENOSPC
    events.close()
    assert threading.active_count() == threads


def test_events_say_from_where_on_earlier_ones_count_no_more(tmp_path):
    for first in (0, 2):
        events = Events(tmp_path, first=first)
        for iteration in range(first, first + 3):
            events.write(iteration, {"a/b": iteration / 2, "c": float("nan")})
        events.close()
        (path,) = tmp_path.iterdir()
        found = read_events(path)
        assert found[0].file_version == "brain.Event:2"
        assert (found[1].step, found[1].session_log.status) == (first, SessionLog.START)
        assert [event.step for event in found[2:]] == [first, first + 1, first + 2]
        values = {value.tag: value.simple_value for value in found[-1].summary.value}
        assert values["a/b"] == (first + 2) / 2 and np.isnan(values["c"])
        path.unlink()


def read_events(path):
    """Length, its checksum, the event, its checksum; and so on."""
    data, found = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        found.append(Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    return found
