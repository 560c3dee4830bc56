"""The learner: rows to values, credit, update; traced once; blind to padding and micro-batching."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.episodes import MODEL, make_batch
from hypothesis import given
from hypothesis import strategies as st

from hiperjax.config import ConfigError, CreditConfig, CriticConfig, PpoConfig
from hiperjax.learning import least_squares
from hiperjax.learning.batches import (
    by_sequence,
    decision_scores,
    map_used,
    reply_logprobs,
    run_sequences,
)
from hiperjax.learning.credit.registry import ESTIMATORS
from hiperjax.learning.learner import Learner
from hiperjax.learning.minibatches import accumulate, make_order, split_into_minibatches
from hiperjax.learning.packing import pack, pack_final_prompts
from hiperjax.models.lora import add_adapters, partition
from hiperjax.models.transformer import (
    cast_params,
    forward,
    init_params,
    logits,
)
from hiperjax.types import Checklist, Criterion

POLICY = init_params(MODEL, jax.random.key(0))
BATCH = make_batch(5, [3, 5, 1, 4])


def make_learner(kind="features", *, credit=None, group_size=1, model=MODEL, iterations=0, **ppo):
    settings = dict(
        learning_rate=1e-2, minibatch_sequences=4, kl_coefficient=0.0, entropy_coefficient=0.0,
        weight_decay=0.0,
    )  # fmt: skip
    return Learner(
        model,
        credit=credit or CreditConfig(gamma=0.9, reward_scale=1.0),
        critic=CriticConfig(kind=kind, random_features=8, learning_rate=1e-2),
        ppo=PpoConfig(**(settings | ppo)),
        group_size=group_size,
        score_sequences=4,
        iterations=iterations,
    )


def packed(trajectories=BATCH, length=48, per_sequence=3, capacity=8, multiple=4, reply=16):
    batch = pack(
        trajectories, max_turns=6, length=length, per_sequence=per_sequence, capacity=capacity,
        multiple=multiple, reply_length=reply, trajectory_multiple=len(trajectories),
    )  # fmt: skip
    final = pack_final_prompts(trajectories, length=16)
    return batch, final


def fresh(learner):
    return learner.init(jax.tree.map(jnp.copy, POLICY), jax.random.key(1))


def assigned(learner, **options):
    batch, final = packed(**options)
    state = fresh(learner)
    scores = learner.score(state, batch, final, np.int32(batch.count))
    return batch, scores, *learner.assign(state, batch, scores)


def rows_of(batch, flags):
    """Grid flags by row."""
    out = np.zeros(len(batch.rows.row_mask), bool)
    out[batch.grid.row[batch.grid.mask]] = flags[batch.grid.mask]
    return out


@pytest.mark.parametrize("per_sequence", [1, 3])
def test_scores_of_packed_turns_are_those_of_each_alone(per_sequence):
    batch, final = packed(per_sequence=per_sequence)
    learner = make_learner()
    scores = learner.score(fresh(learner), batch, final, np.int32(batch.count))
    for b, trajectory in enumerate(BATCH):
        for t, turn in enumerate(trajectory.turns):
            i = batch.grid.row[b, t]
            row = jnp.asarray(np.concatenate([turn.prompt_ids, turn.reply_ids]))[None]
            hidden = forward(POLICY, MODEL, row, lengths=jnp.array([row.shape[1]]))
            full = jax.nn.log_softmax(logits(POLICY, MODEL, hidden))[0]
            start, n = len(turn.prompt_ids), len(turn.reply_ids)
            expected = full[np.arange(start - 1, start + n - 1), turn.reply_ids]
            np.testing.assert_allclose(scores.logprobs[i, :n], expected, atol=1e-5)
            low = start + turn.blocks.subgoal_span[1] - 1 if turn.blocks.well_formed else start - 1
            for head, at in enumerate((low, start - 1, start - 1)):
                np.testing.assert_allclose(scores.value_hidden[i, head], hidden[0, at], atol=1e-5)
        if trajectory.final_prompt_ids is not None:
            row = jnp.asarray(trajectory.final_prompt_ids)[None]
            last = forward(POLICY, MODEL, row, lengths=jnp.array([row.shape[1]]))[0, -1]
            np.testing.assert_allclose(scores.final_hidden[b], last, atol=1e-5)


def _with_prefix(trajectory, prefix):
    turns = (
        dataclasses.replace(t, prompt_ids=np.concatenate([prefix, t.prompt_ids]))
        for t in trajectory.turns
    )
    return dataclasses.replace(trajectory, turns=tuple(turns))


def test_gradients_with_the_prefix_stored_once_are_those_of_each_turn_alone():
    """Through the prefix too: its hidden states serve all turns of a sequence."""
    prefix = np.array([4, 9, 2, 17, 5], np.int32)
    batch = [_with_prefix(t, prefix) for t in BATCH]
    gradients = []
    for layout in (dict(length=64, per_sequence=4, prefix=prefix.tolist()),
                   dict(length=16, per_sequence=1)):  # fmt: skip
        found = pack(batch, max_turns=6, reply_length=16, **layout)
        sequences = jax.tree.map(jnp.asarray, found.sequences)
        reply_at, reply, advantage = (
            by_sequence(jnp.asarray(x), sequences)
            for x in (found.rows.reply_at, found.rows.reply, found.rows.behavior_logprobs)
        )

        def loss(policy, sequences=sequences, at=reply_at, reply=reply, weight=advantage):
            hidden = run_sequences(policy, MODEL, sequences)
            places = sequences.reply_index, at, reply
            logprobs, entropy = reply_logprobs(policy, MODEL, hidden, *places)
            return jnp.sum(weight * logprobs) + jnp.sum(entropy)

        gradients.append(jax.jit(jax.value_and_grad(loss))(POLICY))
    chex.assert_trees_all_close(*gradients, atol=1e-5, rtol=1e-5)


def test_the_samplers_logprobs_serve_as_old_ones_until_they_are_off():
    batch, final = packed()
    learner = make_learner("separate", mismatch_bound=100.0)
    state = fresh(learner)
    trusted, passes = learner.score_or_rescore(state, batch, final)
    assert not bool(trusted.rescored) and int(trusted.scored.sum()) == 4 * 3, "one slice is read"
    assert passes == 1 + 4 / batch.count
    _, prepared, _, _ = learner.assign(fresh(learner), batch, trusted)
    sampled = np.asarray(batch.rows.behavior_logprobs)
    np.testing.assert_array_equal(prepared.old_logprobs.reshape(sampled.shape), sampled)
    strict = make_learner("separate", mismatch_bound=1e-3)  # these log-probs were made up
    scores, passes = strict.score_or_rescore(state, batch, final)
    assert passes == 2 + 4 / batch.count
    _, prepared, _, metrics = strict.assign(fresh(strict), batch, scores)
    assert bool(scores.rescored) and metrics["rescored"] == 1 and metrics["mismatch_mean"] > 1e-3
    row = batch.rows.row_mask & np.asarray(scores.scored)
    assert row.sum() == batch.rows.row_mask.sum(), "then every sequence is scored"
    np.testing.assert_array_equal(prepared.old_logprobs.reshape(sampled.shape), scores.logprobs)


def test_turns_of_one_sequence_do_not_see_each_other():
    """By gradient: a hidden state moves with the tokens of its own turn only."""
    sequences = jax.tree.map(jnp.asarray, packed()[0].sequences)
    embedding = POLICY["embedding"]

    def read_at(at):
        def hidden(table):  # each token of sequence 0 gets an embedding of its own
            own = sequences._replace(
                tokens=jnp.arange(sequences.tokens.shape[1], dtype=jnp.int32)[None],
                token_mask=sequences.token_mask[:1], segment=sequences.segment[:1],
                position=sequences.position[:1], reply_index=sequences.reply_index[:1],
            )  # fmt: skip
            return run_sequences(POLICY | {"embedding": table}, MODEL, own)[0, at].sum()

        return jnp.abs(jax.grad(hidden)(embedding[sequences.tokens[0]])).sum(axis=1) > 0

    segment = np.asarray(sequences.segment[0])
    assert segment.max() > 1
    for at in np.flatnonzero(segment)[::5]:
        reach = np.asarray(read_at(int(at)))
        own = (segment == segment[at]) & (np.arange(len(segment)) <= at)
        np.testing.assert_array_equal(reach, own)


def test_map_used_runs_the_used_part_only():
    x = jnp.arange(10.0)
    out = map_used(lambda part: part + 1, x, jnp.int32(5), 4)
    assert out.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 0, 0]


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
    rows = batch.rows
    mask = np.asarray(prepared.loss_mask).reshape(rows.reply.shape)
    advantage = np.asarray(prepared.advantage).reshape(rows.reply.shape)
    boundary = rows_of(batch, batch.grid.boundary)
    well_formed = rows_of(batch, batch.grid.well_formed)
    assert mask[rows.switch_mask].all() and mask[rows.action_mask].all()
    assert not (mask & rows.subgoal_mask)[~boundary].any()
    assert (mask & rows.subgoal_mask)[boundary & well_formed].any()
    assert not mask[~rows.row_mask].any() and not mask[~rows.reply_mask].any()
    assert (advantage[~mask] == 0).all()


COEFFICIENTS = [f.name for f in dataclasses.fields(PpoConfig) if f.name.endswith("_coefficient")]
LAYOUTS = [(3, 48, 8, 0), (1, 16, 24, 8), (4, 96, 32, 8)]


SLOW = pytest.mark.slow(reason="eight learners, traced one by one; together they are always tested")


@pytest.mark.parametrize(
    ("kind", "terms", "layouts"),
    [
        ("features", dict.fromkeys(COEFFICIENTS, 1.0), LAYOUTS),
        ("features", {"ratio": "block", "average": "reply"}, LAYOUTS[:2]),
        ("shared", {}, LAYOUTS[:2]),
        ("separate", {}, LAYOUTS[:2]),
    ]
    + [pytest.param("features", {name: 1.0}, LAYOUTS[:2], marks=SLOW) for name in COEFFICIENTS]
    + [
        pytest.param("features", {"ratio": ratio, "average": average}, LAYOUTS, marks=SLOW)
        for ratio in ("block", "reply")
        for average in ("ratio", "constant")
    ],
)
def test_packing_padding_and_micro_batches_change_nothing(kind, terms, layouts):
    """One step over the whole batch is the same however it is laid out, whatever is in the loss."""
    results = []
    for per_sequence, length, capacity, micro in layouts:
        learner = make_learner(kind, micro_sequences=micro, minibatch_sequences=capacity, **terms)
        batch, final = packed(
            per_sequence=per_sequence, length=length, capacity=capacity, multiple=capacity
        )
        state = fresh(learner)
        if state.reference is not None:  # where it equals the policy its term has no gradient
            state = state._replace(reference=jax.tree.map(lambda x: 0.7 * x, state.reference))
        state, metrics, *_ = learner.learn(state, batch, final, key=jax.random.key(3))
        results.append((state.policy, metrics))
    for policy, metrics in results[1:]:
        chex.assert_trees_all_close(policy, results[0][0], atol=3e-5)
        losses = {name for name in metrics if "loss" in name or name in ("kl_old", "kl_reference")}
        for name in ("advantage_std_low", "grad_norm", "entropy", *losses):
            expected = results[0][1][name]
            np.testing.assert_allclose(metrics[name], expected, rtol=2e-3, atol=1e-5, err_msg=name)


@functools.cache
def prepared_batch():
    """The batch as it enters the update, with a reference that differs from the policy."""
    _, _, _, prepared, _, _ = assigned(make_learner())
    return prepared._replace(ref_logprobs=prepared.ref_logprobs - 0.5)


def grad_norm(**coefficients):
    learner = make_learner(**coefficients)
    order = np.arange(8, dtype=np.int32)[None]
    return float(
        learner.update(fresh(learner), prepared_batch(), order, np.int32(1))[1]["grad_norm"]
    )


@functools.cache
def grad_norm_without():
    return grad_norm()


@pytest.mark.parametrize("coefficient", COEFFICIENTS)
def test_every_coefficient_moves_the_policy(coefficient):
    """So that the test above tests it."""
    assert abs(grad_norm(**{coefficient: 30.0}) / grad_norm_without() - 1) > 1e-3


@pytest.mark.parametrize("kind", ["features", "separate"])
def test_value_gradients_do_not_reach_the_policy(kind):
    """Without a policy gradient (weights of all streams zero) the policy stands still."""
    credit = CreditConfig(weight_low=0.0, weight_high=0.0, weight_term=0.0)
    learner = make_learner(kind, credit=credit)
    batch, final = packed()
    state = learner.learn(fresh(learner), batch, final, key=jax.random.key(0)).state
    chex.assert_trees_all_close(state.policy, POLICY, atol=1e-7)
    assert float(jnp.abs(state.critic.heads["kernel"]).max()) > 0, "the critic did learn"


@pytest.mark.parametrize("kind", ["features", "shared", "separate"])
def test_the_critic_is_warm_before_the_first_policy_step(kind):
    """The first batch's advantages are taken against values that already know something."""
    learner = make_learner(kind)
    batch, final = packed()
    state, metrics, *_ = learner.learn(fresh(learner), batch, final, key=jax.random.key(0))
    assert int(state.batches) == 1
    assert float(jnp.abs(state.critic.heads["kernel"]).max()) > 0
    assert np.isfinite(float(metrics["policy_loss"]))
    if kind == "features":
        assert float(jnp.abs(assigned(learner)[4].v_term).max()) > 0


