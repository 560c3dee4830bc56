"""Estimators that compare episodes of one task: recorded outputs of public code, identities."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hiperjax_kernels import anchors, groups
from hiperjax_kernels.gae import discounted_returns, gae_batch

TOLERANCE = 2e-5


def batch_of(data: dict) -> dict:
    """A recorded data set as arrays, all of four turns so that programs are compiled once."""
    data = {k: np.array(v) for k, v in data.items() if k != "doc"}
    data = {
        k: np.pad(v, ((0, 0), (0, 4 - v.shape[1]))) if v.ndim > 1 else v for k, v in data.items()
    }
    mask = np.arange(4) < data["length"][:, None]
    arrays = {k: jnp.asarray(np.array(data[k])) for k in ("group_id", "state_id", "final_state_id")}
    arrays |= {k: jnp.asarray(np.array(data[k], bool)) for k in ("success", "milestone", "valid")}
    arrays |= {
        k: jnp.asarray(np.array(data[k], np.float32)) for k in ("reward", "value", "value_final")
    }
    arrays |= {
        "mask": jnp.asarray(mask),
        "terminated": jnp.asarray(np.array(data["terminated"], bool)),
    }
    return arrays | {"num_reply_tokens": jnp.asarray(np.array(data["n_tok"]))}


def advantage_of(case: dict, d: dict) -> jax.Array:
    """The case's estimator with its recorded configuration."""
    c, mask, group = case["config"], d["mask"], d["group_id"]
    pen = c.get("invalid_penalty", 0.0)
    penalty = jnp.where(d["valid"], 0.0, pen)
    over = {"turn_rows": "turns"}.get(c.get("stats_over", "turn_rows"), "episodes")
    std, raw = c.get("mode", "mean_std_norm") == "mean_std_norm", {"keep_singleton_score": True}
    step = (d["reward"], penalty, mask, group)
    match case["estimator"]:
        case "grpo" | "grpo_nostd_drgrpo":
            return groups.grpo(*step, std=c["std"], over=over, **raw)
        case "rloo":
            return groups.rloo(*step, over=over, **raw)
        case "reinforce_pp":
            return groups.reinforce_pp(d["reward"], mask, d["num_reply_tokens"])
        case "reinforce_pp_turn_return":
            return groups.reinforce_pp(
                d["reward"], mask, d["num_reply_tokens"], gamma=c["gamma"], per_turn_return=True
            )
        case "reinforce_pp_baseline":
            return groups.reinforce_pp_baseline(*step, d["num_reply_tokens"], over=over, **raw)
        case "turn_gae":
            return turn_gae(c, d)
        case "gigpo":
            return anchors.gigpo(
                *step,
                d["state_id"],
                gamma=c["gamma"],
                step_weight=c["omega"],
                std=std,
                over=over,
                **raw,
            )
        case "gagpo":
            return anchors.gagpo(
                d["reward"], mask, group, d["state_id"], gamma=c["gamma"], lambda_turn=c["lam"]
            )
        case "hgpo":
            return anchors.hgpo(
                *step,
                d["state_id"],
                gamma=c["gamma"],
                history=c["K"],
                exponent=c["alpha"],
                offset=2 if "code" in c["weights"] else 1,
                std=std,
                base=c["base_group"],
                **raw,
            )
        case "graphgpo":
            return anchors.graphgpo(
                *step,
                d["success"],
                d["state_id"],
                d["final_state_id"],
                distance_decay=c["omega"],
                relative=c["distance_delta"],
                std=std,
                **raw,
            )
        case "g2po":
            return anchors.g2po(
                *step, d["success"], d["state_id"], gamma=c["gamma"], std=std, **raw
            )
        case "beacon":
            return anchors.beacon(
                *step, d["milestone"], gamma=c["gamma"], step_weight=c["lam"], std=std, **raw
            )
    raise AssertionError(f"no estimator for {case['name']}")


