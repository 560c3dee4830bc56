"""The packed stream, its associative twin and the planner's own rewards against the batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.credit_cases import lambdas, random_inputs, seeds, to_jax
from hiperjax_kernels.gae import gae_batch
from hiperjax_kernels.hae import HaeOutputs, hae_batch
from hiperjax_kernels.packed import (
    hae_packed,
    hae_packed_associative,
    hae_packed_scan,
    pack_stream,
    planner_rewards,
)
from hypothesis import given

FACES = {f.__name__: jax.jit(f) for f in (hae_packed, hae_packed_scan, hae_packed_associative)}
batch, gae_jitted = jax.jit(hae_batch), jax.jit(gae_batch)
planner = jax.jit(planner_rewards, static_argnums=2)


@pytest.mark.parametrize("face", FACES)
@given(seed=seeds, lams=lambdas)
def test_stream_equals_batch(face, seed, lams):
    inputs = to_jax(random_inputs(seed))
    stream, ids = pack_stream(inputs)
    found = FACES[face](stream, ids, **lams)
    for name, x, y in zip(HaeOutputs._fields, found, batch(inputs, **lams), strict=True):
        np.testing.assert_allclose(x.reshape(4, 7), y, rtol=2e-5, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("seed", [0])
def test_a_stream_needs_no_padding(seed):
    """Variable lengths end to end give what the padded batch gives."""
    inputs = to_jax(random_inputs(seed))
    stream, ids = pack_stream(inputs)
    keep = np.asarray(stream.mask)
    dense = jax.tree.map(lambda x: x[keep], stream)
    expected = batch(inputs).adv_low.reshape(-1)[keep]
    for face in (hae_packed_scan, hae_packed_associative):
        np.testing.assert_allclose(face(dense, ids[keep]).adv_low, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("face", FACES)
def test_no_nan_reaches_a_gradient(face):
    inputs = to_jax(random_inputs(1))
    stream, ids = pack_stream(inputs)

    def total(reward):
        return sum(x.sum() for x in FACES[face](stream._replace(reward=reward), ids))

    assert bool(jnp.isnan(stream.reward).any())
    assert bool(jnp.isfinite(jax.grad(total)(stream.reward)).all())


@given(seed=seeds)
def test_planner_advantage_is_gae_over_segments(seed):
    """segment_sum gives the planner's rewards; GAE over them is HAE's high stream."""
    x = random_inputs(seed, b=1)
    x = to_jax(x)
    boundary = np.asarray((x.boundary & x.mask)[0])
    stream, _ = pack_stream(x)
    segment = jnp.maximum(jnp.cumsum(boundary) - 1, 0)
    reward, discount = planner(stream, segment, 7)
    k = int(boundary.sum())
    values = jnp.zeros((1, 7)).at[0, :k].set(x.v_high[0][boundary])
    live = (jnp.arange(7) < k)[None]
    over_segments = gae_jitted(
        reward[None], discount[None], values, live, x.bootstrap_high, lambda_turn=0.7
    )
    found = batch(x, lambda_segment=0.7).adv_high[0][boundary]
    np.testing.assert_allclose(found, over_segments.adv[0, :k], rtol=2e-5, atol=2e-5)
