"""Estimators without a critic: one advantage per turn, the same on every reply token.

All but REINFORCE++ need several episodes of one task (`group_id`). Each judges the undiscounted
episode return of `reward`; `row_penalty` lowers the score of malformed turns alone, as the public
code does with its unshaped reward (leave it 0 where `reward` is already shaped).
"""

from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp
from hiperjax_kernels import anchors, groups
from jaxtyping import Array

from hiperjax.learning.credit.types import Credit, CreditInputs, Estimator, require_field
from hiperjax.options.estimators import EstimatorOptions

GROUPS = ("group_id",)
ANCHORS = (*GROUPS, "state_id")


def uniform_credit(adv: Array, inputs: CreditInputs) -> Credit:
    """One turn advantage as credit: the same in all streams, no critic to fit."""
    live = inputs.mask
    none, zero = jnp.zeros_like(live), jnp.zeros_like(adv)
    return Credit(adv, adv, adv, zero, zero, zero, live, live, live, none, none, none)


def turns_of(inputs: CreditInputs, options: EstimatorOptions) -> tuple[Any, Any, Any, Any]:
    """What every group estimator takes first: reward, penalty, mask, group."""
    lowered = jnp.zeros_like(inputs.mask) if inputs.malformed is None else inputs.malformed
    penalty = jnp.where(lowered, options.row_penalty, 0.0).astype(inputs.reward.dtype)
    return inputs.reward, penalty, inputs.mask, require_field(inputs, "group_id")


def grpo_credit(inputs: CreditInputs, options: EstimatorOptions) -> Credit:
    """GRPO; see `hiperjax_kernels.groups.grpo`.

    Options: row_penalty, group_std, group_over, keep_singleton_score.
    """
    adv = groups.grpo(
        *turns_of(inputs, options),
        std=options.group_std,
        over=options.group_over,
        keep_singleton_score=options.keep_singleton_score,
    )
    return uniform_credit(adv, inputs)


def dr_grpo_credit(inputs: CreditInputs, options: EstimatorOptions) -> Credit:
    """Dr. GRPO (arXiv 2503.20783): GRPO over episodes without std.

    Its other half, a token loss divided by a constant, belongs to the loss.

    Options: row_penalty, keep_singleton_score.
    """
    adv = groups.grpo(
        *turns_of(inputs, options),
        std=False,
        over="episodes",
        keep_singleton_score=options.keep_singleton_score,
    )
    return uniform_credit(adv, inputs)


def parl_credit(inputs: CreditInputs, options: EstimatorOptions) -> Credit:
    """PARL (Kimi K2.5, arXiv 2602.02276): the episode's return less the mean of its task's.

    Not divided by the spread. The loss divides by the minibatch's tokens, which is the paper's
    `1 / N` where a batch is one minibatch; with `credit.whitening none`, else the batch's spread
    divides after all. What parts it from `dr_grpo` is what it leaves out: no score of malformed
    turns, no raw score of a lone episode.

    Options: none.
    """
    adv = groups.grpo(
        inputs.reward,
        jnp.zeros_like(inputs.reward),
        inputs.mask,
        require_field(inputs, "group_id"),
        std=False,
        over="episodes",
        keep_singleton_score=False,
    )
    return uniform_credit(adv, inputs)


def rloo_credit(inputs: CreditInputs, options: EstimatorOptions) -> Credit:
    """RLOO; see `hiperjax_kernels.groups.rloo`.

    Options: row_penalty, group_over, keep_singleton_score.
    """
    adv = groups.rloo(
        *turns_of(inputs, options),
        over=options.group_over,
        keep_singleton_score=options.keep_singleton_score,
    )
    return uniform_credit(adv, inputs)


def reinforce_pp_credit(inputs: CreditInputs, options: EstimatorOptions) -> Credit:
    """REINFORCE++; see `hiperjax_kernels.groups.reinforce_pp`. No group needed.

    Options: gamma (used with `per_turn_return`), per_turn_return.
    """
    adv = groups.reinforce_pp(
        inputs.reward,
        inputs.mask,
        token_counts(inputs),
        gamma=options.gamma,
        per_turn_return=options.per_turn_return,
    )
    return uniform_credit(adv, inputs)


def reinforce_pp_baseline_credit(inputs: CreditInputs, options: EstimatorOptions) -> Credit:
    """REINFORCE++ with a task baseline; see `hiperjax_kernels.groups.reinforce_pp_baseline`.

    Options: row_penalty, group_over, keep_singleton_score.
    """
    adv = groups.reinforce_pp_baseline(
        *turns_of(inputs, options),
        token_counts(inputs),
        over=options.group_over,
        keep_singleton_score=options.keep_singleton_score,
    )
    return uniform_credit(adv, inputs)


def openrs_credit(inputs: CreditInputs, options: EstimatorOptions) -> Credit:
    """The episode's return as it is, neither centered nor scaled: for what a comparison within the
    group pays (`rubric.reward`), which is relative already.

    BRPO (arXiv 2506.00103), and OpenRS (arXiv 2602.14069) on top of it. Groups whose mean is
    further from 0 than `drop_one_sided` were compared with too good or too bad an episode: their
    advantages are 0.

    Options: drop_one_sided.
    """
    returns = jnp.where(inputs.mask, inputs.reward, 0).sum(axis=1)
    ids = groups.dense_ids(require_field(inputs, "group_id"))
    mean = groups.set_stats(returns, ids, inputs.mask.any(axis=1)).mean
    fair = (options.drop_one_sided <= 0) | (jnp.abs(mean) <= options.drop_one_sided)
    adv = groups.per_turn(jnp.where(fair, returns, 0), inputs.reward)
    return uniform_credit(jnp.where(inputs.mask, adv, 0), inputs)


