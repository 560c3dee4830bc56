"""The shop's pages: where a session stands, how an action moves it, what its page says.

A session is a small record over shared immutable data. A page is a list of text segments and a
list of things to click, both in the original's order; segments are joined by " [SEP] ".
"""

import dataclasses
import enum
import json
import random
from collections.abc import Sequence

from hiperjax.envs.webshop.catalogue import Product
from hiperjax.envs.webshop.goals import Goal
from hiperjax.envs.webshop.shop import Shop

SEPARATOR = " [SEP] "
PAGE_SIZE = 10
SEARCH_LIMIT = 50
SUB_PAGES = ("description", "features", "reviews")
_BUTTONS = ("back to search", "< prev", *SUB_PAGES, "buy now")
_RECEIPT = (
    "Thank you for shopping with us! [SEP] Your code: [SEP] None [SEP] (Paste it in your MTurk"
    " interface.) [SEP] Purchased [SEP] asin [SEP] {asin} [SEP] options [SEP] {options} [SEP] attrs"
    " [SEP] None [SEP] category [SEP] None [SEP] query [SEP] None [SEP] product category [SEP] None"
    " [SEP] Target [SEP] asin [SEP] options [SEP] attrs [SEP] price upper [SEP] instuction text"
    " [SEP] category [SEP] product category [SEP] query [SEP] Goal [SEP] None [SEP] Reward [SEP]"
    " Your score (min 0.0, max 1.0) [SEP] {score} [SEP] Reward Details [SEP] None"
)


class Page(enum.Enum):
    """What kind of page a session stands on."""

    SEARCH = "search"
    RESULTS = "results"
    ITEM = "item"
    SUB_PAGE = "sub-page"
    DONE = "done"


@dataclasses.dataclass(slots=True)
class Session:
    """One visit of the shop. Mutable; everything it points to is shared and is not."""

    shop: Shop
    goal: Goal
    quirks: bool
    """whether actions are read as in the original: `<r>`, `<c> category` and `<q> query` searched
    for are commands, and of several opening brackets the last one counts"""
    rng: random.Random
    """for `<r>` only"""
    page: Page = Page.SEARCH
    query: str = ""
    results: Sequence[str] = ()
    """identifiers the query found, best first"""
    results_page: int = 1
    product: Product | None = None
    sub_page: str = ""
    chosen: dict[str, str] = dataclasses.field(default_factory=dict)
    """option name to chosen value, in the order of first choice"""

    @property
    def has_search_bar(self) -> bool:
        return self.page is Page.SEARCH


def parse_action(action: str, quirks: bool) -> tuple[str, str]:
    """Name and lower-cased argument of `name[argument]`; ("", "") for anything else.

    What follows the last closing bracket, or a line break, is ignored. The original splits at the
    last opening bracket, so it cannot click what contains one.
    """
    line = action.partition("\n")[0]
    closing = line.rfind("]")
    find = line.rfind if quirks else line.find
    opening = find("[", 0, max(closing - 1, 0))
    if line[: max(opening, 0)] not in ("search", "click"):
        return "", ""
    return line[:opening], line[opening + 1 : closing].lower()


def act(session: Session, action: str) -> bool:
    """Apply an action; False where the page knows no such action and nothing changed."""
    name, argument = parse_action(action, session.quirks)
    if session.page is Page.DONE:
        raise RuntimeError(f"action {action!r} after the purchase: open a new session first")
    if name == "search":
        _search(session, argument)
        return True
    if name != "click" or argument == "search" or argument not in list_clickables(session):
        return False
    _click(session, argument)
    return True


def _search(session: Session, query: str) -> None:
    session.query = query
    session.results = _find(session, query)
    _show_results(session, 1)


def _show_results(session: Session, number: int) -> None:
    session.page, session.results_page = Page.RESULTS, number
    session.product, session.chosen = None, {}


def _repeat_search(session: Session, number: int) -> None:
    """Show another page of the last search, which only a random list makes worth doing again."""
    if session.query.startswith("<r>"):
        session.results = _find(session, session.query)
    _show_results(session, number)


def _find(session: Session, query: str) -> Sequence[str]:
    """Identifiers for a query. Commands the original would crash on are plain words here."""
    words = query.split(" ")
    products = session.shop.products
    if session.quirks and words[0] == "<r>":
        count = min(SEARCH_LIMIT, len(products))
        return [p.asin for p in session.rng.sample(products, count)]
    if session.quirks and words[0] == "<c>" and len(words) > 1:
        return [p.asin for p in products if p.category == words[1].strip()]
    if session.quirks and words[0] == "<q>":
        return [p.asin for p in products if p.query == " ".join(words[1:]).strip()]
    return [asin for asin, _ in session.shop.index.search(query, SEARCH_LIMIT)]


