"""Goals, rewards and pages: what the original does, its quirks included, and where we differ."""

import collections
import difflib
import hashlib
import json
import random
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hiperjax.envs.webshop import generator
from hiperjax.envs.webshop.catalogue import Product
from hiperjax.envs.webshop.files import load_shop
from hiperjax.envs.webshop.fuzzy import matches, normalize_phrase
from hiperjax.envs.webshop.goals import NO_CAP, Goal, draw_cap
from hiperjax.envs.webshop.nouns import find_nouns, make_tagger
from hiperjax.envs.webshop.pages import Page, Session, act, list_clickables, parse_action, render
from hiperjax.envs.webshop.reward import (
    COLORS,
    count_options,
    match_category,
    match_title,
    normalize_color,
    rate_type,
    score_purchase,
)
from hiperjax.envs.webshop.shop import Shop, build_shop

SHOP = generator.load_generated()


def make_product(asin: str = "B01", **fields) -> Product:
    base = dict(
        title="Red Mug", description="", bullets=("holds tea",), options=(), category="garden"
    )
    base |= dict(query="mugs", product_category="Home", prices=(10.0,), attributes=("holds tea",))
    return Product(asin=asin, **(base | fields))


def make_goal(product: Product, options: tuple = (), kind: str = "synthetic") -> Goal:
    return Goal(
        kind=kind,  # pyright: ignore[reportArgumentType]
        asin=product.asin,
        category=product.category,
        query=product.query,
        title=product.title,
        product_category=product.product_category,
        instruction="Find me mugs",
        attributes=product.attributes,
        price_cap=20.0,
        options=options,
        weight=1.0,
    )


def open_session(shop: Shop = SHOP, quirks: bool = False) -> Session:
    goal = make_goal(shop.products[0])
    return Session(shop, goal, quirks, random.Random(0))


def visit(session: Session, *actions: str) -> Session:
    for action in actions:
        act(session, action)
    return session


# Goals


def test_a_seed_fixes_goals_and_order():
    first, again = SHOP.list_goals("synthetic", 5), build_shop("x", SHOP.products)
    assert list(first) == list(again.list_goals("synthetic", 5))
    other = SHOP.list_goals("synthetic", 6)
    assert [goal.asin for goal in first] != [goal.asin for goal in other]
    count = collections.Counter((goal.asin, goal.options) for goal in first)
    assert count == collections.Counter((goal.asin, goal.options) for goal in other)


def test_every_combination_of_options_is_a_goal():
    goals = SHOP.list_goals("synthetic", 0)
    by_product = collections.Counter(goal.asin for goal in goals)
    for product in SHOP.products:
        expected = int(np.prod([len(values) for _, values in product.options]))
        assert by_product[product.asin] == (expected if product.instruction else 0)
    goal = next(goal for goal in goals if len(goal.options) == 2)
    names = [name for name, _ in goal.options]
    assert names == sorted(names)
    named = ", and ".join(f"{name}: {value}" for name, value in goal.options)
    assert f" with {named}, and price lower than {goal.price_cap:.2f} dollars" in goal.instruction


def test_human_goals_keep_their_words():
    goals = SHOP.list_goals("human", 0)
    written = {human.text.strip(".") for product in SHOP.products for human in product.human}
    assert len(goals) == len(written) > 10
    assert all(goal.instruction.split(", and price lower")[0] in written for goal in goals)
    assert all(isinstance(goal.to_official()["goal_options"], list) for goal in goals)


@given(st.floats(0.01, 2000), st.integers(0, 99))
def test_caps_are_above_the_price(price: float, seed: int):
    cap = draw_cap(price, random.Random(seed))
    assert (cap == NO_CAP) == (price >= 980)
    assert cap == NO_CAP or (price < cap <= price + 40 and cap % 10 == 0)


def test_goal_lists_equal_the_originals(shared: Callable[[str], Path]):
    shop = load_shop(shared("data/webshop"))
    for seed, expected in json.loads(shared("data/webshop/goal_fixtures.json").read_text()).items():
        goals = [goal.to_official() for goal in shop.list_goals("synthetic", int(seed))]
        text = json.dumps(goals, sort_keys=True)
        assert hashlib.sha256(text.encode()).hexdigest() == expected["sha256"]


# Rewards

phrases = st.text("ab1 -_'é/", max_size=12)


def rate_by_definition(left: str, right: str) -> int:
    """The token-set ratio written out with difflib alone."""

    def rate(one: str, two: str) -> int:
        whole = difflib.SequenceMatcher(None, one, two).ratio() if one and two else 0.0
        return round(100 * whole)

    one, two = set(left.split()), set(right.split())
    shared = " ".join(sorted(one & two))
    first = (shared + " " + " ".join(sorted(one - two))).strip()
    second = (shared + " " + " ".join(sorted(two - one))).strip()
    return max(rate(shared, first), rate(shared, second), rate(first, second))


