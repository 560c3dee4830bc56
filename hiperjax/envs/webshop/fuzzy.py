"""When two phrases count as the same: the token-set ratio of the original's matcher.

Both phrases become lower-cased ASCII words; the shared words are compared with each side's whole,
and the wholes with each other; the best ratio, rounded to a whole percentage, must exceed 85. The
original takes ratios from `difflib`, whose matches are never longer than a longest common
subsequence: so rapidfuzz's ratio is an upper bound, and only what it lets pass is looked at twice.
"""

import difflib
import functools
import re

from rapidfuzz import fuzz

THRESHOLD = 85
_NOT_WORD = re.compile(r"\W")


@functools.lru_cache(maxsize=1 << 14)
def normalize_phrase(phrase: str) -> str:
    """Lower-cased ASCII words separated by spaces; other characters of ASCII become spaces."""
    kept = "".join(character for character in phrase if character.isascii())
    return _NOT_WORD.sub(" ", kept).lower().strip()


def matches(left: str, right: str) -> bool:
    """Whether the token-set ratio of two phrases exceeds the threshold."""
    left, right = normalize_phrase(left), normalize_phrase(right)
    if not left or not right:
        return False
    # Rounding lifts 85.5 over the threshold, never 85.4.
    if fuzz.token_set_ratio(left, right, score_cutoff=THRESHOLD + 0.4) == 0:
        return False
    return rate_tokens(left, right) > THRESHOLD


def rate_tokens(left: str, right: str) -> int:
    """Token-set ratio of two normalized phrases, in whole percent."""
    first, second = set(left.split()), set(right.split())
    shared = " ".join(sorted(first & second))
    whole = [" ".join([shared, *sorted(side)]).strip() for side in (first - second, second - first)]
    return max(_rate(shared, whole[0]), _rate(shared, whole[1]), _rate(*whole))


def _rate(left: str, right: str) -> int:
    if not left or not right:
        return 0
    return round(100 * difflib.SequenceMatcher(None, left, right).ratio())
