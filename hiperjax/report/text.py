"""Hostile text made harmless to look at: controls as symbols, clipped, never reordering a line."""

import re
from typing import Any

CLIP = 2000
"""Characters shown of one text, unless told otherwise."""

_KEPT = "\n\t"
_CONTROLS = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff]"
)
"""C0, C1, invisible, direction-changing, line-separating characters, and lone surrogates."""


def _symbol(match: re.Match[str]) -> str:
    character, code = match.group(), ord(match.group())
    if character in _KEPT:
        return character
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else f"⟨U+{code:04X}⟩"


def show(text: str, limit: int = CLIP) -> str:
    """The text with what cannot be seen made visible, and its end replaced by a count if long."""
    clipped = _CONTROLS.sub(_symbol, text[:limit])
    if len(text) > limit:
        clipped += f" … [{len(text):,} characters, the first {limit:,} shown]"
    return clipped


def show_line(text: str, limit: int = 200) -> str:
    """The same on one line."""
    return " ".join(show(text, limit).split())


def show_all(value: Any, limit: int = CLIP) -> Any:
    """`show` for every string inside lists and dictionaries, keys included."""
    if isinstance(value, str):
        return show(value, limit)
    if isinstance(value, dict):
        return {show(str(key), 200): show_all(item, limit) for key, item in value.items()}
    return [show_all(item, limit) for item in value] if isinstance(value, list) else value