@given(phrases, phrases)
def test_fuzzy_decisions_are_difflibs(left: str, right: str):
    one, two = normalize_phrase(left), normalize_phrase(right)
    assert matches(left, right) == bool(one and two and rate_by_definition(one, two) > 85)
    assert matches(left, right) == matches(right, left) or left != right


def test_fuzzy_examples():
    assert matches("machine washable", "hand wash") is False
    assert matches("long sleeve shirt", "sleeve long") is True
    assert matches("pack of 12", "pack of 1") is True  # as close as the original takes it
    assert matches("\u9ed1\u8272", "\u9ed1\u8272") is False  # nothing is left of either in ASCII


def test_colors_hide_in_words():
    assert len(COLORS) == 102
    assert (normalize_color("1877black"), normalize_color("standard")) == ("black", "tan")


def test_pair_rule_misses_what_value_rule_finds():
    product = make_product(options=(("color", ("1877black",)), ("size", ("xx-large",))))
    goal = make_goal(product, (("color", "1877black"), ("size", "xx-large")))
    chosen = {"color": "1877black", "size": "xx-large"}
    assert count_options(chosen, goal, "pair") == 1
    assert count_options(chosen, goal, "value") == 2
    human = make_goal(product, ("1877black", "xx-large"), "human")
    assert count_options(chosen, human, "pair") == 2


def test_type_reward():
    assert rate_type(False, False, 0.5) == 1.0
    assert rate_type(True, False, 0.15) == rate_type(False, True, 0.15) == 1.0
    assert rate_type(False, False, 0.2) == 0.5
    assert (rate_type(True, True, 0.05), rate_type(True, True, 0.0)) == (0.1, 0.0)
    assert match_title(["mug", "mug", "tea"], ["mug", "mug", "red"]) == pytest.approx(1 / 3)
    assert match_title(["mug"], []) == 0.2
    assert match_category("A \u203a B \u203a C", "C \u203aA") and not match_category("A", "A")


def test_score_is_made_of_its_parts():
    bought, target = make_product(), make_product("B02", attributes=("holds tea", "fast charging"))
    goal = make_goal(target, (("color", "red"),))
    tagger = make_tagger("lexicon")
    result = score_purchase(bought, 30.0, {"color": "red"}, goal, target, tagger, "value")
    assert (result.attribute_matches, result.option_matches, result.price_match) == (1, 1, False)
    assert result.score == 2 / 4 * result.r_type
    info = result.to_info()
    assert (info["r_att"], info["w_att"], info["r_option"], info["w_price"]) == (0.5, 0.5, 1, 0.25)
    cheap = score_purchase(bought, 20.0, {}, make_goal(target), target, tagger, "value")
    assert cheap.price_match and "r_option" not in cheap.to_info()


def test_lexicon_nouns():
    nouns = find_nouns("Norvale Men's Machine Washable Red T-Shirt, 2 Pack (Soft & Breathable)")
    assert nouns == ("norvale", "men's", "machine", "t-shirt", "pack")
    with pytest.raises(ValueError, match="expected one of lexicon, spacy"):
        make_tagger("oracle")


# Pages


@pytest.mark.parametrize(
    ("action", "original", "ours"),
    [
        ("click[Buy Now]", ("click", "buy now"), ("click", "buy now")),
        ("click[a[b]]", ("", ""), ("click", "a[b]")),
        ("search[x] and more", ("search", "x"), ("search", "x")),
        ("search[x] y]", ("search", "x] y"), ("search", "x] y")),
        ("search[]", ("", ""), ("", "")),
        ("I search[x]", ("", ""), ("", "")),
        ("Search[x]", ("", ""), ("", "")),
        ("\nsearch[x]", ("", ""), ("", "")),
        ("search[x\ny]", ("", ""), ("", "")),
        ("search[x]\n[y]", ("search", "x"), ("search", "x")),
        ("search[[]", ("search", "["), ("search", "[")),
        ("]search[", ("", ""), ("", "")),
        ("click" + "[" * 10**5 + "]", ("", ""), ("click", "[" * (10**5 - 1))),
        ("buy", ("", ""), ("", "")),
    ],
)
def test_actions_are_read(action: str, original: tuple[str, str], ours: tuple[str, str]):
    assert parse_action(action, quirks=True) == original
    assert parse_action(action, quirks=False) == ours


@given(st.text("sclickearh[]x\n", max_size=12), st.sampled_from(["", "search", "click"]))
def test_actions_are_read_as_the_original_reads_them(tail: str, head: str):
    match = re.match(r"(.+)\[(.+)\]", head + tail)
    known = match is not None and match[1] in ("search", "click")
    expected = (match[1], match[2].lower()) if known and match else ("", "")
    assert parse_action(head + tail, quirks=True) == expected


