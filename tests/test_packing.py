"""Packing loses nothing, adds nothing, and refuses what breaks the contract of its types."""

import dataclasses

import numpy as np
import pytest
from helpers.episodes import make_batch
from hypothesis import given
from hypothesis import strategies as st

from hiperjax.learning.layout import Room, choose_reply_places, lay_out, round_up
from hiperjax.learning.packing import assign_ids, pack, pack_final_prompts

lengths = st.lists(st.integers(1, 6), min_size=1, max_size=6)


@given(st.integers(0, 99), lengths, st.sampled_from([16, 32, 64]), st.integers(1, 4))
def test_pack_then_gather_gives_the_turns_back(seed, sizes, length, per_sequence):
    batch = make_batch(seed, sizes)
    sequences, rows, grid, count = pack(
        batch,
        max_turns=7,
        length=length,
        per_sequence=per_sequence,
        trajectory_multiple=4,
        seed=seed,
    )
    used = sequences.token_mask.any(axis=1)
    assert used[:count].all() and not used[count:].any()
    assert grid.mask.shape == (round_up(len(batch), 4), 7)
    assert grid.mask.sum() == rows.row_mask.sum() == sum(sizes)
    assert sorted(grid.row[grid.mask]) == np.flatnonzero(rows.row_mask).tolist(), "each row once"
    tokens = 0
    for b, trajectory in enumerate(batch):
        for t, turn in enumerate(trajectory.turns):
            i = grid.row[b, t]
            where, slot = divmod(int(i), per_sequence)
            own = sequences.segment[where] == slot + 1
            whole = np.concatenate([turn.prompt_ids, turn.reply_ids])
            tokens += len(whole)
            np.testing.assert_array_equal(sequences.tokens[where][own], whole)
            np.testing.assert_array_equal(sequences.position[where][own], np.arange(len(whole)))
            np.testing.assert_array_equal(rows.reply[i][rows.reply_mask[i]], turn.reply_ids)
            np.testing.assert_array_equal(
                rows.behavior_logprobs[i][rows.reply_mask[i]], turn.behavior_logprobs
            )
            start = int(np.flatnonzero(own)[0]) + len(turn.prompt_ids)
            assert rows.reply_at[i] == start
            for name in ("switch", "subgoal", "action"):
                low, high = getattr(turn.blocks, f"{name}_span")
                marked = np.flatnonzero(getattr(rows, f"{name}_mask")[i])
                np.testing.assert_array_equal(marked, np.arange(low, high))
            after = (
                start + turn.blocks.subgoal_span[1] - 1 if turn.blocks.well_formed else start - 1
            )
            assert rows.value_at[i].tolist() == [after, start - 1, start - 1]
            assert grid.reward[b, t] == turn.reward and grid.boundary[b, t] == turn.blocks.switch
    assert sequences.token_mask.sum() == tokens, "nothing but turns"


@given(st.integers(0, 99), lengths)
def test_masks_are_disjoint_and_inside_the_reply(seed, sizes):
    rows = pack(make_batch(seed, sizes), max_turns=6, length=64, per_sequence=3).rows
    blocks = np.stack([rows.switch_mask, rows.subgoal_mask, rows.action_mask]).astype(int)
    assert blocks.sum(axis=0).max() <= 1
    assert not (blocks.any(axis=0) & ~rows.reply_mask).any()
    assert not rows.reply_mask[~rows.row_mask].any()
    assert not rows.behavior_logprobs[~rows.reply_mask].any()


@given(st.lists(st.integers(1, 60), min_size=1, max_size=80), st.integers(1, 5), st.integers(0, 9))
def test_layout_holds_every_turn_once_within_bounds(sizes, per_sequence, seed):
    bins, length = lay_out(sizes, length=48, per_sequence=per_sequence, seed=seed)
    assert sorted(turn for members in bins for turn in members) == list(range(len(sizes)))
    assert length >= max(sizes) and (length == 48 or length < max(sizes) + 16)
    for members in bins:
        assert 1 <= len(members) <= per_sequence
        assert sum(sizes[turn] for turn in members) <= length


