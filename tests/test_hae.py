"""HAE: the oracle, the special cases, causality, and everything that must change nothing."""

import doctest
import importlib

import hiperjax_kernels
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.credit_cases import lambdas, live, random_inputs, seeds, to_jax
from hiperjax_kernels.gae import gae_batch
from hiperjax_kernels.hae import HaeInputs, HaeOutputs, hae, hae_batch
from hiperjax_kernels.reference import hae_reference
from hypothesis import given, settings

ONES = {"lambda_turn": 1.0, "lambda_segment": 1.0, "lambda_boundary": 1.0}
PAPER = {"lambda_turn": 0.8, "lambda_segment": 0.7, "lambda_boundary": 0.0}

jitted, one_jitted, gae_jitted = jax.jit(hae_batch), jax.jit(hae), jax.jit(gae_batch)


def assert_equal(found: HaeOutputs, expected: HaeOutputs, tolerance: float = 2e-5) -> None:
    for name, x, y in zip(HaeOutputs._fields, found, expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance, err_msg=name)


@given(seeds, lambdas)
def test_equals_the_loop_oracle(seed, lams):
    inputs = random_inputs(seed)
    found = jitted(to_jax(inputs), **lams)
    assert_equal(found, HaeOutputs(**hae_reference(inputs, **lams)))


@given(seeds, lambdas)
def test_equals_the_loop_oracle_in_float64(seed, lams):
    inputs = random_inputs(seed, dtype=np.float64)
    with jax.enable_x64(True):
        found = jitted(to_jax(inputs), **lams)
        assert found.adv_low.dtype == jnp.float64
    assert_equal(found, HaeOutputs(**hae_reference(inputs, **lams)), 1e-12)


def test_worked_by_hand():
    """Five turns, three segments; the numbers can be followed with a pencil."""
    inputs = HaeInputs(
        reward=jnp.array([0.0, 1, 0, 0, 10]),
        discount=jnp.array([0.9, 0.9, 0.9, 0.9, 0]),
        v_low=jnp.array([1.0, 2, 3, 4, 5]),
        v_high=jnp.array([0.5, 99, 1.5, 2.5, 99]),
        v_term=jnp.array([0.1, 0.2, 0.3, 0.4, 0.5]),
        boundary=jnp.array([True, False, True, True, False]),
        mask=jnp.ones(5, bool),
        bootstrap_low=jnp.array(7.0),
        bootstrap_high=jnp.array(7.0),
    )
    out = hae(inputs, **PAPER)
    np.testing.assert_allclose(out.adv_low, [1.052, 0.35, -0.75, 4.1, 5], rtol=1e-5)
    np.testing.assert_allclose(out.adv_high, [4.36211, 0, 4.845, 6.5, 0], rtol=1e-5)
    np.testing.assert_allclose(out.adv_term, [2.015, 2.15, 1.95, 8.6, 9.5], rtol=1e-5)


@given(seeds)
@settings(max_examples=3)
def test_jit_and_vmap_change_nothing(seed):
    inputs = to_jax(random_inputs(seed))
    whole = jitted(inputs, **PAPER)
    with jax.disable_jit():
        assert_equal(hae_batch(inputs, **PAPER), whole)
    rows = [one_jitted(jax.tree.map(lambda x, i=i: x[i], inputs), **PAPER) for i in range(4)]
    assert_equal(jax.tree.map(lambda *r: jnp.stack(r), *rows), whole)


@given(seeds)
def test_one_segment_is_flat_gae(seed):
    x = random_inputs(seed)
    boundary = np.zeros_like(x.boundary)
    boundary[:, 0] = True
    x = to_jax(x._replace(boundary=boundary, bootstrap_high=x.bootstrap_low))
    out = jitted(x, **PAPER)
    flat = gae_jitted(x.reward, x.discount, x.v_low, x.mask, x.bootstrap_low, lambda_turn=0.8)
    np.testing.assert_allclose(out.adv_low, flat.adv, rtol=2e-5, atol=2e-5)
    full = gae_jitted(x.reward, x.discount, x.v_high, x.mask, x.bootstrap_high, lambda_turn=1.0)
    np.testing.assert_allclose(out.adv_high[:, 0], full.adv[:, 0], rtol=2e-5, atol=2e-5)
    assert not out.adv_high[:, 1:].any()


@given(seeds)
def test_all_boundaries_are_gae_over_turns_and_one_step_errors(seed):
    x = random_inputs(seed)
    x = to_jax(x._replace(boundary=np.ones_like(x.boundary), bootstrap_low=x.bootstrap_high))
    out = jitted(x, **PAPER)
    high = gae_jitted(x.reward, x.discount, x.v_high, x.mask, x.bootstrap_high, lambda_turn=0.7)
    np.testing.assert_allclose(out.adv_high, high.adv, rtol=2e-5, atol=2e-5)
    step = gae_jitted(x.reward, x.discount, x.v_high, x.mask, x.bootstrap_high, lambda_turn=0.0)
    expected = jnp.where(x.mask, step.ret - x.v_low, 0)
    np.testing.assert_allclose(out.adv_low, expected, rtol=2e-5, atol=2e-5)


@given(seeds)
def test_all_lambdas_one_trust_no_critic(seed):
    """Returns do not depend on any value: the estimator is unbiased for any critic."""
    x = random_inputs(seed)
    x = to_jax(x._replace(bootstrap_high=x.bootstrap_low))
    out = jitted(x, **ONES)
    zeros = jnp.zeros_like(x.reward)
    full = gae_jitted(x.reward, x.discount, zeros, x.mask, x.bootstrap_low, lambda_turn=1.0)
    for ret in (out.ret_low, out.ret_high, out.ret_term):
        np.testing.assert_allclose(ret, full.ret, rtol=2e-5, atol=5e-5)


