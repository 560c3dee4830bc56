"""The Plan-Execute reply: three tagged blocks, written and parsed here and nowhere else.

A reply is `<switch>KEEP|SWITCH</switch><subgoal>...</subgoal><action>...</action>`. It is parsed
once, right after sampling; what later code needs (decisions in force, token spans,
well-formedness) is stored in `Blocks` (HiPER, arXiv 2602.16165, section on the Plan-Execute
interface).
"""

from collections.abc import Collection, Sequence

from hiperjax.acting.pieces import ReplyBytes
from hiperjax.types import Blocks, Span

SWITCH, SUBGOAL, ACTION = "switch", "subgoal", "action"
TAGS = tuple(f"<{slash}{name}>" for name in (SWITCH, SUBGOAL, ACTION) for slash in ("", "/"))
"""Opening and closing tags, in the order they appear in a reply."""
CLOSING_ACTION, CLOSING_SUBGOAL = f"</{ACTION}>", f"</{SUBGOAL}>"
SWITCH_WORD, KEEP_WORD = "SWITCH", "KEEP"
ABSENT: Span = (0, 0)


def render_reply(switch: bool, subgoal: str, action: str, *, separator: str = "\n") -> str:
    """Write a reply in canonical form; `parse_reply` of it is the identity."""
    word = SWITCH_WORD if switch else KEEP_WORD
    contents = ((SWITCH, word), (SUBGOAL, subgoal), (ACTION, action))
    return separator.join(f"<{name}>{text}</{name}>" for name, text in contents)


def normalize_subgoal(subgoal: str) -> str:
    """Subgoals are compared lower-cased, with runs of blanks collapsed."""
    return " ".join(subgoal.lower().split())


def find_stop(
    pieces: Sequence[bytes], ids: Sequence[int], start: int = 0, closing: str = CLOSING_ACTION
) -> int | None:
    """Number of tokens up to and including the one that completes the action block, if any.

    The first `start` tokens are known to complete none. `closing` is the tag that ends what is
    looked for, if it is another block.
    """
    tag = closing.encode()
    if not any(tag[-1:] in pieces[i] for i in ids[start:]):
        return None
    reply = ReplyBytes(pieces, ids)
    at = reply.data.find(tag)
    return None if at < 0 else reply.span(at, at + len(tag))[1]


def read_subgoal(pieces: Sequence[bytes], ids: Sequence[int]) -> str | None:
    """The text of a reply's subgoal block; None where it has none that is complete."""
    block = _find_block(ReplyBytes(pieces, ids).data, SUBGOAL, 0)
    return None if block is None else block[2]


def _find_block(data: bytes, name: str, start: int) -> tuple[int, int, str] | None:
    """First complete block at or after `start`: its byte range, tags included, and its content."""
    opening, closing = f"<{name}>".encode(), f"</{name}>".encode()
    begin = data.find(opening, start)
    if begin < 0:
        return None
    inner = begin + len(opening)
    end = data.find(closing, inner)
    if end < 0:
        return None
    content = data[inner:end].decode("utf-8", errors="replace").strip()
    return begin, end + len(closing), content


def parse_reply(
    pieces: Sequence[bytes],
    ids: Sequence[int],
    *,
    current_subgoal: str,
    first_turn: bool,
    strict: bool = True,
    rewrite_on_keep: bool = False,
    control: Collection[int] = (),
    decided: bool | None = None,
) -> Blocks:
    """Parse a reply into the decisions in force at its turn.

    Blocks are searched in order, each after the end of the one before, so spans are disjoint and
    ordered. A reply is well-formed if all three are complete and not empty, no tag stands inside
    any of them, and the first says KEEP or SWITCH (any case); `strict` (default) also wants nothing
    but blanks, and the special tokens that end a turn, outside them. A malformed reply keeps the
    subgoal in force; its action is sent if its action block is complete, else the empty command.
    The first turn always opens a segment.

    Without a complete action block, the action span is all that follows the other blocks: whatever
    broke the format was written there, and tokens outside every span would get no gradient.

    Args:
      pieces: bytes of each token id (`build_pieces`).
      ids: the reply's tokens.
      current_subgoal: subgoal in force before this turn.
      first_turn: whether this is turn 0.
      strict: refuse text outside the blocks.
      rewrite_on_keep: the official behavior: on KEEP the text just written replaces the subgoal.
        Default: the subgoal in force is carried and a rewritten one is a `keep_violation`.
      control: tokens that may end a reply and stand in no block: a reply that writes one there is
        malformed, however its bytes read.
      decided: whether the turn opens a segment, where that is no decision of the policy; then it
        does so however malformed the reply is. None: the reply says so.
    """
    reply = ReplyBytes(pieces, ids)
    blocks, at, outside = {}, 0, b""
    for name in (SWITCH, SUBGOAL, ACTION):
        block = _find_block(reply.data, name, at)
        if block is not None:
            blocks[name] = block
            outside += reply.data[at : block[0]]
            at = block[1]
    # What follows the action block is the end-of-turn token or nothing: sampling stops there.
    word = blocks[SWITCH][2].upper() if SWITCH in blocks else ""
    complete = len(blocks) == 3 and all(block[2] for block in blocks.values())
    complete = complete and not any(tag in block[2] for block in blocks.values() for tag in TAGS)
    well_formed = complete and word in (SWITCH_WORD, KEEP_WORD)
    if strict:
        well_formed = well_formed and not outside.strip()
    spans, free = {}, 0
    for name, block in blocks.items():
        first, end = reply.span(block[0], block[1])
        # A token fused across two blocks belongs to the earlier one: spans stay disjoint.
        spans[name] = (max(first, free), max(end, free))
        free = spans[name][1]
    inside = (index for first, end in spans.values() for index in ids[first:end])
    well_formed = well_formed and not any(index in control for index in inside)
    if ACTION not in blocks and free < len(ids):
        spans[ACTION] = (free, len(ids))
    written = blocks[SUBGOAL][2] if well_formed else current_subgoal
    switch = first_turn or (well_formed and word == SWITCH_WORD if decided is None else decided)
    rewritten = well_formed and normalize_subgoal(written) != normalize_subgoal(current_subgoal)
    return Blocks(
        switch=switch,
        subgoal=written if switch or rewrite_on_keep else current_subgoal,
        action=blocks[ACTION][2] if ACTION in blocks else "",
        switch_span=spans.get(SWITCH, ABSENT),
        subgoal_span=spans.get(SUBGOAL, ABSENT),
        action_span=spans.get(ACTION, ABSENT),
        well_formed=well_formed,
        keep_violation=rewritten and not switch,
    )