def test_layout_wastes_little():
    """On 700 turns of the tiny household's lengths, padding stays under 10 %."""
    sizes = np.random.default_rng(0).normal(58, 12, 700).clip(30, 110).astype(int).tolist()
    bins, length = lay_out(sizes, length=256, per_sequence=8)
    assert 1 - sum(sizes) / (len(bins) * length) < 0.1


def test_capacity_grows_by_multiples():
    batch = make_batch(0, [3, 5, 1, 4])
    assert pack(batch, max_turns=6, capacity=40, multiple=8).sequences.tokens.shape[0] == 40
    assert pack(batch, max_turns=6, capacity=2, multiple=8).sequences.tokens.shape[0] == 16
    exact = pack(batch, max_turns=6)
    assert exact.sequences.tokens.shape[0] == exact.count == 13, "imitation draws from all of them"


def test_states_and_groups_are_interned():
    batch = make_batch(3, [3, 2, 4])
    grid = pack(batch, max_turns=5).grid
    assert grid.group_id.tolist() == [0, 1, 0]
    texts = {}
    for b, trajectory in enumerate(batch):
        for t, turn in enumerate(trajectory.turns):
            assert texts.setdefault(turn.observation, grid.state_id[b, t]) == grid.state_id[b, t]
    assert len(set(texts.values())) == len(texts)
    assert len(set(grid.final_state_id.tolist())) == 1, "all end at the same observation"


def test_intern_numbers_in_order_of_appearance():
    assert assign_ids(["b", "a", "b"]) == [0, 1, 0]


def test_final_prompts_are_those_of_truncated_episodes():
    batch = [t for seed in range(6) for t in make_batch(seed, [2, 3])]
    cut = [t for t in batch if t.final_prompt_ids is not None]
    final = pack_final_prompts(batch, length=4, trajectory_multiple=16)
    assert final.tokens.shape == (16, 16) and 0 < final.count == len(cut) < len(batch)
    assert final.lengths.tolist() == [4] * len(cut) + [1] * (16 - len(cut))
    for i, trajectory in enumerate(batch):
        prompt = trajectory.final_prompt_ids
        if prompt is not None:
            np.testing.assert_array_equal(final.tokens[final.row[i], :4], prompt)


def _with_prefix(trajectory, prefix):
    turns = (
        dataclasses.replace(t, prompt_ids=np.concatenate([prefix, t.prompt_ids]).astype(np.int32))
        for t in trajectory.turns
    )
    return dataclasses.replace(trajectory, turns=tuple(turns))


def test_a_shared_prefix_is_stored_once_a_sequence():
    prefix = np.array([7, 3, 9, 1], np.int32)
    batch = [_with_prefix(t, prefix) for t in make_batch(1, [3, 5, 4])]
    layout = dict(max_turns=6, per_sequence=3, length=64)
    sequences, rows, grid, count = pack(batch, prefix=prefix.tolist(), **layout)
    plain = pack(batch, **layout)
    used = sequences.tokens[:count]
    assert (used[:, :4] == prefix).all() and (sequences.segment[:count, :4] == 0).all()
    turns = [t for trajectory in batch for t in trajectory.turns]
    saved = plain.sequences.token_mask.sum() - sequences.token_mask.sum()
    assert saved == 4 * (len(turns) - count) > 0
    for (b, t), row in zip(np.argwhere(grid.mask), grid.row[grid.mask], strict=True):
        turn, where = batch[b].turns[t], row // 3
        own = sequences.segment[where] == row % 3 + 1
        whole = np.concatenate([turn.prompt_ids, turn.reply_ids])[4:]
        np.testing.assert_array_equal(sequences.tokens[where][own], whole)
        np.testing.assert_array_equal(sequences.position[where][own], 4 + np.arange(len(whole)))
        first = int(np.flatnonzero(own)[0])
        assert rows.reply_at[row] == first + len(turn.prompt_ids) - 4