ADAPTED = dataclasses.replace(MODEL, lora_rank=2, lora_alpha=4.0, dtype="bfloat16")


def adapted_policy():
    base = cast_params(POLICY, ADAPTED.dtype)
    return add_adapters(base, ADAPTED, jax.random.key(7))


@pytest.mark.parametrize("kind", ["lora", "shared"])
def test_adapters_alone_are_trained(kind):
    """Gradients, optimizer state and, in the lora critic, a second set exist for them alone."""
    learner = make_learner(kind, model=ADAPTED, kl_coefficient=0.1, micro_sequences=2)
    policy = adapted_policy()
    adapters, base = jax.tree.map(np.asarray, partition(policy))
    state = learner.init(policy, jax.random.key(1))
    started = jax.tree.map(lambda x: x.astype(ADAPTED.dtype), adapters)
    chex.assert_trees_all_equal(state.reference, started)
    count = len(jax.tree.leaves(adapters))
    moments = [x for x in jax.tree.leaves(state.optimizer) if x.ndim]
    assert len(moments) == 2 * count and {x.dtype for x in moments} == {jnp.dtype("float32")}
    batch, final = packed()
    first = learner.score(state, batch, final, np.int32(batch.count))
    np.testing.assert_array_equal(first.ref_logprobs, first.logprobs)
    trunk = None if kind == "shared" else jax.tree.map(np.asarray, state.critic.trunk)
    state, metrics, *_ = learner.learn(state, batch, final, key=jax.random.key(0))
    moved, kept = partition(state.policy)
    chex.assert_trees_all_equal(kept, base)
    assert {x.dtype for x in jax.tree.leaves(kept)} == {jnp.dtype("bfloat16")}
    changed = [np.abs(a - b).max() > 0 for a, b in zip(*map(jax.tree.leaves, (moved, adapters)),
                                                      strict=True)]  # fmt: skip
    assert sum(changed) >= count // 2, "B moves at once, A once B is not zero"
    assert np.isfinite(float(metrics["policy_loss"])) and metrics["skipped_steps"] == 0
    if trunk is not None:
        assert jax.tree.structure(state.critic.trunk) == jax.tree.structure(adapters)
        fitted = jax.tree.leaves(state.critic.trunk)
        assert any(np.abs(a - b).max() > 0 for a, b in zip(fitted, jax.tree.leaves(trunk),
                                                          strict=True))  # fmt: skip
    after = learner.score(state, batch, final, np.int32(batch.count))
    np.testing.assert_array_equal(after.ref_logprobs, first.logprobs)
    assert np.abs(after.logprobs - after.ref_logprobs).max() > 0


