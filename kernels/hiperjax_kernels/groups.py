"""Estimators without a critic: an episode is compared with others of the same task.

Every function is of arrays `[B, T]` (turns) or `[B]` (episodes), in fixed shapes under `jit`; ids
may be any integers. Statistics are sums over sets of equal id, two passes in the dtype of the data,
with weight zero on masked slots. Two guards that the public code lacks: a set of equal values gets
advantage 0 (float32 rounding over its tiny deviation made that up to 0.6), and so does a set of
one, unless `keep_singleton_score` asks for the public behavior, which lets the raw score through.
"""

from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from hiperjax_kernels.gae import discounted_returns

Over = Literal["turns", "episodes"]
EPS = 1e-6
EQUAL = 1e-5
"""relative spread under which values count as equal"""


class SetStats(NamedTuple):
    """Statistics of each element's set, gathered back to the elements."""

    count: Float[Array, "*n"]
    mean: Float[Array, "*n"]
    std: Float[Array, "*n"]
    equal: Bool[Array, "*n"]


def dense_ids(*keys: Int[Array, " n"]) -> Int[Array, " n"]:
    """Ids below n, equal where all keys are equal: by sorting, so no hash and no overflow."""
    order = jnp.lexsort(keys)
    changed = jnp.zeros(order.shape, bool)
    for key in keys:
        ordered = key[order]
        changed |= jnp.concatenate([jnp.zeros(1, bool), ordered[1:] != ordered[:-1]])
    rank = jnp.cumsum(changed)
    return jnp.zeros_like(rank).at[order].set(rank)


def set_stats(
    x: Float[Array, " n"], ids: Int[Array, " n"], mask: Bool[Array, " n"], *, ddof: int = 1
) -> SetStats:
    """Mean and std over the live members of each set; `ids` are below n."""
    total = partial(jax.ops.segment_sum, segment_ids=ids, num_segments=ids.shape[0])
    weight = mask.astype(x.dtype)
    count = total(weight)
    mean = total(weight * x) / jnp.maximum(count, 1)
    deviation = weight * (x - mean[ids])
    std = jnp.sqrt(total(deviation**2) / jnp.maximum(count - ddof, 1))
    widest = jax.ops.segment_max(jnp.abs(deviation), ids, num_segments=ids.shape[0])
    equal = widest <= EQUAL * (1 + jnp.abs(mean))
    return SetStats(*(field[ids] for field in (count, mean, std, equal)))


def normalize(
    x: Float[Array, "*n"], stats: SetStats, *, std: bool = True, keep_singleton_score: bool = False
) -> Float[Array, "*n"]:
    """(x - mean) / (std + 1e-6), or x - mean; 0 in sets of equals and of one."""
    centered = jnp.where(stats.equal, 0, x - stats.mean)
    scaled = centered / (stats.std + EPS) if std else centered
    return jnp.where(stats.count <= 1, x if keep_singleton_score else 0, scaled)


def within(
    x: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    *keys: Int[Array, "B T"],
    std: bool = True,
    keep_singleton_score: bool = False,
    ddof: int = 1,
) -> Float[Array, "B T"]:
    """Turn quantity normalized within the live turns of equal keys."""
    ids = dense_ids(*(key.reshape(-1) for key in keys))
    flat = jnp.where(mask, x, 0).reshape(-1)
    stats = set_stats(flat, ids, mask.reshape(-1), ddof=ddof)
    out = normalize(flat, stats, std=std, keep_singleton_score=keep_singleton_score).reshape(
        x.shape
    )
    return jnp.where(mask, out, 0)


def set_mean(
    x: Float[Array, "B T"], mask: Bool[Array, "B T"], *keys: Int[Array, "B T"]
) -> Float[Array, "B T"]:
    """Mean of a turn quantity over the live turns of equal keys."""
    ids = dense_ids(*(key.reshape(-1) for key in keys))
    flat = jnp.where(mask, x, 0).reshape(-1)
    return jnp.where(mask, set_stats(flat, ids, mask.reshape(-1)).mean.reshape(x.shape), 0)


def per_turn(of_episode: Array, like: Array) -> Array:
    """An episode quantity on each of its turns."""
    return jnp.broadcast_to(of_episode[:, None], like.shape)


def episode_returns(reward: Float[Array, "B T"], mask: Bool[Array, "B T"]) -> Array:
    """Undiscounted return of the episode, on each of its turns."""
    return per_turn(jnp.where(mask, reward, 0).sum(axis=1), reward)


