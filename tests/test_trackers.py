"""Experiment trackers: the real ones offline where they are installed, and what can go wrong."""

import json
import sqlite3
import sys

import pytest

from hiperjax import cli
from hiperjax.config import ConfigError, RunConfig, TrackConfig
from hiperjax.training.metrics import METRICS, Recorder, read_lines
from hiperjax.training.trackers import RECORD, Tracker, check_tracker


def config(to: str) -> RunConfig:
    return RunConfig(track=TrackConfig(to=to, project="probe"))  # type: ignore[arg-type]


def session(folder, to, iterations, complaints) -> None:
    """One session of a run: it begins where the folder says, and sends its scalars."""
    tracker = Tracker(config(to), folder, complaints.append)
    recorder = Recorder(folder, iteration=iterations[0] - 1, tracker=tracker)
    for i in iterations:
        recorder.write(i, {"success": i / 8, "eval/unseen/success": 0.5}, {"update": 2.0})
    recorder.close()


def test_a_tracker_that_is_not_installed_is_refused_before_anything_slow(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
    check_tracker(TrackConfig())
    out = tmp_path / "run"
    with pytest.raises(SystemExit) as stopped:
        cli.main(["train", "--track.to", "wandb", "--out", str(out)])
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and not out.exists()
    assert said.count("\n") == 1 and "pip install 'hiperjax[wandb]'" in said
    with pytest.raises(ConfigError, match="the package trackio is not installed"):
        check_tracker(TrackConfig(to="trackio"))


PACKAGE = """
class Run:
    def __init__(self, **options):
        self.options, self.rows = options, []
    def log(self, values, step):
        if step == {fails}:
            raise OSError("the tracker's disk is full\\nindeed")
        LOG.append((self.options["name"], step, values["success"]))
    def finish(self):
        LOG.append("finished")
LOG = []
def init(**options):
    assert options["config"]["track"]["project"] == options["project"] == "probe"
    assert options["resume"] == "allow"
    return Run(**options)
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Writes a package in the place of trackio; returns what it was told, as it grows."""

    def write(fails):
        monkeypatch.delitem(sys.modules, "trackio", raising=False)
        (tmp_path / "trackio.py").write_text(PACKAGE.format(fails=fails))
        monkeypatch.syspath_prepend(str(tmp_path))
        import trackio  # pyright: ignore

        return trackio.LOG

    yield write
    sys.modules.pop("trackio", None)


def test_what_a_resumed_run_does_again_is_not_sent_again(package, tmp_path):
    log, complaints = package(fails=None), []
    session(tmp_path / "run", "trackio", range(0, 4), complaints)
    session(tmp_path / "run", "trackio", range(2, 6), complaints)  # its checkpoint was at 1
    name = json.loads((tmp_path / "run" / RECORD).read_text())["id"]
    assert name.startswith("run-") and not complaints
    assert [x for x in log if x != "finished"] == [(name, i, i / 8) for i in range(6)]
    assert log.count("finished") == 2
    assert [r["iteration"] for r in read_lines(tmp_path / "run" / METRICS)] == list(range(6))


def test_a_tracker_that_fails_costs_a_line_and_not_the_run(package, tmp_path):
    log, complaints = package(fails=1), []
    session(tmp_path / "run", "trackio", range(0, 4), complaints)
    assert len(read_lines(tmp_path / "run" / METRICS)) == 4
    assert [x[1] for x in log if x != "finished"] == [0]
    (line,) = complaints
    assert "trackio: OSError: the tracker's disk is full indeed; nothing more" in line
    session(tmp_path / "run", "trackio", range(2, 5), complaints)
    assert [x[1] for x in log if x != "finished"] == [0, 2, 3, 4], "the next session tries again"


@pytest.mark.parametrize("damage", ["{", '{"id": 3, "sent": "x"}'])
def test_a_damaged_record_begins_anew(package, tmp_path, damage):
    log, complaints = package(fails=None), []
    session(tmp_path / "run", "trackio", range(0, 2), complaints)
    (tmp_path / "run" / RECORD).write_text(damage)
    session(tmp_path / "run", "trackio", range(1, 3), complaints)
    assert len({x[0] for x in log if x != "finished"}) == 2


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_wandb_keeps_the_scalars_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="runs wandb itself, offline: absent")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    complaints = []
    session(tmp_path / "run", "wandb", range(0, 3), complaints)
    session(tmp_path / "run", "wandb", range(2, 4), complaints)
    assert not complaints
    name = json.loads((tmp_path / "run" / RECORD).read_text())["id"]
    files = sorted((tmp_path / "run" / "wandb").glob(f"offline-run-*/run-{name}.wandb"))
    assert len(files) == 2, "a session each, of one run: wandb sync appends"
    first, second = (file.read_bytes() for file in files)
    assert b"eval/unseen/success" in first and b"seconds/update" in first
    assert b"0.375" in second and b"0.375" not in first


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_trackio_keeps_the_scalars_on_this_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio", reason="runs trackio itself, locally: absent")
    complaints = []
    session(tmp_path / "run", "trackio", range(0, 3), complaints)
    session(tmp_path / "run", "trackio", range(2, 4), complaints)
    assert not complaints
    (database,) = (tmp_path / "trackio").glob("probe*.db")
    with sqlite3.connect(database) as connection:
        rows = connection.execute("select step, metrics from metrics order by step").fetchall()
    found = [(step, json.loads(text)) for step, text in rows]
    mine = [(step, values["success"]) for step, values in found if "success" in values]
    assert mine == [(i, i / 8) for i in range(4)]
