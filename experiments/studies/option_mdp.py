"""A world small enough to enumerate: the exact policy gradient against what estimators expect.

Three states, two subgoals, two moves with two possible outcomes each and a third action that ends
the episode; every factor of the policy (switch, subgoal, action) is a softmax table. All
trajectories are listed with their probabilities, the shipped kernels run on all of them in float64,
and the expectation and variance of each estimator's gradient are sums, not samples. The true
gradient comes from differentiating exact dynamic programming: another road altogether.
`experiments.studies.option_study` asks the questions.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from hiperjax_kernels.gae import gae_batch
from hiperjax_kernels.hae import HaeInputs, hae_batch

STATES, SUBGOALS, MOVES = 3, 2, 2
STOP = MOVES
"""index of the action that ends the episode"""


class Mdp(NamedTuple):
    """Dynamics; `reward` of a move depends on where it leads, `stop_reward` on where one stops."""

    start: np.ndarray
    """[S]"""
    transition: np.ndarray
    """[S, MOVES, S], two successors each"""
    reward: np.ndarray
    """[S, MOVES, S]"""
    stop_reward: np.ndarray
    """[S]"""


class Policy(NamedTuple):
    """Logits of the three factors."""

    switch: jax.Array
    """[S, O] of SWITCH, given the old subgoal"""
    subgoal: jax.Array
    """[S, O]"""
    action: jax.Array
    """[S, O, MOVES + 1]"""


class Values(NamedTuple):
    """Values by turn; index `horizon` is the end, all zero."""

    low: jax.Array | np.ndarray
    """[H + 1, S, O]"""
    high: jax.Array | np.ndarray
    """[H + 1, S]"""
    term: jax.Array | np.ndarray
    """[H + 1, S, O], given the old subgoal"""


class Trajectories(NamedTuple):
    """All trajectories of a world, `[K, T]`, and their probabilities `[K]`."""

    prob: np.ndarray
    state: np.ndarray
    before: np.ndarray
    """subgoal in force before the turn's decision"""
    switch: np.ndarray
    """True at turn 0, where nothing is decided"""
    subgoal: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    mask: np.ndarray


class Moments(NamedTuple):
    """Expected gradient and total variance of the gradient of one trajectory."""

    mean: np.ndarray
    variance: float


Advantages = tuple[np.ndarray, np.ndarray, np.ndarray]
Estimate = Callable[[HaeInputs], Advantages]


def make_mdp(seed: int = 0) -> Mdp:
    """Random dynamics: two successors a move, a price a move, one state worth stopping in."""
    rng = np.random.default_rng(seed)
    transition = np.zeros((STATES, MOVES, STATES))
    for s in range(STATES):
        for a in range(MOVES):
            near = rng.choice(STATES, 2, replace=False)
            transition[s, a, near] = rng.dirichlet([2.0, 2.0])
    reward = rng.normal(0.3, 0.5, transition.shape)
    return Mdp(np.array([0.6, 0.4, 0.0]), transition, reward, np.array([-1.0, 0.0, 4.0]))


def make_policy(seed: int = 0, *, switch: float = 0.4, informative: float = 1.0) -> Policy:
    """Random logits around a share of switches; `informative` scales how subgoals bend actions."""
    rng = np.random.default_rng(seed)
    with jax.enable_x64(True):
        base = rng.normal(0, 0.5, (STATES, 1, MOVES + 1)) - np.array([0, 0, 1.0])
        bend = informative * rng.normal(0, 1.0, (STATES, SUBGOALS, MOVES + 1))
        logit = np.log(switch / (1 - switch))
        return Policy(
            jnp.asarray(logit + rng.normal(0, 0.3, (STATES, SUBGOALS))),
            jnp.asarray(rng.normal(0, 0.5, (STATES, SUBGOALS))),
            jnp.asarray(base + bend),
        )


def exact_values(mdp: Mdp, policy: Policy, horizon: int, bonus: np.ndarray | None = None) -> Values:
    """Values by dynamic programming, differentiable in the policy; `bonus[t]` is paid at turn t."""
    beta = jax.nn.sigmoid(policy.switch)
    choose, act = jax.nn.softmax(policy.subgoal), jax.nn.softmax(policy.action)
    now = (mdp.transition * mdp.reward).sum(-1)
    low, high, term = [jnp.zeros((STATES, SUBGOALS))], [jnp.zeros(STATES)], [jnp.zeros_like(beta)]
    for t in reversed(range(horizon)):
        after = jnp.einsum("sax,xo->sao", mdp.transition, term[0]) + now[:, :, None]
        stop = jnp.broadcast_to(mdp.stop_reward[:, None, None], (STATES, 1, SUBGOALS))
        q = jnp.concatenate([after, stop], axis=1) + (0.0 if bonus is None else bonus[t])
        low.insert(0, jnp.einsum("soa,sao->so", act, q))
        high.insert(0, (choose * low[0]).sum(-1))
        term.insert(0, beta * high[0][:, None] + (1 - beta) * low[0])
    return Values(jnp.stack(low), jnp.stack(high), jnp.stack(term))


