"""Whatever a model writes has a defined result: spans in range and in order, text to be sent."""

import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hiperjax.acting.blocks import TAGS, find_stop, parse_reply

CONTROL = (0, 1)
PIECES = (
    *(b"<|end|>", b"<pad>"),
    *(tag.encode() for tag in TAGS),
    *(tag[:cut].encode() for tag in TAGS for cut in (1, 4, len(tag) - 1)),
    *(tag[cut:].encode() for tag in TAGS for cut in (1, 4)),
    *(b"SWITCH", b"keep", b"KEEP", b" ", b"\n", b"\0", b"", b"go to shelf 1", b"><", b"</", b"<<"),
    *("é€𝄞".encode()[at : at + 1] for at in range(9)),
    *(b"\xff", b"\xc0\x80", b"\xed\xa0\x80", "\u202e\u200b".encode(), b"a" * 300),
)
TEXT = st.text(max_size=12)
IDS = st.lists(st.integers(0, len(PIECES) - 1), max_size=60)
WHOLE = st.sampled_from([PIECES.index(tag.encode()) for tag in TAGS])
MOSTLY_TAGS = st.lists(st.one_of(WHOLE, st.integers(0, len(PIECES) - 1)), max_size=60)


def check(ids: list[int], **options) -> None:
    blocks = parse_reply(PIECES, ids, **options)
    assert blocks == parse_reply(PIECES, ids, **options)
    spans = (blocks.switch_span, blocks.subgoal_span, blocks.action_span)
    written = [span for span in spans if span[1] > span[0]]
    assert all(0 <= first <= end <= len(ids) for first, end in written)
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(written))
    blocks.action.encode()
    if not blocks.well_formed:
        assert blocks.subgoal == options["current_subgoal"] and not blocks.keep_violation
    else:
        assert blocks.action and len(written) == 3
        assert not any(tag in blocks.action + blocks.subgoal for tag in TAGS)
        assert not any(i in options["control"] for first, end in written for i in ids[first:end])
    assert blocks.switch or not options["first_turn"]


@given(
    st.one_of(IDS, MOSTLY_TAGS),
    TEXT,
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.sampled_from([(), CONTROL]),
)
def test_fuzz_replies(ids, subgoal, first_turn, strict, rewrite, control):
    check(
        ids,
        current_subgoal=subgoal,
        first_turn=first_turn,
        strict=strict,
        rewrite_on_keep=rewrite,
        control=control,
    )


@given(st.one_of(IDS, MOSTLY_TAGS), st.integers(0, 60))
def test_fuzz_stops(ids, scanned):
    """A reply ends where its action block does, whichever chunks it came in."""
    scanned = min(scanned, len(ids))
    stop = find_stop(PIECES, ids, 0)
    assert stop is None or 0 < stop <= len(ids)
    if stop is None:
        assert find_stop(PIECES, ids, scanned) is None


@pytest.mark.parametrize("index", [0, 2, 7, 9, 20, PIECES.index(b"a" * 300)])
def test_fuzz_very_long_replies_take_no_long_time(index):
    started = time.perf_counter()
    check([index] * 20_000, current_subgoal="x", first_turn=False, control=CONTROL)
    find_stop(PIECES, [index] * 20_000, 0)
    assert time.perf_counter() - started < 10
