"""Shaping, whitening, spreading, the registry, the border, and parity with the official HAE."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.credit_cases import live, random_inputs, to_jax
from hypothesis import given
from hypothesis import strategies as st

from hiperjax.config import ConfigError
from hiperjax.learning.credit.endings import bootstrap_last_turn
from hiperjax.learning.credit.registry import estimate
from hiperjax.learning.credit.shaping import shape_rewards
from hiperjax.learning.credit.tokens import spread, whiten
from hiperjax.learning.credit.types import CreditInputs
from hiperjax.types import TurnGrid, TurnRows
from hiperjax.verification.arrange import arrange, check_credit
from hiperjax.verification.hae import token_violations, verify_hae


def credit_inputs(seed: int = 0, b: int = 4, t: int = 7) -> CreditInputs:
    """A batch with everything any estimator may ask for."""
    x, rng = random_inputs(seed, b=b, t=t), np.random.default_rng(seed)
    integers = {
        "group_id": rng.integers(0, 2, b),
        "state_id": rng.integers(0, 4, (b, t)),
        "final_state_id": rng.integers(0, 4, b),
        "num_reply_tokens": rng.integers(1, 9, (b, t)),
    }
    flags = {k: rng.random((b, t)) < 0.5 for k in ("malformed", "milestone")}
    last = np.maximum(x.mask.sum(1) - 1, 0)
    return to_jax(
        CreditInputs(
            reward=x.reward, mask=x.mask, boundary=x.boundary,
            terminated=x.discount[np.arange(b), last] == 0,
            v_low=x.v_low, v_high=x.v_high, v_term=x.v_term,
            bootstrap_low=x.bootstrap_low, bootstrap_high=x.bootstrap_high,
            bootstrap_term=x.bootstrap_low, low_value_mask=rng.random((b, t)) < 0.8,
            success=rng.random(b) < 0.5, switch_prob=np.float32(rng.random((b, t))),
            v_keep=np.float32(rng.normal(size=(b, t))),
            v_token=np.float32(rng.normal(size=(b, t, 3))),
            reply_mask=np.ones((b, t, 3), bool), **integers, **flags,
        )
    )  # fmt: skip


def test_unknown_names_and_options_are_errors():
    with pytest.raises(ConfigError, match="is 'hea'; expected one of"):
        estimate("hea", credit_inputs())
    with pytest.raises(TypeError, match="lamda"):
        estimate("hae", credit_inputs(), lamda=1.0)


def test_malformed_turns_take_the_term_value_and_stay_out_of_the_fit():
    inputs = credit_inputs(1)
    credit = estimate("hae", inputs, lambda_turn=0.9)
    same = estimate(
        "hae",
        inputs._replace(v_low=jnp.where(inputs.low_value_mask, inputs.v_low, 1e6)),
        lambda_turn=0.9,
    )
    np.testing.assert_array_equal(credit.adv_low, same.adv_low)
    np.testing.assert_array_equal(credit.fit_low, inputs.mask & inputs.low_value_mask)


def test_v_high_is_fitted_at_boundaries_or_everywhere():
    inputs = credit_inputs(2)
    boundaries = estimate("hae", inputs, v_high_targets="boundaries")
    everywhere = estimate("hae", inputs, v_high_targets="all")
    np.testing.assert_array_equal(boundaries.fit_high, inputs.mask & inputs.boundary)
    np.testing.assert_array_equal(everywhere.fit_high, inputs.mask)
    np.testing.assert_array_equal(boundaries.ret_high, everywhere.ret_high)


def test_one_step_targets_are_td_targets():
    """Of the paper: r + V_next for the low head, the segment's reward + V_high for the high one."""
    x = credit_inputs(3)._replace(low_value_mask=None)
    x = x._replace(mask=jnp.ones((4, 7), bool), terminated=jnp.ones(4, bool))
    clean = {k: jnp.nan_to_num(getattr(x, k)) for k in ("reward", "v_low", "v_high", "v_term")}
    x = x._replace(**clean)
    credit = estimate("hae", x, critic_targets="one_step", lambda_boundary=1.0, gamma=0.9)
    following = jnp.where(x.boundary, x.v_high, x.v_low)[:, 1:]
    expected = x.reward.at[:, :-1].add(0.9 * following)
    np.testing.assert_allclose(credit.ret_low, expected, rtol=1e-5, atol=1e-5)
    paper = estimate("hae", x, lambda_segment=0.0, gamma=0.9)
    np.testing.assert_allclose(credit.ret_high, paper.ret_high, rtol=1e-5, atol=1e-5)


