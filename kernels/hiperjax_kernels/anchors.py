"""Estimators that compare turns taken at the same observation (the anchor) by different episodes.

`group` is the task, `state` the identity of a turn's raw observation within it, `final` that of the
observation after the last action. Conventions and guards are those of `groups.py`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from hiperjax_kernels.gae import discounted_returns, gae_batch
from hiperjax_kernels.groups import (
    Over,
    dense_ids,
    episode_returns,
    grpo,
    per_turn,
    set_mean,
    within,
)


def shift_left(x: Array, last: Array | float | bool) -> Array:
    """x of the next turn; `last` after the final slot."""
    fill = jnp.broadcast_to(jnp.asarray(last, x.dtype), x[:, :1].shape)
    return jnp.concatenate([x[:, 1:], fill], axis=1)


def has_next(mask: Bool[Array, "B T"]) -> Bool[Array, "B T"]:
    """Live turns that are not their episode's last."""
    return mask & shift_left(mask, False)


def gigpo(
    reward: Float[Array, "B T"],
    penalty: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    group: Int[Array, " B"],
    state: Int[Array, "B T"],
    *,
    gamma: float,
    step_weight: float = 1.0,
    std: bool = True,
    over: Over = "turns",
    keep_singleton_score: bool = False,
) -> Float[Array, "B T"]:
    """GiGPO (arXiv 2505.10978): GRPO, plus the return-to-go normalized within the anchor.

        A = N_task(R) + step_weight N_anchor(G_gamma - penalty)

    Special cases: step_weight 0 is GRPO. A turn whose anchor nobody else visits gets GRPO alone.
    Revisits by one episode are members in their own right.
    """
    episode = grpo(
        reward, penalty, mask, group, std=std, over=over, keep_singleton_score=keep_singleton_score
    )
    returns = discounted_returns(reward, mask, gamma) - penalty
    return episode + step_weight * within(returns, mask, per_turn(group, mask), state, std=std)


def gagpo(
    reward: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    group: Int[Array, " B"],
    state: Int[Array, "B T"],
    *,
    gamma: float,
    lambda_turn: float,
    raw: bool = False,
) -> Float[Array, "B T"]:
    """GAGPO (arXiv 2605.13217): GAE whose critic is the mean return at the anchor.

        V(s)  = mean_anchor(G_gamma)       A = N_task(GAE_lambda(V))

    Special cases: lambda 1 before normalization is GiGPO's step term without std. Published without
    code: gamma, lambda and the set of the normalization are our reading.
    """
    keys = (per_turn(group, mask), state)
    value = set_mean(discounted_returns(reward, mask, gamma), mask, *keys)
    discount = jnp.where(has_next(mask), gamma, 0.0).astype(value.dtype)
    zeros = jnp.zeros_like(value[:, 0])
    adv = gae_batch(reward, discount, value, mask, zeros, lambda_turn=lambda_turn).adv
    return adv if raw else within(adv, mask, keys[0])


def hgpo(
    reward: Float[Array, "B T"],
    penalty: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    group: Int[Array, " B"],
    state: Int[Array, "B T"],
    *,
    gamma: float,
    history: int = 2,
    exponent: float = 1.0,
    offset: int = 2,
    std: bool = True,
    base: bool = False,
    keep_singleton_score: bool = False,
) -> Float[Array, "B T"]:
    """HGPO (arXiv 2602.22817): the return-to-go within nested anchors of 0..history past states.

        A = sum_h w_h a_h / sum_h w_h,    w_h = (h + offset)^exponent

    over levels with at least two members and a_h not 0, where a_h normalizes (population std) the
    return within turns of equal last h + 1 states. `offset` is 2 in the code, 1 in the paper. There
    is no episode term unless `base` adds GRPO at weight 1. A turn never shared gets 0.
    """
    returns = discounted_returns(reward, mask, gamma) - penalty
    task, slot = per_turn(group, mask), jnp.arange(mask.shape[1])[None]
    anchor = dense_ids(task.reshape(-1), state.reshape(-1)).reshape(mask.shape)
    context, total, weights = anchor, jnp.zeros_like(returns), jnp.zeros_like(returns)
    if base:
        a = grpo(reward, penalty, mask, group, std=std, keep_singleton_score=keep_singleton_score)
        total, weights = total + a, weights + jnp.where(a != 0, 1.0, 0.0)
    for h in range(history + 1):
        if h:
            before = jnp.concatenate([jnp.full_like(context[:, :1], -1), context[:, :-1]], axis=1)
            context = dense_ids(before.reshape(-1), anchor.reshape(-1)).reshape(mask.shape)
        level = mask & (slot >= h)
        a = within(returns, level, context, std=std, ddof=0)
        weight = float(h + offset) ** exponent
        total, weights = total + weight * a, weights + jnp.where(a != 0, weight, 0.0)
    return jnp.where(weights > 0, total / (weights + 1e-6), 0)


