"""How each kind of request is dealt with: by a task when it is made, and by the scripted expert.

A procedure asks tools and returns the answer. Run on the records it says what a task wants: calls,
changes, words. Run on what was observed so far it says what is to be called next.
"""

import dataclasses
import random
import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from hiperjax.envs.calls import Call
from hiperjax.envs.desk.records import (
    CODES,
    FIXES,
    PROMOTIONS,
    RETURNS,
    STATUSES,
    Records,
)


@runtime_checkable
class Ask(Protocol):
    """Calls a tool and returns its text."""

    def __call__(self, name: str, /, **arguments: str) -> str: ...


Arguments = Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Procedure:
    """One kind of request."""

    text: str
    """what the customer says, with its arguments in braces"""
    draw: Callable[[random.Random, Records], dict[str, str]]
    """arguments of a request"""
    run: Callable[..., str]
    """takes an `Ask` and the arguments, returns the answer"""
    answers: tuple[str, ...] = ()
    """what may be the answer; none: names of products"""

    @property
    def pattern(self) -> re.Pattern[str]:
        return re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>\\w+)", re.escape(self.text)))


def _pick(table: str, name: str) -> Callable[[random.Random, Records], dict[str, str]]:
    return lambda rng, records: {name: rng.choice(list(records.tables[table]))}


def _status(ask: Ask, order: str) -> str:
    return _find(r"status (\w+)", ask("get_order", order=order))


def _stock(ask: Ask, product: str) -> str:
    return "no" if "none" in ask("check_stock", product=product) else "yes"


def _fits(ask: Ask, product: str, other: str) -> str:
    return _find(r": (\w+)\.", ask("check_fit", product=product, other=other))


def _draw_two(rng: random.Random, records: Records) -> dict[str, str]:
    product, other = rng.sample(list(records.tables["products"]), 2)
    return {"product": product, "other": other}


def _fix(ask: Ask, ticket: str, error: str) -> str:
    fix = _find(r": (\w+)\.", ask("search_articles", error=error))
    ask("update_ticket", ticket=ticket, status="solved")
    return fix


def _draw_error(rng: random.Random, records: Records) -> dict[str, str]:
    tickets, articles = records.tables["tickets"], records.tables["articles"]
    return {"ticket": rng.choice(list(tickets)), "error": rng.choice(list(articles))}


def _discount(ask: Ask, order: str) -> str:
    kind = _find(r"kind (\w+)", ask("get_order", order=order))
    code = _find(rf"{kind} (\w+)", ask("get_policy", topic=PROMOTIONS))
    ask("apply_promotion", order=order, code=code)
    return code


def _cheapest(ask: Ask, kind: str) -> str:
    products = re.findall(r"p\d+", ask("search_products", kind=kind))
    for product in products:
        if "none" not in ask("check_stock", product=product):
            return product
    return "none"


def _draw_kind(rng: random.Random, records: Records) -> dict[str, str]:
    kinds = {row["kind"] for row in records.tables["products"].values()}
    return {"kind": rng.choice(sorted(kinds))}


def _refund(ask: Ask, order: str) -> str:
    row = ask("get_order", order=order)
    policy = ask("get_policy", topic=RETURNS)
    tier, days = _find(r"tier (\w+)", row), int(_find(r"(\d+) days", row))
    window = int(_find(rf"tier {tier} (\d+) days", policy))
    if "status delivered" not in row or days > window:
        return "refused"
    ask("process_return", order=order)
    return "accepted"


def _refund_last(ask: Ask, name: str) -> str:
    found = ask("search_customers", name=name)
    return _refund(ask, _find(r"(\d+)\.$", found))


def _draw_buyer(rng: random.Random, records: Records) -> dict[str, str]:
    clients = records.tables["customers"]
    buyers = sorted({clients[row["customer"]]["name"] for row in records.tables["orders"].values()})
    return {"name": rng.choice(buyers)}


def _find(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    if found is None:
        raise LookupError(f"{pattern!r} is not in {text!r}")
    return found[1]


BACK = ("accepted", "refused")
PROCEDURES: Mapping[str, Procedure] = {
    "status": Procedure(
        "What happened to order {order}?", _pick("orders", "order"), _status, STATUSES
    ),
    "stock": Procedure(
        "Do you have product {product} left?", _pick("products", "product"), _stock, ("yes", "no")
    ),
    "fits": Procedure(
        "Does product {product} fit product {other}?", _draw_two, _fits, ("fit", "clash")
    ),
    "fix": Procedure("Solve ticket {ticket}, error {error}.", _draw_error, _fix, FIXES),
    "cheapest": Procedure("Which {kind} left costs least?", _draw_kind, _cheapest),
    "discount": Procedure(
        "Give order {order} its promotion.", _pick("orders", "order"), _discount, CODES
    ),
    "refund": Procedure("Take order {order} back.", _pick("orders", "order"), _refund, BACK),
    "refund_last": Procedure(
        "Take last order back, customer {name}.", _draw_buyer, _refund_last, BACK
    ),
}


def read_request(text: str) -> tuple[Procedure, dict[str, str]]:
    """The procedure that a request's text asks for, with its arguments.

    Raises:
      LookupError: none.
    """
    for procedure in PROCEDURES.values():
        found = procedure.pattern.fullmatch(text)
        if found:
            return procedure, found.groupdict()
    raise LookupError(f"no procedure for the request {text!r}")


class NeedsCall(Exception):
    """A procedure waits for what a call answers."""

    def __init__(self, call: Call) -> None:
        super().__init__(str(call))
        self.call = call


def find_next(
    text: str, known: Mapping[tuple[str, tuple[tuple[str, Any], ...]], str]
) -> Call | str:
    """What a request needs next: a call that was not answered yet, or else its answer."""
    procedure, arguments = read_request(text)

    def ask(name: str, /, **given: str) -> str:
        key = name, tuple(given.items())
        if key not in known:
            raise NeedsCall(Call(name, dict(given)))
        return known[key]

    try:
        return procedure.run(ask, **arguments)
    except NeedsCall as need:
        return need.call
