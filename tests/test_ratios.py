"""Importance ratios per token, block and reply: the oracle's, blind to layout, causal."""

import itertools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hiperjax_kernels.reference import policy_loss_reference

from hiperjax.learning.losses import LossInputs, ppo_loss
from hiperjax.learning.minibatches import Counts
from hiperjax.learning.objectives import choose_average
from hiperjax.learning.ratios import LEVELS, count_units, find_units, unit_log_ratio

RNG = np.random.default_rng(0)
SHAPE = (5, 9)
REPLY_LENGTH = 16
MASK = RNG.random(SHAPE) < 0.7
MASK[3] = False
BLOCK = np.sort(RNG.integers(0, 3, SHAPE), axis=1).astype(np.int8)
OLD = -np.abs(RNG.normal(size=SHAPE)).astype(np.float32)
NEW = OLD + 0.4 * RNG.normal(size=SHAPE).astype(np.float32)
ADVANTAGE = RNG.normal(size=SHAPE).astype(np.float32)
AVERAGES = ("ratio", "token", "reply", "constant")
CHOICES = list(itertools.product(LEVELS, AVERAGES))


def list_units(level):
    """Tokens of each unit, found token by token."""
    units = {}
    for n, r in np.argwhere(MASK).tolist():
        key = {"token": (n, r), "block": (n, BLOCK[n, r]), "reply": n}[level]
        units.setdefault(key, []).append((n, r))
    return list(units.values())


def weigh(ratio, average):
    """Weight of each token in the loss, by hand."""
    weights = np.zeros(SHAPE)
    if average == "constant":
        replies = len(list_units("reply"))
        return np.where(MASK, 1 / (replies * REPLY_LENGTH), 0)
    units = list_units(ratio if average == "ratio" else average)
    for unit in units:
        for at in unit:
            weights[at] = 1 / len(unit) / len(units)
    return weights


def make_counts(mask, block):
    units = (jnp.float32(count_units(mask, block, level)) for level in LEVELS)
    return Counts(*units, values=jnp.ones(3), choices=jnp.float32(1), switch_rate=jnp.float32(0))


def importance_ratio(*args):
    return jnp.exp(unit_log_ratio(*args))


def loss_of(logprobs, ratio, average, *, rows: Any = slice(None), **changes):
    """The policy term of some rows of the batch, divided by the counts of the whole."""
    fields = dict(
        old_logprobs=OLD, ref_logprobs=OLD, entropy=OLD, advantage=ADVANTAGE, mask=MASK, block=BLOCK
    )
    fields = {name: jnp.asarray(x)[rows] for name, x in (fields | changes).items()}
    counts = make_counts(jnp.asarray(MASK), jnp.asarray(BLOCK))
    over, denominator = choose_average(counts, ratio, average, REPLY_LENGTH)
    return ppo_loss(
        LossInputs(logprobs=jnp.asarray(logprobs)[rows], **fields), counts.tokens, clip=0.2,
        clip_high=0.28, dual_clip=1e6, kl_coefficient=0.0, entropy_coefficient=0.0, ratio_of=ratio,
        average_over=over, policy_denominator=denominator,
    ).loss  # fmt: skip


@pytest.mark.parametrize(("ratio", "average"), CHOICES)
def test_the_loss_is_the_oracles_and_micro_batches_add_up(ratio, average):
    expected = policy_loss_reference(
        NEW, OLD, ADVANTAGE, list_units(ratio), weigh(ratio, average), clip_low=0.2, clip_high=0.28
    )
    np.testing.assert_allclose(loss_of(NEW, ratio, average), expected, rtol=1e-4)
    parts = [loss_of(NEW, ratio, average, rows=slice(i, i + 1)) for i in range(SHAPE[0])]
    np.testing.assert_allclose(sum(parts), expected, rtol=1e-4)


@pytest.mark.parametrize(("ratio", "average"), CHOICES)
def test_padding_and_order_of_rows_change_nothing(ratio, average):
    order = np.array([3, 1, 4, 0, 2])
    whole = loss_of(NEW, ratio, average)
    np.testing.assert_allclose(whole, loss_of(NEW, ratio, average, rows=order), rtol=1e-5)
    junk = {"old_logprobs": OLD, "advantage": ADVANTAGE, "block": BLOCK}
    junk = {name: np.where(MASK, x, x + 7).astype(x.dtype) for name, x in junk.items()}
    spoilt = np.where(MASK, NEW, np.inf).astype(np.float32)
    np.testing.assert_allclose(whole, loss_of(spoilt, ratio, average, **junk), rtol=1e-6)


