"""The rules, one oddity at a time; then letter for letter against the real engine's recordings."""

import json
import random

import pytest
from helpers.alfworld_games import TRANSCRIPTS, extract_official, make_problem
from hypothesis import given
from hypothesis import strategies as st

from hiperjax.envs.alfworld.engine import (
    NOTHING_HAPPENS,
    act,
    describe_start,
    is_won,
    list_admissible,
)
from hiperjax.envs.alfworld.game import build_game, decode_game, encode_game, speak
from hiperjax.envs.alfworld.generator import generate_game
from hiperjax.envs.alfworld.problem import TASK_TYPES
from hiperjax.envs.alfworld.scenes import Dials
from hiperjax.envs.alfworld.suites import HouseholdSuite
from hiperjax.verification.alfworld import verify_alfworld

GAME = build_game(make_problem())


def play(*commands, game=GAME):
    """State after the commands, and the last reply; each command must be admissible."""
    state, reply = game.start, ""
    for command in commands:
        assert command in list_admissible(game, state), (command, list_admissible(game, state))
        state, reply = act(game, state, command)
    return state, reply


def offers(state, game=GAME):
    return list_admissible(game, state)


def test_first_observation_names_every_receptacle_downwards():
    hooks = ", ".join(f"a hook {n}" for n in range(10, 0, -1))
    assert describe_start(GAME) == (
        "-= Welcome to TextWorld, ALFRED! =-\n\n"
        "You are in the middle of a room. Looking quickly around you, you see a cabinet 2,"
        f" a cabinet 1, a fridge 1, {hooks}, a microwave 1, a shelf 2, a shelf 1,"
        " and a sinkbasin 1.\n\nYour task is to: put a apple in fridge."
    )


def test_commands_are_sorted_as_strings_without_duplicates():
    commands = offers(GAME.start)
    assert list(commands) == sorted(set(commands))
    assert commands.index("go to hook 10") < commands.index("go to hook 2")
    assert {"help", "inventory", "look"} < set(commands)


def test_look_before_moving_and_at_receptacles_that_share_a_location():
    middle = "You are in the middle of a room. Looking quickly around you, you see nothing."
    assert play("look")[1] == middle
    _, reply = play("go to cabinet 1", "look")
    assert reply == "You are facing the cabinet 2, and cabinet 1. Next to it, you see nothing."


def test_travel_to_a_shared_location_is_not_offered_there():
    state, _ = play("go to shelf 2")
    assert not {"go to shelf 1", "go to shelf 2"} & set(offers(state))
    assert act(GAME, state, "go to shelf 1") == (state, NOTHING_HAPPENS)
    assert "take knife 1 from shelf 1" in offers(state)


def test_doors():
    state, reply = play("go to fridge 1")
    assert reply == "You arrive at fridge 1. The fridge 1 is closed."
    assert "open fridge 1" in offers(state) and "close fridge 1" not in offers(state)
    _, reply = play("go to fridge 1", "open fridge 1")
    assert reply == "You open the fridge 1. The fridge 1 is open. In it, you see a pot 1."
    state, reply = play("go to fridge 1", "open fridge 1", "close fridge 1")
    assert reply == "You close the fridge 1." and "take pot 1 from fridge 1" not in offers(state)


def test_only_the_held_object_can_be_examined():
    state, _ = play("go to shelf 2")
    assert "examine apple 2" not in offers(state)
    assert act(GAME, state, "examine apple 2")[1] == NOTHING_HAPPENS
    _, reply = play("go to shelf 2", "take apple 2 from shelf 2", "examine apple 2")
    assert reply == "There's nothing special about apple 2."


def test_double_containment_and_what_lies_next_to_it():
    take = "take bowl 1 from shelf 2"
    state, _ = play("go to shelf 2", take, "inventory")
    assert act(GAME, state, "examine shelf 1")[1] == (
        "On the shelf 1, you see a bowl 1, and a knife 1."
    )
    assert act(GAME, state, "examine bowl 1")[1] == (
        "This is a normal bowl 1. In it, you see a spoon 1."
    )
    # put back into the other shelf at this location, it is "next to" the one it left
    state, _ = play("go to shelf 2", take, "move bowl 1 to shelf 1")
    assert act(GAME, state, "look")[1].endswith("Next to it, you see a bowl 1.")
    state, _ = play("go to shelf 2", take, "move bowl 1 to shelf 2")
    assert act(GAME, state, "look")[1].endswith("Next to it, you see nothing.")


