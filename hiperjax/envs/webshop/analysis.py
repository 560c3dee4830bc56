"""Text to index terms, as Lucene's English analysis does it.

Words are cut by the rules of UAX 29 (word boundaries) and UTS 51 (emoji sequences), then the
possessive ending goes, stop words go, and what remains is stemmed. Lucene's tables are those of
Unicode 12: the colon still joins letters, and `Extended_Pictographic` still holds stars, hearts
and the signs for trade marks, so both are stated here instead of taken from newer tables.
"""

import functools

import regex

from hiperjax.envs.webshop.porter import stem

_STOP_TEXT = (
    "a an and are as at be but by for if in into is it no not of on or such that the their then"
    " there these they this to was will with"
)
STOP_WORDS = frozenset(_STOP_TEXT.split())
_LONGEST_WORD = 255
"""Lucene's scanner cuts longer words here."""

_PICTOGRAPHIC = (
    r"\u00A9\u00AE\u203C\u2049\u2122\u2139\u2194-\u2199\u21A9\u21AA\u231A\u231B\u2328\u2388\u23CF"
    r"\u23E9-\u23F3\u23F8-\u23FA\u24C2\u25AA\u25AB\u25B6\u25C0\u25FB-\u25FE\u2600-\u2605"
    r"\u2607-\u2612\u2614-\u2685\u2690-\u2705\u2708-\u2712\u2714\u2716\u271D\u2721\u2728\u2733"
    r"\u2734\u2744\u2747\u274C\u274E\u2753-\u2755\u2757\u2763-\u2767\u2795-\u2797\u27A1\u27B0"
    r"\u27BF\u2934\u2935\u2B05-\u2B07\u2B1B\u2B1C\u2B50\u2B55\u3030\u303D\u3297\u3299"
    r"\U0001F000-\U0001F0FF\U0001F10D-\U0001F10F\U0001F12F\U0001F16C-\U0001F171"
    r"\U0001F17E\U0001F17F\U0001F18E\U0001F191-\U0001F19A\U0001F1AD-\U0001F1E5"
    r"\U0001F201-\U0001F20F\U0001F21A\U0001F22F\U0001F232-\U0001F23A\U0001F23C-\U0001F23F"
    r"\U0001F249-\U0001F3FA\U0001F400-\U0001F53D\U0001F546-\U0001F64F\U0001F680-\U0001F6FF"
    r"\U0001F774-\U0001F77F\U0001F7D5-\U0001F7FF\U0001F80C-\U0001F80F\U0001F848-\U0001F84F"
    r"\U0001F85A-\U0001F85F\U0001F888-\U0001F88F\U0001F8AE-\U0001F8FF\U0001F90C-\U0001F93A"
    r"\U0001F93C-\U0001F945\U0001F947-\U0001FFFD"
)


def _build_pattern() -> "regex.Pattern[str]":
    ignored = r"[\p{WB=Format}\p{WB=Extend}\p{WB=ZWJ}]"
    glue = rf"{ignored}*+"  # WB4: what attaches to a character and never breaks
    # Within emoji the presentation selectors count, and so does a joiner before another emoji.
    bare_ignored = r"[\p{WB=Format}\p{WB=Extend}\p{WB=ZWJ}--[\uFE0E\uFE0F]]"
    bare_glue = rf"(?:(?!\p{{WB=ZWJ}}+[{_PICTOGRAPHIC}]){bare_ignored})*"
    colons = r":\uFE55\uFF1A"  # MidLetter until Unicode 15
    letter = rf"[\p{{WB=ALetter}}\p{{WB=Hebrew_Letter}}]{glue}"
    numeric = rf"[\p{{WB=Numeric}}\uFF10-\uFF19]{glue}"
    katakana = rf"\p{{WB=Katakana}}{glue}"
    joiner = rf"\p{{WB=ExtendNumLet}}{glue}"
    mid_letter = rf"[\p{{WB=MidLetter}}{colons}\p{{WB=MidNumLet}}\p{{WB=Single_Quote}}]{glue}"
    mid_number = rf"[\p{{WB=MidNum}}\p{{WB=MidNumLet}}\p{{WB=Single_Quote}}]{glue}"
    hebrew = rf"\p{{WB=Hebrew_Letter}}{glue}"
    run = (
        rf"(?:{katakana}(?:(?:{joiner})*{katakana})*"
        rf"|(?:{hebrew}(?:\p{{WB=Single_Quote}}{glue}|\p{{WB=Double_Quote}}{glue}{hebrew})"
        rf"|{numeric}(?:(?:(?:{joiner})*|{mid_number}){numeric})*"
        rf"|{letter}(?:(?:(?:{joiner})*|{mid_letter}){letter})*)+)"
    )
    word = rf"(?:{joiner})*{run}(?:(?:{joiner})+{run})*(?:{joiner})*"
    modifier = r"[\U0001F3FB-\U0001F3FF]"
    pictograph = (
        rf"(?:\p{{WB=ZWJ}}*\p{{Emoji_Modifier_Base}}{bare_glue}{modifier}{bare_glue}"
        rf"|\p{{WB=ZWJ}}*[{_PICTOGRAPHIC}]{bare_glue}\uFE0F?|{modifier}{bare_glue})"
    )
    tags = r"[\U000E0020-\U000E007E]+\U000E007F"
    emoji = rf"{pictograph}(?:{tags}|(?:\p{{WB=ZWJ}}{pictograph})*)"
    keycap = rf"[0-9#*]{bare_glue}\uFE0F?\u20E3{bare_glue}"
    flag = rf"(?:\p{{WB=Regional_Indicator}}{glue}){{2}}"
    alone = rf"[\p{{Script=Han}}\p{{Script=Hiragana}}]{glue}"
    complex_script = rf"(?:\p{{LB=Complex_Context}}{glue})+"
    return regex.compile(
        "|".join((word, emoji, keycap, flag, complex_script, alone)), regex.VERSION1
    )


_WORD = _build_pattern()


def _trim_possessive(word: str) -> str:
    if word[-1:] in ("s", "S") and word[-2:-1] in ("'", "’", "＇"):  # noqa: RUF001
        return word[:-2]
    return word


def tokenize(text: str) -> list[str]:
    """The words of a text in order, as they stand in it."""
    words: list[str] = []
    for word in _WORD.findall(text):
        words.extend(
            word[start : start + _LONGEST_WORD] for start in range(0, len(word), _LONGEST_WORD)
        )
    return words


@functools.lru_cache(maxsize=1 << 16)
def _term(word: str) -> str:
    """The index term of a word; empty where the word is dropped."""
    word = _trim_possessive(word).lower()
    return "" if word in STOP_WORDS else stem(word)


def analyze(text: str) -> list[str]:
    """Index terms of a text, in order, repeats kept."""
    return [term for term in map(_term, tokenize(text)) if term]