def turn_gae(c: dict, d: dict) -> jax.Array:
    last = d["mask"] & ~anchors.has_next(d["mask"])
    ended = d["terminated"][:, None] | (not c["bootstrap_truncated"])
    discount = jnp.where(last & ended, 0.0, c["gamma"])
    out = gae_batch(
        d["reward"], discount, d["value"], d["mask"], d["value_final"], lambda_turn=c["lam"]
    )
    return (
        groups.whiten_weighted(out.adv, d["mask"].astype(jnp.float32)) if c["whiten"] else out.adv
    )


TOKEN_LEVEL = ("token_gae_row_per_turn", "token_gae_concatenated", "reinforce_pp_concatenated")


def filled(rows: list) -> tuple[np.ndarray, np.ndarray]:
    """Recorded values and where they are not null."""
    known = np.array([[x is not None for x in row] for row in rows])
    return np.array([[0.0 if x is None else x for x in row] for row in rows]), known


def test_reproduces_the_recorded_outputs(shared):
    recorded = json.loads(shared("data/hae/rivals.json").read_text())
    batches = {name: batch_of(data) for name, data in recorded["datasets"].items()}
    worst: dict[str, float] = {}
    for case in recorded["cases"]:
        if case["estimator"] in TOKEN_LEVEL:
            continue
        with jax.numpy_dtype_promotion("standard"):
            found = advantage_of(case, batches[case["dataset"]])
        expected, known = filled(case["expected"]["advantage"])
        found = np.asarray(found)[:, : known.shape[1]]
        worst[case["name"]] = float(np.abs(np.where(known, found - expected, 0)).max())
    assert len(worst) == 100
    bad = {name: diff for name, diff in worst.items() if diff > TOLERANCE}
    assert not bad, bad


def test_reproduces_the_recorded_token_level_outputs(shared):
    """GAE and REINFORCE++ over tokens are the same kernels on a stream with observation holes."""
    recorded = json.loads(shared("data/hae/rivals.json").read_text())
    cases = {c["estimator"]: c for c in recorded["cases"] if c["estimator"] in TOKEN_LEVEL}
    assert set(cases) == set(TOKEN_LEVEL)
    case = cases["token_gae_concatenated"]
    tokens = {k: np.array(v, np.float32) for k, v in case["input_tokens"].items()}
    reward, value, mask = (jnp.asarray(tokens[k]) for k in ("reward", "value", "mask"))
    weight, mask = mask, mask > 0
    discount, zeros = jnp.full_like(reward, 0.99), jnp.zeros(len(reward))
    found = gae_batch(reward, discount, value, mask, zeros, lambda_turn=0.95)
    whitened = groups.whiten_weighted(found.adv, weight)
    for name, x in {"advantage": whitened, "advantage_raw": found.adv}.items():
        expected, known = filled(case["expected"][name])
        np.testing.assert_allclose(np.where(known, x, 0), expected, atol=TOLERANCE)
    returns = discounted_returns(reward, mask, 0.99)
    expected, known = filled(cases["reinforce_pp_concatenated"]["expected"]["advantage"])
    found = groups.whiten_weighted(returns, weight)
    np.testing.assert_allclose(np.where(known, found, 0), expected, atol=TOLERANCE)


