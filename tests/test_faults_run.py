"""A run folder: strict files for others, damaged ones named, the last good state taken."""

import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from helpers.small_runs import BASE, small_run

from hiperjax.cli import main
from hiperjax.commands.convert import export_run
from hiperjax.files import DamagedFile, defined, dump_json, parse_json, read_json
from hiperjax.models.generation import GENERATION, TOKEN_IDS
from hiperjax.training.build import restore_run
from hiperjax.training.checkpoint import CheckpointError, Checkpoints
from hiperjax.training.episode_record import EpisodeLog
from hiperjax.training.folder_lock import LOCK
from hiperjax.training.metrics import METRICS, Recorder, read_records
from hiperjax.training.record_files import EPISODES
from hiperjax.training.run_folder import CONFIG, load_config, resolve_paths, save_config
from hiperjax.training.trainer import train


def tiny(out: pathlib.Path, **changes):
    parts = {"imitation": dict(steps=0), "eval": dict(max_tasks=2), "env": dict(max_turns=4)}
    return small_run(out, parts, **({"iterations": 2, "checkpoint_every": 1} | changes))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> pathlib.Path:
    return train(tiny(tmp_path_factory.mktemp("faults") / "run"))


@pytest.fixture
def copied(finished, tmp_path) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(finished, tmp_path / "copy of 运行"))


def run(capsys, *argv):
    with pytest.raises(SystemExit) as stop:
        main([str(arg) for arg in argv])
    captured = capsys.readouterr()
    return stop.value.code, captured.out, captured.err


def test_every_file_of_a_run_is_no_fault_to_a_strict_parser(finished):
    parsed = 0
    for path in finished.rglob("*.json*"):
        if "iteration_" in path.parts[-2]:  # orbax's own
            continue
        text = path.read_text(encoding="utf-8")
        parts = text.splitlines() if path.suffix == ".jsonl" else [text]
        parsed += len([parse_json(part) for part in parts])
    assert parsed > 12
    assert not (finished / LOCK).exists() and (finished / "console.log").read_text().strip()
    assert not list(finished.rglob("*.partial"))


def test_what_is_undefined_is_null():
    value = {"a": float("nan"), "b": [float("inf"), 1, (2.5,)], "c": None}
    assert defined(value) == {"a": None, "b": [None, 1, [2.5]], "c": None}
    assert json.loads(dump_json(value)) == defined(value)
    for text in ('{"a": NaN}', "[-Infinity]", "{", "[" * 100_000):
        with pytest.raises(ValueError):
            parse_json(text)


BROKEN = [
    ("", "line 1, column 1"),
    ('{"seed": 1', "line 1, column"),
    ("[]", "holds a list; expected an object"),
    ('{"seed": "one"}', "field seed is 'one'; expected a whole number"),
    ('{"seed": 1.5}', "field seed is 1.5; expected a whole number"),
    ('{"seed": true}', "field seed is True; expected a whole number"),
    ('{"seed": null}', "field seed is None; expected a whole number"),
    ('{"ppo": 3}', "field ppo is 3; expected an object"),
    ('{"ppo": {"learning_rate": "fast"}}', "field ppo.learning_rate is 'fast'; expected a number"),
    ('{"ppo": {"learning_rat": 1}}', "ppo.learning_rat is unknown to version .* ppo.learning_rate"),
    ('{"env": {"size": "vast"}}', "field env.size is 'vast'; expected one of 'tiny'"),
    ('{"eval": {"splits": "seen"}}', "field eval.splits is 'seen'; expected a list"),
    ('{"eval": {"splits": [1]}}', r"field eval.splits\[0\] is 1; expected text"),
    ('{"model": {"folder": 1}}', "field model.folder is 1; expected a path"),
    ('{"seed": NaN}', "NaN is no JSON"),
]


@pytest.mark.parametrize(("text", "message"), BROKEN)
def test_a_faulty_config_is_named_by_file_place_and_cure(tmp_path, text, message):
    (tmp_path / CONFIG).write_text(text)
    with pytest.raises(DamagedFile, match=message) as refused:
        load_config(tmp_path)
    assert str(tmp_path / CONFIG) in str(refused.value) and ";" in str(refused.value)


def test_bytes_and_folders_in_place_of_a_file_are_faults(tmp_path):
    (tmp_path / "a").write_bytes(b'{"a": "\xff"}')
    (tmp_path / "b").mkdir()
    for name in "ab":
        with pytest.raises(DamagedFile, match="copy it"):
            read_json(tmp_path / name, cure="copy it")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (CONFIG, "{"),
        ("checkpoints/index.json", ""),
        ("checkpoints/index.json", '{"last": "2"}'),
        ("tokenizer/tokenizer.json", '{"version"'),
        ("tokenizer/tokenizer.json", "{}"),
        ("tokenizer/tokenizer_config.json", "[]"),
    ],
)
def test_a_faulty_file_of_a_run_is_one_line_and_code_two(copied, capsys, name, text):
    (copied / name).write_text(text)
    for argv in (["evaluate", copied], ["train", "--resume", copied]):
        code, _, err = run(capsys, *argv)
        assert code == 2 and err.count("\n") == 1 and str(copied / name) in err
    assert not (copied / LOCK).exists()