def test_the_lora_critic_does_not_move_the_policy():
    credit = CreditConfig(weight_low=0.0, weight_high=0.0, weight_term=0.0)
    learner = make_learner("lora", credit=credit, model=ADAPTED)
    policy = adapted_policy()
    before = jax.tree.map(np.asarray, policy)
    batch, final = packed()
    state = learner.init(policy, jax.random.key(1))
    state = learner.learn(state, batch, final, key=jax.random.key(0)).state
    chex.assert_trees_all_close(state.policy, before, atol=1e-7)
    assert float(jnp.abs(state.critic.heads["kernel"]).max()) > 0, "the critic did learn"


def test_the_reference_is_kept_in_the_dtype_it_is_used_in():
    model = dataclasses.replace(MODEL, dtype="bfloat16")
    learner = make_learner(model=model, kl_coefficient=0.1)
    state = fresh(learner)
    assert {x.dtype for x in jax.tree.leaves(state.reference)} == {jnp.dtype("bfloat16")}
    assert {x.dtype for x in jax.tree.leaves(state.policy)} == {jnp.dtype("float32")}
    batch, final = packed()
    scores = learner.score(state, batch, final, np.int32(batch.count))
    np.testing.assert_array_equal(scores.ref_logprobs, scores.logprobs)


def test_malformed_turns_take_the_term_value_and_stay_out_of_the_low_fit():
    batch, _, _, prepared, inputs, _ = assigned(make_learner())
    malformed = rows_of(batch, ~batch.grid.well_formed)
    assert malformed.any()
    value_mask = np.asarray(prepared.value_mask).reshape(-1, 3)
    assert not value_mask[malformed, 0].any() and value_mask[malformed, 2].all()
    at = batch.rows.value_at[malformed]
    assert (at[:, 0] == at[:, 2]).all()
    assert not np.asarray(inputs.low_value_mask)[batch.grid.mask & ~batch.grid.well_formed].any()


