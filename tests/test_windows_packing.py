"""Packed windows: each is one segment, its turns are rows, and nothing else is seen or lost."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.episodes import MODEL, VOCABULARY, make_batch
from helpers.windows import grow_windows, list_contexts
from hypothesis import given
from hypothesis import strategies as st

from hiperjax.config import CreditConfig, CriticConfig, PpoConfig
from hiperjax.learning.batches import by_sequence, reply_logprobs, run_sequences
from hiperjax.learning.layout import lay_out, split_windows
from hiperjax.learning.learner import Learner
from hiperjax.learning.packing import pack, pack_windows
from hiperjax.models.transformer import forward, init_params, logits

POLICY = init_params(MODEL, jax.random.key(0))
EPISODES = [grow_windows(t, i) for i, t in enumerate(make_batch(3, [3, 5, 1, 4]))]
lengths = st.lists(st.integers(1, 6), min_size=1, max_size=6)


def packed(trajectories=EPISODES, **options):
    settings = dict(max_turns=6, length=64, per_sequence=6, multiple=2, grown=True)
    return pack(trajectories, **(settings | options))


@given(st.integers(0, 99), lengths, st.sampled_from([16, 64]), st.integers(1, 9))
def test_every_window_is_a_segment_and_every_turn_a_row(seed, sizes, length, per_sequence):
    batch = [grow_windows(t, seed) for t in make_batch(seed, sizes)]
    sequences, rows, grid, count = packed(batch, length=length, per_sequence=per_sequence)
    k = len(rows.reply) // len(sequences.tokens)
    assert k >= per_sequence, "a window is never split"
    seen = []
    for b, trajectory in enumerate(batch):
        contexts = iter(list_contexts(trajectory))
        at = 0
        for t, turn in enumerate(trajectory.turns):
            i = int(grid.row[b, t])
            where = i // k
            if turn.opens:
                whole, at = np.concatenate(next(contexts)), 0
                segment = sequences.segment[where, rows.reply_at[i] - 1]
                own = np.flatnonzero(sequences.segment[where] == segment)
                np.testing.assert_array_equal(sequences.tokens[where, own], whole)
                np.testing.assert_array_equal(sequences.position[where, own], np.arange(len(own)))
                seen.append((where, int(segment)))
            at += len(turn.prompt_ids)
            assert rows.reply_at[i] == own[0] + at
            low = at + turn.blocks.subgoal_span[1] - 1 if turn.blocks.well_formed else at - 1
            assert rows.value_at[i].tolist() == [own[0] + low, own[0] + at - 1, own[0] + at - 1]
            np.testing.assert_array_equal(rows.reply[i][rows.reply_mask[i]], turn.reply_ids)
            at += len(turn.reply_ids)
        if trajectory.final_prompt_ids is not None:
            i = int(grid.final_row[b])
            assert not rows.row_mask[i] and not rows.reply_mask[i].any()
            assert i not in set(grid.row[grid.mask].tolist())
            last = sequences.tokens[i // k, : rows.value_at[i, 2] + 1]
            tail = list_contexts(trajectory)[-1][-1]
            np.testing.assert_array_equal(last[-len(tail) :], tail)
            if trajectory.final_opens:
                seen.append((i // k, int(sequences.segment[i // k, rows.value_at[i, 2]])))
    assert len(set(seen)) == len(seen), "no segment twice"
    assert grid.mask.sum() == rows.row_mask.sum() == sum(sizes)
    total = sum(len(x) for t in batch for window in list_contexts(t) for x in window)
    assert sequences.token_mask.sum() == total and sequences.token_mask[:count].any(axis=1).all()


@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(1, 6)), min_size=1, max_size=60),
    st.integers(6, 9),
)
def test_layout_holds_every_window_once_within_tokens_and_rows(windows, per_sequence):
    sizes, rows = [size for size, _ in windows], [count for _, count in windows]
    bins, length = lay_out(sizes, length=48, per_sequence=per_sequence, rows=rows)
    assert sorted(w for members in bins for w in members) == list(range(len(sizes)))
    for members in bins:
        assert sum(sizes[w] for w in members) <= length
        assert sum(rows[w] for w in members) <= per_sequence


def test_windows_of_an_episode():
    one = dataclasses.replace(EPISODES[0], turns=EPISODES[0].turns[:1], final_prompt_ids=None)
    assert [len(w.turns) for w in split_windows(one, final=True)] == [1]
    cut = dataclasses.replace(one, final_prompt_ids=np.arange(3, dtype=np.int32))
    apart = split_windows(dataclasses.replace(cut, final_opens=True), final=True)
    assert [w.rows for w in apart] == [1, 1] and apart[1].tokens == 3
    within = split_windows(dataclasses.replace(cut, final_opens=False), final=True)
    assert [w.rows for w in within] == [2]
    assert [w.rows for w in split_windows(cut, final=False)] == [1], "imitation values nothing"
    with pytest.raises(ValueError, match="turn 0 goes on in a window"):
        dataclasses.replace(one, turns=(dataclasses.replace(one.turns[0], opens=False),))


def make_learner(**ppo):
    settings = dict(
        learning_rate=1e-2, minibatch_sequences=2, kl_coefficient=0.0, entropy_coefficient=0.0,
        weight_decay=0.0, mismatch_bound=1e9,
    )  # fmt: skip
    return Learner(
        MODEL,
        credit=CreditConfig(gamma=0.9, reward_scale=1.0),
        critic=CriticConfig(kind="features", random_features=8),
        ppo=PpoConfig(**(settings | ppo)),
        score_sequences=2,
    )


def test_scores_are_those_of_each_window_alone():
    """Log-probs, values, and the value of the state after a truncated episode."""
    batch = packed()
    learner = make_learner()
    state = learner.init(jax.tree.map(jnp.copy, POLICY), jax.random.key(1))
    scores = learner.score(state, batch, None, np.int32(batch.count))
    cut = 0
    for b, trajectory in enumerate(EPISODES):
        t = 0
        for window in list_contexts(trajectory):
            row = jnp.asarray(np.concatenate(window))[None]
            hidden = forward(POLICY, MODEL, row, lengths=jnp.array([row.shape[1]]))
            full = jax.nn.log_softmax(logits(POLICY, MODEL, hidden))[0]
            at = 0
            for prompt, reply in zip(window[::2], window[1::2], strict=False):
                i, at = batch.grid.row[b, t], at + len(prompt)
                expected = full[np.arange(at - 1, at + len(reply) - 1), reply]
                np.testing.assert_allclose(scores.logprobs[i, : len(reply)], expected, atol=1e-5)
                np.testing.assert_allclose(scores.value_hidden[i, 2], hidden[0, at - 1], atol=1e-5)
                at, t = at + len(reply), t + 1
            if len(window) % 2:
                np.testing.assert_allclose(scores.final_hidden[b], hidden[0, -1], atol=1e-5)
                cut += 1
    assert cut == sum(t.final_prompt_ids is not None for t in EPISODES) > 0


def loss_of(found, policy):
    sequences = jax.tree.map(jnp.asarray, found[0])
    at, reply, weight = (
        by_sequence(jnp.asarray(x), sequences)
        for x in (found[1].reply_at, found[1].reply, found[1].behavior_logprobs)
    )
    hidden = run_sequences(policy, MODEL, sequences)
    logprobs, entropy = reply_logprobs(policy, MODEL, hidden, sequences.reply_index, at, reply)
    return jnp.sum(weight * logprobs) + jnp.sum(entropy)


@pytest.mark.parametrize("prefix", [(), (4, 9, 2, 17, 5)])
def test_loss_and_gradients_are_those_of_each_window_alone(prefix):
    """Through earlier replies of the context too, and through the prefix stored once."""
    start = np.asarray(prefix, np.int32)
    batch = [
        dataclasses.replace(
            t,
            turns=tuple(
                dataclasses.replace(u, prompt_ids=np.concatenate([start, u.prompt_ids]))
                if u.opens else u for u in t.turns
            ),
        )
        for t in EPISODES
    ]  # fmt: skip
    windows = [w for t in batch for w in split_windows(t, final=False)]
    layout = dict(length=80, per_sequence=8, prefix=prefix, reply_length=16, grown=True)
    together = pack_windows(windows, **layout)
    lone = [pack_windows([window], **layout)[:2] for window in windows]
    alone = jax.tree.map(lambda *parts: np.concatenate(parts), *lone)
    assert together[0].tokens.shape[0] < alone[0].tokens.shape[0] == len(windows)
    gradients = [
        jax.jit(jax.value_and_grad(lambda policy, found=found: loss_of(found, policy)))(POLICY)
        for found in (together, alone)
    ]
    chex.assert_trees_all_close(*gradients, atol=1e-5, rtol=1e-5)


def test_a_turn_knows_nothing_of_later_turns_nor_of_other_windows():
    """The derivative of each reply's log-probs by every token's embedding, exactly."""
    sequences, rows, *_ = packed(length=96, multiple=1)
    k = len(rows.reply) // len(sequences.tokens)
    where = 0
    tokens = sequences.tokens[where]
    row_numbers = [int(i) for i in np.flatnonzero(rows.row_mask) if i // k == where]
    assert len({sequences.segment[where, rows.reply_at[i]] for i in row_numbers}) > 1

    def logprobs(embedded):
        # One embedding for each place, and for each word it might have been: a table of its own.
        policy = POLICY | {"embedding": jnp.concatenate([embedded, POLICY["embedding"]])}
        places = jnp.arange(len(tokens), dtype=jnp.int32)[None]
        hidden = forward(
            policy, dataclasses.replace(MODEL, vocab_size=len(tokens) + VOCABULARY), places,
            token_mask=jnp.asarray(sequences.token_mask[where])[None],
            positions=jnp.asarray(sequences.position[where])[None],
            segments=jnp.asarray(sequences.segment[where])[None],
        )  # fmt: skip
        full = jax.nn.log_softmax(logits(POLICY, MODEL, hidden))[0]
        return jnp.stack([
            full[rows.reply_at[i] - 1 + np.arange(rows.reply_mask[i].sum()),
                 rows.reply[i][rows.reply_mask[i]]].sum() for i in row_numbers
        ])  # fmt: skip

    jacobian = jax.jit(jax.jacrev(logprobs))(POLICY["embedding"][tokens])
    moved = np.abs(np.asarray(jacobian)).sum(axis=-1)
    earlier = 0
    for i, by_place in zip(row_numbers, moved, strict=True):
        own = sequences.segment[where] == sequences.segment[where, rows.reply_at[i]]
        last = rows.reply_at[i] + rows.reply_mask[i].sum() - 2  # its last token predicts nothing
        seen = own & (np.arange(len(tokens)) <= last)
        assert (by_place[~seen] == 0).all() and (by_place[seen] > 0).all()
        earlier += int((own & (np.arange(len(tokens)) < rows.reply_at[i])).sum())
    assert earlier > 0


@pytest.mark.slow(reason="a learner per layout, each compiled")
def test_learning_from_windows_does_not_depend_on_how_they_are_packed():
    """One step over all sequences: credit, whitening, gradients, bootstraps from final rows."""
    states = []
    for layout in (dict(length=160, per_sequence=12), dict(length=64, per_sequence=6)):
        batch = packed(capacity=8, reply_length=16, trajectory_multiple=4, **layout)
        learner = make_learner(minibatch_sequences=8, micro_sequences=2)
        state = learner.init(jax.tree.map(jnp.copy, POLICY), jax.random.key(1))
        state = learner.learn(state, batch, None, key=jax.random.key(2))[0]
        states.append((state.policy, state.critic.heads))
    chex.assert_trees_all_close(*states, atol=2e-4, rtol=1e-3)
