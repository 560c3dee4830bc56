"""A folder of games: found, ordered, packed, checked; every kind of bad input named."""

import json
import os

import pytest
from helpers.alfworld_games import extract_official, make_problem, write_file

from hiperjax.envs.alfworld.games import (
    GAME_FILE,
    GamesError,
    find_games_folder,
    format_stats,
    list_games,
    load_library,
    read_game,
)
from hiperjax.envs.alfworld.problem import HELP
from hiperjax.envs.alfworld.suites import AlfworldSuite
from hiperjax.envs.registry import parse_options

PLACE = "pick_and_place_simple-Apple-None-Fridge-1"
HEAT = "pick_heat_then_place_in_recep-Apple-None-Fridge-1"


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("ALFWORLD_DATA", raising=False)
    folder = tmp_path / "data" / "json_2.1.1"
    write_file(folder / "valid_seen" / PLACE / "trial_2")
    write_file(folder / "train" / PLACE / "trial_1")
    write_file(folder / "train" / PLACE / "trial_0")
    write_file(folder / "train" / HEAT / "trial_0", make_problem(HEAT.split("-")[0]))
    return folder


def test_the_folder_is_found_by_flag_parent_and_environment(root, monkeypatch):
    assert find_games_folder(root) == find_games_folder(root.parent) == root
    monkeypatch.setenv("ALFWORLD_DATA", str(root.parent))
    assert find_games_folder() == root


def test_order_is_by_relative_path(root):
    paths = [game.path for game in list_games(root)]
    assert paths == sorted(paths) and len(paths) == 4
    assert load_library(root).list_split("train") == tuple(paths[:3])
    assert load_library(root).splits == ("train", "valid_seen")


def test_stats_count_by_split_and_type(root):
    table = format_stats(load_library(root))
    assert "| train | 2 | 0 | 0 | 1 | 0 | 0 | 3 |" in table
    assert "| valid_seen | 1 | 0 | 0 | 0 | 0 | 0 | 1 |" in table


def test_the_pack_is_used_where_current_and_mended_where_not(root, tmp_path, monkeypatch):
    pack = tmp_path / "games.pack"
    first = load_library(root, pack)
    path = root / "train" / PLACE / "trial_0" / GAME_FILE
    read = []
    monkeypatch.setattr(
        "hiperjax.envs.alfworld.games.read_game",
        lambda p, data=None: read.append(p) or read_game(p, data),
    )
    again = load_library(root, pack)
    assert not read and again.open(next(iter(again))).start == first.open(next(iter(first))).start
    os.utime(path, (1, 1))  # another time, the same content: hashed, not read again
    load_library(root, pack)
    assert not read
    write_file(path.parent, sentence="put a apple in microwave.")
    changed = load_library(root, pack)
    assert read == [path]
    assert changed.open(f"train/{PLACE}/trial_0").sentence == "put a apple in microwave."
    path.unlink()
    assert len(load_library(root, pack)) == 3


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-20], lambda b: b[:40] + b"x" + b[41:], lambda b: b""]
)
def test_a_damaged_pack_is_built_again(root, tmp_path, damage):
    pack = tmp_path / "games.pack"
    good = load_library(root, pack)
    pack.write_bytes(damage(pack.read_bytes()))
    again = load_library(root, pack)
    assert [again.open(p).start for p in again] == [good.open(p).start for p in good]


