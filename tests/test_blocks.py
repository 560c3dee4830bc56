"""The Plan-Execute reply: rendering then parsing is the identity; anything else is defined data."""

import functools
import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hiperjax.acting.blocks import (
    ABSENT,
    TAGS,
    find_stop,
    normalize_subgoal,
    parse_reply,
    render_reply,
)
from hiperjax.acting.pieces import ReplyBytes, build_pieces
from hiperjax.models.tokenizers import encode_with_offsets, load_tokenizer

BYTES = tuple(bytes([b]) for b in range(256))
words = st.lists(st.sampled_from(["find", "mug", "go", "to", "é", "1", "<", "杯"]), min_size=1)
phrases = words.map(" ".join)


def parse_text(text: str, **changes):
    options = {"current_subgoal": "find a mug", "first_turn": False} | changes
    return parse_reply(BYTES, list(text.encode()), **options)


@given(switch=st.booleans(), subgoal=phrases, action=phrases, separator=st.sampled_from(["", "\n"]))
def test_parse_of_a_rendered_reply_is_the_identity(switch, subgoal, action, separator):
    text = render_reply(switch, subgoal, action, separator=separator)
    blocks = parse_text(text, current_subgoal="" if switch else subgoal)
    assert (blocks.switch, blocks.subgoal, blocks.action) == (switch, subgoal, action)
    assert blocks.well_formed and not blocks.keep_violation
    for name, span in (
        ("switch", blocks.switch_span),
        ("subgoal", blocks.subgoal_span),
        ("action", blocks.action_span),
    ):
        part = text.encode()[slice(*span)].decode()
        assert part.startswith(f"<{name}>") and part.endswith(f"</{name}>")


@given(
    st.lists(st.sampled_from([*TAGS, "KEEP", "switch", " ", "x", "mug", "\n", "�"])).map("".join)
)
def test_any_reply_has_a_defined_result(text):
    blocks = parse_text(text)
    spans = [blocks.switch_span, blocks.subgoal_span, blocks.action_span]
    present = [span for span in spans if span != ABSENT]
    assert all(start < end for start, end in present)
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(present)), "ordered, disjoint"
    if not blocks.well_formed:
        assert blocks.subgoal == "find a mug" and not blocks.switch and not blocks.keep_violation
    else:
        assert len(present) == 3 and blocks.subgoal and blocks.action


@given(st.binary(max_size=60))
def test_any_bytes_parse(data):
    parse_reply(BYTES, list(data), current_subgoal="", first_turn=True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "go to desk 1",
        "<switch>KEEP</switch><subgoal>find a mug</subgoal><action>go",
        "<switch></switch><subgoal>find a mug</subgoal><action>go</action>",
        "<switch>MAYBE</switch><subgoal>find a mug</subgoal><action>go</action>",
        "<switch>SWITCH</switch><subgoal> </subgoal><action>go</action>",
        "<subgoal>find</subgoal><switch>SWITCH</switch><action>go</action>",
        "<SWITCH>SWITCH</SWITCH><subgoal>find</subgoal><action>go</action>",
        "so: <switch>SWITCH</switch><subgoal>find</subgoal><action>go</action>",
        "<switch>SWITCH</switch> then <subgoal>find</subgoal><action>go</action>",
        "<switch>SWITCH</switch><subgoal>find<subgoal>find</subgoal><action>go</action>",
    ],
)
def test_malformed_replies_keep_the_subgoal(text):
    blocks = parse_text(text)
    assert not blocks.well_formed
    assert (blocks.switch, blocks.subgoal) == (False, "find a mug")
    assert blocks.action == ("go" if "<action>go</action>" in text else "")


def test_a_reply_begun_again_inside_its_action_is_malformed():
    """Else a search that runs on into a second reply would pass, and find what it looks for."""
    action = "search[mug <switch>KEEP</switch> ]"
    text = f"<switch>KEEP</switch><subgoal>a</subgoal><action>{action}</action>"
    blocks = parse_text(text)
    assert not blocks.well_formed and blocks.action.startswith("search[mug")
    assert text.encode()[slice(*blocks.action_span)].startswith(b"<action>")


@pytest.mark.parametrize(
    ("text", "tail"),
    [
        ("", ""),
        ("go to desk 1", "go to desk 1"),
        ("<switch>KEEP</switch><action>go</action>", "<action>go</action>"),
        ("<switch>KEEP</switch><subgoal>a</subgoal><action>go <switch>", "<action>go <switch>"),
        ("<switch>KEEP</switch><subgoal>a", "<subgoal>a"),
        ("<switch>KEEP</switch><subgoal>a</subgoal>so<action>go</action>", "<action>go</action>"),
    ],
)
def test_what_broke_the_format_is_charged_to_the_action(text, tail):
    """Else a reply that runs on and never closes its action would have no token to blame."""
    first, end = parse_text(text).action_span
    assert text.encode()[first:end].decode() == tail


def test_the_first_turn_always_opens_a_segment():
    keep = parse_text(
        render_reply(False, "find a cup", "look"), current_subgoal="", first_turn=True
    )
    assert (keep.switch, keep.subgoal, keep.keep_violation) == (True, "find a cup", False)
    broken = parse_text("?", current_subgoal="", first_turn=True)
    assert (broken.switch, broken.subgoal, broken.well_formed) == (True, "", False)


def test_a_rewritten_keep_is_counted_and_not_carried_unless_official():
    reply = render_reply(False, "find a cup", "look")
    ours = parse_text(reply)
    assert (ours.subgoal, ours.keep_violation) == ("find a mug", True)
    official = parse_text(reply, rewrite_on_keep=True)
    assert (official.subgoal, official.keep_violation) == ("find a cup", True)
    assert not parse_text(render_reply(False, " Find  A mug", "look")).keep_violation


