"""Losses: PPO is the policy gradient at ratio one, masked tokens have no influence, sums add up."""

import jax
import jax.numpy as jnp
import numpy as np

from hiperjax.learning.losses import (
    LossInputs,
    ppo_loss,
    switch_probability,
    switch_rate_loss,
    value_loss,
)

RNG = np.random.default_rng(0)
SHAPE = (4, 6)
OPTIONS = dict(clip=0.2, dual_clip=3.0, kl_coefficient=0.1, entropy_coefficient=0.01)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


MASK = jnp.asarray(RNG.random(SHAPE) < 0.6)
OLD, REF, ADVANTAGE, ENTROPY = (-jnp.abs(normal(*SHAPE)) for _ in range(4))
ADVANTAGE = normal(*SHAPE)
COUNT = MASK.sum().astype(jnp.float32)
BLOCK = jnp.sort(jnp.asarray(RNG.integers(0, 3, SHAPE)), axis=1)


def make(logprobs, mask=MASK, **changes):
    return LossInputs(logprobs, OLD, REF, ENTROPY, ADVANTAGE, mask, BLOCK)._replace(**changes)


def test_at_ratio_one_ppo_is_the_plain_policy_gradient():
    options = OPTIONS | dict(kl_coefficient=0.0, entropy_coefficient=0.0)
    grad = jax.grad(lambda x: ppo_loss(make(x), COUNT, **options).loss)(OLD)
    np.testing.assert_allclose(grad, jnp.where(MASK, -ADVANTAGE / COUNT, 0), rtol=1e-5)


def test_masked_tokens_have_no_influence_whatever_they_hold():
    logprobs = OLD + 0.3 * normal(*SHAPE)

    def loss(x):
        return ppo_loss(make(x), COUNT, **OPTIONS).loss

    assert (np.asarray(jax.grad(loss)(logprobs))[~np.asarray(MASK)] == 0).all()
    junk = {
        name: jnp.where(MASK, value, jnp.inf)
        for name, value in (("advantage", ADVANTAGE), ("entropy", ENTROPY), ("ref_logprobs", REF))
    }
    np.testing.assert_allclose(
        ppo_loss(make(logprobs, **junk), COUNT, **OPTIONS).loss, loss(logprobs), rtol=1e-6
    )


def test_clipping_stops_the_gradient_on_the_far_side_only():
    mask = jnp.ones((1, 4), bool)
    inputs = LossInputs(
        logprobs=jnp.log(jnp.array([[1.5, 0.5, 1.5, 0.5]])),
        old_logprobs=jnp.zeros((1, 4)),
        ref_logprobs=jnp.zeros((1, 4)),
        entropy=jnp.zeros((1, 4)),
        advantage=jnp.array([[1.0, 1.0, -1.0, -1.0]]),
        mask=mask,
        block=jnp.full((1, 4), 2),
    )
    options = OPTIONS | dict(kl_coefficient=0.0, entropy_coefficient=0.0)

    def loss(x):
        return ppo_loss(inputs._replace(logprobs=x), jnp.float32(4), **options).loss

    grad = jax.grad(loss)(inputs.logprobs)[0]
    assert (grad == 0).tolist() == [True, False, False, True]
    out = ppo_loss(inputs, jnp.float32(4), **options)
    assert out.metrics["clip_share"] == 0.5


def test_dual_clip_bounds_the_loss_of_negative_advantages():
    inputs = LossInputs(
        *(jnp.full((1, 1), x) for x in (5.0, 0.0, 5.0, 0.0, -2.0)),
        mask=jnp.ones((1, 1), bool),
        block=jnp.full((1, 1), 2),
    )
    options = OPTIONS | dict(kl_coefficient=0.0, entropy_coefficient=0.0)
    assert ppo_loss(inputs, jnp.float32(1), **options).loss == 6.0


def test_micro_batches_add_up():
    logprobs = OLD + 0.3 * normal(*SHAPE)
    whole = ppo_loss(make(logprobs), COUNT, **OPTIONS).loss
    parts = sum(
        ppo_loss(jax.tree.map(lambda x: x[i : i + 2], make(logprobs)), COUNT, **OPTIONS).loss  # noqa: B023
        for i in (0, 2)
    )
    np.testing.assert_allclose(whole, parts, rtol=1e-5)


def test_value_loss_is_per_head_and_clip_bounds_the_move():
    values, targets = normal(5, 3), normal(5, 3)
    mask = jnp.asarray(RNG.random((5, 3)) < 0.7)
    count = jnp.maximum(mask.sum(axis=0), 1).astype(jnp.float32)
    out = value_loss(values, values, targets, mask, count, value_clip=None)
    error = np.where(mask, (values - targets) ** 2, 0)
    np.testing.assert_allclose(out.loss, (error.sum(axis=0) / count).sum(), rtol=1e-5)
    old = values - jnp.sign(targets - values) * 2.0
    grad = jax.grad(lambda v: value_loss(v, old, targets, mask, count, value_clip=0.5).loss)(values)
    moved_past = np.asarray(mask) & (np.abs(values - targets) < np.abs(old - targets) - 0.5)
    assert moved_past.any() and (np.asarray(grad)[moved_past] == 0).all()


def test_switch_rate_is_pulled_to_its_target():
    """KEEP at probability .9 and SWITCH at .3 are switch probabilities .1 and .3."""
    logprobs = jnp.log(jnp.array([[0.9, 0.5], [0.3, 0.5], [0.2, 0.5]]))
    tokens = jnp.array([[True, False]] * 3)
    switched = jnp.array([False, True, True])
    counted = jnp.array([True, True, False])

    def found(x, target, rows=slice(None), mean=0.2):
        return switch_rate_loss(
            x[rows], tokens[rows], switched[rows], counted[rows],
            jnp.float32(2), jnp.float32(mean), target=target,
        )  # fmt: skip

    def squared(x):
        return (switch_probability(x, tokens, switched)[:2].mean() - 0.5) ** 2

    assert found(logprobs, 0.2).metrics["switch_rate_loss"] == 0.0
    np.testing.assert_allclose(found(logprobs, 0.5).metrics["switch_rate_loss"], 0.09, rtol=1e-5)
    grad = jax.grad(lambda x: found(x, 0.5).loss)(logprobs)
    np.testing.assert_allclose(grad, jax.grad(squared)(logprobs), rtol=1e-5, atol=1e-7)
    assert grad[0, 0] > 0 > grad[1, 0], "less KEEP, more SWITCH"
    parts = [found(logprobs, 0.5, slice(i, i + 1)) for i in range(3)]
    total = jax.tree.map(lambda *x: sum(x), *parts)
    np.testing.assert_allclose(total.metrics["switch_rate_loss"], 0.09, rtol=1e-5)
    np.testing.assert_allclose(total.loss, found(logprobs, 0.5).loss, rtol=1e-5)