def test_games_open_where_the_pack_cannot_be_kept(root, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.warns(UserWarning, match="XDG_CACHE_HOME"):
        assert len(load_library(root, tmp_path / "file" / "games.pack")) == 4


def test_no_games_is_an_error_that_says_where_to_get_them(tmp_path):
    with pytest.raises(GamesError, match="alfworld-download"):
        load_library(tmp_path)
    with pytest.raises(GamesError, match="no such folder"):
        load_library(tmp_path / "nowhere")


def damage_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: f.write_bytes(f.read_bytes()[:500]), "cut short"),
        (lambda f: f.write_bytes(b"\xff\xfe"), "decode"),
        (lambda f: damage_json(f, solvable=False), "unsolvable"),
        (lambda f: f.write_text("{}"), "missing"),
        (lambda f: damage_json(f, pddl_problem="(define)"), "no \\(:init"),
        (lambda f: damage_json(f, grammar=""), "Your task is to"),
        (
            lambda f: f.write_text(f.read_text().replace("(atlocation agent1", "(gone agent1")),
            "atLocation",
        ),
    ],
)
def test_a_bad_game_is_named(root, spoil, message):
    file = root / "train" / PLACE / "trial_0" / GAME_FILE
    spoil(file)
    with pytest.raises(GamesError, match=message) as caught:
        load_library(root)
    assert str(file) in str(caught.value) and "again" in str(caught.value)


def test_a_task_type_must_be_known_and_agree_with_the_goal(root):
    write_file(root / "train" / "juggle-Apple" / "trial_0")
    with pytest.raises(GamesError, match="task type"):
        load_library(root)


def test_a_game_in_the_wrong_folder(root):
    write_file(root / "train" / HEAT / "trial_0")
    with pytest.raises(GamesError, match="the goal is pick_and_place_simple"):
        load_library(root)


def write_old_dialect(folder):
    write_file(folder)
    file = folder / GAME_FILE
    file.write_text(file.read_text().replace("move {o} to {r}", "put {o} in/on {r}"))


def test_dialects_are_detected_and_never_mixed_unnoticed(root):
    assert AlfworldSuite(root).dialect == "move"
    write_old_dialect(root / "train" / PLACE / "trial_3")
    with pytest.raises(GamesError, match=r"mixed dialects.*trial_3 \(put\)"):
        AlfworldSuite(root)
    suite = AlfworldSuite(root, dialect="put")
    env = suite.make_env()
    for task in suite.tasks("train"):
        assert "help" not in env.reset(task).admissible
    env = AlfworldSuite(root, dialect="move").make_env()
    assert env.reset(f"train/{PLACE}/trial_3") and env.step("help").observation.text == HELP


def test_the_suite_filters_by_type_and_knows_short_split_names(root):
    suite = AlfworldSuite(root, task_types=("pick_heat_then_place_in_recep",))
    assert [suite.task_type(t) for t in suite.tasks("train")] == ["pick_heat_then_place_in_recep"]
    assert AlfworldSuite(root).tasks("seen") == AlfworldSuite(root).tasks("valid_seen")
    for ask in (lambda s: s.tasks("test"), lambda s: s.make_env().reset("train/none")):
        with pytest.raises(KeyError, match=r"test|train/none"):
            ask(suite)
    with pytest.raises(ValueError, match="juggle"):
        AlfworldSuite(root, task_types=("juggle",))
    with pytest.raises(ValueError, match="'unreal'; expected one of native, real"):
        parse_options("alfworld", ["engine=unreal"])


def test_official_games_of_valid_seen(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    library = load_library(extract_official("valid_seen"))
    assert "| valid_seen | 35 | 13 | 27 | 16 | 25 | 24 | 140 |" in format_stats(library)
    assert library.nbytes < 200_000


def test_tasks_come_in_an_order_without_meaning(root, monkeypatch):
    """By path they are sorted by type: the first few would all be of one."""
    suite = AlfworldSuite(root)
    heat = PLACE.replace("pick_and_place_simple", "pick_heat_then_place_in_recep")
    paths = tuple(f"train/{kind}/trial_{i:02}" for kind in (PLACE, heat) for i in range(40))
    monkeypatch.setattr(suite._library, "list_split", lambda split: paths)
    tasks = suite.tasks("train")
    assert sorted(tasks) == sorted(paths) and tasks == suite.tasks("train")
    assert {suite.task_type(task) for task in tasks[:10]} == {
        suite.task_type(task) for task in paths
    }