def test_two_head_switch_advantage():
    x = credit_inputs(4)
    credit = estimate("hae", x, switch_advantage="two_head")
    gain = (x.boundary - x.switch_prob) * (x.v_high - x.v_keep)
    expected = jnp.where(x.mask, gain, 0).at[:, 0].set(0)
    np.testing.assert_allclose(credit.adv_term, expected, rtol=1e-5)
    assert (credit.fit_term == x.mask).all(), "the baseline of malformed replies stays fitted"


def test_truncated_tails_continue_from_their_bootstrap_and_terminal_ones_do_not():
    x = credit_inputs(5)
    more = x._replace(bootstrap_low=x.bootstrap_low + 1, bootstrap_high=x.bootstrap_high + 1)
    change = estimate("hae", more).adv_low - estimate("hae", x).adv_low
    moved = change.any(axis=1)
    np.testing.assert_array_equal(moved, x.mask.any(axis=1) & ~x.terminated)
    official = bootstrap_last_turn(x)
    last = int(x.mask[0].sum()) - 1
    assert float(official.bootstrap_low[0]) == float(x.v_low[0, last])


@given(st.integers(0, 1000))
def test_whitening(seed):
    rng = np.random.default_rng(seed)
    x = jnp.asarray(np.float32(rng.normal(3, 5, (4, 6))))
    mask = jnp.asarray(rng.random((4, 6)) < 0.6).at[0, 0].set(True).at[1, 1].set(True)
    out = np.asarray(whiten(x, mask))
    chosen = out[np.asarray(mask)]
    assert abs(chosen.mean()) < 1e-5 and abs(chosen.std() - 1) < 1e-4
    assert not out[~np.asarray(mask)].any()
    scaled = np.asarray(whiten(x, mask, "scale"))[np.asarray(mask)]
    assert abs((scaled**2).mean() - 1) < 1e-4
    assert (np.sign(scaled) == np.sign(np.asarray(x)[np.asarray(mask)])).all()


def test_whitening_of_equal_values_of_one_and_of_none():
    equal = jnp.full((1, 13), 8.57375)
    assert not whiten(equal, jnp.ones((1, 13), bool)).any()
    assert not whiten(equal, jnp.arange(13)[None] < 1).any()
    for mode in ("standard", "scale", "none"):
        assert not whiten(equal * jnp.nan, jnp.zeros((1, 13), bool), mode).any()
    assert bool((whiten(equal, jnp.ones((1, 13), bool), "scale") > 0.99).all())


def test_penalties_are_named_and_add_up():
    mask = jnp.array([[1, 1, 1, 1], [1, 0, 0, 0]], bool)
    keep = jnp.array([[0, 1, 1, 0], [1, 0, 0, 0]], bool)
    flags = {"malformed": ~keep, "keep_violation": jnp.array([[0, 1, 0, 0]] * 2, bool)}
    reward = jnp.full((2, 4), 1.0)
    total, terms = shape_rewards(
        reward, mask, keep, **flags, keep_penalty=0.4, consistency_penalty=0.3
    )
    np.testing.assert_allclose(total, sum(terms.values()))
    np.testing.assert_allclose(terms["keep"], [[0, -0.1, -0.1, 0], [0, 0, 0, 0]])
    np.testing.assert_allclose(terms["malformed"], [[-0.1, 0, 0, -0.1], [0, 0, 0, 0]])
    np.testing.assert_allclose(terms["consistency"], [[0, -0.3, 0, 0], [0, 0, 0, 0]])
    assert not np.asarray(terms["inadmissible"]).any()
    wrong = shape_rewards(reward, mask, keep, **flags, inadmissible=keep, inadmissible_penalty=0.2)
    np.testing.assert_allclose(wrong[1]["inadmissible"], [[0, -0.2, -0.2, 0], [-0.2, 0, 0, 0]])
    fixed = shape_rewards(reward, mask, keep, **flags, keep_penalty=0.4, keep_penalty_mode="fixed")
    np.testing.assert_allclose(fixed[1]["keep"], [[0, -0.4, -0.4, 0], [-0.4, 0, 0, 0]])
    with pytest.raises(ValueError, match=r"keep_penalty: found -0\.3"):
        shape_rewards(reward, mask, keep, **flags, keep_penalty=-0.3)


