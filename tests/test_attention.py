"""Attention against a float64 loop, forward and backward; a prefix equals its copies; causality."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hiperjax_kernels.attention import (
    Shared,
    attend,
    attend_in_blocks,
    row_mask,
    window_mask,
)
from hypothesis import given
from hypothesis import strategies as st

N, Q, P, d = 2, 5, 3, 4


def make(seed, heads=4, groups=2):
    rng = np.random.default_rng(seed)
    shapes = {"query": (N, Q, heads, d), "key": (N, groups, Q, d), "value": (N, groups, Q, d),
              "k": (groups, P, d), "v": (groups, P, d), "out": (N, Q, heads, d)}  # fmt: skip
    return {name: rng.normal(size=shape) for name, shape in shapes.items()}


def reference(x, mask, with_prefix):
    """Row by row, head by head, in float64."""
    out = np.zeros(x["query"].shape)
    heads, groups = out.shape[2], x["key"].shape[1]
    for n, q, h in np.ndindex(N, Q, heads):
        g = h * groups // heads
        keys, values = x["key"][n, g][mask[n, q]], x["value"][n, g][mask[n, q]]
        if with_prefix:
            keys, values = np.concatenate([x["k"][g], keys]), np.concatenate([x["v"][g], values])
        scores = keys @ x["query"][n, q, h] / np.sqrt(d)
        weights = np.exp(scores - scores.max())
        out[n, q, h] = weights @ values / weights.sum()
    return out


def run(x, mask, with_prefix):
    y = {name: jnp.asarray(value, jnp.float32) for name, value in x.items()}
    shared = Shared(y["k"], y["v"]) if with_prefix else None
    return attend(y["query"], y["key"], y["value"], mask=jnp.asarray(mask), shared=shared)


def causal(lengths):
    return np.asarray(row_mask(jnp.arange(Q)[None] < jnp.asarray(lengths)[:, None]))


@given(st.integers(0, 999), st.sampled_from([(4, 2), (2, 2), (3, 1)]), st.booleans())
def test_attention_equals_the_loop(seed, heads, with_prefix):
    x, mask = make(seed, *heads), causal([Q, 3])
    real = np.arange(Q)[None] < np.array([[Q], [3]])
    found, wanted = run(x, mask, with_prefix), reference(x, mask, with_prefix)
    np.testing.assert_allclose(np.asarray(found)[real], wanted[real], atol=2e-6)


@pytest.mark.parametrize("with_prefix", [False, True])
def test_gradients_equal_finite_differences_of_the_loop(with_prefix):
    x, mask = make(3), causal([Q, Q])

    def loss(values):
        y = {name: jnp.asarray(v, jnp.float32) for name, v in x.items()} | values
        shared = Shared(y["k"], y["v"]) if with_prefix else None
        out = attend(y["query"], y["key"], y["value"], mask=jnp.asarray(mask), shared=shared)
        return jnp.sum(out * y["out"])

    names = ("query", "key", "value") + (("k", "v") if with_prefix else ())
    gradient = jax.grad(loss)({name: jnp.asarray(x[name], jnp.float32) for name in names})
    rng = np.random.default_rng(0)
    for name in names:
        for _ in range(4):
            at = tuple(rng.integers(0, size) for size in x[name].shape)
            step = np.zeros_like(x[name])
            step[at] = 1e-5
            ends = [
                (reference(x | {name: x[name] + sign * step}, mask, with_prefix) * x["out"]).sum()
                for sign in (1, -1)
            ]
            np.testing.assert_allclose(
                gradient[name][at], (ends[0] - ends[1]) / 2e-5, atol=3e-5, err_msg=name
            )


def test_a_shared_prefix_is_its_copies_in_every_row():
    x = make(5)
    y = {name: jnp.asarray(value, jnp.float32) for name, value in x.items()}
    copies = [
        jnp.concatenate([jnp.broadcast_to(y[s][None], (N, *y[s].shape)), y[own]], axis=2)
        for s, own in (("k", "key"), ("v", "value"))
    ]
    seen = jnp.pad(jnp.asarray(causal([Q, 4])), ((0, 0), (0, 0), (P, 0)), constant_values=True)
    whole = attend(y["query"], *copies, mask=seen)
    np.testing.assert_allclose(run(x, causal([Q, 4]), True), whole, atol=1e-6)


def test_a_mask_over_the_prefix_hides_it():
    y = {name: jnp.asarray(value, jnp.float32) for name, value in make(6).items()}
    mask, shared = jnp.asarray(causal([Q, Q])), Shared(y["k"], y["v"])
    none = jnp.zeros((N, Q, P), bool)
    hidden = attend(y["query"], y["key"], y["value"], mask=mask, shared=shared, shared_mask=none)
    plain = attend(y["query"], y["key"], y["value"], mask=mask)
    np.testing.assert_allclose(hidden, plain, atol=1e-6)


def test_lengths_say_what_a_causal_mask_does():
    y = {name: jnp.asarray(value, jnp.float32) for name, value in make(7).items()}
    lengths = jnp.asarray([4, 2], jnp.int32)
    by_length = attend(y["query"], y["key"], y["value"], lengths=lengths)
    by_mask = attend(y["query"], y["key"], y["value"], mask=jnp.asarray(causal([4, 2])))
    np.testing.assert_array_equal(by_length, by_mask)


def test_a_query_moves_with_no_later_key():
    y = {name: jnp.asarray(value, jnp.float32) for name, value in make(9).items()}
    mask = jnp.asarray(causal([Q, Q]))

    def at(value):
        return attend(y["query"], y["key"], value, mask=mask)[:, 2].sum()

    reach = np.abs(jax.grad(at)(y["value"])).sum(axis=(0, 1, 3))
    assert (reach[:3] > 0).all() and not reach[3:].any()


def test_segments_share_segment_zero_only():
    segments = jnp.array([[0, 0, 1, 1, 2]])
    seen = np.asarray(row_mask(jnp.array([[True] * 4 + [True]]), segments))[0]
    expected = ["10000", "11000", "11100", "11110", "11001"]
    assert ["".join("01"[int(x)] for x in row) for row in seen] == expected


def test_windows_reach_so_far_back():
    at = jnp.arange(4)[None]
    near = np.asarray(window_mask(at, at, jnp.int32(2)))[0] & np.tri(4, dtype=bool)
    assert near.sum(axis=1).tolist() == [1, 2, 2, 2]


def test_lengths_and_a_mask_exclude_each_other():
    y = {name: jnp.asarray(value, jnp.float32) for name, value in make(1).items()}
    own = (y["query"], y["key"], y["value"])
    with pytest.raises(ValueError, match="either mask or lengths"):
        attend(*own)


@pytest.mark.parametrize("block", [4, 5, 16])
def test_blocks_of_queries_give_what_all_at_once_do(block):
    """Values and gradients, segments and padding included."""
    keys = jax.random.split(jax.random.key(2), 4)
    query = jax.random.normal(keys[0], (2, 13, 4, 8))
    key, value = (jax.random.normal(k, (2, 2, 13, 8)) for k in keys[1:3])
    weight = jax.random.normal(keys[3], query.shape)
    real = jnp.arange(13)[None] < jnp.array([[13], [9]])
    segments = jnp.array([[0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3]] * 2)
    mask = row_mask(real, segments)

    def loss(attention, *parts):
        return jnp.sum(jnp.where(real[..., None, None], weight * attention(*parts, mask=mask), 0.0))

    whole = jax.value_and_grad(functools.partial(loss, attend), argnums=(0, 1, 2))
    parted = jax.value_and_grad(
        functools.partial(loss, functools.partial(attend_in_blocks, block=block)), argnums=(0, 1, 2)
    )
    chex.assert_trees_all_close(
        whole(query, key, value), parted(query, key, value), atol=1e-5, rtol=1e-5
    )
