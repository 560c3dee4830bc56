"""What the learner passes from step to step, and how turns are read out of packed sequences."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from hiperjax_kernels.gather import take_along
from hiperjax_kernels.logprobs import token_logprobs
from jaxtyping import Array, Bool, Float, Int

from hiperjax.models.transformer import Params, TransformerConfig, forward, output_weights
from hiperjax.types import PackedBatch, Sequences, TurnGrid, TurnRows


class Scores(NamedTuple):
    """What one forward pass reads of a batch."""

    value_hidden: Float[Array, "N 3 D"]
    """hidden state each head reads"""
    final_hidden: Float[Array, "B D"]
    """hidden state at the end of the prompt after the last turn"""
    logprobs: Float[Array, "N R"]
    """log-probs under the policy, of the rows that are `scored`"""
    scored: Bool[Array, " N"]
    ref_logprobs: Float[Array, "N R"]
    rescored: Bool[Array, ""]
    """whether the old log-probs are these rather than the sampler's"""
    token_values: Float[Array, "N R"] | None = None
    """term head before each reply token, where the estimator asks for it"""


class TokenTargets(NamedTuple):
    """What the term head is fitted to, where an estimator works token by token."""

    target: Float[Array, "*batch K R"]
    mask: Bool[Array, "*batch K R"]
    old_value: Float[Array, "*batch K R"]


class LearnerBatch(NamedTuple):
    """A batch ready for the update: `S` sequences, `K` rows in each, `R` reply positions."""

    sequences: Sequences
    reply: Int[Array, "S K R"]
    reply_at: Int[Array, "S K"]
    advantage: Float[Array, "S K R"]
    loss_mask: Bool[Array, "S K R"]
    old_logprobs: Float[Array, "S K R"]
    ref_logprobs: Float[Array, "S K R"]
    block: Int[Array, "S K R"]
    """block of each reply token: 0 switch, 1 subgoal, 2 action and what lies outside the three"""
    switched: Bool[Array, "S K"]
    chose: Bool[Array, "S K"]
    """rows that could have kept or switched: well-formed, not turn 0"""
    value_at: Int[Array, "S K 3"]
    value_target: Float[Array, "S K 3"]
    value_mask: Bool[Array, "S K 3"]
    old_value: Float[Array, "S K 3"]
    tokens: TokenTargets | None = None
    """instead of `value_*` in token-level estimators"""

    @property
    def switch_tokens(self) -> Bool[Array, "S K R"]:
        return self.block == 0


def run_sequences(
    params: Params, config: TransformerConfig, sequences: Sequences
) -> Float[Array, "s C D"]:
    """Hidden states; a turn's are those it would have alone in its sequence."""
    rows = sequences.attention_rows
    return forward(
        params,
        config,
        jnp.asarray(sequences.tokens),
        token_mask=jnp.asarray(sequences.token_mask),
        positions=jnp.asarray(sequences.position),
        segments=jnp.asarray(sequences.segment),
        rows=None if rows is None else jnp.asarray(rows),
    )


def read(hidden: Float[Array, "s C D"], at: Int[Array, "*batch"]) -> Float[Array, "*batch D"]:
    """Hidden states at positions of their own sequence (clipped to its ends)."""
    flat = jnp.clip(at.reshape(at.shape[0], -1), 0, hidden.shape[1] - 1)
    found = take_along(hidden, flat)
    return found.reshape(*at.shape, hidden.shape[-1])


