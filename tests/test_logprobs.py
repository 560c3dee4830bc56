"""Log-probs in chunks equal the plain ones, values and gradients; no [n, V] array is made."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hiperjax_kernels.logprobs import CHUNK, count_chunks, token_logprobs
from hypothesis import given
from hypothesis import strategies as st

n, D = 6, 5


def make(seed, vocabulary):
    rng = np.random.default_rng(seed)
    hidden = jnp.asarray(rng.normal(size=(n, D)), jnp.float32)
    weights = jnp.asarray(2 * rng.normal(size=(vocabulary, D)), jnp.float32)
    return hidden, weights, jnp.asarray(rng.integers(0, vocabulary, n), jnp.int32)


def plain(hidden, weights, tokens, temperature):
    table = jax.nn.log_softmax(hidden @ weights.T / jnp.float32(temperature))
    chosen = jnp.take_along_axis(table, tokens[:, None], axis=1)[:, 0]
    return chosen, -(jnp.exp(table) * table).sum(axis=1)


@given(st.integers(0, 99), st.integers(1, 23), st.integers(1, 30), st.sampled_from([0.6, 1.0]))
def test_chunks_equal_the_whole(seed, vocabulary, chunk, temperature):
    inputs = make(seed, vocabulary)
    found = token_logprobs(*inputs, temperature, chunk)
    for got, wanted in zip(found, plain(*inputs, temperature), strict=True):
        np.testing.assert_allclose(got, wanted, atol=2e-5)


@pytest.mark.parametrize("size", [32_000, 49_152, 128_256, 151_936, 152_064])
def test_published_vocabularies_are_never_copied(size):
    """Parts of one size need no padding, which would copy the whole embedding in every pass."""
    assert size % count_chunks(size, CHUNK) == 0
    shapes = [jax.ShapeDtypeStruct(s, "float32") for s in ((n, D), (size, D))]
    program = jax.make_jaxpr(token_logprobs)(*shapes, jax.ShapeDtypeStruct((n,), "int32"))
    assert " pad[" not in str(program)
    odd = jax.make_jaxpr(token_logprobs)(
        shapes[0], jax.ShapeDtypeStruct((32_003, D), "float32"), jax.ShapeDtypeStruct((n,), "int32")
    )
    assert " pad[" in str(odd), "a prime number of tokens has to be padded"


@pytest.mark.parametrize("chunk", [4, 11, 64])
def test_gradients_equal_those_of_the_whole(chunk):
    hidden, weights, tokens = make(1, 11)
    rng = np.random.default_rng(2)
    pull = [jnp.asarray(rng.normal(size=n), jnp.float32) for _ in range(2)]

    def loss(function, *arguments):
        def total(hidden, weights):
            out = function(hidden, weights, tokens, *arguments)
            return sum(jnp.sum(x * y) for x, y in zip(out, pull, strict=True))

        return jax.grad(total, argnums=(0, 1))(hidden, weights)

    for got, wanted in zip(loss(token_logprobs, 0.7, chunk), loss(plain, 0.7), strict=True):
        np.testing.assert_allclose(got, wanted, atol=2e-5)


def test_a_uniform_distribution_has_the_entropy_of_its_size():
    logprob, entropy = token_logprobs(
        jnp.zeros((2, D), jnp.float32),
        jnp.ones((8, D), jnp.float32),
        jnp.zeros(2, jnp.int32),
        1.0,
        3,
    )
    np.testing.assert_allclose(logprob, -np.log(8), rtol=1e-6)
    np.testing.assert_allclose(entropy, np.log(8), rtol=1e-6)


def test_no_array_of_the_whole_vocabulary_times_positions_is_made():
    """Neither forward nor backward: the largest has `positions x chunk` entries, or is V x D."""
    positions, vocabulary, chunk = 64, 4096, 256
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((positions, D), (vocabulary, D))]
    tokens = jax.ShapeDtypeStruct((positions,), jnp.int32)

    def loss(hidden, weights, tokens):
        return sum(x.sum() for x in token_logprobs(hidden, weights, tokens, 1.0, chunk))

    text = str(jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(*shapes, tokens))
    assert f"f32[{positions},{chunk}]" in text
    assert f"f32[{positions},{vocabulary}]" not in text
    assert f"f32[{vocabulary // chunk},{positions},{chunk}]" not in text
