"""From rewards and values to token advantages: estimate, whiten, spread.

The walk of a batch: `shape_rewards` (shaping.py) -> `estimate` -> `whiten` each stream over its own
turns -> `spread` onto the tokens. Every function is pure, of arrays `[B, T]`, and may be jitted.
"""

from typing import Any, Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from hiperjax.config import ConfigError
from hiperjax.estimator_options import EstimatorOptions
from hiperjax.learning.credit.group import GROUP_ESTIMATORS
from hiperjax.learning.credit.hae import (
    flat_gae_credit,
    flat_token_gae_credit,
    hae_credit,
    paper_hae_credit,
    require,
)
from hiperjax.learning.credit.shaping import shape_rewards
from hiperjax.learning.credit.types import Credit, CreditInputs, Estimator
from hiperjax.types import TurnGrid, TurnRows

__all__ = [
    "ESTIMATORS",
    "Credit",
    "CreditInputs",
    "Estimator",
    "blocks_present",
    "estimate",
    "find_estimator",
    "shape_rewards",
    "spread",
    "whiten",
]

HEADS = ("low", "high", "term")

ESTIMATORS: dict[str, Estimator] = {
    estimator.name: estimator
    for estimator in (
        Estimator("hae", hae_credit, hierarchical=True, needs_groups=False, heads=HEADS),
        Estimator("hae_paper", paper_hae_credit, True, needs_groups=False, heads=HEADS),
        Estimator(
            "flat_gae", flat_gae_credit, hierarchical=False, needs_groups=False, heads=("term",)
        ),
        Estimator(
            "flat_token_gae",
            flat_token_gae_credit,
            hierarchical=False,
            needs_groups=False,
            heads=("term",),
            needs=("v_token", "reply_mask"),
            per_token=True,
        ),
        *GROUP_ESTIMATORS,
    )
}


def estimate(name: str, inputs: CreditInputs, **options: Any) -> Credit:
    """Raw advantages and value targets by the estimator called `name`.

    Args:
      name: a key of `ESTIMATORS`.
      inputs: the batch.
      options: fields of `EstimatorOptions`; an estimator ignores those its docstring does not name.

    Raises:
      KeyError: no such estimator.
      TypeError: no such option.
      ValueError: the estimator needs a field of `inputs` that is None.
    """
    if name not in ESTIMATORS:
        raise KeyError(f"estimator: found {name!r}; expected one of {sorted(ESTIMATORS)}")
    estimator = ESTIMATORS[name]
    require(estimator.needs, tuple(getattr(inputs, need) for need in estimator.needs), name)
    return estimator.function(inputs, EstimatorOptions(**options))


def find_estimator(name: str, group_size: int) -> Estimator:
    """The estimator of a name.

    Raises:
      ConfigError: there is none, or it compares episodes of one task and there is one of each.
    """
    if name not in ESTIMATORS:
        raise ConfigError(
            f"credit.estimator is {name!r}; expected one of {', '.join(sorted(ESTIMATORS))}"
        )
    estimator = ESTIMATORS[name]
    if estimator.needs_groups and group_size < 2:
        raise ConfigError(
            f"credit.estimator {name} compares episodes of one task; rollout.group_size is "
            f"{group_size}, expected at least 2"
        )
    return estimator


def whiten(
    x: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    mode: Literal["standard", "scale", "none"] = "standard",
    *,
    eps: float = 1e-8,
) -> Float[Array, "B T"]:
    """Normalize one stream over its own turns, one vote a turn; zero elsewhere.

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
) -> tuple[Float[Array, "N R"], Bool[Array, "N R"]]:
    """Write turn advantages onto tokens; the loss mask says which tokens got one.

    Hierarchical: low on action tokens, high on the subgoal tokens of boundary turns, term on switch
    tokens; a reply without an action block gets low on its tokens outside the other blocks. Flat:
    `adv_low` on every reply token. Rows of no turn stay zero and out of the mask.

    Args:
      w_low, w_high, w_term: weights of the streams, multiplied into their advantages.
    """
    n = rows.row_mask.shape[0]
    to_rows = jnp.where(grid.mask, grid.row, n)
    low, high, term, live, boundary = (
        jnp.zeros(n, x.dtype).at[to_rows].set(x, mode="drop")[:, None]
        for x in (adv_low, adv_high, adv_term, grid.mask, grid.mask & grid.boundary)
    )
    response = jnp.asarray(rows.response_mask) & live
    if not hierarchical:
        return jnp.where(response, w_low * low, 0), response
    switch, subgoal, action = (
        jnp.asarray(block) & live
        for block in (rows.switch_mask, rows.subgoal_mask, rows.action_mask)
    )
    no_action = ~action.any(axis=1, keepdims=True)
    action = jnp.where(no_action, response & ~switch & ~subgoal, action)
    subgoal = subgoal & boundary
    advantage = (
        jnp.where(action, w_low * low, 0)
        + jnp.where(subgoal, w_high * high, 0)
        + jnp.where(switch, w_term * term, 0)
    )
    return advantage, action | subgoal | switch


def blocks_present(rows: TurnRows, grid: TurnGrid) -> tuple[Bool[Array, "B T"], Bool[Array, "B T"]]:
    """Turns whose reply holds a switch block, and those with a subgoal block."""
    present = (jnp.asarray(block).any(axis=1) for block in (rows.switch_mask, rows.subgoal_mask))
    has_switch, has_subgoal = (p[grid.row] & grid.mask for p in present)
    return has_switch, has_subgoal
