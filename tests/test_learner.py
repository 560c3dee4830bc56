"""The learner: rows to values, credit, update; traced once; blind to padding and micro-batching."""


import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from episodes import VOCABULARY, make_batch
from hiperjax.config import CreditConfig, CriticConfig, PpoConfig
from hiperjax.learning import critic as least_squares
from hiperjax.learning.learner import Learner, make_order, take_reply
from hiperjax.learning.packing import pack, pack_prompts
from hiperjax.models.transformer import TransformerConfig, forward, init_params, logits

MODEL = TransformerConfig(
    vocab_size=VOCABULARY, hidden_size=16, intermediate_size=24, num_layers=2, num_heads=2,
    num_kv_heads=1, head_dim=8, embedding_std=0.5,
)  # fmt: skip
POLICY = init_params(MODEL, jax.random.key(0))
BATCH = make_batch(5, [3, 5, 1, 4])
REPLY = 16


def make_learner(kind="features", *, credit=None, **ppo):
    settings = dict(
        learning_rate=1e-2, minibatch_rows=8, kl_coefficient=0.0, entropy_coefficient=0.0,
        weight_decay=0.0,
    )  # fmt: skip
    return Learner(
        MODEL,
        credit=credit or CreditConfig(gamma=0.9, reward_scale=1.0),
        critic=CriticConfig(kind=kind, random_features=8, learning_rate=1e-2),
        ppo=PpoConfig(**(settings | ppo)),
        score_rows=4,
    )


def packed(trajectories=BATCH, row_multiple=8, length_multiple=16, multiple=4):
    batch = pack(
        trajectories, max_turns=6, row_multiple=row_multiple, length_multiple=length_multiple,
        trajectory_multiple=multiple,
    )  # fmt: skip
    final = pack_prompts(
        [t.final_prompt_ids for t in trajectories], length_multiple=8, row_multiple=multiple
    )
    return batch, final


def fresh(learner):
    return learner.init(jax.tree.map(jnp.copy, POLICY), jax.random.key(1))


def assigned(learner, **options):
    batch, final = packed(**options)
    state = fresh(learner)
    scores = learner.score(state, batch.rows, *final, reply_length=REPLY)
    return batch, scores, *learner.assign(state, batch, scores)


def test_scores_are_the_plain_forward_pass():
    batch, final = packed()
    learner = make_learner()
    scores = learner.score(fresh(learner), batch.rows, *final, reply_length=REPLY)
    i = 0
    for trajectory in BATCH:
        for turn in trajectory.turns:
            row = jnp.asarray(np.concatenate([turn.prompt_ids, turn.response_ids]))[None]
            hidden = forward(POLICY, MODEL, row, lengths=jnp.array([row.shape[1]]))
            full = jax.nn.log_softmax(logits(POLICY, MODEL, hidden))[0]
            start, n = len(turn.prompt_ids), len(turn.response_ids)
            expected = full[np.arange(start - 1, start + n - 1), turn.response_ids]
            np.testing.assert_allclose(scores.logprobs[i, :n], expected, atol=1e-5)
            for head in range(3):
                np.testing.assert_allclose(
                    scores.value_hidden[i, head], hidden[0, batch.rows.value_at[i, head]], atol=1e-5
                )
            i += 1


def test_least_squares_equals_the_textbook_ridge():
    """On rows remembered in two batches, against numpy's solver on the stacked problem."""
    rng = np.random.default_rng(0)
    features, targets = rng.normal(size=(40, 5)), rng.normal(size=(40, 3))
    mask = rng.random((40, 3)) < 0.7
    memory = least_squares.empty_memory(5, 2)
    as_jax = [jnp.asarray(x, jnp.float32) for x in (np.repeat(features[:, None], 3, 1), targets)]
    for slot, part in enumerate((slice(0, 25), slice(25, 40))):
        moments = least_squares.measure(as_jax[0][part], as_jax[1][part], jnp.asarray(mask[part]))
        memory = least_squares.remember(memory, moments, jnp.int32(slot))
    solved = least_squares.solve(memory, 3.0)
    for head in range(3):
        x, y = features[mask[:, head]], targets[mask[:, head], head]
        centered = x - x.mean(axis=0)
        penalty = np.sqrt(3.0 * centered.var(axis=0).mean()) * np.eye(5)
        stacked = np.concatenate([centered, penalty]), np.concatenate([y - y.mean(), np.zeros(5)])
        slope = np.linalg.lstsq(*stacked, rcond=None)[0]
        np.testing.assert_allclose(solved["kernel"][:, head], slope, atol=1e-4)
        bias = y.mean() - x.mean(axis=0) @ slope
        np.testing.assert_allclose(solved["bias"][head], bias, atol=1e-4)