def test_reproduces_token_gae_inside_turns(shared):
    """The "PPO" of agent papers: GAE inside one turn, the episode's return on its last token."""
    recorded = json.loads(shared("data/hae/rivals.json").read_text())
    case = next(c for c in recorded["cases"] if c["estimator"] == "token_gae_row_per_turn")
    d, rows = recorded["datasets"]["main"], case["expected"]["row_order"]
    num_reply_tokens = np.array([d["n_tok"][b][t] for b, t in rows])
    position = np.arange(num_reply_tokens.max())[None]
    mask = position < num_reply_tokens[:, None]
    value = np.array([d["value"][b][t] for b, t in rows])[:, None] + 0.5 * position
    returns = np.array([sum(d["reward"][b]) for b, _ in rows])[:, None]
    reward = np.where(position == num_reply_tokens[:, None] - 1, returns, 0)
    args = (np.float32(reward), np.full(mask.shape, 0.99, np.float32), np.float32(value), mask)
    out = gae_batch(*map(jnp.asarray, args), jnp.zeros(len(rows)), lambda_turn=0.95)
    for (b, t), x, expected in zip(
        rows, out.adv, case["expected"]["advantage_tokens_raw"], strict=True
    ):
        np.testing.assert_allclose(
            x[: len(expected)], expected, atol=TOLERANCE, err_msg=f"{b}, {t}"
        )


def random_batch(seed: int, b: int = 12, t: int = 6) -> dict:
    """Tasks of several episodes on few states; NaN and nonsense ids in the pads."""
    rng = np.random.default_rng(seed)
    length = rng.integers(0, t + 1, b)
    mask = np.arange(t) < length[:, None]
    last = np.arange(t) == length[:, None] - 1
    success = (rng.random(b) < 0.5) & (length > 0)
    reward = np.where(mask, np.where(last & success[:, None], 10.0, 0.0), np.nan)
    raw = {
        "reward": reward.astype(np.float32),
        "penalty": np.where(rng.random((b, t)) < 0.1, np.float32(0.1), np.float32(0)),
        "mask": mask,
        "group": rng.integers(0, 3, b) * 1000,
        "success": success,
        "state": np.where(mask, rng.integers(0, 4, (b, t)), -7),
        "final": rng.integers(0, 4, b),
        "milestone": rng.random((b, t)) < 0.3,
        "num_reply_tokens": rng.integers(1, 9, (b, t)),
    }
    return {k: jnp.asarray(v) for k, v in raw.items()}


SMALL = {
    "grpo": lambda x: groups.grpo(*common(x)),
    "grpo_episodes": lambda x: groups.grpo(*common(x), over="episodes"),
    "rloo": lambda x: groups.rloo(*common(x)),
    "reinforce_pp": lambda x: groups.reinforce_pp(x["reward"], x["mask"], x["num_reply_tokens"]),
    "reinforce_pp_baseline": lambda x: groups.reinforce_pp_baseline(
        *common(x), x["num_reply_tokens"]
    ),
    "gigpo": lambda x: anchors.gigpo(*common(x), x["state"], gamma=0.95),
    "gagpo": lambda x: anchors.gagpo(
        x["reward"], x["mask"], x["group"], x["state"], gamma=0.95, lambda_turn=0.8
    ),
    "hgpo": lambda x: anchors.hgpo(*common(x), x["state"], gamma=0.95),
    "graphgpo": lambda x: anchors.graphgpo(*common(x), x["success"], x["state"], x["final"]),
    "g2po": lambda x: anchors.g2po(*common(x), x["success"], x["state"]),
    "beacon": lambda x: anchors.beacon(*common(x), x["milestone"]),
}
JITTED = {name: jax.jit(f) for name, f in SMALL.items()}


def keys(x: dict) -> tuple:
    return x["reward"], x["mask"], x["group"], x["state"]


def common(x: dict) -> tuple:
    return x["reward"], x["penalty"], x["mask"], x["group"]


@pytest.mark.parametrize("name", SMALL)
def test_order_padding_and_names_of_tasks_change_nothing(name):
    f = JITTED[name]
    for seed in range(4):
        x = random_batch(seed)
        out = f(x)
        assert bool(jnp.isfinite(out).all()) and not bool(out[~x["mask"]].any())
        order = np.random.default_rng(seed).permutation(12)
        shuffled = f({k: v[order] for k, v in x.items()})
        np.testing.assert_allclose(shuffled, out[order], atol=1e-4)
        renamed = f(x | {"group": 7 - x["group"]})
        np.testing.assert_allclose(renamed, out, atol=1e-4)