def test_text_outside_the_blocks_is_an_option():
    reply = "so " + render_reply(True, "find a cup", "look")
    assert parse_text(reply, strict=False).well_formed
    assert not parse_text(reply).well_formed


@given(st.lists(st.integers(1, 5), min_size=1, max_size=12), st.data())
def test_spans_cover_exactly_the_tokens_that_overlap(sizes, data):
    pieces = tuple(b"x" * n for n in range(6))
    reply = ReplyBytes(pieces, sizes)
    total = sum(sizes)
    start = data.draw(st.integers(0, total - 1))
    end = data.draw(st.integers(start + 1, total))
    covered, at = [], 0
    for index, size in enumerate(sizes):
        if at < end and at + size > start:
            covered.append(index)
        at += size
    assert reply.span(start, end) == (covered[0], covered[-1] + 1)


def test_stop_is_the_token_that_completes_the_action_block():
    pieces = (b"<action>", b"go", b"</act", b"ion", b">\n", b"more")
    assert find_stop(pieces, [0, 1, 2, 3, 4, 5]) == 5
    assert find_stop(pieces, [0, 1, 2, 3]) is None


def test_normalized_subgoals_ignore_case_and_blanks():
    assert normalize_subgoal(" Find\n a  Mug ") == "find a mug"


@functools.cache
def qwen2(folder):
    tokenizer = load_tokenizer(folder)
    return tokenizer, build_pieces(tokenizer)


replies = st.one_of(
    st.builds(
        render_reply,
        st.booleans(),
        st.lists(
            st.sampled_from(["find a mug", "take it.", "desk 1", "é", "杯子", "🙂", "</", "\n"]),
            min_size=1,
        ).map(" ".join),
        st.sampled_from(["go to desk 1", "look.", "take mug 1 from shelf 2", "search[red mug]"]),
        separator=st.sampled_from(["", "\n", "\n\n", " "]),
    ),
    st.lists(st.sampled_from([*TAGS, "KEEP", "SWITCH", ">\n", ".</", " ", "mug", "\n", "é"]))
    .map("".join),
)  # fmt: skip


def test_spans_with_the_real_qwen2_tokens(shared):
    """Tokens fuse across a block's edge (">\\n", ".</"): a span is the tokens that overlap it, but
    for one that two blocks share ("><"), which is the first one's."""
    tokenizer, pieces = qwen2(shared("data/tokenizer/qwen2"))

    @given(text=replies)
    def check(text):
        ids, offsets = encode_with_offsets(tokenizer, text)
        assert b"".join(pieces[i] for i in ids) == text.encode(), "no byte is lost or changed"
        blocks = parse_reply(pieces, ids.tolist(), current_subgoal="find a mug", first_turn=False)
        by_bytes = parse_text(text)
        for field in ("switch", "subgoal", "action", "well_formed", "keep_violation"):
            assert getattr(blocks, field) == getattr(by_bytes, field), field
        free = 0
        for name in ("switch", "subgoal", "action"):
            span, exact = getattr(blocks, f"{name}_span"), getattr(by_bytes, f"{name}_span")
            if exact == ABSENT:
                assert span == ABSENT
                continue
            first, last = (len(text.encode()[:at].decode()) for at in exact)
            overlap = [i for i, (a, b) in enumerate(offsets) if a < last and b > first]
            assert span == (max(overlap[0], free), overlap[-1] + 1), (text, name)
            free = span[1]

    check()


@pytest.mark.parametrize("separator", ["", "\n", "\n\n"])
def test_fused_qwen2_tokens_belong_to_the_block_they_end(shared, separator):
    tokenizer, pieces = qwen2(shared("data/tokenizer/qwen2"))
    text = render_reply(True, "find a mug.", "go to desk 1.", separator=separator)
    ids = tokenizer.encode(text, add_special_tokens=False)
    words = [pieces[i] for i in ids]
    assert b".</" in words, "the end of a sentence fuses with the closing tag"
    assert any(word.endswith(separator.encode()) and word.startswith(b">") for word in words)
    blocks = parse_reply(pieces, ids, current_subgoal="", first_turn=True)
    assert blocks.well_formed and blocks.subgoal == "find a mug." and blocks.action[-1] == "."
    spans = [blocks.switch_span, blocks.subgoal_span, blocks.action_span]
    assert spans[0][0] == 0 and spans[-1][1] == len(ids)
    for (_, end), (start, _) in itertools.pairwise(spans):
        assert end == start, "the newline went with the block before it, or there was none"
    assert find_stop(pieces, ids) == len(ids)


def test_spans_of_the_official_token_cases(shared):
    """Where a block is complete, our span is the official mask."""
    cases = json.loads(shared("data/hae/examples.json").read_text())["token_examples"]
    assert len(cases) >= 10
    compared = 0
    for case in cases:
        pieces = tuple(piece.encode() for piece in case["pieces"])
        blocks = parse_reply(
            pieces, range(len(pieces)), current_subgoal="find a mug", first_turn=False, strict=False
        )
        for name in ("switch", "subgoal", "action"):
            span, mask = getattr(blocks, f"{name}_span"), case["expected"][f"{name}_mask"]
            fallback = name == "action" and len(mask) == len(pieces)
            if span == ABSENT:
                assert not mask or fallback, case["name"]
            elif fallback:  # there the whole reply, here what no other block has
                assert span[1] == len(pieces), case["name"]
            else:
                assert list(range(*span)) == mask, (case["name"], name)
                compared += 1
        if blocks.well_formed:
            assert blocks.switch == case["expected"]["is_switch"], case["name"]
            assert blocks.action == case["environment_side"]["alfworld"]["action"]
    assert compared >= 15