def test_a_feature_alive_in_one_row_does_not_blow_up():
    rng = np.random.default_rng(1)
    features = rng.normal(size=(60, 1, 4)).repeat(3, axis=1)
    features[:, :, 3] = 0.0
    features[7, :, 3] = 1e-3
    memory = least_squares.measure(
        jnp.asarray(features, jnp.float32),
        jnp.asarray(rng.normal(size=(60, 3)), jnp.float32),
        jnp.ones((60, 3), bool),
    )
    heads = least_squares.solve(jax.tree.map(lambda x: x[None], memory), 1.0)
    assert float(jnp.abs(heads["kernel"]).max()) < 3


def test_advantages_stand_on_their_own_blocks_only():
    batch, _, _, prepared, _, _ = assigned(make_learner())
    start = prepared.reply_at
    on = {
        name: np.asarray(take_reply(jnp.asarray(getattr(batch.rows, f"{name}_mask")), start, REPLY))
        for name in ("switch", "subgoal", "action")
    }
    mask = np.asarray(prepared.loss_mask)
    boundary = np.zeros(len(mask), bool)
    boundary[batch.grid.row[batch.grid.mask]] = batch.grid.boundary[batch.grid.mask]
    well_formed = np.zeros(len(mask), bool)
    well_formed[batch.grid.row[batch.grid.mask]] = batch.grid.well_formed[batch.grid.mask]
    assert mask[on["switch"]].all() and mask[on["action"]].all()
    assert not (mask & on["subgoal"])[~boundary].any()
    assert (mask & on["subgoal"])[boundary & well_formed].any()
    assert not mask[~batch.rows.row_mask].any()
    assert (np.asarray(prepared.advantage)[~mask] == 0).all()


