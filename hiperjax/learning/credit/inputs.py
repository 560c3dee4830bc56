"""From scores to credit on every reply token: between critic, estimator and update."""

from typing import Any, Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from hiperjax.learning.batches import (
    LearnerBatch,
    Scores,
    TokenTargets,
    by_sequence,
    measure_mismatch,
    read_before,
    to_rows,
)
from hiperjax.learning.credit.compare import explain_head, masked_mean, masked_variance
from hiperjax.learning.credit.registry import (
    Credit,
    CreditInputs,
    blocks_present,
    shape_rewards,
    spread,
    whiten,
)
from hiperjax.learning.losses import Metrics, switch_probability
from hiperjax.models.heads import apply_heads
from hiperjax.types import PackedBatch

STREAMS = ("low", "high", "term")
LOW, TERM = 0, 2
Whitening = Literal["standard", "scale", "none"]


def per_head(heads: Any, features: Float[Array, "*n 3 F"]) -> Float[Array, "*n 3"]:
    """Each head at its own place."""
    return (
        jnp.einsum("...hf,fh->...h", features.astype(jnp.float32), heads["kernel"]) + heads["bias"]
    )


def token_values(heads: Any, hidden: Array, reply_at: Array, count: int) -> Array:
    """`[s, K, R]`: the term head before each reply token."""
    return apply_heads(heads, read_before(hidden, reply_at, count))[..., TERM]


def gather_inputs(
    heads: Any,
    features: Float[Array, "N 3 F"],
    final_features: Float[Array, "B F"],
    batch: PackedBatch,
    *,
    token_values: Float[Array, "N R"] | None,
    reward_scale: float,
    bootstrap: bool,
    **penalties: Any,
) -> tuple[CreditInputs, dict[str, Array]]:
    """Values on the grid, shaped rewards and bootstraps: all an estimator may ask for.

    Args:
      heads: of the critic.
      features: what each head reads of each row.
      final_features: what the heads read after the last turn of each episode.
      token_values: before each reply token, for estimators that work token by token.
      reward_scale: multiplies the environment's reward.
      bootstrap: value the state after a truncated episode's last turn; else it counts as zero.
      penalties: of `shape_rewards`.
    """
    grid = batch.grid
    on_grid = jnp.where(grid.mask[..., None], per_head(heads, features)[grid.row], 0.0)
    malformed = grid.mask & ~grid.well_formed
    reward, terms = shape_rewards(
        reward_scale * grid.reward,
        grid.mask,
        grid.mask & ~grid.boundary,
        invalid=malformed,
        keep_violation=grid.keep_violation,
        inadmissible=grid.well_formed & ~grid.admissible,
        **penalties,
    )
    # After a cut the next turn may keep or switch: its value is the one before that choice.
    final = apply_heads(heads, final_features)[:, TERM] * bootstrap
    has_switch, has_subgoal = blocks_present(batch.rows, grid)
    rows, heads_on_prompt = batch.rows, per_head(heads, features[:, [TERM] * 3])
    stated = switch_probability(
        jnp.asarray(rows.behavior_logprobs), jnp.asarray(rows.switch_mask),
        to_rows(grid.boundary, grid, rows),
    )  # fmt: skip
    inputs = CreditInputs(
        reward=reward,
        mask=grid.mask,
        boundary=grid.boundary,
        terminated=grid.terminated,
        v_low=on_grid[..., 0],
        v_high=on_grid[..., 1],
        v_term=on_grid[..., 2],
        bootstrap_low=final,
        bootstrap_high=final,
        bootstrap_term=final,
        low_fit=grid.mask & grid.well_formed,
        has_subgoal=has_subgoal,
        has_switch=has_switch,
        switch=grid.boundary,
        switch_prob=jnp.where(has_switch, stated[grid.row], grid.boundary),
        v_keep=jnp.where(grid.mask, heads_on_prompt[..., LOW][grid.row], 0.0),
        success=grid.success,
        group_id=grid.group_id,
        state_id=grid.state_id,
        final_state_id=grid.final_state_id,
        invalid=malformed,
        n_tok=grid.reply_tokens,
        milestone=grid.milestone,
    )
    if token_values is not None:
        inputs = inputs._replace(
            v_token=token_values[grid.row], reply_mask=jnp.asarray(rows.response_mask)[grid.row]
        )
    return inputs, terms


