"""CM2's estimators (arXiv 2602.12268): rewards of a checklist, compared within a group of episodes.

Its turn is our request and its step our turn. No advantage is divided by a spread: in its training
the normalizer is 1. Weights of a request sum to 1, and an episode's reward is the mean over the
requests of its task: those that it did not come to count as 0.
"""

import jax
import jax.numpy as jnp
from hiperjax_kernels import checklist
from hiperjax_kernels.groups import dense_ids, set_stats
from jaxtyping import Array, Float

from hiperjax.learning.credit.group import uniform_credit
from hiperjax.learning.credit.types import Credit, CreditInputs, Estimator, require_field
from hiperjax.options.estimators import EstimatorOptions

CHECKLIST = ("group_id", "satisfied", "item_weight", "item_depends", "item_request", "request")


def follow_items(inputs: CreditInputs, *, latch: bool) -> checklist.Progress:
    """Which criteria each turn of a batch may make pay, and which it does: `[B, T, C]`."""
    return jax.vmap(lambda s, d, m: checklist.follow(s, d, m, latch=latch))(
        require_field(inputs, "satisfied"), require_field(inputs, "item_depends"), inputs.mask
    )


def _center(x: Array, inputs: CreditInputs) -> Array:
    """An episode's quantities, `[B]` or `[B, n]`, less their means over the group's episodes."""
    ids = dense_ids(require_field(inputs, "group_id"))
    live = inputs.mask.any(axis=1)
    flat = jnp.where(live[:, None], x.reshape(x.shape[0], -1), 0)
    means = jax.vmap(lambda column: set_stats(column, ids, live).mean, in_axes=1, out_axes=1)(flat)
    return (flat - means).reshape(x.shape)


def _credit(adv: Float[Array, "B T"], inputs: CreditInputs) -> Credit:
    return uniform_credit(jnp.where(inputs.mask, adv, 0.0), inputs)


def checklist_trajectory_credit(inputs: CreditInputs, options: EstimatorOptions) -> Credit:
    """CM2 as it was trained: the episode's reward less its group's mean, on every turn.

    R = 1/L sum of the weights of what paid, over L requests. Options: checklist_latch.
    """
    weight = require_field(inputs, "item_weight")
    paid = follow_items(inputs, latch=options.checklist_latch).paid
    total = (paid * weight[:, None]).sum(axis=(1, 2))
    total = total / checklist.count_requests(weight, require_field(inputs, "item_request"))
    return _credit(_center(total, inputs)[:, None] * jnp.ones(inputs.mask.shape), inputs)


def checklist_turn_credit(inputs: CreditInputs, options: EstimatorOptions) -> Credit:
    """CM2 by request (its "turn level"): a request's reward less the group's mean, on its turns.

    An episode that did not come to a request has 0 there. Options: checklist_latch.
    """
    weight, item_request = (require_field(inputs, n) for n in ("item_weight", "item_request"))
    paid = follow_items(inputs, latch=options.checklist_latch).paid
    items = paid.any(axis=1) * weight
    requests = jnp.arange(weight.shape[1])  # no more requests than criteria
    totals = (items[:, :, None] * (item_request[:, :, None] == requests)).sum(axis=1)
    centered = _center(totals, inputs)
    at = jnp.clip(require_field(inputs, "request"), 0, weight.shape[1] - 1)
    return _credit(jnp.take_along_axis(centered, at, axis=1), inputs)


def checklist_step_credit(inputs: CreditInputs, options: EstimatorOptions) -> Credit:
    """CM2 by turn (its "step level"): credit for what each turn could still bring about.

    r~ of a turn and a criterion that may pay there: whether it does, then or later; less the share
    b of the group's episodes in which it ever pays. A turn's advantage is the weighted mean over
    the criteria of its request that may pay; 0 where none may. Options: checklist_latch.
    """
    weight, item_request = (require_field(inputs, n) for n in ("item_weight", "item_request"))
    progress = follow_items(inputs, latch=options.checklist_latch)
    ever = progress.paid.any(axis=1).astype(weight.dtype)
    centered = _center(ever, inputs)[:, None, :]
    own = item_request[:, None, :] == require_field(inputs, "request")[:, :, None]
    share = weight[:, None, :] * (progress.eligible & own)
    # Later payment is payment: where it may still pay, r~ says whether it ever does.
    total = share.sum(axis=-1)
    adv = (share * centered).sum(axis=-1) / jnp.where(total > 0, total, 1.0)
    return _credit(adv, inputs)


CHECKLIST_ESTIMATORS = tuple(
    Estimator(name, function, needs=CHECKLIST, scope="task")
    for name, function in (
        ("checklist_trajectory", checklist_trajectory_credit),
        ("checklist_turn", checklist_turn_credit),
        ("checklist_step", checklist_step_credit),
    )
)