@pytest.mark.parametrize("kind", ["features", "shared", "separate"])
def test_padding_and_micro_batches_change_nothing(kind):
    """The same step whatever the padded shape and the size of a micro-batch."""
    results = []
    for row_multiple, length_multiple, micro in ((8, 16, 0), (32, 64, 4)):
        learner = make_learner(kind, micro_rows=micro, minibatch_rows=16)
        row_multiple = max(16, row_multiple)
        batch, final = packed(row_multiple=row_multiple, length_multiple=length_multiple)
        state, metrics = learner.learn(
            fresh(learner), batch, final, key=jax.random.key(3), reply_length=REPLY
        )
        results.append((state.policy, metrics))
    for a, b in zip(jax.tree.leaves(results[0][0]), jax.tree.leaves(results[1][0]), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)
    for name in ("policy_loss", "advantage_std_low", "grad_norm", "entropy"):
        np.testing.assert_allclose(results[0][1][name], results[1][1][name], rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("kind", ["features", "separate"])
def test_value_gradients_do_not_reach_the_policy(kind):
    """Without a policy gradient (weights of all streams zero) the policy stands still."""
    credit = CreditConfig(weight_low=0.0, weight_high=0.0, weight_term=0.0)
    learner = make_learner(kind, credit=credit)
    batch, final = packed()
    state, _ = learner.learn(fresh(learner), batch, final, key=jax.random.key(0), reply_length=REPLY)
    chex.assert_trees_all_close(state.policy, POLICY, atol=1e-7)
    assert float(jnp.abs(state.critic.heads["kernel"]).max()) > 0, "the critic did learn"


def test_the_critic_is_warm_before_the_first_policy_step():
    for kind in ("features", "shared", "separate"):
        _, _, state, _, inputs, _ = assigned(make_learner("features"))
        learner = make_learner(kind)
        batch, final = packed()
        state, metrics = learner.learn(
            fresh(learner), batch, final, key=jax.random.key(0), reply_length=REPLY
        )
        assert float(jnp.abs(state.critic.heads["kernel"]).max()) > 0
        assert np.isfinite(float(metrics["policy_loss"]))
        assert float(jnp.abs(inputs.v_term).max()) > 0


def test_malformed_turns_take_the_term_value_and_stay_out_of_the_low_fit():
    batch, _, _, prepared, inputs, _ = assigned(make_learner())
    malformed = batch.grid.mask & ~batch.grid.well_formed
    assert malformed.any()
    rows = batch.grid.row[malformed]
    assert not np.asarray(prepared.value_mask)[rows, 0].any()
    assert np.asarray(prepared.value_mask)[rows, 2].all()
    at = np.asarray(batch.rows.value_at)[rows]
    assert (at[:, 0] == at[:, 2]).all()
    assert not np.asarray(inputs.low_fit)[malformed].any()


def test_a_non_finite_step_is_skipped_and_counted():
    learner = make_learner()
    _, _, state, prepared, _, _ = assigned(learner)
    before = jax.tree.map(np.asarray, state.policy)
    broken = prepared._replace(advantage=prepared.advantage.at[0, 0].set(jnp.nan))
    broken = broken._replace(loss_mask=broken.loss_mask.at[0, 0].set(True))
    rows = prepared.tokens.shape[0]
    state, metrics = learner.update(state, broken, np.arange(rows, dtype=np.int32)[None])
    chex.assert_trees_all_equal(jax.tree.map(np.asarray, state.policy), before)
    assert metrics["skipped_steps"] == 1 and int(state.skipped) == 1 and int(state.step) == 0


def test_one_trace_a_shape():
    """A second batch of the same bucket compiles nothing."""
    learner = make_learner()
    state = fresh(learner)
    for seed in (5, 6):
        batch, final = packed(make_batch(seed, [3, 5, 1, 4]), row_multiple=16, length_multiple=32)
        with jax.log_compiles(False):
            state, _ = learner.learn(
                state, batch, final, key=jax.random.key(seed), reply_length=REPLY
            )
    assert learner.score._cache_size() >= 1
    sizes = [f._cache_size() for f in (Learner.score, Learner.assign, Learner.update)]
    batch, final = packed(make_batch(7, [4, 4, 2, 3]), row_multiple=16, length_multiple=32)
    learner.learn(state, batch, final, key=jax.random.key(9), reply_length=REPLY)
    assert [f._cache_size() for f in (Learner.score, Learner.assign, Learner.update)] == sizes


def test_learning_makes_good_replies_likelier():
    """Repeated updates on one batch raise the log-prob of tokens with positive advantage."""
    credit = CreditConfig(estimator="flat_gae", gamma=1.0, reward_scale=1.0)
    learner = make_learner(credit=credit)
    _, scores, state, prepared, _, _ = assigned(learner)
    before = np.asarray(scores.logprobs)
    rows = prepared.tokens.shape[0]
    prepared = prepared._replace(old_logprobs=jnp.asarray(before))
    order = np.tile(np.arange(rows, dtype=np.int32), (5, 1))
    state, _ = learner.update(state, prepared, order)
    batch, final = packed()
    after = np.asarray(learner.score(state, batch.rows, *final, reply_length=REPLY).logprobs)
    advantage = np.where(prepared.loss_mask, prepared.advantage, 0)
    assert ((after - before) * advantage).sum() > 0


def test_orders_visit_every_row_once_a_pass():
    order = make_order(jax.random.key(0), 13, 16, 8, 3)
    assert order.shape == (6, 8)
    for start in (0, 2, 4):
        assert sorted(order[start : start + 2].ravel()) == list(range(16))
    assert (order[0] != order[2]).any(), "another shuffle each pass"
    with pytest.raises(ValueError, match="expected a multiple of the minibatch, 8"):
        make_order(jax.random.key(0), 13, 13, 8, 1)