def _click(session: Session, target: str) -> None:
    """Follow a clickable of the current page. Buttons come first: they hide equal options."""
    if target == "buy now":
        session.page = Page.DONE
    elif target == "back to search":
        session.page, session.query, session.results = Page.SEARCH, "", ()
        session.product, session.chosen = None, {}
    elif target in ("next >", "< prev") and session.page is Page.RESULTS:
        _repeat_search(session, session.results_page + (1 if target == "next >" else -1))
    elif target == "< prev" and session.page is Page.ITEM:
        _repeat_search(session, session.results_page)
    elif target == "< prev":
        session.page = Page.ITEM
    elif target in SUB_PAGES:
        session.page, session.sub_page = Page.SUB_PAGE, target
    elif session.page is Page.RESULTS:
        session.page, session.product = Page.ITEM, session.shop.get(target.upper())
    else:
        _choose(session, target)


def _choose(session: Session, value: str) -> None:
    """Choose an option; of groups that share a value the last one takes it."""
    for name, values in reversed(_get_product(session).options):
        if value in values:
            session.chosen[name] = value
            return


def _get_product(session: Session) -> Product:
    if session.product is None:
        raise RuntimeError(f"session on page {session.page.value}: no product is open")
    return session.product


def list_shown(session: Session) -> list[Product]:
    """The products on this page of results."""
    first = (session.results_page - 1) * PAGE_SIZE
    return [session.shop.get(asin) for asin in session.results[first : first + PAGE_SIZE]]


def list_clickables(session: Session) -> list[str]:
    """What can be clicked now: buttons in page order, then products, then option values."""
    if session.page is Page.SEARCH:
        return ["search"]
    if session.page is Page.RESULTS:
        first = (session.results_page - 1) * PAGE_SIZE
        shown = [asin.lower() for asin in session.results[first : first + PAGE_SIZE]]
        back = ["< prev"] if session.results_page > 1 else []
        return list(dict.fromkeys(["back to search", *back, "next >", *shown]))
    if session.page is Page.ITEM:
        options = (value for _, values in _get_product(session).options for value in values)
        return list(dict.fromkeys((*_BUTTONS, *options)))
    return ["back to search", "< prev"] if session.page is Page.SUB_PAGE else []


def render(session: Session) -> str:
    """The page's text, as the original's text mode shows it."""
    return SEPARATOR.join(list_segments(session))


def list_segments(session: Session) -> list[str]:
    """The page's text nodes in order; the instruction follows the segment "Instruction:"."""
    head = ["Instruction:", session.goal.instruction.strip()]
    if session.page is Page.SEARCH:
        return ["WebShop", *head, "Search"]
    if session.page is Page.DONE:
        raise RuntimeError("the page after a purchase: use render_receipt, which knows the score")
    body = _render_results if session.page is Page.RESULTS else _render_product
    return [*head, "Back to Search", *body(session)]


def _render_results(session: Session) -> list[str]:
    segments = [f"Page {session.results_page} (Total results: {len(session.results)})"]
    if session.results_page > 1:
        segments.append("< Prev")
    segments.append("Next >")
    for product in list_shown(session):
        segments += _show(product.asin, product.title, product.price_tag)
    return segments


def _render_product(session: Session) -> list[str]:
    product = _get_product(session)
    if session.page is Page.ITEM:
        segments = ["< Prev"]
        for name, values in product.options:
            segments += _show(name, *values)
        segments += _show(product.title)
        segments += [f"Price: {product.price_tag}", "Rating: N.A."]
        return [*segments, "Description", "Features", "Reviews", "Buy Now"]
    if session.sub_page == "description":
        return ["< Prev", *_show(product.description)]
    if session.sub_page == "features":
        return ["< Prev", *(bullet.strip() for bullet in product.bullets)]
    return ["< Prev"]


def _show(*texts: str) -> list[str]:
    """Texts as the page's nodes: an empty one, or a lone line break, leaves no trace."""
    return [text.strip() for text in texts if text not in ("", "\n")]


def render_receipt(session: Session, score: float) -> str:
    """The page after a purchase, which no agent sees."""
    options = json.dumps(session.chosen, sort_keys=True)
    for character in "<>&'":  # written as a template writes JSON into a page
        options = options.replace(character, f"\\u{ord(character):04x}")
    return _RECEIPT.format(asin=_get_product(session).asin, options=options, score=score)
