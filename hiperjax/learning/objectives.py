"""What the update minimizes on one micro-batch: which losses, with which weights.

A new loss term is a function in losses.py, a line here, and its coefficient in `ppo`.
"""

from typing import Literal

from jaxtyping import Array, Float

from hiperjax.learning.batches import LearnerBatch, read, read_before
from hiperjax.learning.losses import (
    LossInputs,
    LossOutputs,
    ppo_loss,
    switch_rate_loss,
    value_loss,
)
from hiperjax.learning.minibatches import Counts
from hiperjax.learning.ratios import Average, Level
from hiperjax.models.heads import TERM, Heads, apply_own_head, token_values
from hiperjax.types import STREAMS

SETTINGS = (
    "ratio", "average", "clip", "clip_high", "dual_clip", "kl_coefficient", "entropy_coefficient",
    "switch_rate_coefficient", "switch_rate_target", "clip_mode", "band", "square_penalty",
)  # fmt: skip
"""Settings of `ppo` that `policy_objective` takes."""


def choose_average(
    counts: Counts, ratio: Level, average: Average, reply_length: int
) -> tuple[Level, Float[Array, ""] | None]:
    """What counts alike in the policy loss, and what its sum is divided by; None: tokens."""
    if average == "constant":
        return "token", counts.replies * reply_length
    level = ratio if average == "ratio" else average
    return level, {"token": None, "block": counts.blocks, "reply": counts.replies}[level]


def policy_objective(
    logprobs: Float[Array, "s K R"],
    entropy: Float[Array, "s K R"],
    part: LearnerBatch,
    counts: Counts,
    *,
    ratio: Level = "token",
    average: Average = "ratio",
    reply_length: int = 1,
    clip: float,
    clip_high: float | None = None,
    dual_clip: float,
    kl_coefficient: float,
    entropy_coefficient: float,
    switch_rate_coefficient: float,
    switch_rate_target: float,
    clip_mode: Literal["ratio", "log_band"] = "ratio",
    band: tuple[float, float] = (-0.2, 0.2),
    square_penalty: float = 0.0,
) -> LossOutputs:
    """PPO, its KL and entropy terms, and the switch-rate regularizer.

    Args:
      logprobs, entropy: Log-probs and entropies of the reply tokens under the policy that learns.
      part: the micro-batch.
      counts: Counts of its whole minibatch.
      reply_length: Tokens a reply may have: what `average` constant divides by, per reply.
    """
    over, denominator = choose_average(counts, ratio, average, reply_length)
    inputs = LossInputs(
        logprobs=logprobs,
        old_logprobs=part.old_logprobs,
        ref_logprobs=part.ref_logprobs if kl_coefficient else logprobs,
        entropy=entropy,
        advantage=part.advantage,
        mask=part.loss_mask,
        block=part.block,
    )
    loss, metrics = ppo_loss(
        inputs,
        counts.tokens,
        clip=clip,
        clip_high=clip_high,
        dual_clip=dual_clip,
        kl_coefficient=kl_coefficient,
        entropy_coefficient=entropy_coefficient,
        ratio_of=ratio,
        average_over=over,
        policy_denominator=denominator,
        band=band if clip_mode == "log_band" else None,
        square_penalty=square_penalty,
    )
    if switch_rate_coefficient:
        rate = switch_rate_loss(
            logprobs,
            part.switch_tokens,
            part.switched,
            part.chose,
            counts.choices,
            counts.switch_rate,
            target=switch_rate_target,
        )
        loss, metrics = loss + switch_rate_coefficient * rate.loss, metrics | rate.metrics
    return LossOutputs(loss, metrics)


def value_objective(
    heads: Heads,
    hidden: Float[Array, "s C D"],
    part: LearnerBatch,
    counts: Counts,
    *,
    value_clip: float | None,
) -> LossOutputs:
    """Squared error of the value heads: three positions per turn, or every reply token."""
    if part.tokens is None:
        names = STREAMS
        values = apply_own_head(heads, read(hidden, part.value_at))
        targets = part.old_value, part.value_target, part.value_mask
    else:
        names, t = STREAMS[TERM:], part.tokens
        states = read_before(hidden, part.reply_at, part.reply.shape[-1])
        values = token_values(heads, states)[..., None]
        targets = t.old_value[..., None], t.target[..., None], t.mask[..., None]
    return value_loss(values, *targets, counts.values, value_clip=value_clip, heads=names)
