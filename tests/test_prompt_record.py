"""A run knows the prompt it was trained on: another one is named and refused, unless accepted."""

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from hiperjax import cli
from hiperjax.acting import renderers
from hiperjax.acting.renderers import CompactRenderer
from hiperjax.config import ConfigError
from hiperjax.files import DamagedFile
from hiperjax.training import build
from hiperjax.training.prompt_record import (
    PROMPT,
    check_dialect,
    check_prompt,
    fingerprint_prompt,
    read_prompt,
    write_prompt,
)
from hiperjax.types import CommandGroup, PromptHints

HINTS = PromptHints(
    unlisted=("help",), minor=("look",), groups=(CommandGroup("go to "),), unstarred=("put",)
)
MAKE = """
from hiperjax.acting.renderers import make_renderer
from hiperjax.envs.registry import make_suite
from hiperjax.training.prompt_record import fingerprint_prompt

def make(style):
    world = make_suite("household")
    renderer = make_renderer(style, role=world.role, history_length=1, hints=world.hints)
    return fingerprint_prompt(renderer, world.hints)

found = {style: make(style) for style in ("chat", "compact")}
"""


def test_fingerprints_are_the_same_in_every_process():
    ours: dict = {}
    exec(MAKE, ours)
    root = pathlib.Path(__file__).parents[1]
    environment = os.environ | {"PYTHONHASHSEED": "1", "PYTHONPATH": f"{root}:{root}/kernels"}
    program = f"{MAKE}\nimport json; print(json.dumps(found))"
    theirs = subprocess.run(
        [sys.executable, "-c", program], env=environment, check=True, capture_output=True
    )
    assert json.loads(theirs.stdout) == ours["found"]
    assert ours["found"]["chat"] != ours["found"]["compact"]


class Prefixed(CompactRenderer):
    prefix = "the task "


class Shouting(CompactRenderer):
    def render_action(self, action):
        return super().render_action(action).upper()


class Forgetful(CompactRenderer):
    def restore_action(self, action, admissible):
        return action


class Silent(CompactRenderer):
    def extend(self, observation, opening, subgoal):
        return ""


class Terse(CompactRenderer):
    def render_subgoal(self, subgoal):
        return subgoal[:4]


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda r: dataclasses.replace(r, separator=" "), {"reply"}),
        (lambda r: Prefixed(hints=HINTS), {"prefix"}),
        (lambda r: dataclasses.replace(r, history_length=0), {"history_length", "open"}),
        (lambda r: Shouting(hints=HINTS), {"open", "extend", "actions"}),
        (lambda r: Forgetful(hints=HINTS), {"read_actions"}),
        (lambda r: Silent(hints=HINTS), {"extend"}),
        (lambda r: Terse(hints=HINTS), {"subgoals"}),
        (dict(unlisted=()), {"open", "extend"}),
        (dict(minor=()), {"open", "extend"}),
        (dict(groups=(CommandGroup("go to ", separator=", "),)), {"open"}),
        (dict(unstarred=()), {"open"}),
        (dict(banner="see .*"), {"banner", "open"}),
    ],
)
def test_each_part_of_a_prompt_shows(change, parts):
    """What changes is named, and nothing else."""
    before = CompactRenderer(hints=HINTS)
    if isinstance(change, dict):
        after = dataclasses.replace(before, hints=dataclasses.replace(HINTS, **change))
    else:
        after = change(before)
    # Hints probe themselves, so the old ones' probes are shown by the renderer of the new ones.
    found, expected = (fingerprint_prompt(renderer, HINTS) for renderer in (after, before))
    if isinstance(change, dict) and "banner" in change:
        found = fingerprint_prompt(after, after.hints)
    assert parts <= {name for name in found if found[name] != expected[name]}
    assert found.keys() == expected.keys()
    if not isinstance(change, dict):
        assert parts == {name for name in found if found[name] != expected[name]}
    else:
        assert fingerprint_prompt(after, after.hints) != expected


def test_a_format_that_knows_one_world_only_is_recorded_too():
    class Narrow(CompactRenderer):
        def open(self, observation, past, subgoal):
            raise LookupError("no chess board")

    found = fingerprint_prompt(Narrow(), HINTS)
    assert found == fingerprint_prompt(Narrow(), HINTS) != fingerprint_prompt(Silent(), HINTS)


