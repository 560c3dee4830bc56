"""Nouns of a product title: the part of the type reward that needs a tagger.

The original asks spaCy's small English model. A title's nouns are a constant of the catalogue, so
a catalogue may bring them along; where it does not, a tagger is asked by name. `lexicon` needs
nothing installed and takes every word as a noun that is not a number, a function word or, by form
or by list, an adjective or verb of product titles.
"""

import functools
import re
from collections.abc import Callable

Tagger = Callable[[str], tuple[str, ...]]
"""Title to its lower-cased nouns in order, repeats kept."""

_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")  # noqa: RUF001
_NOT_NOUNS_TEXT = (
    "a about above after all also an and any are around as at be before below best between both but"
    " by can each every for from great has have high how if in inside into is it its just less made"
    " make makes may more most new no non not of off on one only or other our out over own per plus"
    " pro quick set so some such than that the their them then there these they this those to too"
    " two under until up use used using very via was we what when which while who will with within"
    " without you your easy small large medium big long short deep thin thick light dark soft hard"
    " black white red blue green yellow pink purple brown grey gray orange beige multi old young"
    " natural cute free full fit slim loose dry wet hot cold warm cool fresh sweet raw rich pure"
    " low top fast sexy wide narrow tall petite clear wash"
)
_NOT_NOUNS = frozenset(_NOT_NOUNS_TEXT.split())
_ADJECTIVE_ENDING = re.compile(r".{3,}(?:able|ible|ful|less|ous|ive|ical|est|ized)$|.{4,}ly$")


def find_nouns(title: str) -> tuple[str, ...]:
    """Nouns by list and by form, without a model."""
    words = (word.lower() for word in _WORD.findall(title))
    return tuple(
        word
        for word in words
        if len(word) > 1 and word not in _NOT_NOUNS and not _ADJECTIVE_ENDING.match(word)
    )


@functools.cache
def make_tagger(name: str) -> Tagger:
    """A tagger by name, cached by title: `lexicon`, or `spacy` (its model en_core_web_sm)."""
    makers = {"lexicon": lambda: find_nouns, "spacy": _make_spacy}
    if name not in makers:
        raise ValueError(f"tagger {name!r}: expected one of {', '.join(makers)}")
    return functools.lru_cache(maxsize=1 << 14)(makers[name]())


def _make_spacy() -> Tagger:
    import spacy  # pyright: ignore[reportMissingImports]

    model = spacy.load("en_core_web_sm")
    return lambda title: tuple(t.text.lower() for t in model(title) if t.pos_ in ("NOUN", "PROPN"))