def test_faulty_record_lines_are_reported_and_dropped(tmp_path):
    good = '{"iteration": 1, "x": null}\n'
    bad = ['{"iteration": 2, "x"\n', "[]\n", '{"iteration": "3"}\n', "\n"]
    path = tmp_path / METRICS
    path.write_text(good + "".join(bad) + good.replace("1", "4") + '{"iteration": 5}')
    records, complaints = read_records(path)
    assert [record["iteration"] for record in records] == [1, 4]
    assert [c.split(":")[1] for c in complaints] == [f" line {n}" for n in (2, 3, 4, 5, 7)]


def test_missing_and_doubled_records_are_said(tmp_path):
    rows = [f'{{"iteration": {i}, "x": {n}}}\n' for n, i in enumerate((0, 1, 4, 4, 9))]
    (tmp_path / METRICS).write_text("".join(rows))
    recorder = Recorder(tmp_path, iteration=7)
    recorder.close()
    path = tmp_path / METRICS
    assert recorder.complaints == [
        f"{path}: no record of 5 iterations (2, 3, 5, 6, 7)",
        f"{path}: 1 records of iterations that come again; the last of each is kept",
    ]
    assert [(r["iteration"], r["x"]) for r in read_records(path)[0]] == [(0, 0), (1, 1), (4, 3)]
    again = Recorder(tmp_path, iteration=1)
    again.close()
    assert again.complaints == []


def test_no_run_begins_anew_over_its_own_records(copied, capsys):
    (copied / "checkpoints" / "index.json").unlink()
    before = (copied / METRICS).read_bytes()
    code, _, err = run(capsys, "train", "--resume", copied)
    assert code == 2 and err.count("\n") == 1 and "index.json: missing, though the run" in err
    assert (copied / METRICS).read_bytes() == before


def test_damaged_records_of_episodes_are_no_fault_of_a_run(tmp_path):
    lines = ['{"iteration": 0, "why": 3}', '{"iteration": 0, "why": ["first solved"]}', "x", ""]
    (tmp_path / EPISODES).write_text("\n".join(lines))
    log = EpisodeLog(tmp_path, str, 0)
    assert [c.split(":")[1] for c in log.complaints] == [" line 3"]


def test_a_state_left_under_the_same_name_is_not_taken_for_this_one(tmp_path):
    one, other = ({"a": np.full(3, x, np.float32)} for x in (1, 2))
    Checkpoints(tmp_path).save(0, one, meta={}, best=False)
    Checkpoints(tmp_path).save(0, other, meta={}, best=False)
    kept = Checkpoints(tmp_path)
    assert kept.restore(other)[1]["a"].tolist() == [2, 2, 2]
    written = kept._path(0).stat().st_mtime_ns
    kept.save(0, other, meta={"best": 1.0}, best=True)
    assert kept._path(0).stat().st_mtime_ns == written and kept.meta(0) == {"best": 1.0}


