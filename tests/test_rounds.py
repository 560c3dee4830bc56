"""Groups that agree are dropped and others played: until the batch is full, or the rounds are."""

import dataclasses

import numpy as np
import pytest
from helpers.episodes import make_turn
from helpers.small_runs import BASE

from hiperjax.acting.collector import RolloutResult
from hiperjax.acting.lane_sizes import RolloutStats
from hiperjax.config import ConfigError
from hiperjax.envs.workers import EnvFailure
from hiperjax.training.collecting import agree, measure_dead_groups, play_rounds
from hiperjax.training.tasks import choose_others
from hiperjax.types import Ending, Trajectory
from hiperjax.validation import validate

TASKS = [f"task {i}" for i in range(40)]
LOST = "task 7"


def make_episode(rng, task, reward):
    turn = dataclasses.replace(make_turn(rng, first=True), reward=reward)
    return Trajectory(task, (turn,), Ending.TERMINATED, success=reward > 0)


class World:
    """Plays pairs: those of tasks that `apart` names differ, one episode of `LOST` is lost."""

    def __init__(self, rng, apart):
        self.rng, self.apart, self.rounds = rng, apart, []

    def play(self, tasks, number):
        assert number == len(self.rounds)
        self.rounds.append(list(tasks))
        rewards = [(task, float(k and self.apart(task))) for task in tasks for k in range(2)]
        lost = [EnvFailure(LOST, "lost")] if LOST in tasks else []
        played = [make_episode(self.rng, *pair) for pair in rewards]
        return RolloutResult(played[len(lost) :], lost, RolloutStats(reply_tokens=3), {"host": 1.0})

    def draw(self, count, number, played):
        if number == 0:
            return TASKS[:count]
        return choose_others(TASKS, (1, number), count, played)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_one_round_keeps_all_as_it_came(rng):
    world = World(rng, lambda task: False)
    found = play_rounds(world.play, world.draw, groups=4, rounds=1)
    assert found.kept is found.played and not found.metrics and len(world.rounds) == 1


def test_groups_that_agree_are_replaced_until_the_batch_is_full(rng):
    world = World(rng, lambda task: int(task.split()[1]) % 3 == 0)
    found = play_rounds(world.play, world.draw, groups=4, rounds=50)
    assert len(found.kept) == 8 and not any(agree(found.kept[i : i + 2]) for i in range(0, 8, 2))
    assert [episode.task_id for episode in found.kept[:4]] == ["task 0"] * 2 + ["task 3"] * 2
    drawn = [task for tasks in world.rounds for task in tasks]
    assert len(set(drawn)) == len(drawn), "no task twice in an iteration"
    assert len(found.played) == 2 * len(drawn) - (LOST in drawn)
    assert [len(tasks) for tasks in world.rounds[:2]] == [4, 2], "only what is missing"
    assert found.metrics == {
        "dynamic/dropped_groups": len(drawn) - 4,
        "dynamic/extra_episodes": 2 * (len(drawn) - 4),
        "dynamic/rounds": len(world.rounds),
    }
    assert (
        found.result.stats.reply_tokens == 3 * len(world.rounds) == 3 * found.result.seconds["host"]
    )
    again = World(rng, world.apart)
    play_rounds(again.play, again.draw, groups=4, rounds=50)
    assert again.rounds == world.rounds


def test_the_batch_is_short_where_rounds_run_out_and_never_empty(rng):
    world = World(rng, lambda task: task == "task 0")
    found = play_rounds(world.play, world.draw, groups=4, rounds=3)
    assert [episode.task_id for episode in found.kept] == ["task 0"] * 2
    assert found.metrics["dynamic/rounds"] == 3
    world = World(rng, lambda task: False)
    found = play_rounds(world.play, world.draw, groups=4, rounds=100)
    assert [episode.task_id for episode in found.kept[::2]] == TASKS[:4]
    assert len({task for tasks in world.rounds for task in tasks}) == len(TASKS), "all were tried"


def test_a_group_of_one_has_nothing_to_compare(rng):
    one, two, three = (make_episode(rng, "a", reward) for reward in (1.0, 1.0, 0.0))
    assert agree([one]) and agree([one, two]) and not agree([one, three])
    other = make_episode(rng, "b", 0.0)
    assert measure_dead_groups([one, three, other]) == 0.5


def test_others_are_drawn_once_each_and_never_among_the_played():
    found = choose_others(TASKS, (1, 2, 3), 30, TASKS[:20])
    assert sorted(found) == sorted(TASKS[20:]) and found != TASKS[20:]
    assert found == choose_others(TASKS, (1, 2, 3), 30, TASKS[:20])
    assert found[:5] == choose_others(TASKS, (1, 2, 3), 5, TASKS[:20])
    assert found != choose_others(TASKS, (1, 2, 4), 30, TASKS[:20])


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"rollout": dict(rounds=3)}, "rollout.rounds is 3 with rollout.group_size 1; expected"),
        (
            {"rollout": dict(rounds=3, group_size=2), "rubric": dict(reward="add")},
            "rubric.reward is add with rollout.rounds 3; expected off",
        ),
        (
            {"rollout": dict(rounds=2, group_size=2), "credit": dict(checklist_reward="add")},
            "credit.checklist_reward is add with rollout.rounds 2; expected off",
        ),
    ],
)
def test_what_cannot_be_is_told_in_one_line(parts, message):
    changed = {k: dataclasses.replace(getattr(BASE, k), **v) for k, v in parts.items()}
    with pytest.raises(ConfigError, match=message):
        validate(dataclasses.replace(BASE, **changed))