def test_a_prompt_without_the_prefix_is_refused():
    with pytest.raises(ValueError, match="expected the shared prefix, 2 tokens"):
        pack(make_batch(0, [2]), max_turns=3, prefix=(1, 2))


@given(st.integers(0, 99), lengths)
def test_reply_indices_list_every_reply_token_once(seed, sizes):
    sequences, rows, _, _ = pack(make_batch(seed, sizes), max_turns=6, length=64, per_sequence=3)
    reply = rows.reply_mask.shape[1]
    for where, places in enumerate(sequences.reply_index):
        real = places[places < 3 * reply]
        wanted = np.flatnonzero(rows.reply_mask[3 * where : 3 * where + 3].ravel())
        np.testing.assert_array_equal(real, wanted)


def _broken(kind: str):
    trajectory = make_batch(0, [3])[0]
    turn = trajectory.turns[1]
    changes = {
        "reward": dataclasses.replace(turn, reward=float("nan")),
        "reply": dataclasses.replace(turn, reply_ids=turn.reply_ids[:0]),
        "log-probs": dataclasses.replace(turn, behavior_logprobs=turn.behavior_logprobs[1:]),
    }
    if kind == "first":
        first = dataclasses.replace(
            trajectory.turns[0], blocks=dataclasses.replace(turn.blocks, switch=False)
        )
        return dataclasses.replace(trajectory, turns=(first, *trajectory.turns[1:]))
    return dataclasses.replace(
        trajectory, turns=(trajectory.turns[0], changes[kind], trajectory.turns[2])
    )


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("reward", "turn 1: found reward nan"),
        ("reply", "turn 1: empty prompt or reply"),
        ("log-probs", "turn 1: .* behavior log-probs for"),
        ("first", "turn 0: the first turn must open a segment"),
    ],
)
def test_broken_trajectories_are_refused_by_name(kind, message):
    with pytest.raises(ValueError, match=f"task 0, {message}"):
        pack([_broken(kind)], max_turns=5)


def test_more_turns_than_slots_is_refused():
    with pytest.raises(ValueError, match="5 turns; expected at most 4"):
        pack(make_batch(0, [5]), max_turns=4)


@pytest.mark.parametrize("needed", [1, 128, 129, 300, 1024, 1025, 1600, 5000])
def test_reply_places_follow_the_fullest_sequence(needed):
    room = choose_reply_places(needed)
    assert needed <= room <= max(128, 1.5 * needed)


def test_attention_rows_are_the_prefix_and_one_window():
    """Whatever the layout, a row reads the tokens that its window would have alone."""
    prefix = np.array([7, 3, 9, 1], np.int32)
    layout = dict(max_turns=6, length=64, per_sequence=3)
    given = [_with_prefix(t, prefix) for t in make_batch(3, [2, 4, 1])]
    batch = pack(given, prefix=prefix.tolist(), attention_columns=8, **layout)
    sequences, rows = batch.sequences, batch.sequences.attention_rows
    assert rows is not None and rows.shape[2] % 8 == 0
    for s in range(batch.count):
        for window in range(1, sequences.segment[s].max() + 1):
            own = (sequences.segment[s] == window) & sequences.token_mask[s]
            alone = np.concatenate([prefix, sequences.tokens[s, own]])
            read = sequences.tokens[s, rows[s, window - 1]]
            np.testing.assert_array_equal(read[: len(alone)], alone)
    least = Room(reads=17, windows=5, columns=128)
    wide = pack(given, prefix=prefix.tolist(), attention_columns=8, least=least, **layout)
    assert wide.sequences.attention_rows is not None
    assert wide.sequences.attention_rows.shape[1:] == (5, 128)
