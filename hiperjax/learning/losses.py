"""Policy and value losses: pure functions of arrays, `LossInputs -> LossOutputs`.

Every mean is a masked sum divided by a denominator the caller gives (the minibatch's token count),
so that micro-batches of any size add up to the same gradient.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from hiperjax.learning.bands import band_surrogate, is_inside
from hiperjax.learning.ratios import Level, unit_log_ratio, weigh_tokens

Metrics = dict[str, Array]


class LossInputs(NamedTuple):
    """Reply tokens of one (micro-)batch: `n` rows, `R` reply positions."""

    logprobs: Float[Array, "*n R"]
    old_logprobs: Float[Array, "*n R"]
    ref_logprobs: Float[Array, "*n R"]
    """log-probs under the reference policy; equal to `logprobs` where there is none"""
    entropy: Float[Array, "*n R"]
    advantage: Float[Array, "*n R"]
    mask: Bool[Array, "*n R"]
    """tokens that count; whatever stands elsewhere has no influence on loss or gradient"""
    block: Int[Array, "*n R"]
    """block of each token: 0 switch, 1 subgoal, 2 the rest"""


class LossOutputs(NamedTuple):
    loss: Float[Array, ""]
    metrics: Metrics


def ppo_loss(
    inputs: LossInputs,
    denominator: Float[Array, ""],
    *,
    clip: float,
    clip_high: float | None = None,
    dual_clip: float,
    kl_coefficient: float,
    entropy_coefficient: float,
    ratio_of: Level = "token",
    average_over: Level = "token",
    policy_denominator: Float[Array, ""] | None = None,
    band: tuple[float, float] | None = None,
    square_penalty: float = 0.0,
) -> LossOutputs:
    """Clipped surrogate with dual clip, k3 KL to the reference and entropy bonus, token by token.

    `max(-A w, -A clip(w))`, and for A < 0 at most `-dual_clip A`, with w the importance ratio. At
    w = 1 its gradient is that of the plain policy gradient `-A log pi`. With `band`, the surrogate
    is that of `band_surrogate` instead.

    Args:
      inputs: tokens.
      denominator: what sums are divided by: the number of counted tokens of the whole minibatch.
      clip: how far below 1 a ratio is rewarded for moving.
      clip_high: how far above; None: as far as below.
      dual_clip: bound on the loss of negative advantages.
      kl_coefficient, entropy_coefficient: Weights of these terms.
      ratio_of: what has one importance ratio (`ratios`).
      average_over: what counts alike in the surrogate's sum.
      policy_denominator: what that sum is divided by; None: `denominator`.
    """
    mask = inputs.mask
    log_ratio = jnp.where(mask, inputs.logprobs - inputs.old_logprobs, 0.0)
    moved = unit_log_ratio(log_ratio, mask, inputs.block, ratio_of)
    ratio = jnp.exp(moved)
    advantage = jnp.where(mask, inputs.advantage, 0.0)
    clipped = jnp.clip(ratio, 1 - clip, 1 + (clip if clip_high is None else clip_high))
    surrogate = jnp.maximum(-advantage * ratio, -advantage * clipped)
    bounded = jnp.minimum(surrogate, -dual_clip * advantage)
    policy = jnp.where(advantage < 0, bounded, surrogate)
    cut = advantage * ratio > advantage * clipped
    if band is not None:
        policy = band_surrogate(moved, advantage, band=band, square_penalty=square_penalty)
        cut = ~is_inside(moved, band)
    gap = jnp.clip(jnp.where(mask, inputs.ref_logprobs - inputs.logprobs, 0.0), -10, 10)
    kl = jnp.exp(gap) - gap - 1

    def mean(x: Array) -> Array:
        return jnp.sum(jnp.where(mask, x, 0.0)) / denominator

    if average_over != "token":
        policy *= weigh_tokens(mask, inputs.block, average_over)
    loss = mean(policy)
    if policy_denominator is not None:
        loss *= denominator / policy_denominator
    metrics = {
        "policy_loss": loss,
        "clip_share": mean(cut.astype(jnp.float32)),
        "kl_old": mean(-log_ratio),
        "kl_reference": mean(kl),
        "entropy": mean(inputs.entropy),
    }
    loss += kl_coefficient * metrics["kl_reference"] - entropy_coefficient * metrics["entropy"]
    return LossOutputs(loss, metrics)


def value_loss(
    values: Float[Array, "*n h"],
    old_values: Float[Array, "*n h"],
    targets: Float[Array, "*n h"],
    mask: Bool[Array, "*n h"],
    denominator: Float[Array, " h"],
    *,
    value_clip: float | None,
    heads: tuple[str, ...] = ("low", "high", "term"),
) -> LossOutputs:
    """Squared error of the heads, each over its own positions, summed over heads.

    With `value_clip`, a value is not rewarded for moving further than that from its old one.
    """
    error = (values - targets) ** 2
    if value_clip is not None:
        near = old_values + jnp.clip(values - old_values, -value_clip, value_clip)
        error = jnp.maximum(error, (near - targets) ** 2)
    means = jnp.where(mask, error, 0.0).reshape(-1, len(heads)).sum(axis=0) / denominator
    names = (f"value_loss_{head}" for head in heads)
    return LossOutputs(means.sum(), dict(zip(names, means, strict=True)))


def switch_rate_loss(
    logprobs: Float[Array, "*n R"],
    switch_tokens: Bool[Array, "*n R"],
    switched: Bool[Array, "*n"],
    counted: Bool[Array, "*n"],
    denominator: Float[Array, ""],
    mean: Float[Array, ""],
    *,
    target: float,
) -> LossOutputs:
    """Squared distance between a minibatch's mean probability of SWITCH and its target.

    The square of a mean is no sum over micro-batches, but its gradient is, once the mean is given:
    `2 (mean - target)` times the mean's own. The loss is that line, its value of no meaning; the
    metric is this micro-batch's share of the true squared distance.

    Args:
      logprobs: Log-probs of the reply tokens.
      switch_tokens: the tokens of the switch block.
      switched: whether the block says SWITCH.
      counted: rows that had the choice (not turn 0, well-formed).
      denominator: the number of such rows in the whole minibatch.
      mean: their mean probability of SWITCH in the whole minibatch, before the step.
      target: what that mean is pulled to.
    """
    gap = jax.lax.stop_gradient(mean - target)
    probability = switch_probability(logprobs, switch_tokens, switched)
    loss = 2 * gap * jnp.sum(jnp.where(counted, probability, 0.0)) / denominator
    return LossOutputs(loss, {"switch_rate_loss": gap**2 * counted.sum() / denominator})


def switch_probability(
    logprobs: Float[Array, "*n R"], switch_tokens: Bool[Array, "*n R"], switched: Bool[Array, "*n"]
) -> Float[Array, "*n"]:
    """Probability of SWITCH: the switch block's own where it says so, else the complement."""
    stated = jnp.exp(jnp.sum(jnp.where(switch_tokens, logprobs, 0.0), axis=-1))
    return jnp.where(switched, stated, 1 - stated)
