"""Packing loses nothing, adds nothing, and refuses what breaks the contract of its types."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from episodes import make_batch
from hiperjax.learning.packing import intern, pack, pack_prompts, round_up

lengths = st.lists(st.integers(1, 6), min_size=1, max_size=6)


@given(st.integers(0, 99), lengths, st.sampled_from([1, 4, 16]), st.sampled_from([1, 16]))
def test_pack_then_gather_gives_the_turns_back(seed, sizes, row_multiple, length_multiple):
    batch = make_batch(seed, sizes)
    rows, grid = pack(
        batch, max_turns=7, row_multiple=row_multiple, length_multiple=length_multiple,
        trajectory_multiple=4,
    )  # fmt: skip
    assert rows.tokens.shape[0] % row_multiple == 0 and rows.tokens.shape[1] % length_multiple == 0
    assert grid.mask.shape == (round_up(len(batch), 4), 7)
    assert grid.mask.sum() == rows.row_mask.sum() == sum(sizes)
    assert sorted(grid.row[grid.mask]) == list(range(sum(sizes))), "no row twice, none missing"
    for b, trajectory in enumerate(batch):
        for t, turn in enumerate(trajectory.turns):
            i = grid.row[b, t]
            whole = np.concatenate([turn.prompt_ids, turn.response_ids])
            np.testing.assert_array_equal(rows.tokens[i][rows.token_mask[i]], whole)
            np.testing.assert_array_equal(rows.tokens[i][rows.response_mask[i]], turn.response_ids)
            np.testing.assert_array_equal(
                rows.behavior_logprobs[i][rows.response_mask[i]], turn.behavior_logprobs
            )
            start = len(turn.prompt_ids)
            for name in ("switch", "subgoal", "action"):
                low, high = getattr(turn.blocks, f"{name}_span")
                where = np.flatnonzero(getattr(rows, f"{name}_mask")[i])
                np.testing.assert_array_equal(where, np.arange(start + low, start + high))
            after = start + turn.blocks.subgoal_span[1] - 1 if turn.blocks.well_formed else start - 1
            assert rows.value_at[i].tolist() == [after, start - 1, start - 1]
            assert grid.reward[b, t] == turn.reward and grid.boundary[b, t] == turn.blocks.switch


@given(st.integers(0, 99), lengths)
def test_masks_are_disjoint_and_inside_the_reply(seed, sizes):
    rows, _ = pack(make_batch(seed, sizes), max_turns=6, row_multiple=8)
    blocks = np.stack([rows.switch_mask, rows.subgoal_mask, rows.action_mask]).astype(int)
    assert blocks.sum(axis=0).max() <= 1
    assert not (blocks.any(axis=0) & ~rows.response_mask).any()
    assert not (rows.response_mask & ~rows.token_mask).any()
    assert not rows.token_mask[~rows.row_mask].any() and not rows.behavior_logprobs[
        ~rows.response_mask
    ].any()


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
    assert intern(["b", "a", "b"]) == [0, 1, 0]


def test_prompts_are_right_padded():
    tokens, sizes = pack_prompts([np.array([5, 6, 7]), None], length_multiple=4, row_multiple=3)
    assert tokens.tolist() == [[5, 6, 7, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert sizes.tolist() == [3, 1, 1]


def _broken(kind: str):
    trajectory = make_batch(0, [3])[0]
    turn = trajectory.turns[1]
    changes = {
        "reward": dataclasses.replace(turn, reward=float("nan")),
        "reply": dataclasses.replace(turn, response_ids=turn.response_ids[:0]),
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
