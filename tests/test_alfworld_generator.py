"""Generated games: reproducible, solvable, of the stated distribution, in truly disjoint splits."""

import collections
import itertools

import pytest
from helpers.alfworld_games import make_problem, write_file
from hypothesis import given
from hypothesis import strategies as st

from hiperjax.envs.alfworld import oracle
from hiperjax.envs.alfworld.engine import act, describe_start, is_won, list_admissible
from hiperjax.envs.alfworld.export import format_problem, write_games
from hiperjax.envs.alfworld.game import build_game
from hiperjax.envs.alfworld.games import format_stats, load_library
from hiperjax.envs.alfworld.generator import SPLITS, generate_game, generate_problem
from hiperjax.envs.alfworld.planner import solve
from hiperjax.envs.alfworld.problem import TASK_TYPES, ProblemError, parse_problem
from hiperjax.envs.alfworld.scenes import SIZES, Dials
from hiperjax.envs.alfworld.suites import AlfworldSuite, HouseholdSuite
from hiperjax.verification.alfworld import walk_live

games = st.tuples(
    st.integers(0, 3), st.sampled_from(SPLITS), st.integers(0, 10**6), st.sampled_from(SIZES)
)


@given(games)
def test_a_game_is_the_same_again_and_can_be_won(drawn):
    seed, split, index, size = drawn
    kind = TASK_TYPES[index % len(TASK_TYPES)]
    game = generate_game(seed, split, index, kind, Dials(size))
    again = generate_game(seed, split, index, kind, Dials(size))
    assert describe_start(game) == describe_start(again) and game.start == again.start
    assert game.goal.kind == kind and not is_won(game, game.start)
    state = game.start
    for command in game.walkthrough:
        assert command in list_admissible(game, state)
        state, _ = act(game, state, command)
    assert is_won(game, state)


def content(game):
    """All that tells one game from another for a player, but for the wording of the task."""
    names = (tuple(game.objects[o] for o in inside) for inside in game.start.contents)
    return game.goal, tuple(zip(game.receptacles, names, strict=True))


def layout(game):
    return tuple(sorted(name.split()[0] for name in game.receptacles))


def pair(game):
    return game.goal.object_type, game.goal.target_type


@pytest.fixture(scope="module", params=["tiny", "small"])
def by_split(request):
    return {
        split: [
            generate_game(0, split, i, TASK_TYPES[i % 6], Dials(request.param))
            for i in range(count)
        ]
        for split, count in (("train", 200), ("seen", 60), ("unseen", 60))
    }


def test_splits_share_no_game(by_split):
    for one, two in itertools.combinations(SPLITS, 2):
        assert not set(map(content, by_split[one])) & set(map(content, by_split[two]))


@pytest.mark.parametrize("trait", [layout, pair])
def test_unseen_games_have_layouts_and_pairs_of_their_own(by_split, trait):
    seen = {trait(game) for split in ("train", "seen") for game in by_split[split]}
    unseen = {trait(game) for game in by_split["unseen"]}
    assert len(unseen) > 2 and not seen & unseen


def test_full_rooms_are_like_the_official_ones():
    rooms = [generate_game(0, "train", i, TASK_TYPES[i % 6], Dials("full")) for i in range(150)]
    kitchens = [g for g in rooms if any(name.startswith("fridge") for name in g.receptacles)]
    others = [g for g in rooms if g not in kitchens]
    assert 29 < mean(len(g.receptacles) for g in kitchens) < 38  # official: 33.4
    assert 12 < mean(len(g.receptacles) for g in others) < 18  # official: 14.5
    assert 39 < mean(g.pickupable.bit_count() for g in kitchens) < 49  # official: 44.8
    shared = mean(len(set(g.location_of)) < len(g.location_of) for g in kitchens)
    assert shared > 0.8  # official: 0.95
    assert 0.5 < mean(any(doubles(g)) for g in kitchens) < 0.9  # official: 0.69
    counts = collections.Counter(name.split()[0] for g in kitchens for name in g.objects)
    assert 1.7 < counts["mug"] / len(kitchens) < 2.3  # official: 2.0


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def doubles(game):
    counts = collections.Counter(o for inside in game.start.contents for o in inside)
    return [o for o, places in counts.items() if places > 1]