def reply_logprobs(
    params: Params,
    config: TransformerConfig,
    hidden: Float[Array, "s C D"],
    reply_index: Int[Array, "s Q"],
    reply_at: Int[Array, "s K"],
    reply: Int[Array, "s K R"],
    temperature: float = 1.0,
) -> tuple[Float[Array, "s K R"], Float[Array, "s K R"]]:
    """Log-probs and entropies of reply tokens, zero elsewhere: each is read one token earlier.

    Hidden states are gathered at the reply tokens that there are before they meet the vocabulary.
    The policy is the tempered distribution, the one that was sampled from.
    """
    s, k, r = reply.shape
    index = jnp.minimum(reply_index, k * r - 1)
    at = jnp.take_along_axis(reply_at, index // r, axis=1) + index % r
    tokens = jnp.take_along_axis(reply.reshape(s, k * r), index, axis=1)
    states = read(hidden, at - 1).reshape(-1, hidden.shape[-1])
    weights = output_weights(params, config)
    found: Any = token_logprobs(states, weights, tokens.reshape(-1), temperature)
    rows = jnp.arange(s)[:, None]

    def spread(x: Array) -> Array:
        laid = jnp.zeros((s, k * r)).at[rows, reply_index].set(x.reshape(s, -1), mode="drop")
        return laid.reshape(s, k, r)

    return spread(found[0]), spread(found[1])


def read_before(
    hidden: Float[Array, "s C D"], reply_at: Int[Array, "s K"], count: int
) -> Float[Array, "s K R D"]:
    """Hidden states that predict the reply tokens: each one token earlier."""
    return read(hidden, reply_at[..., None] - 1 + jnp.arange(count)[None, None])


def decision_scores(
    policy: Params, config: TransformerConfig, batch: PackedBatch, *, temperature: float, size: int
) -> Float[Array, "B T 3 D"]:
    """Gradient of each decision's log-prob (action, subgoal, switch) by a common shift of the last
    hidden states: a true part of the policy gradient, and a small one. `size` sequences at once."""
    sequences, rows, grid, count = batch
    reads = [by_sequence(jnp.asarray(x), sequences) for x in (rows.reply_at, rows.reply)]
    blocks = jnp.stack([rows.action_mask, rows.subgoal_mask, rows.switch_mask], axis=1)

    def score_slice(part: Any) -> Array:
        tokens, (reply_at, reply), blocks = part

        def total(hidden: Array) -> Array:
            replies = tokens.reply_index, reply_at, reply
            logprobs, _ = reply_logprobs(policy, config, hidden, *replies, temperature)
            return jnp.where(blocks.any(axis=2), logprobs, 0.0).sum()

        # No state predicts two counted tokens, so the sum's gradient is each token's own.
        found = jax.grad(total)(run_sequences(policy, config, tokens).astype(jnp.float32))
        found = read_before(found, reply_at, reply.shape[-1])
        return jnp.einsum("skbr,skrd->skbd", blocks.astype(found.dtype), found)

    parts = (sequences, reads, by_sequence(blocks, sequences))
    found = map_used(score_slice, parts, jnp.asarray(count), size)
    return found.reshape(-1, *found.shape[2:])[grid.row]


def measure_mismatch(batch: PackedBatch, scores: Scores) -> tuple[Array, Array]:
    """Largest and mean absolute difference between sampler's and learner's log-probs."""
    rows = batch.rows
    reply = jnp.asarray(rows.reply_mask) & (rows.row_mask & scores.scored)[:, None]
    gap = jnp.where(reply, jnp.abs(scores.logprobs - jnp.asarray(rows.behavior_logprobs)), 0.0)
    return gap.max(), gap.sum() / jnp.maximum(reply.sum(), 1)


def by_sequence(x: Array, sequences: Sequences) -> Array:
    """Rows `[N, ...]` as `[S, K, ...]`."""
    return jnp.reshape(x, (sequences.tokens.shape[0], -1, *x.shape[1:]))


def to_rows(x: Array | np.ndarray, grid: TurnGrid, rows: TurnRows) -> Array:
    """Grid scalars to their rows; rows of no turn are zero."""
    n = rows.row_mask.shape[0]
    at = jnp.where(grid.mask, grid.row, n)
    return jnp.zeros((n, *x.shape[2:]), x.dtype).at[at].set(x, mode="drop")


def pad_to_multiple(tree: Any, size: int) -> Any:
    """Every leaf with its leading axis filled up by zeros to a multiple of `size`."""
    total = jax.tree.leaves(tree)[0].shape[0]
    room = -(-total // size) * size - total
    return jax.tree.map(lambda x: jnp.pad(x, [(0, room)] + [(0, 0)] * (x.ndim - 1)), tree)


def map_used(function: Any, tree: Any, count: Int[Array, ""], size: int) -> Any:
    """`function` over leading-axis slices of `size`, of the first `count` elements only.

    What lies beyond is zero in the result. The number of slices is dynamic: one compilation serves
    batches of any fill.
    """
    total = jax.tree.leaves(tree)[0].shape[0]
    size = min(size, total)
    tree = pad_to_multiple(tree, size)
    padded = jax.tree.leaves(tree)[0].shape[0]

    def part(i: Array) -> Any:
        return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, i * size, size), tree)

    def step(i: Array, out: Any) -> Any:
        return jax.tree.map(
            lambda whole, new: jax.lax.dynamic_update_slice_in_dim(whole, new, i * size, 0),
            out,
            function(part(i)),
        )

    shapes = jax.eval_shape(lambda: function(part(jnp.int32(0))))
    empty = jax.tree.map(lambda s: jnp.zeros((padded, *s.shape[1:]), s.dtype), shapes)
    out = jax.lax.fori_loop(0, -(-count // size), step, empty)
    return jax.tree.map(lambda x: x[:total], out)
