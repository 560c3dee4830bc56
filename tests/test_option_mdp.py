"""The theorems by exact enumeration: every trajectory, the shipped kernels, float64."""

from functools import partial

import numpy as np
import pytest

from experiments.studies.option_mdp import (
    Study,
    flat_estimate,
    gradients,
    hae_estimate,
    make_mdp,
    make_policy,
    true_gradient,
)
from experiments.studies.option_study import (
    boundary_curve,
    charged,
    cost_sweep,
    pair_whitened,
    turn_index_whitened,
    variance_grid,
    whitened,
)

LAMBDAS = [(1, 1, 0), (1, 1, 1), (0.5, 0.7, 0.3), (0, 0, 0)]


@pytest.fixture(scope="module")
def study() -> Study:
    return Study(make_mdp(), make_policy(), 3)


def expected(study: Study, turn, segment, boundary, critic=None) -> np.ndarray:
    estimate = partial(hae_estimate, turn=turn, segment=segment, boundary=boundary)
    return study.moments(study.advantages(estimate, critic)).mean


def test_the_list_of_trajectories_is_complete(study):
    x = study.trajectories
    assert abs(x.prob.sum() - 1) < 1e-14
    value = (study.mdp.start * np.asarray(study.values.high)[0]).sum()
    assert abs(x.prob @ (x.reward * x.mask).sum(1) - value) < 1e-12
    rows = np.column_stack([x.state, x.switch, x.subgoal, x.action, x.mask, x.reward])
    assert len(np.unique(rows, axis=0)) == len(rows)


@pytest.mark.parametrize("lambdas", LAMBDAS)
def test_unbiased_with_exact_critics(study, lambdas):
    """Theorem 4.2, and more: with exact critics every lambda will do."""
    np.testing.assert_allclose(expected(study, *lambdas), study.truth, atol=1e-10)


def test_unbiased_over_five_turns_and_422260_trajectories():
    longer = Study(make_mdp(), make_policy(), 5)
    assert len(longer.trajectories.prob) == 422_260
    np.testing.assert_allclose(expected(longer, 1, 1, 0), longer.truth, atol=1e-10)


@pytest.mark.parametrize("kind", ["noise", "cold"])
def test_with_wrong_critics_only_lambda_one_everywhere_is_unbiased(study, kind):
    critic = study.wrong_critic(1.0, kind)
    np.testing.assert_allclose(expected(study, 1, 1, 1, critic), study.truth, atol=1e-10)
    size = np.linalg.norm(study.truth)
    for turn, segment, boundary in LAMBDAS[:1] + LAMBDAS[2:]:
        found = expected(study, turn, segment, boundary, critic)
        assert np.linalg.norm(found - study.truth) > 0.01 * size


def test_flat_gae_is_unbiased_too(study):
    flat = study.moments(study.advantages(flat_estimate))
    np.testing.assert_allclose(flat.mean, study.truth, atol=1e-10)


def test_centering_by_a_constant_is_harmless_and_scaling_streams_is_not(study):
    low, high, term = study.advantages(hae_estimate)
    shifted = study.moments((low - 0.7, high + 0.4, term - 1.0)).mean
    np.testing.assert_allclose(shifted, study.truth, atol=1e-10)
    white = study.moments(whitened(study, (low, high, term))).mean
    parts = np.split(white, [6, 12]), np.split(study.truth, [6, 12])
    ratios = [w / t for w, t in zip(*parts, strict=True)]
    for ratio in ratios:  # inside a stream the direction is kept ...
        np.testing.assert_allclose(ratio[np.isfinite(ratio)], ratio[0], rtol=1e-6)
    assert abs(ratios[1][0] / ratios[2][0] - 1) > 0.01  # ... between streams it is not


def test_centering_by_the_batch_depends_on_the_action(study):
    pair = pair_whitened(study, study.advantages(hae_estimate))
    assert np.linalg.norm(pair - study.truth) > 0.05 * np.linalg.norm(study.truth)


def test_centering_rewards_by_turn_index_charges_every_further_turn(study):
    """The bias is exactly that of a hidden reward, minus the mean at the index, for each turn."""
    advantages, mean = turn_index_whitened(study)
    found = study.moments(advantages).mean
    charged = true_gradient(study.mdp, study.policy, study.horizon, bonus=-mean)
    np.testing.assert_allclose(found, charged, atol=1e-10)
    assert np.linalg.norm(found - study.truth) > 0.05 * np.linalg.norm(study.truth)


def test_moments_by_hand(study):
    x = study.trajectories
    g = gradients(x, study.scores, study.advantages(hae_estimate))
    moments = study.moments(study.advantages(hae_estimate))
    mean = np.einsum("k,kp->p", x.prob, g)
    assert moments.variance == pytest.approx(x.prob @ ((g - mean) ** 2).sum(1))


def test_a_price_of_switching_is_charged_to_the_decision_alone(study):
    """The expected gradient loses cost times that of P(SWITCH) at each turn that decides, weighed
    by how often it is come to; nothing else moves, under any critic."""
    x, cost = study.trajectories, 0.3
    for critic in (None, study.wrong_critic(1.0, "noise")):
        advantages = study.advantages(partial(hae_estimate, boundary=1.0), critic)
        free = study.moments(advantages).mean
        paid = study.moments(charged(study, advantages, cost)).mean
        beta = 1 / (1 + np.exp(-np.asarray(study.policy.switch)))
        expected = np.zeros_like(beta)
        decides = x.mask & (np.arange(x.mask.shape[1]) > 0)
        visits = x.prob[:, None] * decides * (beta * (1 - beta))[x.state, x.before]
        np.add.at(expected, (x.state, x.before), visits)
        np.testing.assert_allclose((free - paid)[:6], cost * expected.ravel(), atol=1e-12)
        np.testing.assert_array_equal(paid[6:], free[6:])


def test_a_price_of_switching_makes_segments_longer():
    table = cost_sweep((0.0, 0.3), horizon=3, steps=8)
    assert table[0.3]["segment length"] > table[0.0]["segment length"]
    assert table[0.3]["return"] <= table[0.0]["return"] + 1e-9


def test_variance_against_flat_gae():
    """Theorem 4.3 holds of advantages everywhere, of gradients not quite everywhere."""
    grid = variance_grid((2, 3), (0.1, 0.8), (0.0, 3.0))
    for (_, _, informative), row in grid.items():
        assert row["advantage, HAE"] < 1
        assert row["advantage, HAE, lambda_boundary 1"] <= 1 + 1e-9
        if not informative:  # subgoals tell nothing: the cut at boundaries is all there is
            assert row["gradient, HAE, lambda_boundary 1"] == pytest.approx(1.0, abs=1e-9)
            assert row["gradient, HAE"] < 1
    assert grid[3, 0.1, 3.0]["gradient, HAE"] < 0.9
    assert grid[2, 0.8, 3.0]["gradient, HAE"] > 1.0
    assert grid[3, 0.8, 3.0]["gradient, HAE, lambda_boundary 1"] > 1.0


def test_lambda_boundary_trades_bias_for_variance(study):
    table = boundary_curve(study, kind="cold", batch=1024, errors=(0.0, 1.0))
    np.testing.assert_allclose(table["bias"][:, 0], 0, atol=1e-10)
    assert (np.diff(table["bias"][:, 1]) < 0).all()
    assert table["bias"][-1, 1] < 1e-10
    assert (np.diff(table["deviation"][:, 0]) > 0).all()
