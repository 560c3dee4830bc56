"""From scores to what an estimator reads: values on the grid, shaped rewards, bootstraps."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from hiperjax.learning.batches import to_rows
from hiperjax.learning.credit.shaping import (
    PENALTIES,
    ChecklistReward,
    pay_checklists,
    shape_rewards,
)
from hiperjax.learning.credit.tokens import blocks_present
from hiperjax.learning.credit.types import CreditInputs
from hiperjax.learning.losses import switch_probability
from hiperjax.models.heads import LOW, TERM, Heads, apply_heads, apply_own_head
from hiperjax.types import PackedBatch, TurnGrid


def gather_inputs(
    heads: Heads,
    features: Float[Array, "N 3 F"],
    final_features: Float[Array, "B F"],
    batch: PackedBatch,
    *,
    token_values: Float[Array, "N R"] | None,
    reward_scale: float,
    bootstrap: bool,
    **shaping: Any,
) -> tuple[CreditInputs, dict[str, Array]]:
    """Values on the grid, shaped rewards and bootstraps: all an estimator may ask for.

    Args:
      heads: Value heads of the critic.
      features: what each head reads of each row.
      final_features: what the heads read after the last turn of each episode.
      batch: what was collected.
      token_values: before each reply token, for estimators that work token by token.
      reward_scale: multiplies the environment's reward.
      bootstrap: value the state after a truncated episode's last turn; else it counts as zero.
      shaping: `shaping.SETTINGS`.

    Returns:
      The inputs, and the terms of the shaped reward by name.
    """
    grid = batch.grid
    reward, terms = shape_grid(grid, reward_scale, **shaping)
    values = gather_values(heads, features, final_features, batch, bootstrap=bootstrap)
    inputs = CreditInputs(
        reward=reward,
        mask=grid.mask,
        boundary=grid.boundary,
        terminated=grid.terminated,
        low_value_mask=grid.mask & grid.well_formed,
        success=grid.success,
        group_id=grid.group_id,
        state_id=grid.state_id,
        final_state_id=grid.final_state_id,
        malformed=grid.mask & ~grid.well_formed,
        num_reply_tokens=grid.reply_tokens,
        milestone=grid.milestone,
        satisfied=grid.satisfied,
        item_weight=grid.item_weight,
        item_depends=grid.item_depends,
        item_request=grid.item_request,
        request=grid.request,
        cost=grid.cost,
        **values,
        **gather_switches(batch),
    )
    if token_values is not None:
        reply_mask = jnp.asarray(batch.rows.reply_mask)[grid.row]
        inputs = inputs._replace(v_token=token_values[grid.row], reply_mask=reply_mask)
    return inputs, terms


def shape_grid(
    grid: TurnGrid,
    reward_scale: float,
    *,
    checklist_reward: ChecklistReward = "off",
    **shaping: Any,
) -> tuple[Array, dict[str, Array]]:
    """The environment's reward, scaled and shaped, and its terms.

    Raises:
      ValueError: checklists are to pay, and the grid has none.
    """
    penalties = {name: shaping[name] for name in PENALTIES if name in shaping}
    reward, terms = shape_rewards(
        reward_scale * grid.reward * (checklist_reward != "replace"),
        grid.mask,
        grid.mask & ~grid.boundary,
        malformed=grid.mask & ~grid.well_formed,
        keep_violation=grid.keep_violation,
        inadmissible=grid.well_formed & ~grid.admissible,
        **penalties,
    )
    if checklist_reward == "off":
        return reward, terms
    if grid.satisfied is None:
        raise ValueError(f"checklist_reward {checklist_reward!r}: the batch has no checklists")
    paid = reward_scale * pay_checklists(
        grid,
        checklist_reward=checklist_reward,
        checklist_latch=shaping["checklist_latch"],
        gamma=shaping["gamma"],
    )
    return reward + paid, terms | {"checklist": paid}


def gather_values(
    heads: Heads,
    features: Float[Array, "N 3 F"],
    final_features: Float[Array, "B F"],
    batch: PackedBatch,
    *,
    bootstrap: bool,
) -> dict[str, Array]:
    """What the critic says of every turn, and of the state after a truncated episode."""
    grid = batch.grid
    on_grid = jnp.where(grid.mask[..., None], apply_own_head(heads, features)[grid.row], 0.0)
    on_prompt = apply_own_head(heads, features[:, [TERM] * 3])
    # After a cut the next turn may keep or switch: its value is the one before that choice.
    final = apply_heads(heads, final_features)[:, TERM] * bootstrap
    return dict(
        v_low=on_grid[..., 0],
        v_high=on_grid[..., 1],
        v_term=on_grid[..., 2],
        v_keep=jnp.where(grid.mask, on_prompt[..., LOW][grid.row], 0.0),
        bootstrap_low=final,
        bootstrap_high=final,
        bootstrap_term=final,
    )


def gather_switches(batch: PackedBatch) -> dict[str, Array]:
    """Which turns hold switch and subgoal blocks, and how likely each was to switch."""
    rows, grid = batch.rows, batch.grid
    has_switch, has_subgoal = blocks_present(rows, grid)
    stated = switch_probability(
        jnp.asarray(rows.behavior_logprobs),
        jnp.asarray(rows.switch_mask),
        to_rows(grid.boundary, grid, rows),
    )
    probability = jnp.where(has_switch, stated[grid.row], grid.boundary)
    return dict(has_switch=has_switch, has_subgoal=has_subgoal, switch_prob=probability)
