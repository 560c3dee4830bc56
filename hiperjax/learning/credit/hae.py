"""The estimators that read a critic: HAE, flat turn-level and flat token-level GAE."""

import dataclasses

import jax.numpy as jnp
from hiperjax_kernels.gae import gae_batch
from hiperjax_kernels.hae import HaeInputs, HaeOutputs, hae_batch
from jaxtyping import Array, Bool, Float

from hiperjax.estimator_options import EstimatorOptions
from hiperjax.learning.credit.types import Credit, CreditInputs, TokenCredit


def hae_credit(inputs: CreditInputs, options: EstimatorOptions) -> Credit:
    """Hierarchical Advantage Estimation (HiPER, arXiv 2602.16165); recursion in the kernel `hae`.

    Low advantage on every turn, high on boundary turns, term on every turn. Malformed turns take
    the term value as their low baseline and stay out of the low head's fit.

    Options: gamma, lambda_turn, lambda_segment, lambda_boundary, v_high_targets, critic_targets,
    switch_advantage.
    """
    low_fit = inputs.mask if inputs.low_fit is None else inputs.mask & inputs.low_fit
    low_fit = jnp.asarray(low_fit)
    v_low = jnp.where(low_fit, inputs.v_low, inputs.v_term)
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
        fit_low=low_fit,
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


def flat_gae_credit(inputs: CreditInputs, options: EstimatorOptions) -> Credit:
    """Flat turn-level GAE (Turn-PPO, arXiv 2512.17008): the same advantage on the whole reply.

        A_t = r_t + g_t V_{t+1} - V_t + g_t lambda_turn A_{t+1}

    with V the term head: the value of everything in the prompt. HAE's low stream without switches.

    Options: gamma, lambda_turn.
    """
    discount = turn_discount(inputs.mask, inputs.terminated, options.gamma)
    adv, ret = gae_batch(
        inputs.reward,
        discount,
        inputs.v_term,
        inputs.mask,
        inputs.bootstrap_term,
        lambda_turn=options.lambda_turn,
    )
    none, zero = jnp.zeros_like(inputs.mask), jnp.zeros_like(ret)
    live = inputs.mask
    return Credit(adv, adv, adv, zero, zero, ret, live, live, live, none, none, live)


def flat_token_gae_credit(inputs: CreditInputs, options: EstimatorOptions) -> Credit:
    """Flat token-level GAE, the PPO of single-turn RLHF: each reply token is a step.

        A_k = r_k + g_k V_{k+1} - V_k + g_k lambda_token A_{k+1}

    over the reply tokens, with V_k the term head before token k, r_k the turn's reward at its last
    token and 0 elsewhere. Layout "episode" (verl's multi-turn rows): the replies of an episode one
    after the other, observations skipped, g_k = gamma between turns and 1 within them. Layout
    "turn" (the agent papers' PPO): each reply a stream of its own that ends with the whole
    episode's return, no value after it.

    Options: gamma (layout "episode"), lambda_token, token_layout.
    """
    value, reply = require(
        ("v_token", "reply_mask"), (inputs.v_token, inputs.reply_mask), "flat_token_gae"
    )
    live = jnp.asarray(reply) & inputs.mask[..., None]
    slot = jnp.arange(live.shape[-1])
    last = live & (slot == jnp.max(jnp.where(live, slot, -1), axis=-1, keepdims=True))
    if options.token_layout == "episode":
        reward = inputs.reward
        follows = turn_discount(inputs.mask, inputs.terminated, options.gamma)
    else:
        total = jnp.where(inputs.mask, inputs.reward, 0).sum(axis=1, keepdims=True)
        reward, follows = jnp.where(inputs.mask, total, 0), jnp.zeros_like(inputs.reward)
    streams = (
        jnp.where(last, reward[..., None], 0),
        jnp.where(last, follows[..., None], 1),
        value,
        live,
    )
    flat = (x.reshape(len(live), -1) for x in streams)
    out = gae_batch(*flat, inputs.bootstrap_term, lambda_turn=options.lambda_token)
    adv, ret = (x.reshape(live.shape) for x in out)
    mean = adv.sum(axis=-1) / jnp.maximum(live.sum(axis=-1), 1)
    turns, none, zero = inputs.mask, jnp.zeros_like(inputs.mask), jnp.zeros_like(mean)
    tokens = TokenCredit(adv, ret, jnp.where(live, value, 0), live)
    return Credit(mean, mean, mean, zero, zero, zero, turns, turns, turns, none, none, none, tokens)