def flatten(gradient: Policy) -> np.ndarray:
    """A gradient as one vector: switch, subgoal, action."""
    return np.concatenate([np.ravel(x) for x in gradient])


def true_gradient(
    mdp: Mdp, policy: Policy, horizon: int, bonus: np.ndarray | None = None
) -> np.ndarray:
    """Gradient of the expected return, by differentiating the dynamic program."""

    def objective(policy: Policy):
        return (mdp.start * exact_values(mdp, policy, horizon, bonus).high[0]).sum()

    with jax.enable_x64(True):
        return flatten(jax.grad(objective)(policy))


def list_trajectories(mdp: Mdp, policy: Policy, horizon: int) -> Trajectories:
    """Every trajectory of positive probability, turn by turn, breadth first."""
    tables = probabilities(policy)
    starts = np.flatnonzero(mdp.start)
    prob, columns = mdp.start[starts], {"next": starts[:, None]}
    ended: list[tuple[np.ndarray, dict[str, np.ndarray]]] = []
    for t in range(horizon):
        parts = branch(mdp, tables, prob, columns, first=t == 0)
        prob = np.concatenate([p for p, _ in parts])
        turn = {k: np.concatenate([x[k] for _, x in parts])[:, None] for k in parts[0][1]}
        if t:
            turn = {
                k: np.hstack([np.tile(columns[k], (len(parts), 1)), v]) for k, v in turn.items()
            }
        over = (turn["action"][:, -1] == STOP) | (t + 1 == horizon)
        done, going = over & (prob > 0), ~over & (prob > 0)
        ended.append((prob[done], {k: v[done] for k, v in turn.items()}))
        prob, columns = prob[going], {k: v[going] for k, v in turn.items()}
    return join(ended, horizon)


def probabilities(policy: Policy) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of SWITCH, of each subgoal, of each action."""
    return (
        np.asarray(jax.nn.sigmoid(policy.switch)),
        np.asarray(jax.nn.softmax(policy.subgoal)),
        np.asarray(jax.nn.softmax(policy.action)),
    )


def branch(mdp: Mdp, tables: tuple, prob, columns, *, first: bool) -> list[tuple[np.ndarray, dict]]:
    """Every way each open trajectory may live its next turn: probabilities and columns."""
    beta, choose, act = tables
    state = columns["next"][:, -1]
    before = np.zeros_like(state) if first else columns["subgoal"][:, -1]
    plans = [(True, o) for o in range(SUBGOALS)] + ([] if first else [(False, 0)])
    outcomes = [(a, s) for a in range(MOVES) for s in range(STATES)] + [(STOP, 0)]
    parts = []
    for switch, chosen in plans:
        subgoal = np.full_like(before, chosen) if switch else before
        decide = np.ones(len(state)) if first else beta[state, before]
        p_plan = decide * choose[state, subgoal] if switch else 1 - decide
        for action, new in outcomes:
            p, gain = prob * p_plan * act[state, subgoal, action], mdp.stop_reward[state]
            if action != STOP:
                p, gain = p * mdp.transition[state, action, new], mdp.reward[state, action, new]
            same = {"switch": switch, "action": action, "next": new}
            turn = {"state": state, "before": before, "subgoal": subgoal, "reward": gain}
            parts.append((p, turn | {k: np.full_like(state, v) for k, v in same.items()}))
    return parts


def join(ended: list[tuple[np.ndarray, dict[str, np.ndarray]]], horizon: int) -> Trajectories:
    """Trajectories of all lengths in one padded table."""

    def column(name: str) -> np.ndarray:
        wide = [np.pad(c[name], ((0, 0), (0, horizon - c[name].shape[1]))) for _, c in ended]
        return np.concatenate(wide)

    length = np.concatenate([np.full(len(p), c["state"].shape[1]) for p, c in ended])
    return Trajectories(
        prob=np.concatenate([p for p, _ in ended]),
        state=column("state"),
        before=column("before"),
        switch=column("switch").astype(bool),
        subgoal=column("subgoal"),
        action=column("action"),
        reward=column("reward"),
        mask=np.arange(horizon) < length[:, None],
    )


def kernel_inputs(trajectories: Trajectories, values: Values) -> HaeInputs:
    """What the kernels see of every trajectory under a critic; gamma is 1 and the end terminal."""
    x, turn = trajectories, np.arange(trajectories.mask.shape[1])[None]
    low, high, term = (np.asarray(v) for v in values)
    last = x.mask & (turn == x.mask.sum(1, keepdims=True) - 1)
    fields = {
        "reward": x.reward,
        "discount": np.where(last, 0.0, 1.0),
        "v_low": low[turn, x.state, x.subgoal],
        "v_high": high[turn, x.state],
        "v_term": term[turn, x.state, x.before],
        "boundary": x.switch | (turn == 0),
        "mask": x.mask,
        "bootstrap_low": np.zeros(len(x.prob)),
        "bootstrap_high": np.zeros(len(x.prob)),
    }
    return HaeInputs(**{k: jnp.asarray(v) for k, v in fields.items()})


_hae = jax.jit(hae_batch)
_gae = jax.jit(gae_batch)


def hae_estimate(
    inputs: HaeInputs, *, turn: float = 1.0, segment: float = 1.0, boundary: float = 0.0
) -> Advantages:
    """The shipped kernel on every trajectory."""
    out = _hae(
        inputs,
        lambda_turn=float(turn),
        lambda_segment=float(segment),
        lambda_boundary=float(boundary),
    )
    return np.asarray(out.adv_low), np.asarray(out.adv_high), np.asarray(out.adv_term)


def flat_estimate(inputs: HaeInputs, *, turn: float = 1.0) -> Advantages:
    """Flat turn-level GAE on the prompt's value: one advantage for all three factors."""
    adv = _gae(
        inputs.reward, inputs.discount, inputs.v_term, inputs.mask, inputs.bootstrap_low,
        lambda_turn=turn,
    ).adv  # fmt: skip
    adv = np.asarray(adv)
    return adv, adv, adv


