"""Comparison: every estimator at once, and its statistics on cases known by hand."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from hiperjax.learning.credit.compare import (
    between_segments,
    compare_estimators,
    signal_to_noise,
    usable_estimators,
)
from hiperjax.learning.credit.registry import ESTIMATORS
from hiperjax.learning.statistics import explained_variance
from hiperjax.testing import example_inputs


def test_every_estimator_in_one_jitted_call():
    inputs = example_inputs(3, episodes=8, turns=7)
    names = usable_estimators(inputs)
    assert set(names) == set(ESTIMATORS)
    signals = jnp.asarray(np.random.default_rng(0).normal(size=(8, 7, 3, 5)), jnp.float32)
    call = jax.jit(partial(compare_estimators, names=names, gamma=0.95))
    found = call(inputs, signals=signals)
    assert all(bool(jnp.isfinite(x)) for x in found.values())
    assert float(found["hae/agreement"]) == 1
    assert abs(float(found["hae/correlation"]) - 1) < 1e-5
    assert {key.split("/")[0] for key in found} == set(names)
    assert "flat_gae/explained_term" in found and "grpo/explained_term" not in found


def test_estimators_whose_needs_are_not_met_are_left_out():
    absent = {"milestone", "state_id", "v_token", "satisfied"}
    inputs = example_inputs()._replace(**dict.fromkeys(absent))
    left = {name for name, estimator in ESTIMATORS.items() if absent.isdisjoint(estimator.needs)}
    assert set(usable_estimators(inputs)) == left < set(ESTIMATORS)


def test_between_segments():
    boundary = jnp.array([[True, False, True, False]])
    live = jnp.ones((1, 4), bool)
    constant = jnp.array([[1.0, 1, 3, 3]])
    assert abs(float(between_segments(constant, live, boundary)) - 1) < 1e-6
    alternating = jnp.array([[1.0, 3, 1, 3]])
    assert abs(float(between_segments(alternating, live, boundary))) < 1e-6


def test_explained_variance_looks_at_value_positions_only():
    target = jnp.array([[1.0, 2, 3, 99]])
    value = jnp.array([[1.5, 2.5, 3.5, -99]])
    mask = jnp.array([[True, True, True, False]])
    assert abs(float(explained_variance(value, target, mask)) - 1) < 1e-6
    assert abs(float(explained_variance(0 * value, target, mask))) < 1e-6


def test_signal_to_noise_of_a_known_gradient():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(4000, 10))
    g = jnp.asarray(noise + 0.2, jnp.float32)
    expected = 10 * 0.04 / (10 / 4000)
    found = float(signal_to_noise(g, jnp.ones(4000, bool)))
    assert abs(found / expected - 1) < 0.2
    assert float(signal_to_noise(jnp.asarray(noise, jnp.float32), jnp.ones(4000, bool))) < 3
