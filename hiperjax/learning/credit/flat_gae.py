"""Flat GAE as a credit estimator, by turn and by token: no hierarchy, the term head as critic."""

import jax.numpy as jnp
from hiperjax_kernels.gae import gae_batch

from hiperjax.learning.credit.endings import turn_discount
from hiperjax.learning.credit.types import (
    Credit,
    CreditInputs,
    Estimator,
    TokenCredit,
    require_field,
)
from hiperjax.options.estimators import EstimatorOptions


def flat_gae_credit(inputs: CreditInputs, options: EstimatorOptions) -> Credit:
    """Flat turn-level GAE (Turn-PPO, arXiv 2512.17008): the same advantage on the whole reply.

        A_t = r_t + g_t V_{t+1} - V_t + g_t lambda_turn A_{t+1}

    with V the term head: the value of everything in the prompt. HAE's low stream without switches.

    Options: gamma, lambda_turn.
    """
    discount = turn_discount(inputs.mask, inputs.terminated, options.gamma, inputs.cost)
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
    value = require_field(inputs, "v_token", "flat_token_gae")
    reply = require_field(inputs, "reply_mask", "flat_token_gae")
    live = jnp.asarray(reply) & inputs.mask[..., None]
    slot = jnp.arange(live.shape[-1])
    last = live & (slot == jnp.max(jnp.where(live, slot, -1), axis=-1, keepdims=True))
    if options.token_layout == "episode":
        reward = inputs.reward
        follows = turn_discount(inputs.mask, inputs.terminated, options.gamma, inputs.cost)
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


FLAT_ESTIMATORS = (
    Estimator("flat_gae", flat_gae_credit, heads=("term",), causal=True),
    Estimator(
        "flat_token_gae",
        flat_token_gae_credit,
        heads=("term",),
        needs=("v_token", "reply_mask"),
        per_token=True,
        causal=True,  # in the layout "episode"
    ),
)