class Scores(NamedTuple):
    """d log-prob of each factor's choice, as residuals `[K, T, choices]`; zero where undecided."""

    switch: np.ndarray
    subgoal: np.ndarray
    action: np.ndarray


def scores_of(x: Trajectories, policy: Policy) -> Scores:
    """Residuals (one-hot minus probability) of the decisions each turn really took."""
    beta, choose, act = probabilities(policy)
    decided = x.mask & (np.arange(x.mask.shape[1]) > 0)
    switch = np.where(decided, x.switch - beta[x.state, x.before], 0.0)
    subgoal = np.eye(SUBGOALS)[x.subgoal] - choose[x.state]
    action = np.eye(MOVES + 1)[x.action] - act[x.state, x.subgoal]
    return Scores(
        switch[..., None],
        np.where((x.mask & x.switch)[..., None], subgoal, 0.0),
        np.where(x.mask[..., None], action, 0.0),
    )


def gradients(x: Trajectories, scores: Scores, advantages: Advantages) -> np.ndarray:
    """Policy-gradient estimate of every trajectory alone, `[K, parameters]`."""
    k, t = x.mask.shape
    low, high, term = advantages
    out = [np.zeros((k, STATES * SUBGOALS, 1)), np.zeros((k, STATES, SUBGOALS)),
           np.zeros((k, STATES * SUBGOALS, MOVES + 1))]  # fmt: skip
    cells = (x.state * SUBGOALS + x.before, x.state, x.state * SUBGOALS + x.subgoal)
    every = np.arange(k)
    for table, cell, score, adv in zip(out, cells, scores, (term, high, low), strict=True):
        for i in range(t):
            table[every, cell[:, i]] += score[:, i] * adv[:, i, None]
    return np.concatenate([table.reshape(k, -1) for table in out], axis=1)


@dataclasses.dataclass
class Study:
    """One world, one policy, all its trajectories."""

    mdp: Mdp
    policy: Policy
    horizon: int

    def __post_init__(self) -> None:
        with jax.enable_x64(True):
            self.trajectories = list_trajectories(self.mdp, self.policy, self.horizon)
            self.values = exact_values(self.mdp, self.policy, self.horizon)
            self.scores = scores_of(self.trajectories, self.policy)
        self.truth = true_gradient(self.mdp, self.policy, self.horizon)

    def advantages(self, estimate: Estimate, values: Values | None = None) -> Advantages:
        """An estimator's advantages on every trajectory, under the exact critic or another."""
        with jax.enable_x64(True):
            return estimate(kernel_inputs(self.trajectories, values or self.values))

    def moments(self, advantages: Advantages) -> Moments:
        """Exact expectation and total variance of the one-trajectory gradient."""
        g = gradients(self.trajectories, self.scores, advantages)
        mean = self.trajectories.prob @ g
        return Moments(mean, float(self.trajectories.prob @ (g**2).sum(1) - mean @ mean))

    def bias(self, moments: Moments) -> float:
        """Departure of the expected gradient, relative to the true one."""
        return float(np.linalg.norm(moments.mean - self.truth) / np.linalg.norm(self.truth))

    def rms_error(self, moments: Moments, batch: int) -> float:
        """Relative root-mean-square error of the mean gradient of a batch of trajectories."""
        squared = np.sum((moments.mean - self.truth) ** 2) + moments.variance / batch
        return float(np.sqrt(squared) / np.linalg.norm(self.truth))

    def wrong_critic(self, error: float, kind: str, seed: int = 0) -> Values:
        """The exact critic spoiled: "cold" scales it to 0, "noise" adds noise of its own size."""
        if kind == "cold":
            return Values(*((1 - error) * np.asarray(v) for v in self.values))
        rng = np.random.default_rng(seed)
        size = np.std(np.asarray(self.values.low)[:-1])
        return Values(
            *(np.asarray(v) + error * size * rng.normal(size=v.shape) for v in self.values)
        )
