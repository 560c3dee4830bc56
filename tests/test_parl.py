"""PARL: discounts by critical steps, weights that fall to nothing, the group mean, the band."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hiperjax.config import ConfigError, EnvConfig, ParlConfig, PpoConfig, RunConfig
from hiperjax.envs.registry import make_suite
from hiperjax.learning.bands import band_surrogate
from hiperjax.learning.costs import pack_costs
from hiperjax.learning.credit.endings import turn_discount
from hiperjax.learning.credit.registry import estimate
from hiperjax.learning.credit.types import CreditInputs
from hiperjax.learning.losses import LossInputs, ppo_loss
from hiperjax.learning.packing import pack
from hiperjax.presets import PRESETS
from hiperjax.training.parl import (
    ParlStage,
    anneal,
    grade_finish,
    grade_parallel,
    make_parl_stage,
    measure_delegation,
)
from hiperjax.training.scored import Scored
from hiperjax.training.scorer import make_scorer
from hiperjax.types import Blocks, Delegation, Ending, Trajectory, Turn
from hiperjax.validation import validate

BLOCKS = Blocks(True, "go", "go", (0, 1), (1, 2), (2, 3), True)
STAGES = (
    Delegation(("ann", "bob", "cid"), (3, 5, 2), 3, 2),
    Delegation(refused=2),
    Delegation(("ann", "dan"), (4, 4), 1, 1),
)


def make_episode(stages=STAGES, rewards=(0.5, 0.0, 0.25), task="errands/train/0") -> Trajectory:
    ids, none = np.ones(3, np.int32), np.zeros(3, np.float32)
    turns = (
        Turn(ids, ids, none, BLOCKS, reward, delegation=stage)
        for stage, reward in zip(stages, rewards, strict=True)
    )
    return Trajectory(task, tuple(turns), Ending.TERMINATED, False)


def make_inputs(**fields) -> CreditInputs:
    rng = np.random.default_rng(0)
    shape = (4, 5)
    values = {
        name: jnp.asarray(rng.normal(size=shape), jnp.float32)
        for name in ("reward", "v_low", "v_high", "v_term")
    }
    ends = {f"bootstrap_{name}": jnp.ones(4) for name in ("low", "high", "term")}
    mask = jnp.arange(5)[None] < jnp.array([[5], [3], [4], [5]])
    given = dict(
        mask=mask,
        boundary=jnp.asarray(rng.random(shape) < 0.4).at[:, 0].set(True),
        terminated=jnp.array([True, False, True, False]),
        group_id=jnp.array([0, 0, 1, 1]),
    )
    return CreditInputs(**(values | ends | given | fields))


def test_a_turn_is_discounted_by_its_critical_steps():
    mask = jnp.ones((1, 3), bool)
    cost = jnp.array([[6.0, 1.0, 5.0]])
    for ended, last in ((False, 0.9**5), (True, 0.0)):
        found = turn_discount(mask, jnp.array([ended]), 0.9, cost)
        np.testing.assert_allclose(found, [[0.9**6, 0.9, last]], rtol=1e-6)
    assert (turn_discount(mask, jnp.array([False]), 1.0, cost) == 1.0).all()


@pytest.mark.parametrize("name", ["hae", "flat_gae"])
def test_a_turn_of_two_steps_is_worth_what_gamma_squared_is(name):
    """Cost 2 at gamma is cost 1 at gamma squared; at gamma 1 costs are nothing."""
    two = jnp.full((4, 5), 2.0)
    found = estimate(name, make_inputs(cost=two), gamma=0.9)
    expected = estimate(name, make_inputs(), gamma=0.81)
    np.testing.assert_allclose(found.adv_low, expected.adv_low, rtol=1e-5, atol=1e-6)
    plain, costly = (estimate(name, make_inputs(**x), gamma=1.0) for x in ({}, {"cost": two}))
    assert (plain.adv_low == costly.adv_low).all()


def test_costs_are_packed_where_turns_are():
    cost = pack_costs([make_episode()], 2, 4)
    assert cost.tolist() == [[6.0, 1.0, 5.0, 1.0], [1.0] * 4]
    assert pack([make_episode()], max_turns=4).grid.cost is None
    found = pack([make_episode()], max_turns=4, costs=True).grid.cost
    assert found is not None and found.tolist() == [[6.0, 1.0, 5.0, 1.0]]


def test_weights_are_a_function_of_the_iteration():
    """The vector of SEEDS: 50 iterations, a share of .6, .3 at first."""
    at = {i: anneal(0.3, i, iterations=50, share=0.6) for i in (0, 15, 30, 49)}
    assert at == pytest.approx({0: 0.3, 15: 0.15, 30: 0.0, 49: 0.0})
    assert anneal(0.3, 49, iterations=50, share=None) == 0.3


def test_what_is_paid_is_what_was_sent_and_what_the_world_found_done():
    episode = make_episode()
    assert grade_parallel(episode, 4) == [0.75, 0.0, 0.25]
    assert grade_parallel(episode, 2) == [1.0, 0.0, 0.0], "beyond the width nothing is paid"
    assert grade_finish(episode) == [0.4, 0.0, 0.2], "of five handed out, not of those claimed"
    assert grade_finish(make_episode((Delegation(),) * 3)) == [0.0] * 3


@pytest.mark.parametrize(
    ("credit", "expected"),
    [("episode", [0.5, 0.0, 0.25 + 0.3 + 0.12]), ("turn", [0.805, 0.0, 0.365])],
)
def test_where_it_is_paid_does_not_change_how_much(credit, expected):
    options = ParlConfig(lambda_parallel=0.3, lambda_finish=0.2, credit=credit)
    stage = ParlStage(options, iterations=50)
    scored = Scored([make_episode()], {})
    stage.apply(scored, iteration=0)
    assert [t.reward for t in scored.trajectories[0].turns] == pytest.approx(expected)
    assert scored.metrics["parl/r_perf"] == 0.75 and scored.metrics["parl/lambda_parallel"] == 0.3
    late = Scored([make_episode()], {})
    stage.apply(late, iteration=30)
    assert [t.reward for t in late.trajectories[0].turns] == [0.5, 0.0, 0.25]


def test_delegation_is_measured():
    alone = make_episode((Delegation(),) * 3, (0.0, 0.0, 1.0))
    found = measure_delegation([make_episode(), alone], 4)
    assert found == pytest.approx(
        {
            "parl/spawn_rate": 0.5, "parl/width": 2.5, "parl/finish_claimed": 0.8,
            "parl/finish_verified": 0.6, "parl/critical": 7.5, "parl/total": 12.0,
            "parl/critical_share": 0.625, "parl/refused": 1.0, "parl/r_perf": 0.875,
            "parl/r_parallel": 0.5, "parl/r_finish": 0.3,
        }
    )  # fmt: skip


def test_the_estimator_is_the_return_less_the_mean_of_its_task():
    inputs = make_inputs()
    found = estimate("parl", inputs, row_penalty=5.0, keep_singleton_score=True)
    returns = jnp.where(inputs.mask, inputs.reward, 0).sum(axis=1)
    expected = returns - returns.reshape(2, 2).mean(axis=1).repeat(2)
    np.testing.assert_allclose(
        found.adv_low, jnp.where(inputs.mask, expected[:, None], 0), rtol=1e-5, atol=1e-6
    )


def test_outside_the_band_nothing_is_learned_whatever_the_sign():
    log_ratio = jnp.array([-0.5, -0.5, 0.1, 0.1, 0.5, 0.5])
    advantage = jnp.array([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])

    def loss(x, penalty=0.0):
        return band_surrogate(x, advantage, band=(-0.2, 0.2), square_penalty=penalty).sum()

    inside = -advantage * jnp.exp(log_ratio) * (jnp.abs(log_ratio) < 0.2)
    np.testing.assert_allclose(jax.grad(loss)(log_ratio), inside, rtol=1e-6)
    pulled = jax.grad(loss)(log_ratio, 0.5)
    np.testing.assert_allclose(pulled, inside + log_ratio, rtol=1e-6)


def test_the_loss_takes_the_band_in_place_of_the_clip():
    ones = jnp.ones((1, 3))
    logprobs = jnp.array([[-0.5, 0.1, 0.5]])
    zeros, mask = jnp.zeros((1, 3)), jnp.array([[True, True, False]])

    def loss(x):
        inputs = LossInputs(x, zeros, x, zeros, -ones, mask, jnp.full((1, 3), 2))
        kinds: Any = dict(clip=0.2, dual_clip=3.0, kl_coefficient=0.0, entropy_coefficient=0.0)
        return ppo_loss(inputs, mask.sum() * 1.0, **kinds, band=(-0.2, 0.2))

    grad = jax.grad(lambda x: loss(x).loss)(logprobs)
    np.testing.assert_allclose(grad, [[0.0, np.exp(0.1) / 2, 0.0]], rtol=1e-6)
    assert loss(logprobs).metrics["clip_share"] == 0.5


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (dict(band=(0.1, 0.2)), "ppo.band is 0.1 0.2; expected a log ratio below 0"),
        (dict(square_penalty=1.0), "expected 0, or clip_mode log_band"),
        (dict(clip_mode="log_band", clip_high=0.3), "expected none: the band has two ends"),
    ],
)
def test_a_band_that_is_none_is_refused(settings, told):
    with pytest.raises(ConfigError, match=told):
        validate(RunConfig(ppo=dataclasses.replace(PpoConfig(), **settings)))
    validate(RunConfig(ppo=PpoConfig(clip_mode="log_band", square_penalty=1.0)))


def test_nobody_is_paid_for_sub_agents_that_a_world_does_not_have():
    config = RunConfig(env=EnvConfig(), parl=ParlConfig(lambda_finish=0.2))
    with pytest.raises(ConfigError, match=r"parl.lambda_finish is 0.2; the suite household"):
        make_parl_stage(config, make_suite("household"))
    assert make_parl_stage(RunConfig(), make_suite("household")) is None


def test_a_run_on_errands_pays_for_delegation():
    config = PRESETS["errands-tiny"][1]
    scorer = make_scorer(config, make_suite("errands"))
    assert scorer.parl == ParlStage(config.parl, config.iterations) and not scorer.idle
    scored = scorer.score([make_episode()], iteration=0)
    assert scored.trajectories[0].turns[-1].reward == pytest.approx(0.67)
    assert scored.metrics["parl/critical"] == 12 and scored.metrics["parl/total"] == 21
