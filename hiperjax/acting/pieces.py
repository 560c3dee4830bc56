"""Token id -> bytes, so that a reply is searched once, as bytes, and positions map back to tokens.

Decoding token by token loses characters split over several byte-level tokens and the blanks between
words of a word-level tokenizer; concatenated byte pieces lose nothing.
"""

import bisect
from collections.abc import Sequence
from typing import Any

from hiperjax.models.byte_level import BYTES
from hiperjax.types import Span


def build_pieces(tokenizer: Any, size: int = 0) -> tuple[bytes, ...]:
    """Bytes of every token id of a Hugging Face fast tokenizer (byte-level BPE or word level).

    A model may have `size` ids, more than its tokenizer: those have no bytes, but can be sampled.

    A word-level token is preceded by a blank unless it is an added token (a tag or a special
    token), so that concatenated pieces read like the decoded text.
    """
    added = tokenizer.get_added_vocab()
    byte_level = type(tokenizer.backend_tokenizer.model).__name__ == "BPE"
    pieces = [b""] * max(len(tokenizer), size)
    for token, index in tokenizer.get_vocab().items():
        if token in added:
            pieces[index] = token.encode()
        elif byte_level:
            pieces[index] = bytes(BYTES[c] for c in token)
        else:
            pieces[index] = b" " + token.encode()
    return tuple(pieces)


class ReplyBytes:
    """A reply as bytes, with the way back from byte ranges to token spans."""

    def __init__(self, pieces: Sequence[bytes], ids: Sequence[int]):
        self._ends: list[int] = []
        parts, end = [], 0
        for index in ids:
            parts.append(pieces[index])
            end += len(pieces[index])
            self._ends.append(end)
        self.data = b"".join(parts)

    def span(self, start: int, end: int) -> Span:
        """Half-open token range of the tokens that overlap bytes `[start, end)`.

        A token that fuses the last byte with what follows (`">\\n"`) belongs to the span.
        """
        first = bisect.bisect_right(self._ends, start)
        last = bisect.bisect_left(self._ends, end)
        return first, min(last + 1, len(self._ends))