def test_another_dialect_than_a_run_was_trained_in_is_refused_or_accepted(tmp_path):
    renderer = CompactRenderer(hints=HINTS)
    check_dialect(tmp_path, "put")  # older than the record
    write_prompt(tmp_path, renderer, HINTS)
    check_dialect(tmp_path, "put")  # of a world without, or older than dialects
    write_prompt(tmp_path, renderer, HINTS, "move")
    assert check_prompt(tmp_path, renderer, HINTS) is None
    check_dialect(tmp_path, "move")
    with pytest.raises(ConfigError, match=r"speak the put dialect; expected move, .*--accept-chan"):
        check_dialect(tmp_path, "put")
    check_dialect(tmp_path, "put", accept=True)


def test_another_prompt_is_refused_or_accepted(tmp_path):
    renderer = CompactRenderer(hints=HINTS)
    said = check_prompt(tmp_path, renderer, HINTS)
    assert said is not None and "no prompt.json" in said, "a run older than the record"
    write_prompt(tmp_path, renderer, HINTS)
    assert check_prompt(tmp_path, renderer, HINTS) is None
    silent = Silent(hints=HINTS)
    assert check_prompt(tmp_path, silent, HINTS) is None, "no context grows"
    for changed, grows in ((silent, True), (Shouting(hints=HINTS), False)):
        with pytest.raises(ConfigError, match=r"prompt\.json: found another .* expected .*--accep"):
            check_prompt(tmp_path, changed, HINTS, grows=grows)
        said = check_prompt(tmp_path, changed, HINTS, grows=grows, accept=True)
        assert said is not None and said.endswith("accepted")


@pytest.mark.parametrize("text", ['{"sha256": {"prefix"', "{}", '{"sha256": {"prefix": 3}}'])
def test_a_damaged_record_is_one_line(tmp_path, text):
    (tmp_path / PROMPT).write_text(text)
    with pytest.raises(DamagedFile, match=r"prompt\.json: .*restore it from a copy"):
        read_prompt(tmp_path)


SMALL = (
    "--model.hidden-size 16 --model.intermediate-size 24 --model.num-layers 1 --model.num-heads 2 "
    "--model.num-kv-heads 1 --rollout.episodes 6 --rollout.slots 4 --imitation.steps 0 "
    "--critic.random-features 8 --eval.max-tasks 1 --env.max-turns 2 --iterations 0 "
    "--env.suite ladder/switch --env.task-types --eval.splits train --target None"
)


def run_command(text: str) -> int:
    """Exit code of a command."""
    try:
        cli.main(text.split())
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("prompt") / "run"
    assert run_command(f"train --out {folder} {SMALL}") == 0
    assert (folder / PROMPT).is_file()
    return folder


@pytest.fixture
def run(trained, tmp_path, monkeypatch) -> pathlib.Path:
    """A run folder, after which the compact prompt says something else."""
    folder = shutil.copytree(trained, tmp_path / "run")
    monkeypatch.setattr(renderers, "NO_SUBGOAL", "nothing yet")
    return folder


def test_every_command_that_plays_a_run_refuses_another_prompt(run, capsys, monkeypatch):
    before = (run / PROMPT).read_bytes()
    commands = (
        f"train --resume {run}",
        f"evaluate {run} --max-tasks 1",
        f"play --run {run}",
        f"bench {run} --iterations 1",
    )
    with monkeypatch.context() as patch:
        patch.delattr(build, "build_tokenizer")  # nothing slow comes first
        capsys.readouterr()
        for command in commands:
            assert run_command(command) == 2
            error = capsys.readouterr().err
            assert error.count("\n") == 1 and "another prompt" in error and "open " in error
            assert "--accept-changed-prompt" in error
    assert (run / PROMPT).read_bytes() == before
    assert run_command(f"evaluate {run} --max-tasks 1 --accept-changed-prompt") == 0
    assert "accepted" in capsys.readouterr().err
    assert (run / PROMPT).read_bytes() == before, "only a run that goes on is another's prompt"
    assert run_command(f"train --resume {run} --accept-changed-prompt") == 0
    assert "accepted" in capsys.readouterr().err
    assert (run / PROMPT).read_bytes() != before
    assert run_command(f"train --resume {run}") == 0
    assert "prompt" not in capsys.readouterr().err


def test_a_run_older_than_the_record_is_taken_and_said_once(run, tmp_path, capsys):
    (run / PROMPT).unlink()
    capsys.readouterr()
    assert run_command(f"train --resume {run}") == 0
    assert "no prompt.json" in capsys.readouterr().err
    assert run_command(f"train --resume {run}") == 0
    assert "prompt.json" not in capsys.readouterr().err
    assert run_command(f"convert run-to-hf {run} {tmp_path / 'hf'} --which last") == 0