def test_keep_violations_by_token():
    blocks = [[11, 12], [11, 12], [11, 13], [], [11, 13]]
    kept = [True] * 5
    assert token_violations(blocks, kept) == [False, False, True, False, False]
    assert token_violations(blocks, kept, requires_both=False) == [False, False, True, True, True]


@pytest.fixture
def reply() -> tuple[TurnRows, TurnGrid]:
    """Three turns of one episode in rows 0, 1, 2 of four; turn 2 has no action block.

    A row: space, space, switch, subgoal, action, action, stop, pad.
    """
    block = {k: np.zeros((4, 8), bool) for k in ("reply", "switch", "subgoal", "action")}
    block["reply"][:3, 2:7] = True
    block["switch"][:3, 2] = block["subgoal"][:3, 3] = block["action"][:2, 4:6] = True
    empty = {name: np.zeros((4, 8), np.float32) for name in TurnRows._fields}
    masks = {f"{k}_mask": v for k, v in block.items()} | {"row_mask": np.arange(4) < 3}
    rows = TurnRows(**(empty | masks))
    mask = np.array([[True, True, True, False]])
    fields = {name: np.zeros((1, 4), np.int32) for name in TurnGrid._fields}
    fields |= {"row": np.array([[0, 1, 2, 0]]), "mask": mask}
    fields |= {"boundary": np.array([[True, False, True, True]])}
    return rows, TurnGrid(**fields)


def test_spread_hierarchical(reply):
    low, high, term = (jnp.full((1, 4), v) for v in (1.0, 10.0, 100.0))
    advantage, mask = jax.jit(spread, static_argnames="hierarchical")(
        low, high, term, *reply, hierarchical=True, w_term=0.5
    )
    expected = [
        [0, 0, 50, 10, 1, 1, 0, 0],
        [0, 0, 50, 0, 1, 1, 0, 0],
        [0, 0, 50, 10, 1, 1, 1, 0],
        [0, 0, 0, 0, 0, 0, 0, 0],
    ]
    np.testing.assert_array_equal(advantage, expected)
    np.testing.assert_array_equal(mask, np.array(expected) > 0)


def test_spread_flat(reply):
    low = jnp.array([[1.0, 2, 3, 99]])
    advantage, mask = spread(low, low, low, *reply, hierarchical=False)
    np.testing.assert_array_equal(advantage[:, 2:7], [[1] * 5, [2] * 5, [3] * 5, [0] * 5])
    np.testing.assert_array_equal(mask, reply[0].reply_mask)


def test_arrange_puts_rows_in_order():
    row, grid = arrange(["b", "a", "b"], [1, 0, 0], {"reward": [1.0, 2.0, 3.0]})
    np.testing.assert_array_equal(row, [[2, 0], [1, -1]])
    np.testing.assert_array_equal(grid["reward"], [[3, 1], [2, 0]])
    assert arrange([], [], {"reward": []})[0].shape == (0, 0)


