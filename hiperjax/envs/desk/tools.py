"""The desk's tools: what they are called with, what they answer, what they change.

Every call is entered in the episode's audit log. A tool that is asked for a record that is not
there says so; that is no error of the program.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

from hiperjax.envs.calls import Call
from hiperjax.envs.desk.records import PROMOTIONS, RETURNS, Copy
from hiperjax.types import Tool

REPLY = "reply"
RETURNED, PROMOTION = "returned", "promotion"


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """One line of the audit log."""

    tool: str
    arguments: Mapping[str, Any]
    digest: str
    """of the result"""
    changed: bool
    """whether it wrote to the records"""
    request: int


def _tool(name: str, description: str, /, **arguments: str) -> Tool:
    properties = {
        argument: {"type": "string", "description": about} for argument, about in arguments.items()
    }
    schema = {
        "type": "object",
        "properties": properties,
        "required": list(arguments),
        "additionalProperties": False,
    }
    return Tool(name, description, schema)


TOOLS = (
    _tool("search_customers", "Find a customer and their orders.", name="first name"),
    _tool("get_order", "Show an order.", order="number of the order"),
    _tool("search_products", "List products of a kind, cheapest first.", kind="such as memory"),
    _tool("get_policy", "Show a policy.", topic="returns or promotions"),
    _tool("search_articles", "Find the article on an error.", error="name of the error"),
    _tool("check_stock", "Show how many of a product are left.", product="such as p4"),
    _tool("check_fit", "Show whether two products fit.", product="one", other="the other"),
    _tool("update_ticket", "Set the status of a ticket.", ticket="number", status="such as solved"),
    _tool("process_return", "Take an order back.", order="number of the order"),
    _tool("apply_promotion", "Give an order a promotion.", order="number", code="of the promotion"),
    _tool(REPLY, "Answer the customer; ends the request.", text="the answer"),
)


def run_tool(copy: Copy, call: Call) -> str:
    """Call a tool; `reply` is the desk's own affair."""
    return _RUN[call.name](copy, **call.arguments)


def _missing(what: str, name: str) -> str:
    return f"There is no {what} {name}."


def _search_customers(copy: Copy, name: str) -> str:
    for number, row in copy.records.tables["customers"].items():
        if row["name"] == name.lower():
            orders = [
                order
                for order, sold in copy.records.tables["orders"].items()
                if sold["customer"] == number
            ]
            listed = ", ".join(orders) or "none"
            return f"Customer {number}: {row['name']}, tier {row['tier']}, orders {listed}."
    return _missing("customer", name)


def _get_order(copy: Copy, order: str) -> str:
    row = copy.row("orders", order)
    if row is None:
        return _missing("order", order)
    customer, product = copy.row("customers", row["customer"]), copy.row("products", row["product"])
    assert customer is not None and product is not None, "orders name records that are there"
    more = [RETURNED] if row.get(RETURNED) else []
    more += [f"promotion {row[PROMOTION]}"] if row.get(PROMOTION) else []
    said = [
        f"product {row['product']}", f"kind {product['kind']}", f"tier {customer['tier']}",
        f"status {row['status']}", f"{row['days']} days", *more,
    ]  # fmt: skip
    return f"Order {order}: {', '.join(said)}."


def _search_products(copy: Copy, kind: str) -> str:
    rows = copy.records.tables["products"].items()
    found = sorted((row["price"], name) for name, row in rows if row["kind"] == kind.lower())
    if not found:
        return _missing("product of kind", kind)
    return f"Products of kind {kind}: {', '.join(name for _, name in found)}."


def _get_policy(copy: Copy, topic: str) -> str:
    policy = copy.records.row("policies", topic.lower())
    if policy is None:
        return _missing("policy", topic)
    if topic.lower() == RETURNS:
        return (
            f"Returns: delivered orders, tier basic {policy['basic']} days, tier gold "
            f"{policy['gold']} days."
        )
    return f"Promotions: {', '.join(f'{kind} {code}' for kind, code in policy.items())}."


def _search_articles(copy: Copy, error: str) -> str:
    row = copy.records.row("articles", error.lower())
    return _missing("article", error) if row is None else f"Article {error}: {row['fix']}."


def _check_stock(copy: Copy, product: str) -> str:
    row = copy.row("products", product.lower())
    if row is None:
        return _missing("product", product)
    return f"Product {product}: {row['stock'] or 'none'} left."


def _check_fit(copy: Copy, product: str, other: str) -> str:
    rows = [copy.row("products", name.lower()) for name in (product, other)]
    first, second = rows
    if first is None or second is None:
        return _missing("product", product if first is None else other)
    verdict = "fit" if first["plug"] == second["plug"] else "clash"
    return f"Products {product}, {other}: {verdict}."


def _update_ticket(copy: Copy, ticket: str, status: str) -> str:
    if copy.row("tickets", ticket) is None:
        return _missing("ticket", ticket)
    copy.change("tickets", ticket, "status", status.lower())
    return f"Ticket {ticket}: {status.lower()}."


def _process_return(copy: Copy, order: str) -> str:
    if copy.row("orders", order) is None:
        return _missing("order", order)
    copy.change("orders", order, RETURNED, True)
    return f"Order {order}: returned."


def _apply_promotion(copy: Copy, order: str, code: str) -> str:
    if copy.row("orders", order) is None:
        return _missing("order", order)
    if code.lower() not in copy.records.tables["policies"][PROMOTIONS].values():
        return _missing("promotion", code)
    copy.change("orders", order, PROMOTION, code.lower())
    return f"Order {order}: promotion {code.lower()}."


_RUN: Mapping[str, Callable[..., str]] = {
    "search_customers": _search_customers,
    "get_order": _get_order,
    "search_products": _search_products,
    "get_policy": _get_policy,
    "search_articles": _search_articles,
    "check_stock": _check_stock,
    "check_fit": _check_fit,
    "update_ticket": _update_ticket,
    "process_return": _process_return,
    "apply_promotion": _apply_promotion,
}


def digest(result: str) -> str:
    """A result in short, for the audit log."""
    return hashlib.sha256(result.encode()).hexdigest()[:16]
