"""The checker itself: equal recordings pass, every kind of difference is found and readable."""

import gzip
import json
import random

import pytest
from helpers.alfworld_games import make_problem, write_file

from hiperjax.envs.alfworld import oracle
from hiperjax.envs.alfworld.engine import act, describe_start, is_won, list_admissible
from hiperjax.envs.alfworld.game import build_game
from hiperjax.envs.alfworld.games import GamesError
from hiperjax.verification.alfworld import choose_command, verify_alfworld

TASK = "train/pick_and_place_simple-Apple-None-Fridge-1/trial_0"
WALK = (
    *("go to shelf 2", "nonsense", "take apple 2 from shelf 2", "go to fridge 1"),
    *("open fridge 1", "move apple 2 to fridge 1", "look"),
)


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_file(tmp_path / "games" / TASK)
    return tmp_path / "games"


@pytest.fixture
def record():
    game = build_game(make_problem())
    state, steps = game.start, []
    first = {"obs": describe_start(game), "admissible": list(list_admissible(game, state))}
    for command in WALK:
        state, text = act(game, state, command)
        won = is_won(game, state)
        admissible = list(list_admissible(game, state))
        result = {"reward": int(won), "done": won, "won": won, "admissible": admissible}
        steps.append({"cmd": command, "obs": text} | result)
    return {"game": TASK, "reset": first, "steps": steps}


@pytest.mark.parametrize("name", ["walk.jsonl", "walk.jsonl.gz"])
def test_an_equal_recording_passes(root, record, tmp_path, name, capsys):
    text = json.dumps(record) + "\n"
    file = tmp_path / name
    file.write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    assert verify_alfworld(root, file) == 0
    assert f"1 games, {len(WALK)} steps, 0 mismatches" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("field", "value", "line"),
    [
        ("obs", "A dragon.", "-A dragon."),
        ("reward", 1, "-1.0"),
        ("done", True, "-True"),
        ("won", True, "-True"),
        ("admissible", ["fly"], "-fly"),
    ],
)
def test_every_field_is_compared(root, record, tmp_path, field, value, line, capsys):
    record["steps"][3][field] = value
    file = tmp_path / "walk.jsonl"
    file.write_text(json.dumps(record))
    assert verify_alfworld(root, file) == 1
    shown = capsys.readouterr().out
    name = {"obs": "text"}.get(field, field)
    assert f"{TASK}, step 4, 'go to fridge 1': {name} differs" in shown
    assert f"  {line}\n" in shown


def test_walkthroughs_that_do_not_win_are_found(root, capsys):
    assert verify_alfworld(root, walkthroughs=True) == 1
    assert "0 of 1 games won" in capsys.readouterr().out
    write_file(root / TASK, walkthrough=WALK)
    assert verify_alfworld(root, walkthroughs=True) == 0


def test_bad_input_is_named(root, record, tmp_path):
    file = tmp_path / "walk.jsonl"
    with pytest.raises(ValueError, match="nothing to verify"):
        verify_alfworld(root)
    with pytest.raises(FileNotFoundError, match=r"walk\.jsonl"):
        verify_alfworld(root, file)
    file.write_text("")
    with pytest.raises(ValueError, match="no transcripts"):
        verify_alfworld(root, file)
    file.write_text(json.dumps(record) + "\n{cut")
    with pytest.raises(ValueError, match="line 2: not JSON"):
        verify_alfworld(root, file)
    file.write_text(json.dumps(record | {"game": "train/elsewhere"}))
    with pytest.raises(GamesError, match="elsewhere"):
        verify_alfworld(root, file)


def test_live_checks_say_what_is_missing(root):
    if oracle.is_installed():
        pytest.skip("the real engine is installed: the oracle tests run it")
    with pytest.raises(ImportError, match=r"pip install 'hiperjax\[alfworld\]'"):
        verify_alfworld(root, live=1)


def test_live_commands_are_mostly_not_travel_and_sometimes_invalid():
    game = build_game(make_problem())
    state, rng = act(game, game.start, "go to shelf 2")[0], random.Random(0)
    admissible = list_admissible(game, state)
    commands = [choose_command(rng, admissible) for _ in range(600)]
    travel = sum(command in admissible and command.startswith("go to") for command in commands)
    invalid = sum(command not in admissible for command in commands)
    assert 0.27 < travel / 600 < 0.40
    assert 0.02 < invalid / 600 < 0.09
    assert {"take", "use", "examine", "look"} <= {command.split(" ")[0] for command in commands}
