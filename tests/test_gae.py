"""Flat GAE against its oracle and its special cases."""

import jax
import jax.numpy as jnp
import numpy as np
from helpers.credit_cases import random_inputs, seeds, to_jax
from hiperjax_kernels.gae import discounted_returns, gae_batch
from hiperjax_kernels.reference import gae_reference
from hypothesis import given
from hypothesis import strategies as st

jitted = jax.jit(gae_batch)


@given(seeds, st.sampled_from([0.0, 0.5, 0.9, 1.0]))
def test_equals_the_loop_oracle(seed, lam):
    x = random_inputs(seed)
    mask = x.mask & (np.random.default_rng(seed).random(x.mask.shape) < 0.8)  # holes too
    args = (x.reward, x.discount, x.v_low, mask, x.bootstrap_low)
    out = jitted(*to_jax(args), lambda_turn=lam)
    expected = gae_reference(*args, lambda_turn=lam)
    np.testing.assert_allclose(out.adv, expected, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(out.ret, np.where(mask, expected + x.v_low, 0), rtol=2e-5, atol=2e-5)


def test_returns_are_gae_without_a_critic():
    reward = jnp.array([[1.0, 2, 4], [8, 9, 9]])
    mask = jnp.array([[True, True, True], [True, False, False]])
    returns = discounted_returns(reward, mask, 0.5)
    np.testing.assert_allclose(returns, [[3, 4, 4], [8, 0, 0]])


def test_causality():
    x = to_jax(random_inputs(5, b=1))
    row = [jnp.nan_to_num(a) for a in (x.reward, x.discount, x.v_low)]
    mask = jnp.ones_like(x.mask)

    def adv(reward):
        return gae_batch(reward, row[1], row[2], mask, x.bootstrap_low, lambda_turn=0.9).adv[0]

    j = jax.jacrev(adv)(row[0])[:, 0]
    assert not np.tril(j, -1).any()
