"""The estimators as plain numpy loops, one trajectory, segment and turn at a time.

The oracle of tests and benchmarks: written segment by segment, as the paper describes the method
and not as the kernels compute it, and slow on purpose.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from hiperjax_kernels.hae import HaeInputs, HaeOutputs


def hae_reference(
    inputs: HaeInputs,
    *,
    lambda_turn: float = 1.0,
    lambda_segment: float = 0.95,
    lambda_boundary: float = 0.0,
) -> dict[str, np.ndarray]:
    """HAE of a batch `[B, T]`: the fields of `HaeOutputs`, in the precision of `inputs.reward`.

    `ret_high` off the boundaries is the return of a turn if its segment began there.
    """
    reward = np.asarray(inputs.reward)
    fields = {name: np.asarray(getattr(inputs, name)) for name in HaeInputs._fields}
    out = {name: np.zeros_like(reward) for name in HaeOutputs._fields}
    for b in range(reward.shape[0]):
        live = [t for t in range(reward.shape[1]) if fields["mask"][b, t]]
        one = {name: x[b] if x.ndim == 1 else x[b][live] for name, x in fields.items()}
        adv_high_next, value_next = 0.0, None
        for start, end in reversed(segments(one["boundary"])):
            result = segment_credit(
                one, start, end, value_next, adv_high_next,
                lambda_turn, lambda_segment, lambda_boundary,
            )  # fmt: skip
            for name, values in result.items():
                for t, value in zip(range(start, end + 1), values, strict=True):
                    out[name][b, live[t]] = value
            value_next, adv_high_next = one["v_high"][start], result["adv_high"][0]
    return out


def segments(boundary: np.ndarray) -> list[tuple[int, int]]:
    """First and last turn of every segment."""
    starts = [t for t in range(len(boundary)) if boundary[t] or t == 0]
    ends = [start - 1 for start in starts[1:]] + [len(boundary) - 1]
    return list(zip(starts, ends, strict=True)) if len(boundary) else []


def segment_credit(
    one: dict[str, np.ndarray],
    start: int,
    end: int,
    value_next: float | np.floating | None,
    adv_high_next: float | np.floating,
    lambda_turn: float,
    lambda_segment: float,
    lambda_boundary: float,
) -> dict[str, list[Any]]:
    """Credit of turns start..end; `value_next` is V_high of the next segment, None at the last."""
    r, g, v_low = one["reward"], one["discount"], one["v_low"]
    last = value_next is None
    tail_high = one["bootstrap_high"] if last else value_next
    tail_low = one["bootstrap_low"] if last else value_next + lambda_boundary * adv_high_next
    tail_term = tail_high if last else tail_low
    credit: dict[str, list[Any]] = {name: [] for name in HaeOutputs._fields}
    for t in range(start, end + 1):
        high, term, weight = 0.0, 0.0, 1.0
        for j in range(t, end + 1):
            high, term, weight = high + weight * r[j], term + weight * r[j], weight * g[j]
        high += weight * (tail_high + lambda_segment * adv_high_next)
        term += weight * tail_term
        credit["ret_high"].append(high)
        credit["ret_term"].append(term)
        credit["adv_high"].append(high - one["v_high"][t] if t == start else 0.0)
        credit["adv_term"].append(term - one["v_term"][t])
        low, weight = 0.0, 1.0
        for j in range(t, end + 1):
            value_after = tail_low if j == end else v_low[j + 1]
            low += weight * (r[j] + g[j] * value_after - v_low[j])
            weight *= g[j] * lambda_turn
        credit["adv_low"].append(low)
        credit["ret_low"].append(low + v_low[t])
    return credit


def gae_reference(
    reward: np.ndarray,
    discount: np.ndarray,
    value: np.ndarray,
    mask: np.ndarray,
    bootstrap: np.ndarray,
    *,
    lambda_turn: float = 1.0,
) -> np.ndarray:
    """Advantages of flat GAE for a batch `[B, T]`, as sums of discounted TD errors."""
    adv = np.zeros_like(reward)
    for b in range(reward.shape[0]):
        live = [t for t in range(reward.shape[1]) if mask[b, t]]
        values_after = [value[b, t] for t in live[1:]] + [bootstrap[b]]
        for i, t in enumerate(live):
            weight = 1.0
            for j, after in zip(live[i:], values_after[i:], strict=True):
                delta = reward[b, j] + discount[b, j] * after - value[b, j]
                adv[b, t] += weight * delta
                weight *= discount[b, j] * lambda_turn
    return adv


def policy_loss_reference(
    logprobs: np.ndarray,
    old_logprobs: np.ndarray,
    advantage: np.ndarray,
    units: Sequence[Sequence[tuple[int, int]]],
    weights: np.ndarray,
    *,
    clip_low: float,
    clip_high: float,
) -> float:
    """Clipped surrogate `sum_i weight_i min(A_i s, A_i clip(s))` with one ratio `s` per unit.

    Args:
      logprobs, old_logprobs, advantage: `[N, R]`, of reply tokens.
      units: tokens (row, position) of each unit; `s` is the geometric mean of their ratios.
      weights: of each token in the loss.
      clip_low, clip_high: how far the ratio may move below and above 1.
    """
    total = 0.0
    for unit in units:
        moved = sum(logprobs[at] - old_logprobs[at] for at in unit)
        ratio = float(np.exp(moved / len(unit)))
        clipped = min(max(ratio, 1 - clip_low), 1 + clip_high)
        for at in unit:
            gain = min(advantage[at] * ratio, advantage[at] * clipped)
            total -= weights[at] * gain
    return float(total)
