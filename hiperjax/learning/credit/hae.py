"""HAE as a credit estimator: three streams, each with a value head of its own."""

import dataclasses

import jax.numpy as jnp
from hiperjax_kernels.hae import HaeInputs, HaeOutputs, hae_batch
from jaxtyping import Array, Float

from hiperjax.learning.credit.endings import turn_discount
from hiperjax.learning.credit.types import Credit, CreditInputs, Estimator, require_field
from hiperjax.options.estimators import EstimatorOptions
from hiperjax.types import STREAMS


def hae_credit(inputs: CreditInputs, options: EstimatorOptions) -> Credit:
    """Hierarchical Advantage Estimation (HiPER, arXiv 2602.16165); recursion in the kernel `hae`.

    Low advantage on every turn, high on boundary turns, term on every turn. Malformed turns take
    the term value as their low baseline and stay out of the low head's fit.

    Options: gamma, lambda_turn, lambda_segment, lambda_boundary, v_high_targets, critic_targets,
    switch_advantage.
    """
    has_low_value = True if inputs.low_value_mask is None else inputs.low_value_mask
    fit_low = jnp.asarray(inputs.mask & has_low_value)
    v_low = jnp.where(fit_low, inputs.v_low, inputs.v_term)
    kernel_inputs = hae_inputs(inputs._replace(v_low=v_low), options.gamma)
    out = hae_batch(
        kernel_inputs,
        lambda_turn=options.lambda_turn,
        lambda_segment=options.lambda_segment,
        lambda_boundary=options.lambda_boundary,
    )
    targets = out if options.critic_targets == "lambda" else one_step_targets(kernel_inputs)
    boundary = inputs.mask & inputs.boundary
    mask_high = boundary if inputs.has_subgoal is None else boundary & inputs.has_subgoal
    mask_term = inputs.mask if inputs.has_switch is None else inputs.mask & inputs.has_switch
    two_heads = options.switch_advantage == "two_head"
    adv_term = two_head_switch_advantage(inputs) if two_heads else out.adv_term
    return Credit(
        adv_low=out.adv_low,
        adv_high=jnp.where(mask_high, out.adv_high, 0),
        adv_term=jnp.where(mask_term, adv_term, 0),
        ret_low=targets.ret_low,
        ret_high=targets.ret_high,
        ret_term=targets.ret_term,
        mask_low=inputs.mask,
        mask_high=mask_high,
        mask_term=mask_term,
        fit_low=fit_low,
        fit_high=inputs.mask if options.v_high_targets == "all" else boundary,
        fit_term=inputs.mask,
    )


def paper_hae_credit(inputs: CreditInputs, options: EstimatorOptions) -> Credit:
    """HAE as HiPER states it: no credit across a boundary, V_high fitted at boundaries only.

    `hae` with lambda_boundary 0 and v_high_targets "boundaries", whatever the options say.

    Options: gamma, lambda_turn, lambda_segment, critic_targets, switch_advantage.
    """
    fixed = dataclasses.replace(options, lambda_boundary=0.0, v_high_targets="boundaries")
    return hae_credit(inputs, fixed)


def hae_inputs(inputs: CreditInputs, gamma: float) -> HaeInputs:
    """The kernel's view: a terminal turn has discount 0, a truncated one is bootstrapped."""
    return HaeInputs(
        reward=inputs.reward,
        discount=turn_discount(inputs.mask, inputs.terminated, gamma, inputs.cost),
        v_low=inputs.v_low,
        v_high=inputs.v_high,
        v_term=inputs.v_term,
        boundary=inputs.boundary,
        mask=inputs.mask,
        bootstrap_low=inputs.bootstrap_low,
        bootstrap_high=inputs.bootstrap_high,
    )


def one_step_targets(inputs: HaeInputs) -> HaeOutputs:
    """Critic targets of the paper: one turn (low) or one segment (high, term), then the critic."""
    return hae_batch(inputs, lambda_turn=0.0, lambda_segment=0.0, lambda_boundary=0.0)


def two_head_switch_advantage(inputs: CreditInputs) -> Float[Array, "B T"]:
    """(q - beta)(V_high - V_keep): the paper's switch advantage, which has no third head.

    q is 1 at a boundary and 0 elsewhere, beta the probability of SWITCH, V_keep the low value under
    the old subgoal. At turn 0 there is no old subgoal and nothing to decide: zero.
    """
    beta = require_field(inputs, "switch_prob", "switch_advantage two_head")
    v_keep = require_field(inputs, "v_keep", "switch_advantage two_head")
    gain = (inputs.boundary - beta) * (inputs.v_high - v_keep)
    return jnp.where(inputs.mask, gain, 0).at[:, 0].set(0)


HAE_ESTIMATORS = (
    Estimator("hae", hae_credit, hierarchical=True, heads=STREAMS, causal=True),
    Estimator("hae_paper", paper_hae_credit, hierarchical=True, heads=STREAMS, causal=True),
)