def test_truncated_episodes_are_bootstrapped_as_asked():
    bootstraps = {}
    for kind in ("proper", "none"):
        credit = CreditConfig(gamma=0.9, reward_scale=1.0, bootstrap=kind)
        bootstraps[kind] = np.asarray(assigned(make_learner(credit=credit))[4].bootstrap_term)
    assert bootstraps["proper"].any() and not bootstraps["none"].any()


def test_a_non_finite_step_is_skipped_and_counted():
    learner = make_learner()
    _, _, state, prepared, _, _ = assigned(learner)
    before = jax.tree.map(np.asarray, state.policy)
    broken = prepared._replace(
        advantage=prepared.advantage.at[0, 0, 0].set(jnp.nan),
        loss_mask=prepared.loss_mask.at[0, 0, 0].set(True),
    )
    order = np.arange(8, dtype=np.int32)[None]
    state, metrics = learner.update(state, broken, order, np.int32(1))
    chex.assert_trees_all_equal(jax.tree.map(np.asarray, state.policy), before)
    assert metrics["skipped_steps"] == 1 and int(state.skipped) == 1 and int(state.step) == 0


def test_parameters_that_would_not_be_finite_are_a_fault_that_is_not_kept():
    """The gradient is finite; the step it asks for is not."""
    learner = make_learner(learning_rate=3e38, weight_decay=1e3)
    _, _, state, prepared, _, _ = assigned(learner)
    before = jax.tree.map(np.asarray, state.policy)
    state, metrics = learner.update(
        state, prepared, np.arange(8, dtype=np.int32)[None], np.int32(1)
    )
    assert np.isfinite(metrics["grad_norm"]) and metrics["skipped_steps"] == 1
    assert int(state.skipped) == 1 and int(state.step) == 0
    chex.assert_trees_all_equal(jax.tree.map(np.asarray, state.policy), before)


