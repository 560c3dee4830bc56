"""The rivals of HAE as credit estimators: one advantage a turn, the same on every reply token.

They need several episodes of one task (`group_id`); none but flat GAE reads a critic. Each judges
the undiscounted episode return of `reward`; `penalty` lowers the score of malformed turns alone, as
the public code does with its unshaped reward (leave it 0 where `reward` is already shaped).
"""

from typing import Any, cast

import jax.numpy as jnp
from hiperjax_kernels import anchors, groups
from jaxtyping import Array

from hiperjax.estimator_options import EstimatorOptions
from hiperjax.learning.credit.types import Credit, CreditInputs, Estimator

GROUPS = ("group_id",)
ANCHORS = (*GROUPS, "state_id")


def broadcast(adv: Array, inputs: CreditInputs) -> Credit:
    """One turn advantage as credit: the same in all streams, no critic to fit."""
    live = inputs.mask
    none, zero = jnp.zeros_like(live), jnp.zeros_like(adv)
    return Credit(adv, adv, adv, zero, zero, zero, live, live, live, none, none, none)


def given(field: Array | None) -> Array:
    """A field that `estimate` found present, since `Estimator.needs` names it."""
    return cast(Array, field)


def turns_of(inputs: CreditInputs, options: EstimatorOptions) -> tuple[Any, Any, Any, Any]:
    """What every group estimator takes first: reward, penalty, mask, group."""
    lowered = jnp.zeros_like(inputs.mask) if inputs.invalid is None else inputs.invalid
    penalty = jnp.where(lowered, options.row_penalty, 0.0).astype(inputs.reward.dtype)
    return inputs.reward, penalty, inputs.mask, given(inputs.group_id)


def grpo_credit(inputs: CreditInputs, options: EstimatorOptions) -> Credit:
    """GRPO; see `hiperjax_kernels.groups.grpo`. Options: group_std, group_over, lone_raw."""
    adv = groups.grpo(
        *turns_of(inputs, options),
        std=options.group_std,
        over=options.group_over,
        lone_raw=options.lone_raw,
    )
    return broadcast(adv, inputs)


def dr_grpo_credit(inputs: CreditInputs, options: EstimatorOptions) -> Credit:
    """Dr. GRPO (arXiv 2503.20783): GRPO over episodes without std.

    Its other half, a token loss divided by a constant, belongs to the loss. Options: lone_raw.
    """
    adv = groups.grpo(
        *turns_of(inputs, options), std=False, over="episodes", lone_raw=options.lone_raw
    )
    return broadcast(adv, inputs)


def rloo_credit(inputs: CreditInputs, options: EstimatorOptions) -> Credit:
    """RLOO; see `hiperjax_kernels.groups.rloo`. Options: group_over, lone_raw."""
    adv = groups.rloo(
        *turns_of(inputs, options), over=options.group_over, lone_raw=options.lone_raw
    )
    return broadcast(adv, inputs)


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
    return broadcast(adv, inputs)


def reinforce_pp_baseline_credit(inputs: CreditInputs, options: EstimatorOptions) -> Credit:
    """REINFORCE++ with a task baseline; see `hiperjax_kernels.groups.reinforce_pp_baseline`.

    Options: group_over, lone_raw.
    """
    adv = groups.reinforce_pp_baseline(
        *turns_of(inputs, options),
        token_counts(inputs),
        over=options.group_over,
        lone_raw=options.lone_raw,
    )
    return broadcast(adv, inputs)


def token_counts(inputs: CreditInputs) -> Array:
    """Reply tokens a turn; one each where they are not given."""
    return jnp.ones(inputs.mask.shape, int) if inputs.n_tok is None else inputs.n_tok


def gigpo_credit(inputs: CreditInputs, options: EstimatorOptions) -> Credit:
    """GiGPO; see `hiperjax_kernels.anchors.gigpo`. Published: gamma 0.95, std on ALFWorld.

    Options: gamma, step_weight, group_std, group_over, lone_raw.
    """
    adv = anchors.gigpo(
        *turns_of(inputs, options),
        given(inputs.state_id),
        gamma=options.gamma,
        step_weight=options.step_weight,
        std=options.group_std,
        over=options.group_over,
        lone_raw=options.lone_raw,
    )
    return broadcast(adv, inputs)