@pytest.mark.parametrize("level", ["block", "reply"])
def test_one_advantage_per_unit_makes_it_the_gradient_through_the_units_ratio(level):
    """GSPO as published: the derivative of `A s` and its clip, `s` the whole unit's."""
    units = list_units(level)
    level_advantage = np.zeros(SHAPE, np.float32)
    for i, unit in enumerate(units):
        for at in unit:
            level_advantage[at] = (-1) ** i * (1 + i)

    def published(logprobs):
        total = 0.0
        for unit in units:
            at = tuple(np.array(unit).T)
            a = level_advantage[unit[0]]
            ratio = jnp.exp((logprobs[at] - OLD[at]).mean())
            total -= jnp.minimum(a * ratio, a * jnp.clip(ratio, 0.8, 1.28)) / len(units)
        return total

    def ours(logprobs):
        return loss_of(logprobs, level, "ratio", advantage=level_advantage)

    expected, found = (jax.jit(jax.grad(loss))(jnp.asarray(NEW)) for loss in (published, ours))
    assert (np.asarray(expected) != 0).any(axis=1).sum() > 1
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("level", LEVELS)
def test_a_unit_hears_of_its_own_tokens_alone(level):
    """By differentiation: neither another unit nor a masked token moves a ratio's value."""
    far = jnp.asarray(np.where(MASK, NEW - OLD, 0), jnp.float32)
    mask, block = jnp.asarray(MASK), jnp.asarray(BLOCK)
    own = np.zeros((*SHAPE, *SHAPE), bool)
    for unit in list_units(level):
        for one, other in itertools.product(unit, unit):
            own[(*one, *other)] = True
    pushes = far + 0.5 * jnp.eye(MASK.size).reshape(MASK.size, *SHAPE)
    masks, blocks = (jnp.broadcast_to(x, pushes.shape) for x in (mask, block))
    moved = importance_ratio(pushes, masks, blocks, level)
    heard = np.moveaxis(np.asarray(moved != importance_ratio(far, mask, block, level)), 0, -1)
    heard = heard.reshape(own.shape) & MASK[..., None, None]
    np.testing.assert_array_equal(heard & MASK, own)
    through = jax.jit(jax.jacrev(lambda x: importance_ratio(x, mask, block, level)))(far)
    assert not np.asarray(through)[~np.eye(MASK.size, dtype=bool).reshape(own.shape)].any()


def test_the_units_of_a_reply_are_its_blocks():
    mask = jnp.array([[True, True, True, True, False]])
    block = jnp.array([[0, 1, 1, 2, 2]], jnp.int8)
    units = find_units(mask, block, "block")[0]
    assert np.asarray(units).tolist() == [
        [True, False, False], [False, True, False], [False, True, False],
        [False, False, True], [False, False, False],
    ]  # fmt: skip
    assert [int(count_units(mask, block, level)) for level in LEVELS] == [4, 3, 1]
    ratio = importance_ratio(jnp.array([[0.1, 0.2, 0.4, -0.3, 0.0]]), mask, block, "block")
    np.testing.assert_allclose(jnp.log(ratio)[0, :4], [0.1, 0.3, 0.3, -0.3], rtol=1e-5)


def test_clip_higher_moves_the_upper_end_alone():
    """With a clip of .2 and .28: gradient at 1.25, none at 1.3, none at .75 for A < 0."""
    ratios = jnp.array([[1.25, 1.3, 0.75, 0.85]])
    advantage = jnp.array([[1.0, 1.0, -1.0, -1.0]])
    one = jnp.ones((1, 4))
    inputs = LossInputs(
        jnp.log(ratios), 0 * one, 0 * one, 0 * one, advantage, one.astype(bool), 2 * one.astype(int)
    )

    @partial(jax.jit, static_argnames="clip_high")
    @jax.grad
    def grad(x, clip_high):
        return ppo_loss(
            inputs._replace(logprobs=x), jnp.float32(4), clip=0.2, clip_high=clip_high,
            dual_clip=3.0, kl_coefficient=0.0, entropy_coefficient=0.0,
        ).loss  # fmt: skip

    grads = [np.asarray(grad(inputs.logprobs, high) != 0) for high in (0.28, None)]
    assert grads[0][0].tolist() == [True, False, False, True]
    assert grads[1][0].tolist() == [False, False, False, True]