@given(seeds)
def test_lambda_turn_one_makes_low_and_switch_returns_equal(seed):
    x = random_inputs(seed)
    x = to_jax(x._replace(bootstrap_high=x.bootstrap_low))
    out = jitted(x, lambda_turn=1.0, lambda_segment=0.5, lambda_boundary=0.3)
    np.testing.assert_allclose(out.ret_low, out.ret_term, rtol=2e-5, atol=5e-5)


@given(seeds)
def test_padding_changes_nothing(seed):
    x = random_inputs(seed)
    wide = jax.tree.map(lambda a: np.pad(a, ((0, 0), (0, 5))[: a.ndim], mode="edge"), x)
    wide = wide._replace(
        mask=np.pad(x.mask, ((0, 0), (0, 5))),
        bootstrap_low=x.bootstrap_low,
        bootstrap_high=x.bootstrap_high,
    )
    out = jitted(to_jax(wide), **PAPER)
    assert_equal(jax.tree.map(lambda a: a[:, :7], out), jitted(to_jax(x), **PAPER), 1e-6)
    assert not any(a[:, 7:].any() for a in out)


@given(seeds)
def test_permuting_trajectories_permutes_outputs(seed):
    x = to_jax(random_inputs(seed))
    order = jnp.asarray(np.random.default_rng(seed).permutation(4))
    out = jitted(jax.tree.map(lambda a: a[order], x), **PAPER)
    assert_equal(out, jax.tree.map(lambda a: a[order], jitted(x, **PAPER)), 1e-7)


def test_empty_trajectories_and_padding_only_batches_are_zero():
    x = to_jax(random_inputs(0))._replace(mask=jnp.zeros((4, 7), bool))
    assert not any(a.any() for a in jitted(x, **PAPER))


def test_one_turn():
    x = to_jax(live(random_inputs(3, t=1)))._replace(discount=jnp.zeros((4, 1)))
    out = jitted(x, **PAPER)
    np.testing.assert_allclose(out.adv_low, x.reward - x.v_low, rtol=1e-6)
    np.testing.assert_allclose(out.adv_high, x.reward - x.v_high, rtol=1e-6)


def test_no_nan_reaches_a_gradient():
    x = to_jax(random_inputs(1))
    assert bool(jnp.isnan(x.reward).any())

    def total(reward, v_low, v_high, v_term):
        new = x._replace(reward=reward, v_low=v_low, v_high=v_high, v_term=v_term)
        return sum(a.sum() for a in hae_batch(new, **PAPER))

    for grad in jax.grad(total, (0, 1, 2, 3))(x.reward, x.v_low, x.v_high, x.v_term):
        assert bool(jnp.isfinite(grad).all())


@pytest.fixture
def one() -> HaeInputs:
    """One trajectory of 8 turns, boundaries at 0, 3, 5."""
    x = jax.tree.map(lambda a: a[0], live(random_inputs(2, b=1, t=8)))
    boundary = np.isin(np.arange(8), [0, 3, 5])
    return to_jax(x._replace(boundary=boundary, discount=np.full(8, 0.9, np.float32)))


def jacobian(one: HaeInputs, field: str, **lams: float) -> HaeOutputs:
    """d output[t] / d field[s] as `[t, s]` for every output."""
    return jax.jacrev(lambda x: hae(one._replace(**{field: x}), **lams))(getattr(one, field))


@pytest.mark.parametrize("lams", [PAPER, ONES])
def test_no_advantage_depends_on_an_earlier_reward(one, lams):
    for name, j in zip(HaeOutputs._fields, jacobian(one, "reward", **lams), strict=True):
        assert not np.tril(j, -1).any(), name
        assert name == "adv_high" or bool((jnp.diag(j) == 1).all()), name


def test_low_credit_ends_with_its_segment(one):
    """At lambda_boundary 0 nothing beyond V_high of the next boundary is seen; above 0 it is."""
    segment = np.cumsum(one.boundary)
    beyond = segment[:, None] < segment[None, :]
    for field in ("reward", "v_low", "v_term"):
        j = jacobian(one, field, **PAPER)
        assert not np.asarray(j.adv_low)[beyond].any()
        assert not np.asarray(j.adv_term)[beyond].any()
    seen = np.asarray(jacobian(one, "v_high", **PAPER).adv_low)[:3]
    assert seen[:, 3].all() and not seen[:, 4:].any()
    open_boundary = jacobian(one, "reward", **(PAPER | {"lambda_boundary": 0.5})).adv_low
    assert np.asarray(open_boundary)[:3, 3:].all()


def test_planner_sees_low_values_nowhere(one):
    for field in ("v_low", "v_term"):
        j = jacobian(one, field, **(PAPER | {"lambda_boundary": 0.5}))
        assert not j.adv_high.any() and not j.ret_high.any()


def test_traced_once_a_shape():
    traces = []

    @jax.jit
    def counted(x):
        traces.append(1)
        return hae_batch(x)

    for seed in range(3):
        counted(to_jax(random_inputs(seed)))
    assert len(traces) == 1


def test_the_example_of_the_docstring():
    found = doctest.testmod(importlib.import_module("hiperjax_kernels.hae"))
    assert found.attempted == 8 and not found.failed


def test_the_package_exports_functions():
    """`from hiperjax_kernels import hae` is the function, not the module of that name."""
    assert all(callable(getattr(hiperjax_kernels, name)) for name in hiperjax_kernels.__all__)
