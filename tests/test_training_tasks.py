"""Rooms kept out, numbers dealt anew, generated games among official ones; plausible mistakes."""

import collections
import random
from functools import partial

import pytest
from helpers.alfworld_games import make_problem, write_file

from hiperjax.envs.alfworld.engine import act, describe_start, is_won, list_admissible
from hiperjax.envs.alfworld.expert import parse_task
from hiperjax.envs.alfworld.game import build_game
from hiperjax.envs.alfworld.generator import generate_game
from hiperjax.envs.alfworld.mistakes import make_mistake
from hiperjax.envs.alfworld.scenes import Dials
from hiperjax.envs.alfworld.suites import AlfworldSuite
from hiperjax.envs.alfworld.training_tasks import MixedTasks, read_room, renumber
from hiperjax.envs.options import SuiteError
from hiperjax.envs.registry import make_suite
from hiperjax.types import Observation

KIND = "pick_and_place_simple"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("games")
    for split, room, trial in (
        ("train", 1, 1),
        ("train", 2, 1),
        ("train", 2, 2),
        ("valid_seen", 1, 3),
    ):
        write_file(root / split / f"{KIND}-Apple-None-Fridge-{room}" / f"trial_{trial}")
    return root


def play(suite, task):
    env, expert = suite.make_env(), suite.make_expert(seed=0)
    observation = env.reset(task)
    expert.reset(observation)
    for turn in range(1, 51):
        step = env.step(expert.decide(observation).action)
        if step.success:
            return turn
        observation = step.observation
    return None


def test_rooms_are_kept_out_of_training_as_a_split(folder):
    suite = make_suite("alfworld", games=folder, rooms=(2,))
    assert {read_room(task) for task in suite.tasks("valid_rooms")} == {2}
    assert {read_room(task) for task in suite.tasks("train")} == {1}
    assert "valid_rooms" in suite.splits and len(suite.tasks("valid_seen")) == 1
    plain = make_suite("alfworld", games=folder)
    assert set(plain.tasks("train")) == {*suite.tasks("train"), *suite.tasks("valid_rooms")}
    with pytest.raises(KeyError):
        plain.tasks("valid_rooms")
    assert "valid_rooms" not in make_suite("alfworld", games=folder, rooms=(9,)).splits
    with pytest.raises(SuiteError, match="expected a share from 0"):
        make_suite("alfworld", games=folder, generated=1.5)


def test_renumbered_games_differ_in_numbers_alone_and_are_won_in_as_many_turns(folder):
    suite = AlfworldSuite(games=folder, renumber=True)
    tasks = suite.tasks("train")
    first, again = tasks[0], tasks[3 * 7]
    assert again == f"{first}#7"
    games = [suite.open_game(task) for task in (first, again)]
    assert games[0].receptacles != games[1].receptacles
    assert sorted(games[0].receptacles) == sorted(games[1].receptacles)
    assert sorted(games[0].objects) == sorted(games[1].objects)
    assert suite.task_type(again) == KIND
    assert play(suite, first) and play(suite, again)
    assert suite.open_game(again) is not None and suite.tasks("train")[21] == again


def test_a_renumbered_walkthrough_still_wins():
    game = generate_game(0, "train", 3, "pick_heat_then_place_in_recep", Dials(size="full"))
    others = map(partial(renumber, game), range(9))
    other = next(each for each in others if each.walkthrough != game.walkthrough)
    assert other.receptacles != game.receptacles
    state = other.start
    for command in other.walkthrough:
        state, _ = act(other, state, command, list_admissible(other, state))
    assert is_won(other, state)


def test_a_mixed_list_holds_its_share_and_every_game_equally_often():
    official, generated = [f"train/{i}" for i in range(7)], [f"made/{i}" for i in range(1000)]
    tasks = MixedTasks(official, generated, 0.3, renumbered=True)
    head = [str(tasks[i]) for i in range(700)]
    assert tasks[:700] == head
    assert sum(task.startswith("made") for task in head) == 210
    counts = collections.Counter(task.split("#")[0] for task in head if task.startswith("train"))
    assert set(counts.values()) == {70}, "70 renumberings of each"
    assert len(set(head)) == 700 and tasks[5] == head[5] == tasks[5 - len(tasks)]
    plain = MixedTasks(official, generated, 0.0, renumbered=False)
    assert plain[:14] == official * 2


def test_generated_games_are_played_among_official_ones(folder):
    suite = make_suite("alfworld", games=folder, generated=0.5)
    made = next(task for task in suite.tasks("train")[:4] if task.startswith("household-full"))
    assert suite.task_type(made) == "pick_and_place_simple" and play(suite, made)
    with pytest.raises(SuiteError, match="engine is real"):
        make_suite("alfworld", games=folder, generated=0.5, engine="real")


def test_mistakes_speak_of_the_task_and_most_are_refused():
    game = build_game(make_problem())
    commands = list_admissible(game, game.start)
    seen = Observation(describe_start(game), game.sentence, commands)
    task, rng = parse_task(seen.task), random.Random(0)
    made = [make_mistake(seen, rng) for _ in range(300)]
    refused = [command for command in made if command not in seen.admissible]
    assert 0.2 < len(refused) / len(made) < 0.4
    assert sum(task.object in command for command in refused) > len(refused) / 2
