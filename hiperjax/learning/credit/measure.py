"""Statistics of a batch's credit: spread, explained variance, shaping terms, mismatch."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from hiperjax.learning.batches import Scores, measure_mismatch
from hiperjax.learning.credit.types import Credit, CreditInputs
from hiperjax.learning.losses import Metrics
from hiperjax.learning.statistics import explained_variance, masked_mean, masked_variance
from hiperjax.types import STREAMS, PackedBatch


def measure_credit(
    credit: Credit,
    terms: dict[str, Array],
    batch: PackedBatch,
    scores: Scores,
    inputs: CreditInputs,
    heads: tuple[str, ...],
) -> Metrics:
    """Spread of each stream, explained variance of each head in use, shaping terms per episode, and
    the mismatch between the sampler's log-probs and the learner's."""
    grid = batch.grid
    largest, mean = measure_mismatch(batch, scores)
    metrics: Metrics = {"mismatch_max": largest, "mismatch_mean": mean}
    metrics["rescored"] = scores.rescored.astype(jnp.float32)
    episodes = jnp.maximum(grid.mask.any(axis=1).sum(), 1)
    metrics |= {f"reward_{name}": term.sum() / episodes for name, term in terms.items()}
    for name in STREAMS:
        mask = getattr(credit, f"mask_{name}")
        advantage = getattr(credit, f"adv_{name}")
        metrics[f"advantage_mean_{name}"] = masked_mean(advantage, mask)
        metrics[f"advantage_std_{name}"] = jnp.sqrt(masked_variance(advantage, mask))
        if name in heads:
            metrics[f"explained_variance_{name}"] = explain_head(credit, inputs, name)
    return metrics


def explain_head(credit: Credit, inputs: CreditInputs, head: str) -> Float[Array, ""]:
    """Explained variance of a head at the turns it is fitted at, before this batch's fit."""
    if credit.tokens is not None:
        return explained_variance(credit.tokens.value, credit.tokens.ret, credit.tokens.mask)
    return explained_variance(
        getattr(inputs, f"v_{head}"), getattr(credit, f"ret_{head}"), getattr(credit, f"fit_{head}")
    )
