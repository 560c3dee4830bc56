"""Value heads: zero at birth, and a closed-form fit that equals plain least squares."""

import jax
import jax.numpy as jnp
import numpy as np

from hiperjax.models.heads import (
    apply_heads,
    fit_heads,
    init_heads,
    init_projection,
    random_features,
)


def _data(rows=60, features=5, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, features)) * np.array([1, 10, 0.1, 3, 1])[:features] + 4
    y = x @ rng.normal(size=(features, 3)) + rng.normal(size=3) + 0.3 * rng.normal(size=(rows, 3))
    mask = rng.random((rows, 3)) < 0.7
    return (jnp.asarray(a, jnp.float32) for a in (x, y, mask))


def test_fresh_heads_say_zero():
    assert (apply_heads(init_heads(4), jnp.ones((2, 6, 4))) == jnp.zeros((2, 6, 3))).all()


def test_without_ridge_the_fit_is_least_squares_on_each_heads_own_rows():
    x, y, mask = _data()
    heads = jax.jit(fit_heads)(x, y, mask, 1e-7)
    for i in range(3):
        rows = np.asarray(mask[:, i], bool)
        design = np.column_stack([x[rows], np.ones(rows.sum())]).astype(np.float64)
        expected = np.linalg.lstsq(design, np.asarray(y[rows, i], np.float64), rcond=None)[0]
        np.testing.assert_allclose(heads["kernel"][:, i], expected[:-1], rtol=5e-3, atol=1e-3)
        np.testing.assert_allclose(heads["bias"][i], expected[-1], rtol=2e-2)


def test_the_fit_minimizes_its_stated_objective():
    x, y, mask = _data()
    ridge = 0.5
    heads = fit_heads(x, y, mask, ridge)

    def objective(heads):
        weight = mask.sum(axis=0)
        mean = mask.T @ x / weight[:, None]
        spread = jnp.sqrt(
            jnp.einsum("nh,nhf->hf", mask, (x[:, None] - mean[None]) ** 2) / weight[:, None]
        )
        error = (mask * (apply_heads(heads, x) - y) ** 2).sum(axis=0) / weight
        return (error + ridge * ((heads["kernel"].T * spread) ** 2).sum(axis=1)).sum()

    gradient = jax.grad(objective)(heads)
    scale = 1e-3 * jnp.abs(jax.grad(objective)(init_heads(5))["kernel"]).max()
    assert max(jnp.abs(leaf).max() for leaf in jax.tree.leaves(gradient)) < scale


def test_a_strong_ridge_leaves_the_mean():
    x, y, mask = _data()
    heads = fit_heads(x, y, mask, 1e8)
    mean = (mask * y).sum(axis=0) / mask.sum(axis=0)
    values = apply_heads(heads, x)
    np.testing.assert_allclose(values, jnp.broadcast_to(mean[None], values.shape), rtol=1e-3)


def test_masked_rows_and_dead_features_change_nothing():
    x, y, mask = _data()
    wide = jnp.concatenate([x, jnp.full((60, 1), 7.0)], axis=1)
    longer = jnp.concatenate([wide, jnp.full((9, 6), 1e3)])
    got = fit_heads(
        longer,
        jnp.concatenate([y, jnp.full((9, 3), -1e3)]),
        jnp.concatenate([mask, jnp.zeros((9, 3))]),
    )
    expected = fit_heads(x, y, mask)
    np.testing.assert_allclose(got["kernel"][:5], expected["kernel"], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(got["kernel"][5], 0.0, atol=1e-6)


def test_a_head_without_rows_stays_zero():
    x, y, mask = _data()
    heads = fit_heads(x, y, mask.at[:, 1].set(0.0))
    assert (heads["kernel"][:, 1] == 0).all() and heads["bias"][1] == 0
    assert (heads["kernel"][:, 0] != 0).all()


def test_many_correlated_features_stay_finite_and_fit():
    """More features than rows, as in a first small batch."""
    hidden = jax.random.normal(jax.random.key(0), (40, 64))
    features = random_features(hidden, init_projection(jax.random.key(1), 64))
    assert features.shape == (40, 256)
    np.testing.assert_array_equal(features[:, :64], hidden)
    targets = jnp.stack([jnp.abs(hidden[:, 0]), hidden[:, 1], jnp.ones(40)], axis=1)
    heads = fit_heads(features, targets, jnp.ones((40, 3)), 1e-2)
    error = apply_heads(heads, features) - targets
    assert jnp.sqrt((error**2).mean()) < 0.1


def test_random_features_bend_what_a_line_cannot():
    hidden = jax.random.normal(jax.random.key(0), (2000, 4))
    target = jnp.tile(jnp.abs(hidden[:, :1]), (1, 3))
    ones = jnp.ones((2000, 3))
    features = random_features(hidden, init_projection(jax.random.key(1), 4))

    def error(x):
        return ((apply_heads(fit_heads(x, target, ones), x) - target) ** 2).mean()

    assert error(features) < 0.05 * error(hidden)
