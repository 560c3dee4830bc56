"""Log-prob and entropy of chosen tokens from hidden states, without ever holding `[n, V]` logits.

The vocabulary is read in chunks: the forward pass keeps a running log-sum-exp and a running mean
logit, the backward pass computes each chunk's logits again. What is kept between the two is one
float per position. With the whole vocabulary in one chunk (small models) it is the plain
computation, fused. Axes: `n` positions, `D` hidden size, `V` vocabulary.

    l_v  = h . w_v / temperature          lse = log sum_v exp l_v
    logprob = l_token - lse               entropy = lse - sum_v p_v l_v
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

CHUNK = 16_384
"""Vocabulary entries at once: 4 bytes x positions x chunk is the largest temporary."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def token_logprobs(
    hidden: Float[Array, "n D"],
    weights: Float[Array, "V D"],
    tokens: Int[Array, " n"],
    temperature: float = 1.0,
    chunk: int = CHUNK,
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """Log-prob of each token and entropy of its distribution, in float32.

    Args:
      hidden: states that predict the tokens.
      weights: output embedding, cast to the dtype of `hidden` for the products (summed in float32).
      tokens: ids of the tokens, in `[0, V)`.
      temperature: the policy is the tempered distribution.
      chunk: vocabulary entries at once.
    """
    return _forward(hidden, weights, tokens, temperature, chunk)[0]


def count_chunks(size: int, chunk: int) -> int:
    """Parts a vocabulary is read in: as few as may be, or some more of them where they are equal
    then, since padding a vocabulary copies it."""
    least = -(-size // chunk)
    return next((n for n in range(least, 2 * least + 1) if size % n == 0), least)


def _chunks(weights: Float[Array, "V D"], chunk: int) -> tuple[Float[Array, "c v D"], Array]:
    """The vocabulary in equal chunks, the last one padded, and which entries are real."""
    size = weights.shape[0]
    count = count_chunks(size, chunk)
    each = -(-size // count)
    spare = count * each - size
    padded = jnp.pad(weights, ((0, spare), (0, 0))) if spare else weights
    real = (jnp.arange(count * each) < size).reshape(count, each)
    return padded.reshape(count, each, -1), real


def _logits(
    hidden: Float[Array, "n D"], part: Float[Array, "v D"], real: Array, temperature: float
) -> Float[Array, "n v"]:
    scores = jnp.einsum(
        "nd,vd->nv", hidden, part.astype(hidden.dtype), preferred_element_type=jnp.float32
    )
    return jnp.where(real[None], scores / jnp.float32(temperature), -jnp.inf)


def _forward(hidden, weights, tokens, temperature, chunk):
    parts, real = _chunks(weights, chunk)
    each = parts.shape[1]

    def step(carry, xs):
        top, total, mean, chosen = carry
        index, part, live = xs
        scores = _logits(hidden, part, live, temperature)
        higher = jnp.maximum(top, scores.max(axis=-1))
        shrink, weight = jnp.exp(top - higher), jnp.exp(scores - higher[:, None])
        total = total * shrink + weight.sum(axis=-1)
        # where: a padded entry has weight 0 and score -inf
        mean = mean * shrink + jnp.where(live[None], weight * scores, 0.0).sum(axis=-1)
        at = tokens - index * each
        own = jnp.take_along_axis(scores, jnp.clip(at, 0, each - 1)[:, None], axis=1)[:, 0]
        chosen = jnp.where((at >= 0) & (at < each), own, chosen)
        return (higher, total, mean, chosen), None

    # The first chunk always holds a real entry, so that the maximum is finite from then on.
    zero = jnp.zeros(tokens.shape, jnp.float32)
    carry = (zero - 1e30, zero, zero, zero)
    steps = (jnp.arange(len(parts), dtype=tokens.dtype), parts, real)
    (top, total, mean, chosen), _ = jax.lax.scan(step, carry, steps)
    normalizer = top + jnp.log(total)
    entropy = normalizer - mean / total
    return (chosen - normalizer, entropy), (hidden, weights, tokens, normalizer, entropy)


def _backward(temperature, chunk, saved, gradients):
    hidden, weights, tokens, normalizer, entropy = saved
    by_logprob, by_entropy = gradients
    parts, real = _chunks(weights, chunk)
    each = parts.shape[1]

    def step(total, xs):
        index, part, live = xs
        scores = _logits(hidden, part, live, temperature)
        log_p = jnp.where(live[None], scores - normalizer[:, None], 0.0)
        p = jnp.where(live[None], jnp.exp(log_p), 0.0)
        own = tokens[:, None] == index * each + jnp.arange(each, dtype=tokens.dtype)[None]
        moved = by_logprob[:, None] * (own.astype(p.dtype) - p)
        moved -= by_entropy[:, None] * p * (log_p + entropy[:, None])
        moved = (moved / jnp.float32(temperature)).astype(hidden.dtype)
        wide = {"preferred_element_type": jnp.float32}
        total += jnp.einsum("nv,vd->nd", moved, part.astype(hidden.dtype), **wide)
        return total, jnp.einsum("nv,nd->vd", moved, hidden, **wide)

    zero = jnp.zeros(hidden.shape, jnp.float32)
    steps = (jnp.arange(len(parts), dtype=tokens.dtype), parts, real)
    by_hidden, by_parts = jax.lax.scan(step, zero, steps)
    by_weights = by_parts.reshape(-1, weights.shape[1])[: weights.shape[0]]
    return by_hidden.astype(hidden.dtype), by_weights.astype(weights.dtype), None


token_logprobs.defvjp(_forward, _backward)
