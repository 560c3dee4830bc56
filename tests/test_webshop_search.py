"""Analysis and ranking: Porter against NLTK, words against UAX 29, BM25 against a plain loop."""

import collections
import gzip
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hiperjax.envs.webshop.analysis import STOP_WORDS, analyze, tokenize
from hiperjax.envs.webshop.catalogue import describe
from hiperjax.envs.webshop.files import load_shop
from hiperjax.envs.webshop.porter import stem
from hiperjax.envs.webshop.search import (
    K1,
    B,
    SearchIndex,
    build_index,
    load_index,
    round_length,
    save_index,
)

SUFFIXES = (
    "ational ization iveness fulness ousness tional biliti entli ousli ation alism aliti iviti enci"
    " anci izer alli ator logi bli eli icate ative alize iciti ical ness ful ement ance ence able"
    " ible ment ent ant ism ate iti ous ive ize al er ic ou sion tion ion ed ing eed sses ies s y e"
)
words = st.builds(
    lambda head, tail: head + "".join(tail),
    st.text("aeioubcdtlszyw'", min_size=1, max_size=5),
    st.lists(st.sampled_from(SUFFIXES.split()), max_size=3),
)
documents = st.lists(
    st.lists(st.sampled_from("mug lamp tea red blue warm soft big".split()), max_size=60),  # noqa: SIM905
    min_size=1,
    max_size=12,
)


@pytest.mark.oracle
def test_stems_equal_nltks():
    nltk = pytest.importorskip("nltk.stem.porter", reason="nltk is not installed")
    oracle = nltk.PorterStemmer(mode="MARTIN_EXTENSIONS")

    @given(st.lists(words.filter(lambda word: len(word) > 2), max_size=30))
    def check(listed: list[str]) -> None:
        assert [stem(word) for word in listed] == [oracle.stem(word) for word in listed]

    check()


def test_short_words_stay_whole():
    assert [stem(word) for word in ("is", "as", "a", "", "s's")] == ["is", "as", "a", "", "s'"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("women's t-shirts", ["women's", "t", "shirts"]),
        ("l'eau d'été", ["l'eau", "d'été"]),  # no break before a vowel, unlike newer defaults
        ("color:red a:b", ["color:red", "a:b"]),  # the colon joins letters up to Unicode 14
        ("19.7x31.5in 3,000 1.5.2", ["19.7x31.5in", "3,000", "1.5.2"]),
        ("snake_case _x_ __", ["snake_case", "_x_"]),
        ("tea™ ★ ♡ ❤️", ["tea", "™", "★", "♡", "❤️"]),
        ("1️⃣ 👍🏻 👩‍🌾 🇫🇷🇩🇪", ["1️⃣", "👍🏻", "👩‍🌾", "🇫🇷", "🇩🇪"]),
        ("小米 カタカナ ひら", ["小", "米", "カタカナ", "ひ", "ら"]),
        ("x" * 600, ["x" * 255, "x" * 255, "x" * 90]),
        ("... -- !?", []),
    ],
)
def test_words_follow_uax_29(text: str, expected: list[str]):
    assert tokenize(text) == expected


def test_terms_drop_possessives_and_stop_words():
    assert analyze("the women's dresses of the year’s end") == ["women", "dress", "year", "end"]  # noqa: RUF001
    assert len(STOP_WORDS) == 33


@given(st.text(max_size=80))
def test_any_text_is_analyzed(text: str):
    words = tokenize(text)
    place = 0
    for word in words:  # in order, none overlapping
        place = text.index(word, place) + len(word)
    assert len(analyze(text)) <= len(words)


@given(st.integers(0, 10**7))
def test_lengths_round_down_to_four_bits(length: int):
    rounded = round_length(length)
    assert rounded <= length < rounded + max(1, (length - 24) / 8)
    assert round_length(rounded) == rounded
    assert length >= 40 or rounded == length


def rank_by_loop(texts: dict[str, list[str]], query: list[str]) -> dict[str, float]:
    """BM25 in float64, straight from the formula."""
    mean = sum(map(len, texts.values())) / len(texts)
    scores: dict[str, float] = collections.defaultdict(float)
    for term in query:
        frequency = sum(term in text for text in texts.values())
        idf = math.log(1 + (len(texts) - frequency + 0.5) / (frequency + 0.5))
        for name, text in texts.items():
            norm = K1 * (1 - B + B * round_length(len(text)) / mean) if mean else 1.0
            if term in text:
                scores[name] += idf * (1 - 1 / (1 + text.count(term) / norm))
    return scores


def index_of(texts: dict[str, list[str]]) -> SearchIndex:
    return build_index((name, " ".join(text)) for name, text in texts.items())


@given(documents, st.lists(st.sampled_from(["mug", "red", "soft", "warm"]), max_size=5))
def test_search_equals_the_formula(texts: list[list[str]], query: list[str]):
    named = {f"D{number:02d}": text for number, text in enumerate(texts)}
    hits = index_of(named).search(" ".join(query))
    expected = rank_by_loop(named, query)
    assert {name for name, _ in hits} == set(expected)
    np.testing.assert_allclose([s for _, s in hits], [expected[n] for n, _ in hits], rtol=1e-5)
    assert hits == sorted(hits, key=lambda hit: (-hit[1], hit[0]))


@given(documents)
def test_order_of_documents_does_not_matter(texts: list[list[str]]):
    named = {f"D{number:02d}": text for number, text in enumerate(texts)}
    backwards = dict(reversed(named.items()))
    assert index_of(named).search("red mug") == index_of(backwards).search("red mug")


def test_ties_go_to_the_smaller_identifier_and_limits_hold():
    index = build_index((f"D{number}", "red mug") for number in (3, 1, 2, 0))
    assert [name for name, _ in index.search("mug", limit=3)] == ["D0", "D1", "D2"]
    assert index.search("unheard of") == index.search("") == index.search("the") == []
    assert build_index([]).search("mug") == []


def test_a_saved_index_answers_alike(tmp_path: Path):
    index = index_of({"A": ["red", "mug"], "B": ["mug", "mug", "lamp"], "C": []})
    save_index(index, tmp_path / "index.npz")
    loaded = load_index(tmp_path / "index.npz")
    assert loaded.search("red mug lamp") == index.search("red mug lamp") != []


def test_terms_and_rankings_equal_lucenes(shared: Callable[[str], Path]):
    shop = load_shop(shared("data/webshop"))
    with gzip.open(shared("data/webshop/lucene_top50.json.gz"), "rt") as file:
        recorded = json.load(file)
    for asin, terms in recorded["doc_tokens"].items():
        assert analyze(describe(shop.get(asin))) == terms, asin
    for query in recorded["queries"]:
        found = shop.index.search(query["q"])
        assert [name for name, _ in found] == [name for name, _ in query["hits"]], query["q"]
        np.testing.assert_allclose(
            [s for _, s in found], [s for _, s in query["hits"]], rtol=0, atol=1e-3
        )