def damage(folder: pathlib.Path, iteration: int, how: str) -> None:
    state = folder / "checkpoints" / f"iteration_{iteration:06d}"
    if how == "gone":
        shutil.rmtree(state)
        return
    victim = max((p for p in state.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = victim.read_bytes()
    if how == "cut":
        victim.write_bytes(content[: len(content) // 2])
    elif how == "flipped":
        victim.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    else:
        victim.unlink()


@pytest.mark.parametrize("how", ["cut", "flipped", "unlinked", "gone"])
def test_of_faulty_checkpoints_the_last_good_one_is_taken_and_said(copied, how):
    checkpoints = Checkpoints(copied / "checkpoints")
    index = checkpoints.index
    assert not checkpoints.find_damage(index["last"]) and index["start"] == 0
    damage(copied, index["last"], how)
    good = max({index["best"], 0} - {index["last"]})
    assert checkpoints._choose("last") == good
    assert f"the state of iteration {good} is taken instead" in checkpoints.notices[0]
    damage(copied, 0, how)
    with pytest.raises(CheckpointError, match="no good one is left"):
        checkpoints._choose("start")


def test_a_run_goes_on_from_its_last_good_state(finished, copied, capsys):
    index = Checkpoints(copied / "checkpoints").index
    damage(copied, index["last"], "cut")
    train(BASE, resume=copied)
    assert "is taken instead" in capsys.readouterr().out
    assert (copied / METRICS).read_bytes() == (finished / METRICS).read_bytes()
    assert not Checkpoints(copied / "checkpoints").find_damage(2)


def test_training_goes_on_after_the_end(copied, capsys):
    assert run(capsys, "train", "--resume", copied, "--iterations", "3")[0] == 0
    assert load_config(copied).iterations == 3
    assert [r["iteration"] for r in read_records(copied / METRICS)[0]] == [0, 1, 2, 3]
    code, _, err = run(capsys, "train", "--resume", copied, "--iterations", "1")
    assert code == 2 and "has done 3: expected at least those" in err


def test_an_exported_tiny_run_ends_where_its_tokenizer_ends(finished, tmp_path):
    export_run(finished, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    settings = json.loads((tmp_path / "out" / GENERATION).read_text())
    tokenizer = restore_run(finished)[0].prompter.tokenizer
    assert config["eos_token_id"] == settings["eos_token_id"] == tokenizer.eos_token_id
    assert config["pad_token_id"] == tokenizer.pad_token_id
    assert set(settings) <= set(TOKEN_IDS)


def test_restored_states_are_placed_as_fresh_ones(finished):
    """Else every program would be compiled again after a resume, under another key."""
    components, restored = restore_run(finished, "last")
    fresh = components.fresh_state(components.init_policy())
    for one, other in zip(jax.tree.leaves(fresh), jax.tree.leaves(restored), strict=True):
        assert one.committed and other.committed and one.sharding == other.sharding
        assert one.weak_type == other.weak_type and one.dtype == other.dtype


def test_paths_do_not_hang_on_the_directory_a_run_was_started_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    env = dataclasses.replace(BASE.env, games=pathlib.Path("games"))
    plan = dataclasses.replace(BASE.plan, executor=pathlib.Path("run"))
    config = resolve_paths(dataclasses.replace(BASE, init=pathlib.Path("~/x"), env=env, plan=plan))
    assert config.env.games == tmp_path / "games" and config.init == pathlib.Path.home() / "x"
    assert config.plan.executor == tmp_path / "run"
    for name in (pathlib.Path("agent:household"), pathlib.Path("base")):
        plan = dataclasses.replace(BASE.plan, executor=name)
        assert resolve_paths(dataclasses.replace(BASE, plan=plan)).plan.executor == name
    save_config(config, tmp_path)
    assert load_config(tmp_path) == config


def test_a_config_file_is_a_starting_point(tmp_path, capsys):
    from hiperjax.commands.arguments import read_settings

    save_config(dataclasses.replace(BASE, seed=7, out=tmp_path), tmp_path)
    for path in (tmp_path, tmp_path / CONFIG):
        config = read_settings("train", ["--config", str(path), "--iterations", "3"])
        assert (config.seed, config.iterations, config.out) == (7, 3, None)
        assert config.env == BASE.env
    for argv in (["--config"], ["household-tiny", "--config", tmp_path], ["--config", "nowhere"]):
        code, _, err = run(capsys, "train", *argv)
        assert code == 2 and err.count("\n") == 1, err


def test_help_is_one_screen(capsys):
    code, out, _ = run(capsys, "train", "household-tiny", "--help")
    assert code == 0 and len(out.splitlines()) < 24 and "--help-all" in out


RESUME = """
import dataclasses, os, pathlib, signal, sys
from hiperjax.training import trainer
from hiperjax.presets import PRESETS
from hiperjax.training.run_folder import read_config

cache, folder = map(pathlib.Path, sys.argv[1:])
inner = trainer.iterate

def stop_after_two(run):
    ledger = inner(run)
    if run.iteration == 2:
        os.kill(os.getpid(), signal.SIGTERM)
    return ledger

config = read_config(folder.parent / "wanted.json")
trainer.train(dataclasses.replace(config, out=folder.parent / "whole"))  # prompts of any length
trainer.iterate = stop_after_two
trainer.train(config)
first = set(os.listdir(cache))
assert first
os.execv(sys.executable, [sys.executable, "-c", f'''
import os, pathlib
from hiperjax.presets import PRESETS
from hiperjax.training.trainer import train
train(PRESETS["household-tiny"][1], resume=pathlib.Path({str(folder)!r}))
new = set(os.listdir({str(cache)!r})) - set({sorted(first)!r})
print("new programs:", sorted(x for x in new if not x.endswith("-atime")))
'''])
"""


@pytest.mark.slow  # every program is compiled for a cache of its own
def test_a_resume_compiles_no_fault_of_a_program(tmp_path):
    config = tiny(tmp_path / "run", iterations=4)
    (tmp_path / "wanted.json").write_text(dump_json(dataclasses.asdict(config)))
    import os

    env = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    (tmp_path / "cache").mkdir()
    argv = [sys.executable, "-c", RESUME, str(tmp_path / "cache"), str(tmp_path / "run")]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("new programs: []"), done.stdout[-2000:]
    records = read_records(tmp_path / "run" / METRICS)[0]
    assert [record["iteration"] for record in records] == [0, 1, 2, 3, 4]