def hae_inputs(inputs: CreditInputs, gamma: float) -> HaeInputs:
    """The kernel's view: a terminal turn has discount 0, a truncated one is bootstrapped."""
    return HaeInputs(
        reward=inputs.reward,
        discount=turn_discount(inputs.mask, inputs.terminated, gamma),
        v_low=inputs.v_low,
        v_high=inputs.v_high,
        v_term=inputs.v_term,
        boundary=inputs.boundary,
        mask=inputs.mask,
        bootstrap_low=inputs.bootstrap_low,
        bootstrap_high=inputs.bootstrap_high,
    )


def turn_discount(
    mask: Bool[Array, "B T"], terminated: Bool[Array, " B"], gamma: float
) -> Float[Array, "B T"]:
    """gamma, and 0 at the last turn of a terminated episode."""
    last = jnp.arange(mask.shape[1])[None] == last_turn(mask)[:, None]
    return jnp.where(last & terminated[:, None], 0.0, gamma)


def last_turn(mask: Bool[Array, "B T"]) -> Array:
    """Index of the last live turn, -1 in an empty trajectory."""
    return jnp.max(jnp.where(mask, jnp.arange(mask.shape[1])[None], -1), axis=1)


def one_step_targets(inputs: HaeInputs) -> HaeOutputs:
    """Critic targets of the paper: one turn (low) or one segment (high, term), then the critic."""
    return hae_batch(inputs, lambda_turn=0.0, lambda_segment=0.0, lambda_boundary=0.0)


def two_head_switch_advantage(inputs: CreditInputs) -> Float[Array, "B T"]:
    """(q - beta)(V_high - V_keep): the paper's switch advantage, which has no third head.

    beta is the probability of SWITCH, V_keep the low value under the old subgoal. At turn 0 there
    is no old subgoal and nothing to decide: zero.
    """
    found = (inputs.switch, inputs.switch_prob, inputs.v_keep)
    q, beta, v_keep = require(("switch", "switch_prob", "v_keep"), found, "two-head switch")
    gain = (q - beta) * (inputs.v_high - v_keep)
    return jnp.where(inputs.mask, gain, 0).at[:, 0].set(0)


def require(names: tuple[str, ...], fields: tuple, where: str) -> tuple:
    """The fields, all of them present.

    Raises:
      ValueError: one is None.
    """
    for name, field in zip(names, fields, strict=True):
        if field is None:
            raise ValueError(f"{where}: found {name}=None; pass CreditInputs.{name}")
    return fields


def bootstrap_last_turn(inputs: CreditInputs) -> CreditInputs:
    """Continue truncated episodes as the official code does: from values of turns already acted.

    The low tail gets the last turn's own value, the high and term tail that of the last segment's
    start. The proper bootstrap, the critic on the state after the last turn, is what `bootstrap_*`
    hold when they come from the learner; zeros there mean none.
    """
    last = jnp.maximum(last_turn(inputs.mask), 0)
    start = jnp.maximum(last_turn(inputs.mask & inputs.boundary), 0)
    rows = jnp.arange(last.shape[0])
    return inputs._replace(
        bootstrap_low=inputs.v_low[rows, last],
        bootstrap_high=inputs.v_high[rows, start],
        bootstrap_term=inputs.v_term[rows, last],
    )