@pytest.mark.parametrize(
    ("commands", "text"),
    [
        (["cool fridge"], "This is a cold apple 2."),
        (["heat microwave"], "This is a hot apple 2."),
        (["cool fridge", "heat microwave"], "This is a hot apple 2."),
        (["heat microwave", "cool fridge"], "This is a cold apple 2."),
        (["clean sinkbasin"], "This is a clean apple 2."),
        (["clean sinkbasin", "cool fridge"], "This is a cool and clean apple 2."),
        (["clean sinkbasin", "heat microwave"], "This is a hot and clean apple 2."),
    ],
)
def test_what_treated_things_are_called(commands, text):
    steps = ["go to shelf 2", "take apple 2 from shelf 2"]
    for command in commands:
        verb, place = command.split()
        steps += [f"go to {place} 1", f"{verb} apple 2 with {place} 1"]
    assert play(*steps, "examine apple 2")[1] == text


def test_appliances_work_with_their_doors_closed_and_again():
    heat = "heat apple 2 with microwave 1"
    _, reply = play("go to shelf 2", "take apple 2 from shelf 2", "go to microwave 1", heat, heat)
    assert reply == "You heat the apple 2 using the microwave 1."


def test_slicing_reaches_through_a_closed_door():
    steps = ["go to shelf 1", "take knife 1 from shelf 1", "go to cabinet 2"]
    state, reply = play(*steps, "slice apple 1 with knife 1")
    assert reply == "You sliced the apple 1 with the knife 1."
    assert "open cabinet 2" in offers(state)
    drop = ["open cabinet 1", "move knife 1 to cabinet 1", "open cabinet 2"]
    _, reply = play(
        *steps,
        "slice apple 1 with knife 1",
        *drop,
        "take apple 1 from cabinet 2",
        "examine apple 1",
    )
    assert reply == "This is a sliced apple 1."


def test_a_lamp_turns_on_every_time_and_hands_do_not_matter():
    use = "use desklamp 1"
    state, reply = play("go to shelf 2", "take apple 2 from shelf 2", use, use)
    assert reply == "You turn on the desklamp 1." and use in offers(state)


def test_help_keeps_its_last_line_break():
    _, reply = play("help")
    assert reply.startswith("Available commands:\n") and reply.endswith("sharp object\n")


def test_commands_match_exactly_but_for_outer_blanks():
    state, reply = act(GAME, GAME.start, "  go to fridge 1\n")
    assert reply.startswith("You arrive at fridge 1.") and state != GAME.start
    for command in ("Go to fridge 1", "go  to fridge 1", "goto fridge 1", "", "go to fridge"):
        assert act(GAME, GAME.start, command) == (GAME.start, NOTHING_HAPPENS)


def test_the_old_dialect():
    old = speak(GAME, "put")
    assert "help" not in offers(old.start, old)
    state, reply = play("go to shelf 2", game=old)
    assert reply.startswith("You arrive at loc ") and "On the shelf 2, you see" in reply
    state, _ = act(old, state, "take apple 2 from shelf 2")
    assert "put apple 2 in/on shelf 2" in offers(state, old)
    assert act(old, state, "move apple 2 to shelf 2")[1] == NOTHING_HAPPENS
    _, reply = act(old, state, "put apple 2 in/on shelf 2")
    assert reply == "You put the apple 2 in/on the shelf 2."


def test_goals_need_exactly_what_they_ask():
    fetch = ["go to shelf 2", "take apple 2 from shelf 2"]
    store = ["go to fridge 1", "open fridge 1", "move apple 2 to fridge 1"]
    assert is_won(GAME, play(*fetch, *store)[0])
    hot = build_game(make_problem("pick_heat_then_place_in_recep"))
    assert not is_won(hot, play(*fetch, *store, game=hot)[0])
    heat = ["go to microwave 1", "heat apple 2 with microwave 1"]
    assert is_won(hot, play(*fetch, *heat, *store, game=hot)[0])
    two = build_game(make_problem("pick_two_obj_and_place"))
    assert not is_won(two, play(*fetch, *store, game=two)[0])
    second = ["go to cabinet 2", "open cabinet 2", "take apple 1 from cabinet 2"]
    both = [*fetch, *store, *second, "go to fridge 1", "move apple 1 to fridge 1"]
    assert is_won(two, play(*both, game=two)[0])


@pytest.mark.parametrize("first", ["use desklamp 1", "take apple 2 from shelf 2"])
def test_looking_under_a_lamp_in_either_order(first):
    game = build_game(make_problem("look_at_obj_in_light", target="desklamp"))
    both = ["use desklamp 1", "take apple 2 from shelf 2"]
    second = next(command for command in both if command != first)
    assert not is_won(game, play("go to shelf 2", first, game=game)[0])
    assert is_won(game, play("go to shelf 2", first, second, game=game)[0])
    assert not is_won(game, play("go to shelf 2", *both, "go to fridge 1", game=game)[0])