def test_batches_of_any_fill_share_one_compilation():
    learner = make_learner(clip=0.21)  # its own compiled programs: equal learners share theirs
    state = fresh(learner)
    steps = (Learner.score, Learner.assign, Learner.update)
    before = [step._cache_size() for step in steps]
    for seed, sizes in ((5, [3, 5, 1, 4]), (6, [1, 1, 2, 1]), (7, [4, 4, 2, 3])):
        batch, final = packed(make_batch(seed, sizes), capacity=12)
        state = learner.learn(state, batch, final, key=jax.random.key(seed)).state
    assert [step._cache_size() - n for step, n in zip(steps, before, strict=True)] == [1, 1, 1]


def test_a_step_moves_by_the_share_of_the_learning_rate_that_is_left():
    learner = make_learner(learning_rate_end=0.2, iterations=11)
    moves = []
    for number in (0, 5, 10, 29):
        _, _, state, prepared, _, _ = assigned(learner)
        before = np.array(state.policy["embedding"])
        order = np.arange(8, dtype=np.int32)[None]
        state = state._replace(batches=jnp.full_like(state.batches, number))
        state, _ = learner.update(state, prepared, order, np.int32(1))
        moves.append(np.array(state.policy["embedding"]) - before)
    assert np.abs(moves[0]).max() > 1e-3
    for move, share in zip(moves, (1.0, 0.6, 0.2, 0.2), strict=True):
        np.testing.assert_allclose(move, share * moves[0], atol=1e-6)


