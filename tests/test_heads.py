"""Value heads: zero at birth, each its own column; random features are frozen and bent."""

import jax
import jax.numpy as jnp
import numpy as np

from hiperjax.models.heads import apply_heads, init_heads, init_projection, random_features


def test_fresh_heads_say_zero():
    assert (apply_heads(init_heads(4), jnp.ones((2, 6, 4))) == jnp.zeros((2, 6, 3))).all()


def test_each_head_reads_its_own_column():
    heads = init_heads(3)
    heads = {"kernel": heads["kernel"].at[1, 2].set(2.0), "bias": jnp.array([0.0, 1.0, 0.0])}
    np.testing.assert_allclose(apply_heads(heads, jnp.array([5.0, 3.0, 7.0])), [0.0, 1.0, 6.0])


def test_random_features_stand_beside_the_hidden_state_and_never_fall_below_zero():
    hidden = jax.random.normal(jax.random.key(0), (7, 4))
    features = random_features(hidden, init_projection(jax.random.key(1), 4, 10))
    assert features.shape == (7, 14)
    np.testing.assert_array_equal(features[:, :4], hidden)
    assert (features[:, 4:] >= 0).all() and (features[:, 4:] > 0).any()
