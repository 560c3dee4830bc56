"""The ledger's parts sum to the whole, and count what the packing and the lanes computed."""

import numpy as np
import pytest
from helpers.episodes import make_batch
from hypothesis import given
from hypothesis import strategies as st

from hiperjax.acting.lane_sizes import RolloutStats
from hiperjax.learning.minibatches import split_into_minibatches
from hiperjax.learning.packing import pack
from hiperjax.training.utilization import (
    CLOCKED,
    KINDS,
    Slots,
    build_ledger,
    count_pass,
    count_rollout,
    render,
)

STATS = RolloutStats(
    prefill_slots=100, prefill_bucket_pad=20, prefill_row_pad=10, decode_slots=50, decode_tokens=40
)


def packed(seed, prefix=()):
    return pack(make_batch(seed, [3, 5, 4]), max_turns=6, length=40, per_sequence=3, capacity=16)


def test_every_slot_of_a_rollout_has_one_kind():
    counted = count_rollout(STATS)
    assert sum(counted["prefill"]) == 100 and counted["prefill"].useful == 70
    assert sum(counted["decode"]) == 50 and counted["decode"].dead == 10


@given(st.integers(0, 99), st.integers(1, 5), st.integers(1, 4))
def test_every_slot_of_a_pass_has_one_kind(seed, micro, groups):
    batch = packed(seed)
    minibatch = micro * groups
    slots = count_pass(batch, 0, micro, split_into_minibatches(batch.count, minibatch, micro))
    length, used = batch.sequences.tokens.shape[1], batch.count
    tokens = batch.sequences.token_mask.sum()
    assert slots.useful == tokens and slots.useful + slots.bucket_pad == used * length
    steps = -(-used // minibatch)
    assert sum(slots) % (micro * length) == 0 and slots.row_pad < steps * micro * length


def test_copies_of_the_prefix_are_recomputed_work():
    batch = packed(0)
    plain, shared = count_pass(batch, 0, 2), count_pass(batch, 3, 2)
    assert shared.recomputed == 3 * (batch.count - 1) == plain.useful - shared.useful
    assert sum(plain) == sum(shared)


@given(st.lists(st.floats(0, 9), min_size=8, max_size=8))
def test_seconds_sum_to_the_whole(amounts):
    clocked = dict(zip(CLOCKED, amounts, strict=False))
    device = {"rollout": amounts[6], "update": amounts[7]}
    slots = count_rollout(STATS) | {"score": Slots(useful=3, row_pad=1), "update": Slots(6)}
    books = build_ledger(slots, clocked, device)
    np.testing.assert_allclose(sum(books.seconds.values()), sum(amounts), atol=1e-9)
    assert set(books.seconds) == {*KINDS, *CLOCKED}
    assert books.seconds["row_pad"] == pytest.approx(amounts[6] * 10 / 150 + amounts[7] / 10)
    text = render([books, books])
    assert "together" in text and all(kind in text for kind in books.seconds)
    assert books.metrics()["waste/decode_dead"] == 0.2
