"""Reward shaping: penalties on top of the environment's reward, each a named term."""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from hiperjax_kernels import checklist
from jaxtyping import Array, Bool, Float

from hiperjax.types import TurnGrid

KeepMode = Literal["fixed", "normalized"]
PENALTIES = (
    "malformed_penalty",
    "inadmissible_penalty",
    "keep_penalty",
    "keep_penalty_mode",
    "consistency_penalty",
)
"""The settings of `shape_rewards`."""
CHECKLIST_SETTINGS = ("checklist_reward", "checklist_latch", "gamma")
"""The settings of `pay_checklists`."""
SETTINGS = (*PENALTIES, *CHECKLIST_SETTINGS)
"""All settings of the shaped reward."""
ChecklistReward = Literal["off", "replace", "add", "potential"]


def shape_rewards(
    reward: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    keep: Bool[Array, "B T"],
    *,
    malformed: Bool[Array, "B T"],
    keep_violation: Bool[Array, "B T"],
    inadmissible: Bool[Array, "B T"] | None = None,
    malformed_penalty: float = 0.1,
    inadmissible_penalty: float = 0.0,
    keep_penalty: float = 0.0,
    keep_penalty_mode: KeepMode = "normalized",
    consistency_penalty: float = 0.0,
) -> tuple[Float[Array, "B T"], dict[str, Float[Array, "B T"]]]:
    """Subtract penalties from the environment's reward.

    Args:
      reward: the environment's own.
      keep: turns that said KEEP; `mask & ~boundary`, unless turn 0 is to be penalized as well.
      malformed: malformed replies.
      keep_violation: KEEP turns that wrote another subgoal.
      inadmissible: actions that were not in the admissible list; none by default.
      malformed_penalty: a malformed reply.
      inadmissible_penalty: an action that was not in the admissible list.
      keep_penalty: a KEEP turn ("fixed"), or a trajectory that never switches ("normalized": each
        KEEP turn costs its share `keep_penalty / T`; trajectories of one turn are exempt).
      keep_penalty_mode: see above.
      consistency_penalty: a KEEP turn that wrote another subgoal.

    Returns:
      The shaped reward and its terms by name ("environment", "malformed", "inadmissible", "keep",
      "consistency"), whose sum it is. Penalties are magnitudes; their terms are negative.

    Raises:
      ValueError: a negative penalty.
    """
    penalties = {
        "malformed_penalty": malformed_penalty,
        "inadmissible_penalty": inadmissible_penalty,
        "keep_penalty": keep_penalty,
        "consistency_penalty": consistency_penalty,
    }
    for name, value in penalties.items():
        if value < 0:
            raise ValueError(f"{name}: found {value}; expected a magnitude >= 0 (it is subtracted)")
    inadmissible = jnp.zeros_like(mask) if inadmissible is None else inadmissible
    charges = {
        "malformed": malformed_penalty * malformed,
        "inadmissible": inadmissible_penalty * inadmissible,
        "keep": keep_penalty * keep * keep_share(mask, keep_penalty_mode),
        "consistency": consistency_penalty * (keep & keep_violation),
    }
    terms = {"environment": jnp.where(mask, reward, 0)}
    terms |= {name: jnp.where(mask, -charge, 0) for name, charge in charges.items()}
    return sum(terms.values(), start=jnp.zeros_like(reward)), terms


def charge_switches(
    adv_term: Float[Array, "B T"],
    boundary: Bool[Array, "B T"],
    decided: Bool[Array, "B T"],
    cost: float,
) -> Float[Array, "B T"]:
    """The switch stream's advantage less `cost` where it was decided to switch.

    A price of each decision to switch, whatever came of it, and of no other: not a reward, so
    earlier turns do not pay for later switches, and no value head learns of it. In expectation the
    gradient loses `cost` times that of P(SWITCH), summed over the turns that are visited.

    Args:
      adv_term: advantages of the decisions to keep or switch.
      boundary: first turns of segments.
      decided: turns at which there was such a decision; turn 0, which has to open a segment, is
        never charged.
      cost: in units of the shaped reward.
    """
    charged = decided & boundary
    return adv_term - cost * charged.at[:, 0].set(False)


def keep_share(mask: Bool[Array, "B T"], mode: KeepMode) -> Float[Array, "B 1"]:
    """What a KEEP turn costs of the keep penalty."""
    turns = mask.sum(axis=1, keepdims=True)
    if mode == "fixed":
        return jnp.ones(turns.shape)
    return jnp.where(turns > 1, 1.0 / jnp.maximum(turns, 1), 0.0)


def pay_checklists(
    grid: TurnGrid, *, checklist_reward: ChecklistReward, checklist_latch: bool, gamma: float
) -> Float[Array, "B T"]:
    """What the criteria of checklists pay at each turn, of at most 1 per episode.

    Args:
      grid: of episodes with checklists.
      checklist_reward: "potential": as shaping by a potential; else each its weight over the number
        of the task's requests.
      checklist_latch: see `hiperjax_kernels.checklist.follow`.
      gamma: discount of the potential.
    """
    satisfied, weight, depends, request = (
        jnp.asarray(x)
        for x in (grid.satisfied, grid.item_weight, grid.item_depends, grid.item_request)
    )
    mask = jnp.asarray(grid.mask)
    share = weight / checklist.count_requests(weight, request)[:, None]
    paid = jax.vmap(partial(checklist.follow, latch=checklist_latch))(satisfied, depends, mask).paid
    if checklist_reward == "potential":
        shape = jax.vmap(partial(checklist.potential, gamma=gamma))
        return shape(paid, share, mask, jnp.asarray(grid.terminated))
    return (paid * share[:, None]).sum(axis=-1)
