"""One process trains in a run folder; whatever two do at once to one folder ends well."""

import concurrent.futures
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import textwrap
import threading

import pytest

from hiperjax.config import ConfigError
from hiperjax.files import new_folder, write_text
from hiperjax.presets import PRESETS
from hiperjax.training.folder_lock import LOCK, FolderLock, make_new_folder, this_process
from hiperjax.training.run import claim_folder
from hiperjax.training.run_folder import CONFIG

BASE = PRESETS["household-tiny"][1]


def write_holder(folder: pathlib.Path, **changes) -> None:
    holder = dataclasses.asdict(dataclasses.replace(this_process(), **changes))
    (folder / LOCK).write_text(json.dumps(holder))


def test_a_locked_folder_is_refused_and_a_released_one_taken(tmp_path):
    first = FolderLock(tmp_path)
    first.acquire()
    with pytest.raises(ConfigError, match=f"process {os.getpid()} on .* is training there"):
        FolderLock(tmp_path).acquire()
    first.release()
    second = FolderLock(tmp_path)
    second.acquire()
    assert not second.taken_over and list(tmp_path.iterdir()) == [tmp_path / LOCK]
    first.release()
    assert (tmp_path / LOCK).exists(), "who has released it does not release another's"
    second.release()
    assert list(tmp_path.iterdir()) == []


def test_a_dead_process_lock_is_taken_over_and_said(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    write_holder(tmp_path, pid=gone.pid, started="then")
    lock = FolderLock(tmp_path)
    lock.acquire()
    assert f"({gone.pid} on" in lock.taken_over and "has died" in lock.taken_over


def test_a_process_id_used_again_does_not_count_as_the_lock_holder(tmp_path):
    write_holder(tmp_path, started="another boot/1")
    FolderLock(tmp_path).acquire()


def test_a_lock_that_somebody_removed_is_taken_again_unless_another_process_has_it(tmp_path):
    lock = FolderLock(tmp_path)
    lock.acquire()
    held = (tmp_path / LOCK).read_text()
    lock.acquire()
    assert (tmp_path / LOCK).read_text() == held
    (tmp_path / LOCK).unlink()
    lock.acquire()
    with pytest.raises(ConfigError, match="is training there"):
        FolderLock(tmp_path).acquire()
    write_holder(tmp_path, pid=1, since="noon")
    with pytest.raises(ConfigError, match=r"process 1 on .* trains there since noon, though"):
        lock.acquire()
    lock.release()
    assert json.loads((tmp_path / LOCK).read_text())["pid"] == 1


@pytest.mark.parametrize("name", ["checkpoints", "metrics.jsonl", CONFIG])
def test_a_new_run_is_refused_where_parts_of_another_lie(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(ConfigError, match=rf"which holds a run \({name}\); expected a new folder"):
        claim_folder(dataclasses.replace(BASE, out=tmp_path), None)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("change", [{"host": "elsewhere"}, {"namespace": "pid:[1]"}])
def test_another_hosts_lock_is_refused_saying_how_to_remove_it(tmp_path, change):
    write_holder(tmp_path, pid=1, **change)
    with pytest.raises(ConfigError, match=f"if it does not, remove .*{LOCK}"):
        FolderLock(tmp_path).acquire()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}', "\0\0"])
def test_a_lock_cut_short_holds_nobody(tmp_path, text):
    (tmp_path / LOCK).write_text(text)
    FolderLock(tmp_path).acquire()


@pytest.mark.parametrize("stale", [False, True])
def test_of_many_at_once_one_gets_the_lock(tmp_path, stale):
    def try_lock(_: int) -> str:
        start.wait()
        lock = FolderLock(tmp_path)
        try:
            lock.acquire()
        except ConfigError:
            return "refused"
        return "held"

    for _ in range(5):
        start = threading.Barrier(8)
        if stale:
            write_holder(tmp_path, started="another boot/1")
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            assert sorted(pool.map(try_lock, range(8))) == ["held"] + ["refused"] * 7
        (tmp_path / LOCK).unlink()


def test_a_default_name_that_is_taken_gets_a_suffix(tmp_path):
    made = [make_new_folder(tmp_path / "runs" / "x") for _ in range(3)]
    assert [folder.name for folder in made] == ["x", "x-2", "x-3"]


def test_a_claim_is_made_before_anything_else_and_refuses_a_run(tmp_path):
    config = dataclasses.replace(BASE, out=tmp_path / "new" / "run")
    folder, lock = claim_folder(config, None)
    assert folder == config.out and lock is not None
    for resume in (None, folder):
        with pytest.raises(ConfigError, match="is training there"):
            claim_folder(config, resume)
    lock.release()
    (folder / CONFIG).write_text("{}")
    with pytest.raises(ConfigError, match="which holds a run"):
        claim_folder(config, None)
    assert not (folder / LOCK).exists()


def test_a_folder_that_cannot_be_is_a_fault_that_names_it(tmp_path):
    (tmp_path / "file").write_text("kept")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match=rf"^{out}: .*; expected a folder that can be"):
            claim_folder(dataclasses.replace(BASE, out=out), None)
    assert (tmp_path / "file").read_text() == "kept"


def test_a_mistake_found_later_leaves_no_folder_and_no_lock(tmp_path):
    from hiperjax.training.run import open_run

    env = dataclasses.replace(BASE.env, suite="nowhere/at-all")
    with pytest.raises(Exception, match="nowhere"):
        open_run(dataclasses.replace(BASE, out=tmp_path / "run", env=env), None)
    assert list(tmp_path.iterdir()) == []


def test_a_file_fault_leaves_the_old_file_whole(tmp_path):
    path = tmp_path / "a.json"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\ud800")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    write_text("/dev/stdout", "")


def test_a_folder_fault_leaves_nothing_and_a_slower_one_is_refused(tmp_path):
    target = tmp_path / "export"
    with pytest.raises(RuntimeError), new_folder(target) as partial:
        (partial / "half").write_text("")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileExistsError, match="not empty"), new_folder(target) as slow:
        (slow / "one").write_text("")
        with new_folder(target) as fast:
            (fast / "two").write_text("")
    assert [path.name for path in target.iterdir()] == ["two"]
    assert list(tmp_path.iterdir()) == [target]


def test_a_failed_process_stops_whatever_threads_are_left():
    code = """
        import sys, threading, time
        from hiperjax import cli
        cli.GRACE = 0.2
        sys.argv = ["hiperjax", "presets"]
        threading.Thread(target=time.sleep, args=(600,)).start()
        def fail(args):
            print("told before the end")
            raise OSError(28, "No space left on device", "somewhere")
        cli.COMMANDS["presets"] = fail
        cli.entry()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1 and done.stdout == "told before the end\n"
    assert done.stderr.splitlines() == [
        "hiperjax presets: [Errno 28] No space left on device: 'somewhere'"
    ]