@pytest.mark.parametrize("kind", ["features", "shared", "separate"])
def test_the_work_of_an_iteration_is_told_with_its_result(kind):
    learner = make_learner(kind, epochs=2, mismatch_bound=100.0, micro_sequences=2)
    batch, final = packed()
    state, counts = fresh(learner), []
    for i in range(2):
        state, metrics, work, _ = learner.learn(state, batch, final, key=jax.random.key(i))
        assert not any(name.startswith("passes") for name in metrics)
        assert sum(work.minibatch_sizes) == batch.count and work.score_sequences == 4
        counts.append((work.score_passes, work.update_passes))
    slice_ = 4 / batch.count  # of log-probs, where the critic's trunk is another
    assert (
        counts
        == {
            "features": [(1, 2), (1, 2)],
            "shared": [(2, 2 + 4), (1, 2)],
            "separate": [(2 + 2 * slice_, 2 + 4), (1 + slice_, 2 + 2)],
        }[kind]
    )
    assert int(state.batches) == 2 and int(state.step) == 4 * len(work.minibatch_sizes)


def test_learning_makes_good_replies_likelier():
    """Repeated updates on one batch raise the log-prob of tokens with positive advantage."""
    learner = make_learner(credit=CreditConfig(estimator="flat_gae", gamma=1.0, reward_scale=1.0))
    batch, scores, state, prepared, _, _ = assigned(learner)
    before = np.asarray(scores.logprobs)
    prepared = prepared._replace(old_logprobs=scores.logprobs.reshape(prepared.reply.shape))
    order = np.tile(np.arange(8, dtype=np.int32), (5, 1))
    state, _ = learner.update(state, prepared, order, np.int32(5))
    after = np.asarray(learner.score(state, batch, packed()[1], np.int32(batch.count)).logprobs)
    advantage = np.where(prepared.loss_mask, prepared.advantage, 0).reshape(before.shape)
    assert ((after - before) * advantage).sum() > 0


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_is_wired_from_scores_to_tokens(name):
    """Traced, not compiled: shapes and fields meet, and every live turn's reply is trained."""
    credit = CreditConfig(estimator=name, gamma=0.9, reward_scale=1.0)
    learner = make_learner("separate", credit=credit, group_size=2)
    listed = Checklist((Criterion("done", "Is it?", 1.0),))
    batch, final = packed([dataclasses.replace(t, checklist=listed) for t in BATCH])
    state = jax.eval_shape(lambda: fresh(learner))
    scores = jax.eval_shape(learner.score, state, batch, final, np.int32(0))
    _, prepared, _, metrics = jax.eval_shape(learner.assign, state, batch, scores)
    assert prepared.advantage.shape == prepared.reply.shape
    assert (prepared.tokens is not None) == ESTIMATORS[name].per_token
    shown = {key.rsplit("_", 1)[1] for key in metrics if key.startswith("explained")}
    assert shown == set(ESTIMATORS[name].heads)


@pytest.mark.parametrize("kind", ["shared", "separate"])
def test_token_level_gae_trains_a_value_before_every_token(kind):
    credit = CreditConfig(estimator="flat_token_gae", gamma=0.9, reward_scale=1.0)
    learner = make_learner(kind, credit=credit)
    batch, final = packed()
    state, first, *_ = learner.learn(fresh(learner), batch, final, key=jax.random.key(0))
    for i in range(12):
        state, last, *_ = learner.learn(state, batch, final, key=jax.random.key(i))
    assert last["explained_variance_term"] > max(0.1, float(first["explained_variance_term"]))
    scores = learner.score(state, batch, final, np.int32(batch.count))
    _, prepared, _, _ = learner.assign(state, batch, scores)
    reply = batch.rows.reply_mask & batch.rows.row_mask[:, None]
    assert (np.asarray(prepared.loss_mask).reshape(reply.shape) == reply).all()
    advantage = np.asarray(prepared.advantage).reshape(reply.shape)
    assert min(len(np.unique(a[r])) for a, r in zip(advantage, reply, strict=True) if r.any()) > 1


def test_token_level_gae_refuses_a_critic_fitted_once_a_turn():
    with pytest.raises(ConfigError, match="a value at every token"):
        make_learner(credit=CreditConfig(estimator="flat_token_gae"))


