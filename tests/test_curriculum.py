"""Strata of tasks: odds by success, draws by hash and counts, a run that goes on to the bit."""

import collections
import dataclasses
from typing import Any

import jax
import numpy as np
import pytest
from helpers.small_runs import BASE, small_run, train_until_killed

from experiments.studies.chains import Agent, Arm, measure_longest, run_arm
from hiperjax.config import ConfigError, CurriculumConfig, RunConfig
from hiperjax.envs.base import Suite
from hiperjax.envs.ladder import list_chains, make_ladder_suite
from hiperjax.envs.plans import describe_spectrum, name_bucket
from hiperjax.envs.registry import SuiteError, make_suite
from hiperjax.training.build import restore_run
from hiperjax.training.curriculum import (
    estimate_success,
    make_curriculum,
    weigh_edge,
    weigh_stages,
)
from hiperjax.training.metrics import METRICS, read_lines
from hiperjax.training.trainer import train
from hiperjax.validation import validate

CHAINS = make_ladder_suite("chain-2-6-18")
SUCCESS = np.array([0.02, 0.2, 0.5, 0.9])


@pytest.mark.parametrize(
    ("exponent", "expected"),
    [(1.0, (0.0589, 0.3021, 0.4580, 0.1809)), (0.5, (0.1190, 0.2937, 0.3608, 0.2265))],
)
def test_odds_at_the_edge_are_the_worked_example(exponent, expected):
    np.testing.assert_allclose(
        weigh_edge(SUCCESS, exponent=exponent, floor=0.1), expected, atol=5e-5
    )


def test_odds_are_even_where_nothing_is_to_be_learned_and_never_below_the_floor():
    np.testing.assert_allclose(weigh_edge(np.array([0.0, 1.0]), exponent=1.0, floor=0.1), 0.5)
    odds = weigh_edge(np.array([0.0, 0.5, 1.0]), exponent=1.0, floor=0.3)
    np.testing.assert_allclose(odds, [0.1, 0.8, 0.1])


def test_stages_open_one_after_the_other():
    for success, expected in (
        ([0.5, 0.9, 0.9], [1, 0, 0]),
        ([0.6, 0.5, 0.9], [0.5, 0.5, 0]),
        ([0.7, 0.6, 0.0], [1 / 3, 1 / 3, 1 / 3]),
    ):
        np.testing.assert_allclose(weigh_stages(np.array(success), open_at=0.6), expected)


def make(suite: Suite = CHAINS, seed=1, counts=None, saved=None, **options):
    found = make_curriculum(CurriculumConfig(**options), suite, seed, saved)
    assert found is not None
    found.counts.update({name: list(pair) for name, pair in (counts or {}).items()})
    return found


def test_counts_decay_and_what_is_drawn_follows_them_and_nothing_else():
    one = make(kind="edge", decay=0.5)
    assert list(one.share) == ["chain-2", "chain-6", "chain-18"]
    tasks = ["chain-2/0", "chain-2/1", "chain-2/2", "chain-18/0"]
    one.count(zip(tasks, [True, True, False, False], strict=True))
    one.count([("chain-2/0", True)])
    assert one.counts["chain-2"] == [2.0, 0.5] and one.counts["chain-18"] == [0.0, 0.5]
    np.testing.assert_allclose(one.success, [3 / 4.5, 1 / 2, 1 / 2.5])
    again = make(kind="edge", saved=one.saved | {"best": 1.0, "target_seconds": None})
    assert again.counts == one.counts
    assert again.draw(30, 4, 0) == one.draw(30, 4, 0)
    assert one.draw(30, 5, 0) != one.draw(30, 4, 0) != one.draw(30, 4, 1)
    assert make(kind="edge", counts=one.counts, seed=2).draw(30, 4, 0) != one.draw(30, 4, 0)
    again.counts["chain-2"] = [99.0, 0.0]
    assert again.draw(30, 4, 0) != one.draw(30, 4, 0)
    before = again.draw(30, 4, 0)
    again.counts["chain-2"][0] = 0.0
    assert one.counts["chain-2"][0] == 2.0 and before != again.draw(30, 4, 0)


def test_draws_have_the_odds_and_leave_out_what_was_played():
    one = make(
        kind="edge",
        counts={"chain-2": [500.0, 0.0], "chain-6": [5.0, 5.0], "chain-18": [0.0, 500.0]},
    )
    drawn = [one.draw(60, i, 0) for i in range(40)]
    found = collections.Counter(task.split("/")[0] for tasks in drawn for task in tasks)
    share = np.array([found[name] for name in one.share]) / found.total()
    np.testing.assert_allclose(share, one.odds, atol=0.02)
    assert share[1] > 0.9
    played = set(CHAINS.tasks("train")[:90])
    assert not played & set(one.draw(50, 0, 1, played))
    assert one.draw(4, 0, 1, CHAINS.tasks("train")) == []


def test_horizons_are_buckets_of_plan_length_mixed_or_opened():
    staged = make(kind="horizon")
    assert list(staged.share) == ["1-2", "5-8", "17-32"]
    assert staged.odds.tolist() == [1, 0, 0]
    assert {task.split("/")[0] for task in staged.draw(20, 0, 0)} == {"chain-2"}
    staged.count([("chain-2/0", True)] * 4)
    assert staged.odds.tolist() == [0.5, 0.5, 0]
    mixed = make(kind="horizon", weights=(0.0, 1.0, 3.0))
    assert mixed.odds.tolist() == [0, 0.25, 0.75]
    with pytest.raises(ConfigError, match=r"weights has 2 entries; .*: 1-2, 5-8, 17-32"):
        make(kind="horizon", weights=(1.0, 2.0))
    with pytest.raises(ConfigError, match=r"desk-tiny does not tell .*; expected a suite"):
        make(make_suite("desk"), kind="horizon")