def grpo(
    reward: Float[Array, "B T"],
    penalty: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    group: Int[Array, " B"],
    *,
    std: bool = True,
    over: Over = "turns",
    keep_singleton_score: bool = False,
) -> Float[Array, "B T"]:
    """GRPO (arXiv 2402.03300): A = (R - mean) / (std + 1e-6) within the task, R the episode return.

    `over="turns"` is what agent papers run: an episode counts once per *turn*, so the baseline
    leans toward long episodes, mostly failures. `over="episodes"` is the textbook form. Without
    `std` it is the advantage of Dr. GRPO (arXiv 2503.20783), whose other half is a loss over a
    constant.

    Args:
      penalty: taken off the score of single turns (malformed replies), after everything else.
    """
    score, stats = judge(reward, penalty, mask, group, over)
    return jnp.where(
        mask, normalize(score, stats, std=std, keep_singleton_score=keep_singleton_score), 0
    )


def judge(
    reward: Array, penalty: Array, mask: Array, group: Array, over: Over
) -> tuple[Array, SetStats]:
    """Score of each turn and the statistics of its task, of turn scores or of episode returns."""
    returns = episode_returns(reward, mask)
    score = jnp.where(mask, returns - penalty, 0)
    if over == "episodes":
        stats = set_stats(returns[:, 0], dense_ids(group), mask.any(axis=1))
        return score, SetStats(*(per_turn(field, score) for field in stats))
    ids = dense_ids(per_turn(group, mask).reshape(-1))
    stats = set_stats(score.reshape(-1), ids, mask.reshape(-1))
    return score, SetStats(*(field.reshape(mask.shape) for field in stats))


def rloo(
    reward: Float[Array, "B T"],
    penalty: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    group: Int[Array, " B"],
    *,
    over: Over = "episodes",
    keep_singleton_score: bool = False,
) -> Float[Array, "B T"]:
    """RLOO (arXiv 2402.14740): A = (R - mean) n / (n - 1), the mean of the others as baseline.

    `over="episodes"` leaves one episode out. `over="turns"` is the public agent form: it leaves one
    *row* out, so the baseline still holds the episode's own other turns. Over episodes it is
    n / (n - 1) times Dr. GRPO.
    """
    score, stats = judge(reward, penalty, mask, group, over)
    lift = stats.count / jnp.maximum(stats.count - 1, 1)
    return jnp.where(
        mask,
        lift * normalize(score, stats, std=False, keep_singleton_score=keep_singleton_score),
        0,
    )


def whiten_weighted(
    x: Float[Array, "B T"], weight: Float[Array, "B T"], *, ddof: int = 1, eps: float = 1e-8
) -> Float[Array, "B T"]:
    """(x - mean) / sqrt(var + eps) with weights that count (tokens per turn); 0 at weight 0."""
    total = jnp.maximum(weight.sum(), 1)
    x = jnp.where(weight > 0, x, 0)
    mean = (weight * x).sum() / total
    centered = jnp.where(weight > 0, x - mean, 0)
    var = (weight * centered**2).sum() / jnp.maximum(total - ddof, 1)
    equal = jnp.abs(centered).max() <= EQUAL * (1 + jnp.abs(mean))
    return jnp.where(equal, 0, centered * jax.lax.rsqrt(var + eps))


def reinforce_pp(
    reward: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    num_reply_tokens: Int[Array, "B T"],
    *,
    gamma: float = 1.0,
    per_turn_return: bool = False,
) -> Float[Array, "B T"]:
    """REINFORCE++ (arXiv 2501.03262): the return, whitened over the batch; no groups, no critic.

    As run by agent papers every turn carries the whole episode's return and the statistics weigh
    turns by their tokens. `per_turn_return` takes the return-to-go and weighs all turns alike.
    """
    if per_turn_return:
        returns = discounted_returns(reward, mask, gamma)
        return whiten_weighted(returns, mask.astype(reward.dtype))
    return whiten_weighted(
        episode_returns(reward, mask), token_weight(mask, num_reply_tokens, reward)
    )


def reinforce_pp_baseline(
    reward: Float[Array, "B T"],
    penalty: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    group: Int[Array, " B"],
    num_reply_tokens: Int[Array, "B T"],
    *,
    over: Over = "turns",
    keep_singleton_score: bool = False,
) -> Float[Array, "B T"]:
    """REINFORCE++ with the task's mean as baseline, then whitened over the batch's tokens.

    The second centering gives a task without any signal an advantage that is not zero.
    """
    centered = grpo(
        reward,
        penalty,
        mask,
        group,
        std=False,
        over=over,
        keep_singleton_score=keep_singleton_score,
    )
    return whiten_weighted(centered, token_weight(mask, num_reply_tokens, reward))


def token_weight(mask: Array, num_reply_tokens: Array, like: Array) -> Array:
    """Tokens of live turns, as weights."""
    return jnp.where(mask, num_reply_tokens, 0).astype(like.dtype)
