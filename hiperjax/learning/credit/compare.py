"""Comparison of estimators: what each says of one and the same batch.

One jitted call per batch, a few hundred kilobytes of scalars: cheap enough to run every k
iterations of training and to log beside the losses.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from hiperjax.learning.credit.measure import explain_head
from hiperjax.learning.credit.registry import ESTIMATORS, estimate
from hiperjax.learning.credit.tokens import whiten
from hiperjax.learning.credit.types import Credit, CreditInputs
from hiperjax.learning.statistics import masked_mean, masked_variance
from hiperjax.types import STREAMS


def usable_estimators(inputs: CreditInputs) -> tuple[str, ...]:
    """Names of the estimators whose needs this batch meets."""
    return tuple(
        name
        for name, estimator in ESTIMATORS.items()
        if all(getattr(inputs, need) is not None for need in estimator.needs)
    )


def compare_estimators(
    inputs: CreditInputs,
    names: Sequence[str],
    *,
    signals: Float[Array, "B T 3 F"] | None = None,
    reference: str = "hae",
    **options,
) -> dict[str, Float[Array, ""]]:
    """Statistics of each estimator on one batch; jit with `names` and `options` fixed.

    Of the whitened advantages, since that is what the loss sees:
    - `NAME/agreement`: share of turns whose action advantage has the sign of `reference`'s;
    - `NAME/correlation`: of the action advantages with `reference`'s;
    - `NAME/between_segments`: share of the action advantages' variance that lies between the means
      of segments; the rest ranks turns inside a segment;
    - `NAME/signal_to_noise` (with `signals`): |E g|^2 over the variance of the batch's mean g, bias
      of both removed, g being an episode's sum of advantage times signal.
    Of the raw ones: `NAME/deviation_low`, `_high`, `_term`. Of each head an estimator trains:
    `NAME/explained_low`, ..., at its value positions only.

    Args:
      signals: direction in which a unit of advantage on each decision (low, high, term) moves the
        policy: the gradient of its log-prob, or a sketch of it.
    """
    credits = {name: estimate(name, inputs, **options) for name in {*names, reference}}
    other = whiten(credits[reference].adv_low, credits[reference].mask_low)
    found = {}
    for name in names:
        statistics = measure_estimator(credits[name], inputs, other, signals)
        found |= {f"{name}/{key}": value for key, value in statistics.items()}
        for head in ESTIMATORS[name].heads:
            found[f"{name}/explained_{head}"] = explain_head(credits[name], inputs, head)
    return found


def measure_estimator(
    credit: Credit,
    inputs: CreditInputs,
    other: Float[Array, "B T"],
    signals: Float[Array, "B T 3 F"] | None,
) -> dict[str, Float[Array, ""]]:
    """The statistics of one estimator; `other` is the reference's whitened action advantage."""
    raw = [getattr(credit, f"adv_{s}") for s in STREAMS]
    masks = [getattr(credit, f"mask_{s}") for s in STREAMS]
    white = [whiten(a, m) for a, m in zip(raw, masks, strict=True)]
    live = inputs.mask
    same = jnp.sign(white[0]) == jnp.sign(other)
    product = masked_mean(white[0] * other, live)
    scale = jnp.sqrt(masked_mean(white[0] ** 2, live) * masked_mean(other**2, live))
    found = {
        "agreement": masked_mean(same.astype(other.dtype), live),
        "correlation": product / jnp.maximum(scale, 1e-8),
        "between_segments": between_segments(white[0], live, inputs.boundary),
    }
    for stream, adv, mask in zip(STREAMS, raw, masks, strict=True):
        found[f"deviation_{stream}"] = jnp.sqrt(masked_variance(adv, mask))
    if signals is not None:
        advantage = jnp.stack(white, axis=-1)
        signals = jnp.where(live[..., None, None], signals, 0)
        found["signal_to_noise"] = signal_to_noise(
            jnp.einsum("bth,bthf->bf", advantage, signals), live.any(axis=1)
        )
    return found


def between_segments(
    x: Float[Array, "B T"], mask: Bool[Array, "B T"], boundary: Bool[Array, "B T"]
) -> Float[Array, ""]:
    """Share of the variance of x that is left when each turn is given its segment's mean."""
    b, t = mask.shape
    segment = jnp.cumsum(boundary & mask, axis=1) + (t + 1) * jnp.arange(b)[:, None]
    ids = segment.reshape(-1)

    def total(y: Array) -> Array:
        return jax.ops.segment_sum(y.reshape(-1), ids, num_segments=b * (t + 1))

    means = total(jnp.where(mask, x, 0)) / jnp.maximum(total(mask.astype(x.dtype)), 1)
    variance = masked_variance(x, mask)
    smoothed = masked_variance(means[segment], mask)
    return jnp.where(variance > 0, smoothed / jnp.where(variance > 0, variance, 1), 0)


def signal_to_noise(g: Float[Array, "B F"], live: Bool[Array, " B"]) -> Float[Array, ""]:
    """|E g|^2 / Var(mean g) of the live episodes, the noise's own share taken off the numerator."""
    n = jnp.maximum(live.sum(), 2)
    g = jnp.where(live[:, None], g, 0)
    mean = g.sum(axis=0) / n
    spread = jnp.where(live[:, None], g - mean[None], 0)
    noise = (spread**2).sum() / (n - 1) / n
    signal = jnp.maximum((mean**2).sum() - noise, 0)
    return jnp.where(noise > 0, signal / jnp.where(noise > 0, noise, 1), 0)