def test_walk_through_the_shop():
    product = make_product(
        options=(("color", ("red", "blue")),), description="Good.", bullets=("one", "", " two ")
    )
    session = open_session(build_shop("one", (product,)))
    head = "Instruction: [SEP] Find me mugs [SEP] Back to Search [SEP] "
    assert render(session) == "WebShop [SEP] Instruction: [SEP] Find me mugs [SEP] Search"
    visit(session, "search[Mug]")
    page = "Page 1 (Total results: 1) [SEP] Next > [SEP] B01 [SEP] Red Mug [SEP] $10.0"
    assert render(session) == head + page
    visit(session, "click[B01]")
    item = "< Prev [SEP] color [SEP] red [SEP] blue [SEP] Red Mug [SEP] Price: $10.0"
    item += " [SEP] Rating: N.A. [SEP] Description [SEP] Features [SEP] Reviews [SEP] Buy Now"
    assert render(session) == head + item
    visit(session, "click[blue]")
    assert (render(session), session.chosen) == (head + item, {"color": "blue"})
    assert render(visit(session, "click[features]")) == head + "< Prev [SEP] one [SEP]  [SEP] two"
    assert render(visit(session, "click[< prev]", "click[reviews]")) == head + "< Prev"
    assert session.chosen == {"color": "blue"}
    visit(session, "click[< prev]", "click[description]")
    assert render(session) == head + "< Prev [SEP] Good."
    visit(session, "click[< prev]", "click[< prev]")
    assert (render(session), session.chosen) == (head + page, {})
    visit(session, "click[b01]", "click[buy now]")
    assert session.page is Page.DONE
    with pytest.raises(RuntimeError, match="open a new session"):
        act(session, "search[mug]")


def test_pages_of_results_never_end():
    session = visit(open_session(), "search[color]", *["click[next >]"] * 5)
    assert render(session).endswith("Page 6 (Total results: 50) [SEP] < Prev [SEP] Next >")
    assert list_clickables(session) == ["back to search", "< prev", "next >"]
    assert not act(session, "click[g]")


def test_search_works_everywhere_and_forgets_the_product():
    session = visit(open_session(), "search[tea]")
    visit(session, f"click[{session.results[0]}]")
    visit(session, f"click[{session.product.options[0][1][0]}]" if session.product.options else "")
    visit(session, "search[mug]")
    assert (session.page, session.product, session.chosen) == (Page.RESULTS, None, {})


@pytest.mark.parametrize("action", ["click[search]", "click[]", "search[]", "click[buy now]", "hi"])
def test_what_a_page_does_not_know_changes_nothing(action: str):
    session = open_session()
    before = (render(session), list_clickables(session))
    assert act(session, action) is False
    assert (render(session), list_clickables(session)) == before


def test_hidden_commands_are_plain_words_unless_asked_for():
    query = SHOP.products[0].query
    grocery = [p.asin for p in SHOP.products if p.category == "grocery"]
    assert visit(open_session(quirks=True), "search[<c> grocery]").results == grocery
    assert len(grocery) > 50
    same = [p.asin for p in SHOP.products if p.query == query]
    assert visit(open_session(quirks=True), f"search[<q> {query}]").results == same
    session = visit(open_session(quirks=True), "search[<r>]")
    assert len(session.results) == 50 and session.results != visit(session, "click[next >]").results
    for crash in ("search[<a> red]", "search[<c>]"):  # where the original fails
        assert visit(open_session(quirks=True), crash).page is Page.RESULTS
    plain = visit(open_session(), "search[<c> grocery]").results
    assert plain == visit(open_session(), "search[c grocery]").results


def test_options_that_collide():
    product = make_product(
        options=(("fit", ("red", "description", "search")), ("color", ("red", "a[b]")))
    )
    shop = build_shop("one", (product,))
    session = visit(open_session(shop), "search[mug]", "click[b01]")
    targets = list_clickables(session)
    assert targets[6:] == ["red", "search", "a[b]"] and targets.count("description") == 1
    assert visit(session, "click[red]").chosen == {"color": "red"}  # the last group takes it
    assert not act(session, "click[search]")
    visit(session, "click[description]")
    assert session.page is Page.SUB_PAGE
    visit(session, "click[< prev]", "click[a[b]]")
    assert session.chosen == {"color": "a[b]"}
    quirky = visit(open_session(shop, quirks=True), "search[mug]", "click[b01]", "click[a[b]]")
    assert quirky.chosen == {}


ANYTHING = st.one_of(
    st.text(max_size=30),
    st.binary(max_size=30).map(lambda raw: raw.decode("utf-8", "surrogateescape")),
    st.builds("{}[{}]".format, st.sampled_from(["click", "search"]), st.text(max_size=12)),
    st.sampled_from(["search[tea]", "search[low sugar]", "click[features]", "click[< prev]"]),
    st.integers(0, 30),
)


@given(st.lists(ANYTHING, max_size=25), st.booleans())
def test_no_action_breaks_the_shop(actions: list[str | int], quirks: bool):
    session = open_session(quirks=quirks)
    for action in actions:
        targets = list_clickables(session)
        if isinstance(action, int):
            action = f"click[{targets[action % len(targets)]}]"
        before = render(session)
        known = act(session, action)
        if session.page is Page.DONE:
            return
        assert known or render(session) == before
        assert len(set(list_clickables(session))) == len(list_clickables(session)) > 0