def goal_distance(
    mask: Bool[Array, "B T"],
    success: Bool[Array, " B"],
    group: Int[Array, " B"],
    state: Int[Array, "B T"],
    final: Int[Array, " B"],
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    """Steps to the goal from each turn's observation and from the next, along observed moves.

    Nodes are the observations of a task and its goal, to which the last turn of a success leads.
    A node without a route gets one more than the task's farthest (1 where nobody succeeded).
    """
    n = mask.size
    task = per_turn(group, mask).reshape(-1)
    live, ends = mask.reshape(-1), (mask & ~has_next(mask)).reshape(-1)
    moved = shift_left(state, state[:, :1])
    following = jnp.where(has_next(mask), moved, final[:, None]).reshape(-1)
    won = ends & per_turn(success, mask).reshape(-1)
    kind = jnp.concatenate([jnp.zeros(n, int), jnp.where(won, 1, 0), jnp.ones(n, int)])
    names = jnp.concatenate([state.reshape(-1), jnp.where(won, 0, following), jnp.zeros(n, int)])
    kind = kind + 2 * jnp.concatenate([~live, ~live, jnp.zeros(n, bool)]).astype(
        int
    )  # padding apart
    ids = dense_ids(jnp.concatenate([task, task, task]), kind, names)
    here, there, goal = ids[:n], ids[n : 2 * n], ids[2 * n :]
    far = jnp.asarray(jnp.inf, jnp.float32)
    start = jnp.full(3 * n, far).at[goal].set(0.0)

    def relax(state):
        d, _ = state
        via = jnp.where(live, 1 + d[there], far)
        new = jnp.minimum(d, jax.ops.segment_min(via, here, num_segments=3 * n))
        return new, (new < d).any()

    distance, _ = jax.lax.while_loop(lambda s: s[1], relax, (start, jnp.asarray(True)))
    finite = jnp.isfinite(distance)
    reach = jnp.where(live & finite[here], distance[here], 0)
    worst = jax.ops.segment_max(reach, dense_ids(task), num_segments=n)[dense_ids(task)] + 1
    found = [jnp.where(finite[k], distance[k], worst).reshape(mask.shape) for k in (here, there)]
    return jnp.where(mask, found[0], 0), jnp.where(mask, found[1], 0)


def graphgpo(
    reward: Float[Array, "B T"],
    penalty: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    group: Int[Array, " B"],
    success: Bool[Array, " B"],
    state: Int[Array, "B T"],
    final: Int[Array, " B"],
    *,
    distance_decay: float = 0.1,
    success_reward: float = 10.0,
    step_weight: float = 1.0,
    relative: bool = False,
    std: bool = True,
    keep_singleton_score: bool = False,
) -> Float[Array, "B T"]:
    """GraphGPO (arXiv 2605.26684): how near the goal a move leads, on the graph of observed moves.

        q = success_reward distance_decay^d(next)  A = step_weight N_anchor(q - penalty) + N_task(R)

    `relative` takes d(next) - d(here) + 1 as the exponent. step_weight 0 is GRPO. A step of a
    failed episode can be positive; one lucky move makes everything upstream look close.
    """
    here, there = goal_distance(mask, success, group, state, final)
    exponent = there - here + 1 if relative else there
    q = jnp.where(mask, success_reward * distance_decay**exponent, 0) - penalty
    step = within(q, mask, per_turn(group, mask), state, std=std)
    return step_weight * step + grpo(
        reward, penalty, mask, group, std=std, keep_singleton_score=keep_singleton_score
    )


def g2po(
    reward: Float[Array, "B T"],
    penalty: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    group: Int[Array, " B"],
    success: Bool[Array, " B"],
    state: Int[Array, "B T"],
    *,
    gamma: float = 0.95,
    step_weight: float = 1.0,
    success_reward: float = 10.0,
    std: bool = True,
    keep_singleton_score: bool = False,
) -> Float[Array, "B T"]:
    """G2PO (arXiv 2606.22995): the value of the state a move leads to, and the gain of the move.

        v = gamma^(turns left) R        V(s) = mean_anchor(v)       V' = V(next), 10 or 0 at the end
        A = N_task(R) + step_weight (N_anchor(V' - penalty) + N_task(V' - V))

    step_weight 0 is GRPO. The second term ranks turns by position where everybody succeeds.
    """
    task = per_turn(group, mask)
    total = episode_returns(reward, mask)
    left = jnp.flip(jnp.cumsum(jnp.flip(mask, 1), axis=1), 1).astype(reward.dtype)
    value = set_mean(total * gamma**left, mask, task, state)
    terminal = per_turn(jnp.where(success, success_reward, 0.0), reward)
    following = jnp.where(has_next(mask), shift_left(value, 0.0), terminal)
    node = within(following - penalty, mask, task, state, std=std)
    edge = within(following - value, mask, task, std=std)
    return grpo(
        reward, penalty, mask, group, std=std, keep_singleton_score=keep_singleton_score
    ) + step_weight * (node + edge)


def beacon(
    reward: Float[Array, "B T"],
    penalty: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    group: Int[Array, " B"],
    milestone: Bool[Array, "B T"],
    *,
    gamma: float = 0.95,
    step_weight: float = 1.0,
    milestone_reward: float = 10.0,
    std: bool = False,
    keep_singleton_score: bool = False,
) -> Float[Array, "B T"]:
    """BEACON (arXiv 2605.06078): nearness of the next milestone, within turns at the same stage.

        q = milestone_reward gamma^(turns to the next milestone), 0 if none comes
        A = N_task(R) + step_weight N_(task, milestones passed)(q - penalty)

    step_weight 0 is GRPO. On ALFWorld the published milestones are the expert's own actions.
    """
    reached = (milestone & mask).astype(reward.dtype)
    stage = (jnp.cumsum(reached, axis=1) - reached).astype(int)
    stop = jnp.where(milestone, 0.0, gamma).astype(reward.dtype)
    zeros = jnp.zeros_like(reward)
    q = gae_batch(milestone_reward * reached, stop, zeros, mask, zeros[:, 0]).ret
    task = per_turn(group, mask)
    step = within(q - penalty, mask, task, stage, std=std)
    return (
        grpo(reward, penalty, mask, group, std=std, keep_singleton_score=keep_singleton_score)
        + step_weight * step
    )