def test_household_strata_are_types_by_plan_length():
    suite = make_suite("household", size="tiny")
    one = make(suite, kind="edge")
    assert {name.split("/")[0] for name in one.share} <= {
        suite.task_type(t) for t in one.tasks[:60]
    }
    drawn = one.draw(12, 0, 0)
    assert len(set(drawn)) == 12 and len({suite.difficulty(task) for task in drawn}) > 5
    assert sum(one.share.values()) == pytest.approx(1)


def test_metrics_tell_success_on_the_tasks_as_they_come():
    one = make(
        kind="edge", counts={"chain-2": [8.0, 0.0], "chain-6": [3.0, 5.0], "chain-18": [0.0, 8.0]}
    )
    found = one.metrics()
    assert found["curriculum/success/chain-6"] == estimate_success(3.0, 5.0) == 0.4
    assert found["curriculum/success_as_they_come"] == pytest.approx((0.9 + 0.4 + 0.1) / 3)
    assert sum(v for name, v in found.items() if "odds" in name) == pytest.approx(1)


def test_uniform_is_no_curriculum_and_what_cannot_be_is_told():
    assert make_curriculum(CurriculumConfig(), CHAINS, 1) is None
    refused: list[tuple[dict[str, Any], str]] = [
        (
            dict(kind="edge", weights=(1.0,)),
            "weights is .* with curriculum.kind edge; expected hor",
        ),
        (dict(kind="horizon", weights=(-1.0, 2.0)), "expected numbers from 0"),
        (dict(kind="horizon", weights=(float("nan"), 2.0)), "expected numbers from 0"),
    ]
    for options, message in refused:
        with pytest.raises(ConfigError, match=message):
            validate(dataclasses.replace(BASE, curriculum=CurriculumConfig(**options)))


@pytest.mark.parametrize(
    ("length", "bucket"),
    [(1, "1-2"), (2, "1-2"), (3, "3-4"), (4, "3-4"), (5, "5-8"), (33, "33-64")],
)
def test_buckets_double(length, bucket):
    assert name_bucket(length) == bucket


def test_the_spectrum_warns_of_a_gap_that_nothing_has_crossed():
    near = describe_spectrum([2] * 5 + [4] * 3 + [8])
    assert "wide gap" not in near and "2.00" in near and near.splitlines()[1].endswith("#" * 24)
    assert "success there is unknown" in describe_spectrum([2, 18])
    assert "9.0 times" in describe_spectrum([2, 18], {"1-2": 1.0, "17-32": 0.0})
    assert "wide gap" not in describe_spectrum([2, 18], {"1-2": 1.0, "17-32": 0.1})


def test_a_chain_is_won_by_every_press_and_lost_by_one():
    for task, script in list_chains((1, 7)).items():
        for wrong in (None, len(script.scenes) - 1):
            env, expert = make_ladder_suite("chain-1-7").make_env(), CHAINS.make_expert(seed=0)
            observation, step, turns = env.reset(task), None, 0
            expert.reset(observation)
            while step is None or not step.terminated:
                action = expert.decide(observation).action
                if turns == wrong:
                    action = next(each for each in observation.admissible if each != action)
                step, turns = env.step(action), turns + 1
                observation = step.observation
            assert turns == len(script.scenes) and step.success == (wrong is None)
    told = [scene.text for scene in list_chains((7,))["chain-7/0"].scenes[1:]]
    assert not any(color in text for text in told for color in ("red", "blue"))
    with pytest.raises(SuiteError, match="ladder/chain-0"):
        make_suite("ladder/chain-0")


def test_the_studys_chances_are_those_of_its_episodes():
    suite, agent = make_ladder_suite("chain-3"), Agent(seed=0)
    assert measure_longest(suite, agent) == pytest.approx(1 / 8)
    agent.odds = {("A red lamp glows.", ""): 2.0, ("The lamp turns.", "red"): -1.0}
    played = [agent.play(suite, task)[0] for task in suite.tasks("train") for _ in range(60)]
    assert np.mean(played) == pytest.approx(measure_longest(suite, agent), abs=0.03)
    reached = run_arm(Arm("chain-2"), seed=1, iterations=120)
    assert reached is not None and reached > 1


@pytest.mark.slow(reason="two runs, each compiled anew, and an evaluation")
def test_a_run_killed_amid_its_curriculum_goes_on_to_the_bit(tmp_path, monkeypatch):
    """Counts are saved, and draws and rounds follow from them."""

    def config(name):
        parts = {
            "rollout": dict(group_size=2, rounds=3),
            "imitation": dict(steps=60, episodes=40, noise=0.3),
            "eval": dict(splits=("train",), every=3, max_tasks=4),
        }
        world = dataclasses.replace(BASE.env, suite="ladder/chain-1-3", task_types=())
        return small_run(
            tmp_path / name, parts, env=world, iterations=3, checkpoint_every=1, target=None,
            curriculum=CurriculumConfig(kind="edge"),
        )  # fmt: skip

    whole = train(config("whole"))
    records = read_lines(whole / METRICS)[1:]
    assert all(1 <= record["dynamic/rounds"] <= 3 for record in records)
    assert len({record["curriculum/odds/chain-3"] for record in records}) > 1
    assert all(0 <= record["curriculum/dead_groups"] <= 1 for record in records)
    train_until_killed(config("cut"), 2, monkeypatch)
    train(RunConfig(), resume=tmp_path / "cut")
    assert (tmp_path / "cut" / METRICS).read_text() == (whole / METRICS).read_text()
    states = [restore_run(folder, "last")[1] for folder in (whole, tmp_path / "cut")]
    for a, b in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_array_equal(a, b)
