"""Gathers equal indexing, values and gradients, on both sides of the one-hot bound."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hiperjax_kernels import gather
from hiperjax_kernels.gather import take_along, take_rows


def test_vectors_and_their_gradient_are_those_of_indexing():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(3, 7, 4)), jnp.float32)
    at = jnp.asarray(rng.integers(0, 7, (3, 5)), jnp.int32)
    pull = jnp.asarray(rng.normal(size=(3, 5, 4)), jnp.float32)

    def plain(x):
        return jnp.sum(x[jnp.arange(3)[:, None], at] * pull)

    def ours(x):
        return jnp.sum(take_along(x, at) * pull)

    np.testing.assert_allclose(ours(x), plain(x), rtol=1e-6)
    np.testing.assert_allclose(jax.grad(ours)(x), jax.grad(plain)(x), atol=1e-6)


@pytest.mark.parametrize("bound", [4, 64])
def test_an_embedding_adds_up_the_gradients_of_repeated_rows(bound, monkeypatch):
    monkeypatch.setattr(gather, "ONE_HOT_UP_TO", bound)
    table = jnp.asarray(np.random.default_rng(1).normal(size=(9, 3)), jnp.float32)
    rows = jnp.asarray([[2, 2, 8], [0, 2, 5]], jnp.int32)
    np.testing.assert_array_equal(take_rows(table, rows), table[rows])
    gradient = jax.grad(lambda t: take_rows(t, rows).sum())(table)
    np.testing.assert_allclose(gradient[:, 0], [1, 0, 3, 0, 0, 1, 0, 0, 1])