@given(command=st.text() | st.binary().map(lambda b: b.decode("latin-1")), seed=st.integers(0, 99))
def test_any_string_is_legal(command, seed):
    game = generate_game(0, "train", seed, TASK_TYPES[seed % 6], Dials("small"))
    state = wander(game, random.Random(seed), 12)
    after, reply = act(game, state, command)
    if command.strip() not in list_admissible(game, state):
        assert (after, reply) == (state, NOTHING_HAPPENS)
    assert list_admissible(game, after)


def wander(game, rng, steps):
    state = game.start
    for _ in range(steps):
        state, reply = act(game, state, rng.choice(list_admissible(game, state)))
        assert reply != NOTHING_HAPPENS
    return state


@given(seed=st.integers(0, 10_000))
def test_walks_keep_the_state_consistent_and_can_be_resumed(seed):
    game = generate_game(0, "train", seed, TASK_TYPES[seed % 6], Dials("full"))
    rng = random.Random(seed)
    state = wander(game, rng, 40)
    commands = list_admissible(game, state)
    assert list(commands) == sorted(set(commands))
    lying = {o for inside in state.contents for o in inside}
    assert all(list(inside) == sorted(set(inside)) for inside in state.contents)
    movable = {o for inside in game.start.contents for o in inside}
    assert lying | {state.held} - {-1} == movable  # nothing is lost, nothing appears
    twin = type(state)(*state)
    assert hash(twin) == hash(state)
    assert act(game, twin, commands[0]) == act(game, state, commands[0])


@given(seed=st.integers(0, 500))
def test_a_game_survives_its_encoding(seed):
    game = generate_game(0, "train", seed, TASK_TYPES[seed % 6], Dials("full"))
    copy = decode_game(encode_game(game))
    assert encode_game(copy) == encode_game(game)
    assert copy.start == game.start and copy.nested == game.nested
    assert list_admissible(copy, copy.start) == list_admissible(game, game.start)


@pytest.mark.slow
def test_every_official_walkthrough_wins(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = extract_official("train", "valid_seen", "valid_train")
    assert verify_alfworld(root, TRANSCRIPTS, walkthroughs=True) == 0
    assert "3893 of 3893" in capsys.readouterr().out


@pytest.fixture(scope="module")
def seen_games():
    return extract_official("valid_seen")


def test_recordings_of_the_real_engine(seen_games, tmp_path, capsys):
    lines = [line for line in read_lines() if json.loads(line)["game"].startswith("valid_seen/")]
    assert len(lines) >= 10
    file = tmp_path / "transcripts.jsonl"
    file.write_text("\n".join(lines))
    assert verify_alfworld(seen_games, file) == 0
    assert f"{len(lines)} games" in capsys.readouterr().out


def read_lines():
    import gzip

    with gzip.open(TRANSCRIPTS, "rt") as lines:
        return lines.read().splitlines()


def test_a_changed_recording_is_found_and_shown(seen_games, tmp_path, capsys):
    record = json.loads(read_lines()[0])
    record["steps"][1]["obs"] += " And a dragon."
    file = tmp_path / "transcripts.jsonl"
    file.write_text(json.dumps(record))
    assert verify_alfworld(seen_games.parent, file) == 1
    assert "And a dragon." in capsys.readouterr().out


@pytest.mark.parametrize("kind", TASK_TYPES)
def test_milestones_are_the_parts_of_the_goal_each_once(kind):
    expected = {"pick_and_place_simple": 2, "look_at_obj_in_light": 2}.get(kind, 3)
    suite = HouseholdSuite(task_types=(kind,))
    env = suite.make_env()
    for task in suite.tasks("train")[:20]:
        env.reset(task)
        steps = [env.step(command) for command in env.game.walkthrough]
        reported = [step.milestone for step in steps]
        assert steps[-1].terminated and reported[-1], "winning is the last milestone"
        assert sum(reported) == expected
        env.reset(task)
        taken = next(i for i, step in enumerate(steps) if step.milestone)
        for command in env.game.walkthrough[: taken + 1]:
            env.step(command)
        held, place = env.game.walkthrough[taken].removeprefix("take ").split(" from ")
        back = env.step(f"move {held} to {place}")
        again = env.step(f"take {held} from {place}")
        assert not again.milestone, "nothing is a milestone twice"
        assert back.observation.text.startswith("You move")
