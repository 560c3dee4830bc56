"""Baseline of the update: one row per turn, padded to the longest allowed, logits everywhere.

The same weights, rows, loss and optimizer as ours; what differs is what published systems do: a
frame of prompt limit and reply limit for every turn, `[N, L, V]` logits, XLA's own attention,
gradients by plain differentiation, and three passes before the update: old log-probs, values,
reference.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hiperjax.learning.batches import LearnerBatch
from hiperjax.learning.losses import LossInputs, ppo_loss
from hiperjax.models.layers import block_of, rms_norm
from hiperjax.models.rope import angles
from hiperjax.models.transformer import Params, TransformerConfig, logits
from hiperjax.types import PackedBatch


class PaddedRows(NamedTuple):
    """One row of `L` tokens per turn, real tokens first; the last row is empty, for padding."""

    tokens: Any
    reply_at: Any
    value_at: Any
    advantage: Any
    mask: Any
    old_logprobs: Any
    ref_logprobs: Any
    sequence: Any
    """packed sequence that the turn came from"""


def unpack(batch: PackedBatch, prepared: LearnerBatch, width: int) -> PaddedRows:
    """The turns of a packed batch, each in a row of its own, as numpy arrays."""
    sequences, rows, _, _ = jax.device_get(batch)
    own = jax.device_get(prepared)
    per_sequence = own.reply.shape[1]
    used = np.flatnonzero(rows.row_mask)
    tokens = np.zeros((len(used) + 1, width), np.int32)
    reply_at, value_at = np.ones(len(used) + 1, np.int32), np.zeros((len(used) + 1, 3), np.int32)
    for i, n in enumerate(used):
        s, k = divmod(int(n), per_sequence)
        shared = np.flatnonzero((sequences.segment[s] == 0) & sequences.token_mask[s])
        at = np.flatnonzero(sequences.segment[s] == k + 1)
        found = sequences.tokens[s][np.concatenate([shared, at])]
        if len(found) > width:
            raise ValueError(f"a turn of {len(found)} tokens; expected at most the frame, {width}")
        tokens[i, : len(found)] = found
        reply_at[i] = rows.reply_at[n] - at[0] + len(shared)
        value_at[i] = rows.value_at[n] - at[0] + len(shared)

    def take(x: Any) -> np.ndarray:
        flat = np.asarray(x).reshape(-1, x.shape[-1])[used]
        return np.concatenate([flat, np.zeros_like(flat[:1])])

    names = ("advantage", "loss_mask", "old_logprobs", "ref_logprobs")
    where = np.concatenate([used // per_sequence, [-1]])
    taken: Any = (take(getattr(own, name)) for name in names)
    return PaddedRows(tokens, reply_at, value_at, *taken, where)  # type: ignore[call-arg]


def run_rows(params: Params, config: TransformerConfig, tokens: Any) -> Any:
    """Hidden states of right-padded rows; causal attention needs no other mask for real tokens."""
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    cos, sin = angles(positions, config.head_dim, config.rope_theta, config.rope_scaling)

    def body(x: Any, layer: Any) -> tuple[Any, None]:
        block = block_of(config, layer)
        query, key, value = block.attention.project(block.attention_norm(x), cos, sin)
        heads = jax.nn.dot_product_attention(
            query, key, value, is_causal=True, implementation="xla"
        )
        return block.finish(x, heads), None

    x = params["embedding"][tokens].astype(config.dtype)
    x = x * np.sqrt(config.hidden_size).astype(x.dtype) if config.embedding_scale else x
    body = body if config.remat == "none" else jax.checkpoint(body)
    x, _ = jax.lax.scan(body, x, params["layers"])
    return rms_norm(x, params["final_norm"]["scale"], config.norm_eps)


def full_logprobs(
    params: Params, config: TransformerConfig, rows: PaddedRows, temperature: float
) -> tuple[Any, Any]:
    """Log-prob and entropy at the reply tokens, out of logits at every position."""
    scores = logits(params, config, run_rows(params, config, rows.tokens)) / temperature
    every = jax.nn.log_softmax(scores, axis=-1)
    entropy = -jnp.sum(jnp.exp(every) * every, axis=-1)
    chosen = jnp.take_along_axis(every[:, :-1], rows.tokens[:, 1:, None], axis=-1)[..., 0]
    at = rows.reply_at[:, None] - 1 + jnp.arange(rows.mask.shape[1])
    at = jnp.minimum(at, chosen.shape[1] - 1)
    return jnp.take_along_axis(chosen, at, axis=1), jnp.take_along_axis(entropy, at, axis=1)


class PaddedUpdate:
    """Three passes and an update; `micro` rows at once. `options` are `ppo_loss`'s."""

    def __init__(
        self,
        model: TransformerConfig,
        optimizer: optax.GradientTransformation,
        *,
        temperature: float,
        micro: int,
        **options: Any,
    ):
        self.model, self.optimizer, self.micro = model, optimizer, micro
        self.temperature, self.options = temperature, options
        self.logprobs = jax.jit(partial(self._sweep, self._logprobs))
        self.values = jax.jit(partial(self._sweep, self._values))
        self.gradient = jax.jit(self._gradient)
        self.update = jax.jit(self._update, donate_argnums=(0, 1))

    def _logprobs(self, params: Params, part: PaddedRows) -> Any:
        return full_logprobs(params, self.model, part, self.temperature)[0]

    def _values(self, params: Params, part: PaddedRows) -> Any:
        hidden = run_rows(params, self.model, part.tokens)
        return jnp.take_along_axis(hidden, part.value_at[:, :, None], axis=1)

    def _sweep(self, function: Any, params: Params, rows: PaddedRows) -> Any:
        """`function` over all rows, a micro-batch at a time."""
        total = rows.tokens.shape[0]
        room = -(-total // self.micro) * self.micro
        at = jnp.minimum(jnp.arange(room), total - 1).reshape(-1, self.micro)
        out = jax.lax.map(lambda i: function(params, jax.tree.map(lambda x: x[i], rows)), at)
        return out.reshape(room, *out.shape[2:])[:total]

    def _loss(self, params: Params, part: PaddedRows, count: Any) -> Any:
        logprobs, entropy = full_logprobs(params, self.model, part, self.temperature)
        return ppo_loss(
            LossInputs(
                logprobs=logprobs,
                old_logprobs=part.old_logprobs,
                ref_logprobs=part.ref_logprobs,
                entropy=entropy,
                advantage=part.advantage,
                mask=part.mask,
                block=jnp.zeros_like(part.mask, int),  # only ratios of blocks read it
            ),
            count,
            **self.options,
        ).loss

    def _gradient(self, params: Params, rows: PaddedRows, index: Any) -> tuple[Any, Any]:
        """Loss and gradient of one minibatch, micro-batch by micro-batch."""
        count = jnp.maximum(rows.mask[index].sum(), 1).astype(jnp.float32)

        def add(total: Any, at: Any) -> tuple[Any, None]:
            part = jax.tree.map(lambda x: x[at], rows)
            found = jax.value_and_grad(self._loss)(params, part, count)
            return jax.tree.map(jnp.add, total, found), None

        zero = (jnp.float32(0), jax.tree.map(jnp.zeros_like, params))
        return jax.lax.scan(add, zero, index.reshape(-1, self.micro))[0]

    def _update(self, params: Params, state: Any, rows: PaddedRows, order: Any) -> Any:
        def step(carry: Any, index: Any) -> tuple[Any, Any]:
            params, state = carry
            loss, grads = self._gradient(params, rows, index)
            moves, state = self.optimizer.update(grads, state, params)
            return (optax.apply_updates(params, moves), state), loss

        return jax.lax.scan(step, (params, state), order)

    def split_into_minibatches(self, count: int, steps: int) -> np.ndarray:
        """Rows of each of `steps` minibatches, filled up with the padding row, the last one."""
        size = -(-count // steps)
        size = -(-size // self.micro) * self.micro
        order = np.full((steps, size), count, np.int32)
        for i, part in enumerate(
            np.array_split(np.random.default_rng(0).permutation(count), steps)
        ):
            order[i, : len(part)] = part
        return order
