"""Sampling: equal to the full forward pass, and independent of slots, neighbors and chunks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hiperjax.acting.sampler import advance, draw, init_state, insert, keep_nucleus, start
from hiperjax.models.transformer import TransformerConfig, forward, init_params, logits

CONFIG = TransformerConfig(
    vocab_size=23, hidden_size=16, intermediate_size=24, num_layers=2, num_heads=2,
    num_kv_heads=1, head_dim=8, embedding_std=0.5,
)  # fmt: skip
PARAMS = init_params(CONFIG, jax.random.key(0))
PROMPTS = [np.arange(1, 1 + n) % 23 for n in (3, 7, 5, 2, 6)]
REPLY = 10
STOP = tuple(range(16, 23))
keep = jax.jit(keep_nucleus, static_argnums=1)


def sample(slots: list[int], total: int, chunk: int, temperature: float = 1.0, length: int = 8):
    """Replies and log-probs of PROMPTS, prompt i in slots[i]."""
    state = init_state(CONFIG, total, 12, REPLY)
    tokens = np.zeros((len(PROMPTS), length), np.int32)
    for i, prompt in enumerate(PROMPTS):
        tokens[i, : len(prompt)] = prompt
    lengths = np.array([len(p) for p in PROMPTS], np.int32)
    number = np.arange(len(PROMPTS), dtype=np.int32)
    static = dict(config=CONFIG, temperature=temperature, top_p=1.0, stop_ids=STOP)
    where = np.array(slots, np.int32)
    opening = start(
        PARAMS, tokens, lengths, jax.random.key(7), number, number, room=12 + REPLY, **static
    )
    state = insert(state, opening, where)
    halted = np.zeros(total, bool)
    for _ in range(-(-REPLY // chunk)):
        state = advance(PARAMS, state, halted, np.int32(total), steps=chunk, **static)
    counts = np.asarray(state.count)[slots]
    return [
        (np.asarray(state.reply)[s, :n], np.asarray(state.logprobs)[s, :n])
        for s, n in zip(slots, counts, strict=True)
    ]


def test_replies_do_not_depend_on_slot_batch_or_chunk():
    plain = sample([0, 1, 2, 3, 4], 5, REPLY)
    assert any(len(ids) < REPLY for ids, _ in plain), "some reply stops early"
    moved = sample([6, 2, 5, 0, 3], 8, 3, length=12)
    for (ids, logprobs), (other_ids, other_logprobs) in zip(plain, moved, strict=True):
        np.testing.assert_array_equal(ids, other_ids)
        np.testing.assert_allclose(logprobs, other_logprobs, atol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_sampler_logprobs_equal_rescored_ones(temperature):
    replies = sample([0, 1, 2, 3, 4], 5, 4, temperature)
    for prompt, (ids, logprobs) in zip(PROMPTS, replies, strict=True):
        row = jnp.asarray(np.concatenate([prompt, ids]), jnp.int32)[None]
        hidden = forward(PARAMS, CONFIG, row, lengths=jnp.array([row.shape[1]]))
        scores = logits(PARAMS, CONFIG, hidden)[0, len(prompt) - 1 : -1] / temperature
        expected = jax.nn.log_softmax(scores)[np.arange(len(ids)), ids]
        np.testing.assert_allclose(logprobs, expected, atol=1e-5)
        assert len(ids) == REPLY or ids[-1] in STOP


def test_greedy_takes_the_likeliest_token():
    scores = jnp.array([[0.0, 3.0, 1.0], [2.0, 0.0, 1.0]])
    keys = jax.random.split(jax.random.key(0), 2)
    token, logprob = draw(scores, keys, jnp.zeros(2, jnp.int32), 0.0)
    assert token.tolist() == [1, 0]
    np.testing.assert_allclose(logprob, jax.nn.log_softmax(scores)[[0, 1], [1, 0]], rtol=1e-6)


@pytest.mark.parametrize("top_p", [0.3, 0.9])
@given(st.lists(st.integers(-8, 8), min_size=12, max_size=12))
def test_the_nucleus_is_what_a_sort_finds(top_p, rows):
    """Ties included: whatever is as probable as the last token needed is kept."""
    scores = np.array(rows, np.float32).reshape(2, 6) / 4
    kept = np.isfinite(keep(jnp.asarray(scores), top_p))
    chances = np.exp(scores.astype(float))
    chances /= chances.sum(axis=-1, keepdims=True)
    for row, found in zip(chances, kept, strict=True):
        least = sorted(row, reverse=True)[int((np.cumsum(-np.sort(-row)) < top_p - 1e-6).sum())]
        expected = row >= least * (1 - 1e-5)
        without = row[row > least * (1 + 1e-5)].sum()
        if abs(without - top_p) > 1e-5:  # else rounding says
            np.testing.assert_array_equal(found, expected)


def test_draws_follow_the_distribution_and_the_nucleus_cuts_its_tail():
    count = 4000
    scores = jnp.tile(jnp.log(jnp.array([[0.5, 0.3, 0.15, 0.05]])), (count, 1))
    keys, zeros = jax.random.split(jax.random.key(3), count), jnp.zeros(count, jnp.int32)
    token, _ = draw(scores, keys, zeros, 1.0)
    shares = np.bincount(np.asarray(token), minlength=4) / count
    np.testing.assert_allclose(shares, [0.5, 0.3, 0.15, 0.05], atol=0.03)
    token, logprob = draw(scores, keys, zeros, 1.0, top_p=0.7)
    shares = np.bincount(np.asarray(token), minlength=4) / count
    np.testing.assert_allclose(shares, [0.625, 0.375, 0, 0], atol=0.03)
    np.testing.assert_allclose(np.exp(logprob), np.array([0.5, 0.3])[np.asarray(token)], rtol=1e-5)
