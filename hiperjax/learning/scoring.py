"""One pass over a packed batch for everything that credit and update want to know of it.

Values come from the network the critic reads; the reference's log-probs only where there is a KL
term; the policy's own log-probs ride along where its trunk runs anyway, and elsewhere are read off
a first slice, to hold the sampler's against: those serve as old ones while the two are close.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from hiperjax.learning.batches import (
    Scores,
    by_sequence,
    map_used,
    read,
    read_before,
    reply_logprobs,
    run_sequences,
)
from hiperjax.models.heads import TERM, Heads, token_values
from hiperjax.models.transformer import Params, TransformerConfig, forward
from hiperjax.types import FinalPrompts, PackedBatch

Network = tuple[Params, TransformerConfig]


def score_batch(
    batch: PackedBatch,
    final: FinalPrompts | None,
    num_logprob_sequences: Int[Array, ""],
    *,
    policy: Network,
    critic: Params | None,
    reference: Network | None,
    heads: Heads | None,
    temperature: float,
    size: int,
) -> Scores:
    """Score the sequences in use, `size` at a time.

    Args:
      batch: what was collected.
      final: prompts after the last turns of truncated episodes; None where those are rows.
      num_logprob_sequences: how many sequences, from the first, have their log-probs under the
        policy read, where its trunk does not run over all of them anyway.
      policy: parameters and shape.
      critic: the trunk the value heads read; None: the policy's.
      reference: Reference policy of the KL term.
      heads: read before every reply token too, for token-level estimators.
      temperature: Temperature of the policy.
      size: sequences at once.
    """
    sequences, rows, grid, count = batch
    reads = tuple(by_sequence(jnp.asarray(x), sequences) for x in (rows.reply_at, rows.reply,
                                                                   rows.value_at))  # fmt: skip
    whole, wanted = jnp.asarray(count, jnp.int32), jnp.asarray(num_logprob_sequences, jnp.int32)
    trunk = (policy[0] if critic is None else critic, policy[1])

    def logprobs_of(network: Network, hidden: Array, part: Any) -> Array:
        tokens, (reply_at, reply, _) = part
        replies = tokens.reply_index, reply_at, reply
        return reply_logprobs(*network, hidden, *replies, temperature)[0]

    def score_slice(part: Any) -> dict[str, Array]:
        tokens, (reply_at, reply, value_at) = part
        hidden = run_sequences(*trunk, tokens)
        found = {"values": read(hidden, value_at)}
        if critic is None:
            found["logprobs"] = logprobs_of(policy, hidden, part)
        if heads is not None:
            states = read_before(hidden, reply_at, reply.shape[-1])
            found["tokens"] = token_values(heads, states)
        if reference is not None:
            found["ref"] = logprobs_of(reference, run_sequences(*reference, tokens), part)
        return found

    parts = (sequences, reads)
    found = map_used(score_slice, parts, whole, size)
    wanted = whole if critic is None else jnp.minimum(wanted, whole)
    if critic is not None:

        def score_policy(part: Any) -> Array:
            return logprobs_of(policy, run_sequences(*policy, part[0]), part)

        found["logprobs"] = map_used(score_policy, parts, wanted, size)
    by_row = {name: x.reshape(-1, *x.shape[2:]) for name, x in found.items()}
    per_sequence = reads[0].shape[1]
    if final is None:
        last = by_row["values"][grid.final_row, TERM]
    else:
        last = read_final(final, trunk, size)
    return Scores(
        value_hidden=by_row["values"],
        final_hidden=last,
        logprobs=by_row["logprobs"],
        scored=jnp.arange(len(by_row["logprobs"])) < wanted * per_sequence,
        ref_logprobs=by_row.get("ref", by_row["logprobs"]),
        rescored=jnp.zeros((), bool),
        token_values=by_row.get("tokens"),
    )


def read_final(final: FinalPrompts, trunk: Network, size: int) -> Float[Array, "B D"]:
    """Hidden states at the ends of the final prompts, by trajectory."""

    def run(part: tuple[Array, Array]) -> Array:
        hidden = forward(*trunk, part[0], lengths=part[1])
        return read(hidden, part[1] - 1)

    prompts = (jnp.asarray(final.tokens), jnp.asarray(final.lengths))
    return map_used(run, prompts, jnp.asarray(final.count), size)[jnp.asarray(final.row)]
