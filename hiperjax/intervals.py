"""Confidence intervals of shares and means."""

import math
from collections.abc import Sequence

import numpy as np

_RESAMPLES = 1000


def wilson_interval(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """95 % confidence interval of a share (Wilson's score interval); (0, 1) without trials."""
    if trials == 0:
        return 0.0, 1.0
    p = successes / trials
    center = (p + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials))
    half /= 1 + z * z / trials
    return max(0.0, center - half), min(1.0, center + half)


def bound_mean(values: Sequence[float], groups: Sequence[str]) -> tuple[float, float]:
    """Bootstrap 95 % interval of a mean, resampling whole groups (tasks, or their products)."""
    names, group = np.unique(np.array(groups), return_inverse=True)
    sums = np.bincount(group, np.array(values, np.float64))
    counts = np.bincount(group)
    draws = np.random.default_rng(0).integers(len(names), size=(_RESAMPLES, len(names)))
    means = sums[draws].sum(1) / counts[draws].sum(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def interval_of_mean(
    values: Sequence[float], level: float | None = 0.95
) -> tuple[float, float, float]:
    """Mean of independent values, and its confidence interval by Student's t.

    Without a `level`: one standard error to either side. One value alone says nothing of its
    spread: its interval is unbounded, (-inf, inf).
    """
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, -math.inf, math.inf
    variance = math.fsum((x - mean) ** 2 for x in values) / (len(values) - 1)
    half = math.sqrt(variance / len(values))
    if level is not None:
        from scipy.special import stdtrit

        half *= float(stdtrit(len(values) - 1, (1 + level) / 2))
    return mean, mean - half, mean + half