def test_tasks_are_judged_apart():
    """Changing one task's rewards leaves the others' advantages alone (no batch whitening here)."""
    x = random_batch(1)
    mine = x["group"] == 0
    y = x | {"reward": jnp.where(mine[:, None], 2 * x["reward"] + 1, x["reward"])}
    for name in SMALL:
        if "reinforce" in name:
            continue
        other = np.asarray(JITTED[name](y) - JITTED[name](x))[~np.asarray(mine)]
        np.testing.assert_allclose(other, 0, atol=1e-5, err_msg=name)


def test_identities_between_estimators():
    x = random_batch(3) | {"penalty": jnp.zeros((12, 6))}
    raw = anchors.gagpo(*keys(x), gamma=0.95, lambda_turn=1.0, raw=True)
    step = anchors.gigpo(*common(x), x["state"], gamma=0.95, std=False) - groups.grpo(
        *common(x), std=False
    )
    np.testing.assert_allclose(raw, step, atol=2e-5)
    grpo = groups.grpo(*common(x))
    off = {"step_weight": 0.0}
    for other in (
        anchors.gigpo(*common(x), x["state"], gamma=0.95, **off),
        anchors.graphgpo(*common(x), x["success"], x["state"], x["final"], **off),
        anchors.g2po(*common(x), x["success"], x["state"], **off),
        anchors.beacon(*common(x), x["milestone"], std=True, **off),
    ):
        np.testing.assert_allclose(other, grpo, atol=1e-6)
    centered = groups.grpo(*common(x), std=False, over="episodes")
    members = (x["group"][:, None] == x["group"][None]) & x["mask"].any(1)[None]
    n = members.sum(1)[:, None].astype(jnp.float32)
    np.testing.assert_allclose(
        groups.rloo(*common(x)), centered * (n / jnp.maximum(n - 1, 1)), atol=2e-5
    )
    hgpo = anchors.hgpo(*common(x), x["state"], gamma=0.95, history=0, std=False)
    np.testing.assert_allclose(hgpo, step, atol=2e-5)


def test_equal_scores_earn_nothing_whatever_rounding_does():
    reward = jnp.full((13, 1), 8.57375)
    mask, group = jnp.ones((13, 1), bool), jnp.zeros(13, int)
    out = groups.grpo(reward, jnp.zeros_like(reward), mask, group)
    assert not out.any()


def test_graph_distance_by_breadth_first_search():
    for seed in range(5):
        x = {k: np.asarray(v) for k, v in random_batch(seed).items()}
        names = ("mask", "success", "group", "state", "final")
        here, there = distance(*(jnp.asarray(x[k]) for k in names))
        expected = searched(*(x[k] for k in names))
        np.testing.assert_array_equal(here, expected[0])
        np.testing.assert_array_equal(there, expected[1])


distance = jax.jit(anchors.goal_distance)


def searched(mask, success, group, state, final) -> tuple[np.ndarray, np.ndarray]:
    """Distances by plain breadth-first search, task by task."""
    here, there = np.zeros(mask.shape), np.zeros(mask.shape)
    for task in np.unique(group):
        edges = {}
        for b in np.flatnonzero(group == task):
            for t in range(int(mask[b].sum())):
                end = t + 1 == mask[b].sum()
                nxt = ("goal" if success[b] else final[b]) if end else state[b, t + 1]
                edges[b, t] = (state[b, t], nxt)
        found, frontier = {"goal": 0}, ["goal"]
        while frontier:
            near = [u for u, v in edges.values() if v in frontier and u not in found]
            found |= {u: found[frontier[0]] + 1 for u in near}
            frontier = list(dict.fromkeys(near))
        far = 1 + max((d for u, d in found.items() if u != "goal"), default=0)
        for (b, t), (u, v) in edges.items():
            here[b, t], there[b, t] = found.get(u, far), found.get(v, far)
    return here, there
