"""The trunk: cached decode is the full forward, padding and packing change nothing."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hiperjax.models.rope import RopeScaling
from hiperjax.models.shapes import SHAPES
from hiperjax.models.transformer import (
    KeyValues,
    TransformerConfig,
    abstract_params,
    cast_params,
    decode,
    forward,
    init_cache,
    init_params,
    logits,
    prefill,
)

TINY = TransformerConfig(
    vocab_size=37,
    hidden_size=16,
    intermediate_size=24,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    head_dim=4,
    embedding_std=0.5,
)
VARIANTS = {
    "qwen2": TINY,
    "untied": dataclasses.replace(TINY, tie_embeddings=False),
    "qwen3": dataclasses.replace(TINY, qkv_bias=False, qk_norm=True, head_dim=6),
    "window": dataclasses.replace(TINY, sliding_window=3, windowed_layers=(1, 2)),
    "scaled": dataclasses.replace(
        TINY, embedding_scale=True, rope_scaling=RopeScaling("yarn", 4.0, 8)
    ),
    "unrolled": dataclasses.replace(TINY, decode_unroll=3),
    "adapters": dataclasses.replace(TINY, lora_rank=2),
}
LENGTH = 11
FORWARD = jax.jit(forward, static_argnums=1)
PREFILL = jax.jit(prefill, static_argnums=1)
DECODE = jax.jit(decode, static_argnums=1, static_argnames="attend_to")


def _params(config, seed=0):
    """Random everywhere: zero biases and adapters would hide faults."""
    params = init_params(config, jax.random.key(seed))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    noisy = [x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, noisy)


def _tokens(rows=3, length=LENGTH, seed=2):
    return jax.random.randint(jax.random.key(seed), (rows, length), 0, TINY.vocab_size)


def _full(params, config, tokens, **kwargs):
    if not kwargs:
        kwargs = {"lengths": jnp.full(tokens.shape[0], tokens.shape[1])}
    return FORWARD(params, config, tokens, **kwargs)


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS.keys())
def test_cached_decode_is_the_full_forward_token_by_token(config):
    params, tokens = _params(config), _tokens()
    expected = _full(params, config, tokens)
    cache = init_cache(config, 3, LENGTH + 2)
    for i in range(LENGTH):
        hidden, cache = DECODE(params, config, tokens[:, i], jnp.full(3, i), cache)
        np.testing.assert_allclose(hidden, expected[:, i], atol=2e-5)


def test_slots_decode_at_their_own_positions_after_a_ragged_prefill():
    params, tokens = _params(TINY), _tokens()
    lengths = jnp.array([3, 7, 5])
    hidden, kept = PREFILL(params, TINY, tokens, lengths)
    cache = init_cache(TINY, 3, 16)
    cache = KeyValues(*(c.at[..., :LENGTH, :].set(k) for c, k in zip(cache, kept, strict=True)))
    expected = _full(params, TINY, tokens)
    for step in range(3):
        at = lengths + step
        hidden, cache = DECODE(params, TINY, tokens[jnp.arange(3), at], at, cache, attend_to=LENGTH)
        np.testing.assert_allclose(hidden, expected[jnp.arange(3), at], atol=2e-5)


@pytest.mark.parametrize("name", ["qwen2", "window"])
def test_padding_changes_nothing(name):
    config, params, tokens = VARIANTS[name], _params(VARIANTS[name]), _tokens()
    expected = _full(params, config, tokens)
    junk = jnp.concatenate([tokens, _tokens(length=6, seed=9)], axis=1)
    mask = jnp.arange(LENGTH + 6)[None] < jnp.full((3, 1), LENGTH)
    for given in ({"lengths": jnp.full(3, LENGTH)}, {"token_mask": mask}):
        padded = FORWARD(params, config, junk, **given)
        np.testing.assert_allclose(padded[:, :LENGTH], expected, atol=1e-5)


def test_a_row_of_no_tokens_is_finite():
    params = _params(TINY)
    assert jnp.isfinite(FORWARD(params, TINY, _tokens(), lengths=jnp.array([0, 1, 5]))).all()


def test_hidden_states_are_causal():
    """No derivative of a hidden state with respect to a later embedding (tokens are distinct)."""
    params = _params(TINY)
    tokens = jnp.arange(6)[None]

    def hidden(embedding):
        return _full(params | {"embedding": embedding}, TINY, tokens)[0].sum(axis=-1)

    touched = jnp.abs(jax.jacobian(hidden)(params["embedding"])).sum(axis=-1)[:, :6]
    assert (jnp.triu(touched, 1) == 0).all()
    assert (jnp.diagonal(touched) > 0).all()


def test_packed_segments_with_a_shared_prefix_are_separate_rows():
    params = _params(TINY)
    shared, first, second = _tokens(1, 4), _tokens(1, 3, seed=5), _tokens(1, 5, seed=6)
    packed = jnp.concatenate([shared, first, second], axis=1)
    segments = jnp.array([[0] * 4 + [1] * 3 + [2] * 5])
    positions = jnp.array([[*range(4), *range(4, 7), *range(4, 9)]])
    lengths = jnp.array([12])
    got = FORWARD(params, TINY, packed, lengths=lengths, segments=segments, positions=positions)
    one = _full(params, TINY, jnp.concatenate([shared, first], axis=1))
    two = _full(params, TINY, jnp.concatenate([shared, second], axis=1))
    np.testing.assert_allclose(got[0, :7], one[0], atol=1e-5)
    np.testing.assert_allclose(got[0, 7:], two[0, 4:], atol=1e-5)


@pytest.mark.parametrize("name", ["qwen2", "window"])
def test_a_prefix_computed_once_serves_every_row(name):
    config, params = VARIANTS[name], _params(VARIANTS[name])
    shared, rows = _tokens(1, 4), _tokens(3, 5, seed=7)
    _, prefix = PREFILL(params, config, shared, jnp.array([4]))
    whole = jnp.concatenate([jnp.tile(shared, (3, 1)), rows], axis=1)
    expected, kept = PREFILL(params, config, whole, jnp.full(3, 9))
    got, rest = PREFILL(params, config, rows, jnp.full(3, 5), prefix=prefix)
    np.testing.assert_allclose(got, expected[:, 4:], atol=1e-5)
    np.testing.assert_allclose(rest.k, kept.k[..., 4:, :], atol=1e-5)
    cache = init_cache(config, 3, 7)
    cache = KeyValues(
        *(c.at[..., :4, :].set(k[..., :4, :]) for c, k in zip(cache, rest, strict=True))
    )
    last, _ = DECODE(params, config, rows[:, 4], jnp.full(3, 4), cache, prefix=prefix)
    np.testing.assert_allclose(last, expected[:, 8], atol=1e-5)


def test_remat_gives_the_same_gradient():
    params, tokens = _params(TINY), _tokens()
    gradients = [
        jax.jit(jax.grad(lambda p, c=c: (logits(p, c, _full(p, c, tokens)) ** 2).mean()))(params)
        for c in (
            TINY,
            dataclasses.replace(TINY, remat="full"),
            dataclasses.replace(TINY, remat="dots"),
        )
    ]
    for other in gradients[1:]:
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-4),
            gradients[0],
            other,
        )


def test_bfloat16_compute_stays_near_float32():
    params, tokens = _params(TINY), _tokens()
    half = dataclasses.replace(TINY, dtype="bfloat16")
    hidden = _full(params, half, tokens)
    assert hidden.dtype == jnp.bfloat16
    assert logits(params, half, hidden).dtype == jnp.float32
    np.testing.assert_allclose(hidden.astype(jnp.float32), _full(params, TINY, tokens), atol=0.15)
    cast = _full(cast_params(params, "bfloat16"), half, tokens)
    np.testing.assert_allclose(cast.astype(jnp.float32), hidden.astype(jnp.float32), atol=0.1)


def test_a_fresh_tiny_model_is_nearly_uniform():
    """The initial loss of a good start is ln(V)."""
    config = dataclasses.replace(
        TINY, hidden_size=64, head_dim=16, embedding_std=0.06, embedding_scale=True, vocab_size=96
    )
    params = init_params(config, jax.random.key(0))
    tokens = jax.random.randint(jax.random.key(1), (8, 20), 0, 96)
    scores = jax.nn.log_softmax(logits(params, config, _full(params, config, tokens)))
    loss = -jnp.take_along_axis(scores[:, :-1], tokens[:, 1:, None], axis=-1).mean()
    assert abs(loss - np.log(96)) < 0.3


@pytest.mark.parametrize("name", SHAPES)
def test_published_shapes_trace(name):
    """Rows, a decode step and its logits of a real model, in abstract: no weights are made."""
    config = dataclasses.replace(SHAPES[name], dtype="bfloat16", remat="full", lora_rank=8)
    cache = jax.eval_shape(lambda: init_cache(config, 4, 64))
    params = abstract_params(config)
    rows = jax.ShapeDtypeStruct((2, 16), jnp.int32)
    slot = jax.ShapeDtypeStruct((4,), jnp.int32)
    one = functools.partial(decode, config=config)

    def step(params, token, position, cache):
        hidden, cache = one(params, token=token, position=position, cache=cache)
        return logits(params, config, hidden), cache

    scores, after = jax.eval_shape(step, params, slot, slot, cache)
    assert scores.shape == (4, config.vocab_size) and scores.dtype == jnp.float32
    assert jax.tree.map(lambda x: x.shape, after) == jax.tree.map(lambda x: x.shape, cache)

    def loss(params, tokens):
        return forward(params, config, tokens, lengths=jnp.full(2, 16)).mean()

    gradient = jax.eval_shape(jax.grad(loss), params, rows)
    assert jax.tree.map(lambda x: x.shape, gradient) == jax.tree.map(lambda x: x.shape, params)