def test_signals_are_the_gradient_by_a_shift_of_the_hidden_states():
    batch, _ = packed()
    found = decision_scores(POLICY, MODEL, batch, temperature=1.0, size=4)
    b, t = 1, 2
    turn = BATCH[b].turns[t]
    row = jnp.asarray(np.concatenate([turn.prompt_ids, turn.reply_ids]))[None]
    hidden = forward(POLICY, MODEL, row, lengths=jnp.array([row.shape[1]]))
    start, n = len(turn.prompt_ids), len(turn.reply_ids)

    def logprob(shift, span):
        table = jax.nn.log_softmax(logits(POLICY, MODEL, hidden + shift[None, None]))[0]
        own = table[np.arange(start - 1, start + n - 1), turn.reply_ids]
        return own[span[0] : span[1]].sum()

    zero = jnp.zeros(MODEL.hidden_size)
    for i, name in enumerate(("action", "subgoal", "switch")):
        expected = jax.grad(logprob)(zero, getattr(turn.blocks, f"{name}_span"))
        np.testing.assert_allclose(found[b, t, i], expected, atol=1e-5)


def test_orders_visit_every_sequence_once_a_pass():
    sizes = split_into_minibatches(13, 8)
    order, steps = make_order(jax.random.key(0), sizes=sizes, total=24, room=8, epochs=3)
    assert order.shape == (9, 8) and steps == 6
    for start in (0, 2, 4):
        assert sorted(order[start : start + 2].ravel()) == list(range(16))
        assert [int((row < 13).sum()) for row in order[start : start + 2]] == sizes == [7, 6]
    assert (order[0] != order[2]).any(), "another shuffle each pass"
    with pytest.raises(ValueError, match="expected a multiple of the minibatch, 8"):
        make_order(jax.random.key(0), sizes=sizes, total=13, room=8, epochs=1)


@given(st.integers(1, 500), st.integers(1, 8), st.integers(1, 12))
def test_sequences_are_split_evenly_and_in_whole_micro_batches(count, micro, groups):
    size = micro * groups
    even, split = split_into_minibatches(count, size), split_into_minibatches(count, size, micro)
    assert sum(split) == sum(even) == count
    assert len(split) == len(even) and 0 < min(split) <= max(split) <= size
    assert max(even) - min(even) <= 1 and max(split) - min(split) <= micro

    def rows(sizes):
        return sum(-(-part // micro) * micro for part in sizes)

    assert rows(split) <= rows(even)
    if min(split) < min(even):
        assert rows(split) - count < micro, "no step but one is filled up"
        assert max(split) <= 1.25 * (min(split) + micro)


def test_an_order_follows_the_split():
    sizes = split_into_minibatches(45, 20, 2)
    order, steps = make_order(jax.random.key(1), sizes=sizes, total=60, room=20, epochs=2)
    found = [int((row < 45).sum()) for row in order[:steps]]
    assert found == 2 * sizes == 2 * [15, 16, 14]
    assert sorted(order[:3].ravel()) == list(range(60))


def test_layers_are_cast_once_and_gradients_are_those_of_the_masters():
    """bfloat16: to the bit, added up in float32; the copy is made before the micro-batches."""
    model = dataclasses.replace(MODEL, dtype="bfloat16")
    batch, _ = packed(capacity=4)
    shapes = jax.eval_shape(
        lambda: assigned(make_learner(), capacity=4)[3]  # a batch as the update takes it
    )
    part = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), shapes)
    part = part._replace(sequences=jax.tree.map(jnp.asarray, batch.sequences))

    def loss(policy, part, counts):
        hidden = run_sequences(policy, model, part.sequences).astype(jnp.float32)
        weight = jnp.cos(jnp.arange(hidden.size, dtype=jnp.float32)).reshape(hidden.shape)
        return jnp.sum(weight * hidden), {}

    def gradient(dtype):
        def run(policy, part):
            return accumulate(loss, policy, part, 2, dtype=dtype)[0]

        steps = jax.make_jaxpr(run)(POLICY, part).eqns
        (loop,) = (step for step in steps if step.primitive.name == "while")
        return jax.jit(run)(POLICY, part), [(x.aval.shape, x.aval.dtype) for x in loop.invars]

    (masters, plain), (cast, given) = gradient("float32"), gradient("bfloat16")
    chex.assert_trees_all_equal(cast, masters)
    assert {x.dtype for x in jax.tree.leaves(cast)} == {np.dtype("float32")}
    copy = (2, 16, 24), jnp.dtype("bfloat16")  # an up projection, of both layers
    assert copy in given and copy not in plain
