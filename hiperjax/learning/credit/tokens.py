"""From turn advantages to the tokens of the update: whiten each stream, spread it, lay it out."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from hiperjax.learning.batches import LearnerBatch, Scores, TokenTargets, by_sequence, to_rows
from hiperjax.learning.credit.types import Credit, CreditInputs
from hiperjax.types import STREAMS, PackedBatch, TurnGrid, TurnRows

Whitening = Literal["standard", "scale", "none"]
Level = Literal["all", "planner", "executor"]
"""Whose tokens are in the loss."""


def whiten(
    x: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    mode: Whitening = "standard",
    *,
    eps: float = 1e-8,
) -> Float[Array, "B T"]:
    """Normalize one stream over its own turns, one vote per turn; zero elsewhere.

    "standard" is (x - mean) / std with the population std; "scale" divides by the root mean square
    and keeps the sign of every advantage; "none" only masks. Statistics take two passes in the
    dtype of `x`, and equal values standardize to zero (float32 rounding would make them up to 0.6).
    """
    count = jnp.maximum(mask.sum(), 1)
    x = jnp.where(mask, x, 0)
    if mode == "none":
        return x
    if mode == "scale":
        return x / (jnp.sqrt((x**2).sum() / count) + eps)
    mean = x.sum() / count
    centered = jnp.where(mask, x - mean, 0)
    std = jnp.sqrt((centered**2).sum() / count)
    spread_out = jnp.abs(centered).max() > 1e-5 * (1 + jnp.abs(mean))
    return jnp.where(spread_out, centered / (std + eps), 0)


def spread(
    adv_low: Float[Array, "B T"],
    adv_high: Float[Array, "B T"],
    adv_term: Float[Array, "B T"],
    rows: TurnRows,
    grid: TurnGrid,
    *,
    hierarchical: bool,
    w_low: float | Float[Array, ""] = 1.0,
    w_high: float | Float[Array, ""] = 1.0,
    w_term: float | Float[Array, ""] = 1.0,
    train: Level = "all",
) -> tuple[Float[Array, "N R"], Bool[Array, "N R"]]:
    """Write turn advantages onto tokens; the loss mask says which tokens got one.

    Hierarchical: low on action tokens, high on the subgoal tokens of boundary turns, term on switch
    tokens; a reply without an action block gets low on its tokens outside the other blocks. Flat:
    `adv_low` on every reply token. Rows of no turn stay zero and out of the mask.

    Args:
      w_low, w_high, w_term: weights of the streams, multiplied into their advantages.
      train: whose tokens stay in the mask: the planner's are those of switch and subgoal blocks,
        and of a reply that breaks off before its subgoal block is complete all others; the rest are
        the executor's, blanks between blocks nobody's.
    """
    low, high, term, live, boundary = (
        to_rows(x, grid, rows)[:, None]
        for x in (adv_low, adv_high, adv_term, grid.mask, grid.mask & grid.boundary)
    )
    reply = jnp.asarray(rows.reply_mask) & live
    switch, subgoal, action = (
        jnp.asarray(block) & live
        for block in (rows.switch_mask, rows.subgoal_mask, rows.action_mask)
    )
    no_action = ~action.any(axis=1, keepdims=True)
    action = jnp.where(no_action, reply & ~switch & ~subgoal, action)
    handed_over = subgoal.any(axis=1, keepdims=True)
    kept = {
        "all": reply,
        "planner": switch | subgoal | (action & ~handed_over),
        "executor": action & handed_over,
    }[train]
    if not hierarchical:
        kept = kept & reply
        return jnp.where(kept, w_low * low, 0), kept
    subgoal = subgoal & boundary
    advantage = (
        jnp.where(action, w_low * low, 0)
        + jnp.where(subgoal, w_high * high, 0)
        + jnp.where(switch, w_term * term, 0)
    )
    mask = (action | subgoal | switch) & kept
    return jnp.where(mask, advantage, 0), mask


def number_blocks(rows: TurnRows) -> Int[Array, "N R"]:
    """0 for tokens of the switch block, 1 for those of the subgoal block, 2 for all others."""
    switch, subgoal = (jnp.asarray(x, jnp.int8) for x in (rows.switch_mask, rows.subgoal_mask))
    return 2 - 2 * switch - subgoal


def blocks_present(rows: TurnRows, grid: TurnGrid) -> tuple[Bool[Array, "B T"], Bool[Array, "B T"]]:
    """Turns whose reply holds a switch block, and those with a subgoal block."""
    present = (jnp.asarray(block).any(axis=1) for block in (rows.switch_mask, rows.subgoal_mask))
    has_switch, has_subgoal = (p[grid.row] & grid.mask for p in present)
    return has_switch, has_subgoal


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
    train: Level = "all",
) -> LearnerBatch:
    """Whiten, spread onto tokens, and lay everything out by sequence."""
    sequences, rows, grid, _ = batch
    advantage, loss_mask = spread_whitened(
        credit, rows, grid,
        hierarchical=hierarchical, whitening=whitening, weights=weights, train=train,
    )  # fmt: skip
    tokens = None
    if credit.tokens is not None:
        white = whiten(flatten(credit.tokens.adv), flatten(credit.tokens.mask), whitening)
        advantage = weights[0] * to_rows(white.reshape(credit.tokens.adv.shape), grid, rows)
        targets = (credit.tokens.ret, credit.tokens.mask, credit.tokens.value)
        tokens = TokenTargets(*(by_sequence(to_rows(x, grid, rows), sequences) for x in targets))
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
        block=number_blocks(rows),
        switched=to_rows(grid.boundary, grid, rows),
        chose=to_rows(grid.mask & grid.well_formed & ~first, grid, rows),
        value_at=rows.value_at,
        value_target=target,
        value_mask=value_mask,
        old_value=to_rows(values, grid, rows),
    )
    laid = {name: by_sequence(jnp.asarray(x), sequences) for name, x in by_row.items()}
    return LearnerBatch(sequences=sequences, tokens=tokens, **laid)


def spread_whitened(
    credit: Credit,
    rows: TurnRows,
    grid: TurnGrid,
    *,
    hierarchical: bool,
    whitening: Whitening,
    weights: tuple[float, float, float],
    train: Level = "all",
) -> tuple[Float[Array, "N R"], Bool[Array, "N R"]]:
    """Each stream whitened over its own turns, weighted, and written onto tokens."""
    low, high, term = (
        whiten(getattr(credit, f"adv_{name}"), getattr(credit, f"mask_{name}"), whitening)
        for name in STREAMS
    )
    w_low, w_high, w_term = weights
    return spread(
        low,
        high,
        term,
        rows,
        grid,
        hierarchical=hierarchical,
        w_low=w_low,
        w_high=w_high,
        w_term=w_term,
        train=train,
    )


def flatten(x: Array) -> Array:
    """Tokens of an episode in a row."""
    return x.reshape(len(x), -1)