def test_task_ids_and_types_of_the_suite():
    suite = HouseholdSuite("tiny", task_types=TASK_TYPES[:4])
    tasks = suite.tasks("train")
    assert len(tasks) == 1_000_000 and tasks[-1] == "household-tiny/train/999999"
    assert tasks[2:4] == ["household-tiny/train/2", "household-tiny/train/3"]
    counts = collections.Counter(map(suite.task_type, suite.tasks("seen")))
    assert counts == dict.fromkeys(TASK_TYPES[:4], 35)
    env = suite.make_env()
    for task in (tasks[0], suite.tasks("unseen")[133]):
        assert env.reset(task).task and env.game.goal.kind == suite.task_type(task)
    for bad in ("household-tiny/train/x", "household-full/train/1", "household-tiny/seen/140", "a"):
        with pytest.raises(KeyError, match=bad):
            env.reset(bad)
    with pytest.raises(IndexError):
        tasks[1_000_000]


def test_dials_change_what_they_name_and_refuse_the_impossible():
    wide = HouseholdSuite("tiny", receptacles=8, objects=7, object_classes=12).make_env()
    wide.reset("household-tiny/train/0")
    assert len(wide.game.receptacles) == 8 and wide.game.pickupable.bit_count() == 7
    with pytest.raises(ValueError, match="receptacles of generated games: found 3"):
        Dials(receptacles=3)
    with pytest.raises(ValueError, match="'huge'"):
        Dials(size="huge")
    with pytest.raises(KeyError, match="test"):
        generate_game(0, "test", 0, TASK_TYPES[0], Dials())


def test_an_unsolvable_game_is_refused():
    nowhere = make_problem(target="bathtub")
    with pytest.raises(ProblemError, match="bathtub"):
        solve(nowhere)
    with pytest.raises(ProblemError, match="no object of type"):
        solve(make_problem(wanted="unicorn"))
    with pytest.raises(ProblemError, match="does nothing"):
        solve(make_problem("pick_clean_then_place_in_recep", wanted="pot"))


@given(games)
def test_written_games_read_back_as_they_were(drawn):
    seed, split, index, size = drawn
    problem = generate_problem(seed, split, index, TASK_TYPES[index % 6], Dials(size))
    assert parse_problem(format_problem(problem)) == problem


def test_a_written_folder_is_a_folder_of_games(tmp_path):
    files = write_games(tmp_path, "train", 12, dials=Dials("small"))
    assert len(files) == 12 and files[0].with_name("traj_data.json").is_file()
    library = load_library(tmp_path, tmp_path / "games.pack")
    assert "| train | 2 | 2 | 2 | 2 | 2 | 2 | 12 |" in format_stats(library)


ODD_WALK = (
    *("look", "go to shelf 1", "take bowl 1 from shelf 2", "look", "examine bowl 1"),
    *("move bowl 1 to shelf 1", "look", "take bowl 1 from shelf 1", "move bowl 1 to shelf 2"),
    *("look", "take knife 1 from shelf 1", "use desklamp 1", "use desklamp 1", "go to cabinet 2"),
    *("slice apple 1 with knife 1", "help", "go to fridge 1", "open fridge 1"),
    *("move knife 1 to fridge 1", "take pot 1 from fridge 1", "examine pot 1"),
    *("move pot 1 to fridge 1", "go to cabinet 1", "open cabinet 2", "take apple 1 from cabinet 2"),
    *("examine apple 1", "go to microwave 1", "heat apple 1 with microwave 1", "examine apple 1"),
    *("go to sinkbasin 1", "clean apple 1 with sinkbasin 1", "examine apple 1", "go to fridge 1"),
    *("cool apple 1 with fridge 1", "examine apple 1", "move apple 1 to fridge 1", "look"),
)


def play_walkthrough(suite, task):
    env = suite.make_env()
    return [env.reset(task), *map(env.step, suite.open_game(task).walkthrough)]


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")  # the other engine's own
def test_the_real_engine_plays_generated_games_with_equal_text(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if not oracle.is_installed():
        pytest.skip("the real engine is missing: pip install 'hiperjax[alfworld]'")
    write_games(tmp_path, "train", 6, dials=Dials("tiny"))
    write_games(tmp_path, "unseen", 2, dials=Dials("full"))
    assert walk_live(tmp_path, count=8, steps=15, seed=0) == []
    native, real = (AlfworldSuite(tmp_path, engine=engine) for engine in ("native", "real"))
    for task in native.tasks("unseen"):
        assert play_walkthrough(native, task) == play_walkthrough(real, task)
    write_file(tmp_path / "train" / "pick_and_place_simple-odd" / "trial_0")
    engine, game = oracle.RealEngine(), build_game(make_problem())
    state = game.start
    real = engine.reset(tmp_path / "train" / "pick_and_place_simple-odd" / "trial_0")
    assert real.text == describe_start(game)
    for command in ODD_WALK:
        state, text = act(game, state, command)
        real = engine.step(command)
        assert (text, list_admissible(game, state)) == (real.text, real.admissible), command
        assert is_won(game, state) == real.won == real.done