@pytest.mark.parametrize(
    ("trajectory", "turn", "message"),
    [
        (["a", "a"], [0, 0], "trajectory 'a', turn 0: rows 0 and 1 share it"),
        (["a", "a"], [0, 2], "trajectory 'a': found turns.*turn 1 is missing"),
        (["a"], [1], "turn 0 is missing"),
        (["a"], [0, 1], "found 2 rows; expected 1"),
    ],
)
def test_arrange_refuses(trajectory, turn, message):
    with pytest.raises(ValueError, match=message):
        arrange(trajectory, turn, {})


def test_check_credit_names_trajectory_and_turn():
    x = credit_inputs(6)
    whole = {k: v for k, v in live(random_inputs(6))._asdict().items() if k in x._fields}
    x = x._replace(**to_jax(whole))
    check_credit(x)
    cases = {
        "trajectory kim, turn 2: reward is not a finite": {
            "reward": x.reward.at[1, 2].set(jnp.nan)
        },
        "trajectory kim, turn 0: first turn is no": {"boundary": x.boundary.at[1, 0].set(False)},
        "trajectory kim, turn 3: hole": {"mask": x.mask.at[1, 2].set(False)},
        r"v_low: found shape \(4, 6\)": {"v_low": x.v_low[:, 1:]},
    }
    for message, change in cases.items():
        with pytest.raises(ValueError, match=message):
            check_credit(x._replace(**change), ["joe", "kim", "lee", "max"])


def test_equals_the_official_code(shared, capsys):
    assert verify_hae(shared("data/hae/examples.json")) == 0
    printed = capsys.readouterr().out
    assert "refused, as it must be: trajectory 'a', turn 2" in printed


def test_verification_fails_on_a_wrong_number(shared, tmp_path, capsys):
    examples = json.loads(shared("data/hae/examples.json").read_text())["examples"][:2]
    examples[1]["expected"]["adv_low"][0] += 1e-3
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps(examples))
    assert verify_hae(path) == 1
    assert "WRONG" in capsys.readouterr().out


def token_inputs(seed: int, layout: str, r: int = 5) -> tuple[CreditInputs, list, dict]:
    """A batch with token values, and its episodes as streams of (reward, discount, value)."""
    inputs, rng = credit_inputs(seed), np.random.default_rng(seed)
    b, t = inputs.mask.shape
    reply = np.arange(r) < rng.integers(1, r + 1, (b, t))[..., None]
    value = np.where(reply, rng.normal(size=(b, t, r)), np.nan).astype(np.float32)
    inputs = inputs._replace(v_token=jnp.asarray(value), reply_mask=jnp.asarray(reply))
    streams = []
    for i in range(b):
        turns = np.flatnonzero(np.asarray(inputs.mask[i]))
        steps = []
        for j in turns:
            slots = np.flatnonzero(reply[i, j])
            for k in slots:
                closes, ends = k == slots[-1], j == turns[-1] and bool(inputs.terminated[i])
                if layout == "episode":
                    reward = float(inputs.reward[i, j]) * closes
                    discount = (0.0 if ends else 0.9) if closes else 1.0
                else:
                    reward = float(np.asarray(inputs.reward)[i, turns].sum()) * closes
                    discount = 0.0 if closes else 1.0
                steps.append((int(j), int(k), reward, discount, float(value[i, j, k])))
        streams.append(steps)
    return inputs, streams, {"gamma": 0.9, "token_layout": layout}


@pytest.mark.parametrize("layout", ["episode", "turn"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_token_level_gae_equals_the_loop(seed, layout):
    inputs, streams, options = token_inputs(seed, layout)
    credit = estimate("flat_token_gae", inputs, lambda_token=0.8, **options)
    for i, steps in enumerate(streams):
        after, following = float(inputs.bootstrap_term[i]), 0.0
        for j, k, reward, discount, value in reversed(steps):
            following = reward + discount * (after + 0.8 * following) - value
            after = value
            advantage = float(credit.tokens.adv[i, j, k])
            assert advantage == pytest.approx(following, rel=2e-4, abs=2e-4)
            ret = float(credit.tokens.ret[i, j, k])
            assert ret == pytest.approx(following + value, rel=2e-4, abs=2e-4)
    assert not bool(credit.tokens.adv[~credit.tokens.mask].any())