def hgpo_credit(inputs: CreditInputs, options: EstimatorOptions) -> Credit:
    """HGPO; see `hiperjax_kernels.anchors.hgpo`. Published: gamma 0.95, history 2 or 4.

    Options: gamma, history, history_exponent, group_std.
    """
    adv = anchors.hgpo(
        *turns_of(inputs, options),
        given(inputs.state_id),
        gamma=options.gamma,
        history=options.history,
        exponent=options.history_exponent,
        std=options.group_std,
    )
    return broadcast(adv, inputs)


def gagpo_credit(inputs: CreditInputs, options: EstimatorOptions) -> Credit:
    """GAGPO; see `hiperjax_kernels.anchors.gagpo`. Options: gamma, lambda_turn."""
    adv = anchors.gagpo(
        inputs.reward,
        inputs.mask,
        given(inputs.group_id),
        given(inputs.state_id),
        gamma=options.gamma,
        lambda_turn=options.lambda_turn,
    )
    return broadcast(adv, inputs)


def graphgpo_credit(inputs: CreditInputs, options: EstimatorOptions) -> Credit:
    """GraphGPO; see `hiperjax_kernels.anchors.graphgpo`. Published: omega 0.1, WebShop 0.2.

    Options: omega, success_reward, step_weight, group_std, lone_raw.
    """
    adv = anchors.graphgpo(
        *turns_of(inputs, options),
        given(inputs.success),
        given(inputs.state_id),
        given(inputs.final_state_id),
        omega=options.omega,
        success_reward=options.success_reward,
        step_weight=options.step_weight,
        std=options.group_std,
        lone_raw=options.lone_raw,
    )
    return broadcast(adv, inputs)


def g2po_credit(inputs: CreditInputs, options: EstimatorOptions) -> Credit:
    """G2PO; see `hiperjax_kernels.anchors.g2po`. Published: gamma 0.95.

    Options: gamma, step_weight, success_reward, group_std, lone_raw.
    """
    adv = anchors.g2po(
        *turns_of(inputs, options),
        given(inputs.success),
        given(inputs.state_id),
        gamma=options.gamma,
        step_weight=options.step_weight,
        success_reward=options.success_reward,
        std=options.group_std,
        lone_raw=options.lone_raw,
    )
    return broadcast(adv, inputs)


def beacon_credit(inputs: CreditInputs, options: EstimatorOptions) -> Credit:
    """BEACON; see `hiperjax_kernels.anchors.beacon`. Published: gamma 0.95, no std.

    Options: gamma, step_weight, success_reward (of a milestone), group_std, lone_raw.
    """
    adv = anchors.beacon(
        *turns_of(inputs, options),
        given(inputs.milestone),
        gamma=options.gamma,
        step_weight=options.step_weight,
        milestone_reward=options.success_reward,
        std=options.group_std,
        lone_raw=options.lone_raw,
    )
    return broadcast(adv, inputs)


def rival(name: str, function, needs: tuple[str, ...] = GROUPS) -> Estimator:
    """A flat estimator without a critic."""
    return Estimator(
        name, function, hierarchical=False, needs_groups="group_id" in needs, heads=(), needs=needs
    )


GROUP_ESTIMATORS = (
    rival("grpo", grpo_credit),
    rival("dr_grpo", dr_grpo_credit),
    rival("rloo", rloo_credit),
    rival("reinforce_pp", reinforce_pp_credit, ()),
    rival("reinforce_pp_baseline", reinforce_pp_baseline_credit),
    rival("gigpo", gigpo_credit, ANCHORS),
    rival("hgpo", hgpo_credit, ANCHORS),
    rival("gagpo", gagpo_credit, ANCHORS),
    rival("graphgpo", graphgpo_credit, (*ANCHORS, "success", "final_state_id")),
    rival("g2po", g2po_credit, (*ANCHORS, "success")),
    rival("beacon", beacon_credit, (*GROUPS, "milestone")),
)