def token_counts(inputs: CreditInputs) -> Array:
    """Reply tokens per turn; one each where they are not given."""
    return (
        jnp.ones(inputs.mask.shape, int)
        if inputs.num_reply_tokens is None
        else inputs.num_reply_tokens
    )


def gigpo_credit(inputs: CreditInputs, options: EstimatorOptions) -> Credit:
    """GiGPO; see `hiperjax_kernels.anchors.gigpo`. Published: gamma 0.95, std on ALFWorld.

    Options: row_penalty, gamma, step_weight, group_std, group_over, keep_singleton_score.
    """
    adv = anchors.gigpo(
        *turns_of(inputs, options),
        require_field(inputs, "state_id"),
        gamma=options.gamma,
        step_weight=options.step_weight,
        std=options.group_std,
        over=options.group_over,
        keep_singleton_score=options.keep_singleton_score,
    )
    return uniform_credit(adv, inputs)


def hgpo_credit(inputs: CreditInputs, options: EstimatorOptions) -> Credit:
    """HGPO; see `hiperjax_kernels.anchors.hgpo`. Published: gamma 0.95, history 2 or 4.

    Options: row_penalty, gamma, history, history_exponent, group_std.
    """
    adv = anchors.hgpo(
        *turns_of(inputs, options),
        require_field(inputs, "state_id"),
        gamma=options.gamma,
        history=options.history,
        exponent=options.history_exponent,
        std=options.group_std,
    )
    return uniform_credit(adv, inputs)


def gagpo_credit(inputs: CreditInputs, options: EstimatorOptions) -> Credit:
    """GAGPO; see `hiperjax_kernels.anchors.gagpo`. Options: gamma, lambda_turn."""
    adv = anchors.gagpo(
        inputs.reward,
        inputs.mask,
        require_field(inputs, "group_id"),
        require_field(inputs, "state_id"),
        gamma=options.gamma,
        lambda_turn=options.lambda_turn,
    )
    return uniform_credit(adv, inputs)


def graphgpo_credit(inputs: CreditInputs, options: EstimatorOptions) -> Credit:
    """GraphGPO; see `hiperjax_kernels.anchors.graphgpo`. Published: decay 0.1, WebShop 0.2.

    Options: row_penalty, distance_decay, success_reward, step_weight, group_std,
    keep_singleton_score.
    """
    adv = anchors.graphgpo(
        *turns_of(inputs, options),
        require_field(inputs, "success"),
        require_field(inputs, "state_id"),
        require_field(inputs, "final_state_id"),
        distance_decay=options.distance_decay,
        success_reward=options.success_reward,
        step_weight=options.step_weight,
        std=options.group_std,
        keep_singleton_score=options.keep_singleton_score,
    )
    return uniform_credit(adv, inputs)


def g2po_credit(inputs: CreditInputs, options: EstimatorOptions) -> Credit:
    """G2PO; see `hiperjax_kernels.anchors.g2po`. Published: gamma 0.95.

    Options: row_penalty, gamma, step_weight, success_reward, group_std, keep_singleton_score.
    """
    adv = anchors.g2po(
        *turns_of(inputs, options),
        require_field(inputs, "success"),
        require_field(inputs, "state_id"),
        gamma=options.gamma,
        step_weight=options.step_weight,
        success_reward=options.success_reward,
        std=options.group_std,
        keep_singleton_score=options.keep_singleton_score,
    )
    return uniform_credit(adv, inputs)


def beacon_credit(inputs: CreditInputs, options: EstimatorOptions) -> Credit:
    """BEACON; see `hiperjax_kernels.anchors.beacon`. Published: gamma 0.95, no std.

    Options: row_penalty, gamma, step_weight, success_reward (of a milestone), group_std,
    keep_singleton_score.
    """
    adv = anchors.beacon(
        *turns_of(inputs, options),
        require_field(inputs, "milestone"),
        gamma=options.gamma,
        step_weight=options.step_weight,
        milestone_reward=options.success_reward,
        std=options.group_std,
        keep_singleton_score=options.keep_singleton_score,
    )
    return uniform_credit(adv, inputs)


def group_estimator(
    name: str,
    function: Callable[[CreditInputs, EstimatorOptions], Credit],
    needs: tuple[str, ...] = GROUPS,
    scope: Literal["task", "batch"] = "task",
) -> Estimator:
    """A flat estimator without a critic."""
    return Estimator(name, function, needs=needs, scope=scope)


GROUP_ESTIMATORS = (
    group_estimator("grpo", grpo_credit),
    group_estimator("dr_grpo", dr_grpo_credit),
    group_estimator("parl", parl_credit),
    group_estimator("rloo", rloo_credit),
    group_estimator("reinforce_pp", reinforce_pp_credit, (), "batch"),
    group_estimator("reinforce_pp_baseline", reinforce_pp_baseline_credit, scope="batch"),
    group_estimator("gigpo", gigpo_credit, ANCHORS),
    group_estimator("hgpo", hgpo_credit, ANCHORS),
    group_estimator("gagpo", gagpo_credit, ANCHORS),
    group_estimator("graphgpo", graphgpo_credit, (*ANCHORS, "success", "final_state_id")),
    group_estimator("g2po", g2po_credit, (*ANCHORS, "success")),
    group_estimator("beacon", beacon_credit, (*GROUPS, "milestone")),
    group_estimator("openrs", openrs_credit),
)