def list_targets(credit: Credit, batch: PackedBatch) -> tuple[Array, Array]:
    """Value targets and fit masks of the three heads, by row."""
    target = jnp.stack([credit.ret_low, credit.ret_high, credit.ret_term], axis=-1)
    mask = jnp.stack([credit.fit_low, credit.fit_high, credit.fit_term], axis=-1)
    return to_rows(target, batch.grid, batch.rows), to_rows(mask, batch.grid, batch.rows)


def prepare_batch(
    credit: Credit,
    inputs: CreditInputs,
    batch: PackedBatch,
    scores: Scores,
    *,
    hierarchical: bool,
    whitening: Whitening,
    weights: tuple[float, float, float],
) -> LearnerBatch:
    """Whiten, spread onto tokens, and lay everything out by sequence."""
    sequences, rows, grid, _ = batch
    low, high, term = (
        whiten(getattr(credit, f"adv_{name}"), getattr(credit, f"mask_{name}"), whitening)
        for name in STREAMS
    )
    advantage, loss_mask = spread(
        low,
        high,
        term,
        rows,
        grid,
        hierarchical=hierarchical,
        w_low=weights[0],
        w_high=weights[1],
        w_term=weights[2],
    )
    tokens = None
    if credit.tokens is not None:
        white = whiten(flatten(credit.tokens.adv), flatten(credit.tokens.mask), whitening)
        advantage = weights[0] * to_rows(white.reshape(credit.tokens.adv.shape), grid, rows)
        tokens = TokenTargets(
            *(by_sequence(to_rows(x, grid, rows), sequences)
              for x in (credit.tokens.ret, credit.tokens.mask, credit.tokens.value))
        )  # fmt: skip
    target, value_mask = list_targets(credit, batch)
    first = jnp.arange(grid.mask.shape[1]) == 0
    values = jnp.stack([inputs.v_low, inputs.v_high, inputs.v_term], axis=-1)
    by_row = dict(
        reply=rows.reply,
        reply_at=rows.reply_at,
        advantage=advantage,
        loss_mask=loss_mask,
        old_logprobs=jnp.where(scores.rescored, scores.logprobs, rows.behavior_logprobs),
        ref_logprobs=scores.ref_logprobs,
        switch_tokens=rows.switch_mask,
        switched=to_rows(grid.boundary, grid, rows),
        chose=to_rows(grid.mask & grid.well_formed & ~first, grid, rows),
        value_at=rows.value_at,
        value_target=target,
        value_mask=value_mask,
        old_value=to_rows(values, grid, rows),
    )
    laid = {name: by_sequence(jnp.asarray(x), sequences) for name, x in by_row.items()}
    return LearnerBatch(sequences=sequences, tokens=tokens, **laid)


def flatten(x: Array) -> Array:
    """Tokens of an episode in a row."""
    return x.reshape(len(x), -1)


def measure_credit(
    credit: Credit,
    terms: dict[str, Array],
    batch: PackedBatch,
    scores: Scores,
    inputs: CreditInputs,
    heads: tuple[str, ...],
) -> Metrics:
    """Spread of each stream, explained variance of each head in use, shaping terms an episode, and
    the mismatch between the sampler's log-probs and the learner's."""
    grid = batch.grid
    largest, mean = measure_mismatch(batch, scores)
    metrics: Metrics = {"mismatch_max": largest, "mismatch_mean": mean}
    metrics["rescored"] = scores.rescored.astype(jnp.float32)
    episodes = jnp.maximum(grid.mask.any(axis=1).sum(), 1)
    metrics |= {f"reward_{name}": term.sum() / episodes for name, term in terms.items()}
    for name in STREAMS:
        mask = getattr(credit, f"mask_{name}")
        advantage = getattr(credit, f"adv_{name}")
        metrics[f"advantage_mean_{name}"] = masked_mean(advantage, mask)
        metrics[f"advantage_std_{name}"] = jnp.sqrt(masked_variance(advantage, mask))
        if name in heads:
            metrics[f"explained_variance_{name}"] = explain_head(credit, inputs, name)
    return metrics
