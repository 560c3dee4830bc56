"""The shop's records: generated from a seed, shared by all episodes, changed only in copies."""

import dataclasses
import functools
import random
from collections.abc import Mapping
from typing import Any

KINDS = ("memory", "board", "processor", "cooler", "case", "drive")
NAMES = (
    "ada", "bela", "cleo", "dora", "emil", "fritz", "gina", "hugo", "iris", "jonas", "kira", "leo",
    "mona", "nils", "olga", "paul", "rosa", "sami", "tina", "ugo", "vera", "willi", "xenia", "yan",
)  # fmt: skip
CODES = ("spring", "summer", "autumn", "winter", "harvest", "solstice")
ERRORS = ("overheating", "noise", "freezing", "blackout", "beeping", "flicker")
FIXES = ("clean", "reseat", "update", "replace", "tighten", "reset")
TIERS = ("basic", "gold")
STATUSES = ("delivered", "shipped", "lost")
DAYS = (5, 12, 20, 28, 35, 45, 55, 70)
WINDOWS = ((15, 30), (30, 60), (15, 60))
"""Days within which something may be returned: tier basic, tier gold."""
RETURNS, PROMOTIONS = "returns", "promotions"
SIZES: Mapping[str, tuple[int, int, int, int]] = {"tiny": (3, 6, 12, 4), "full": (6, 24, 96, 12)}
"""Kinds of products, customers, orders, open tickets. With products of two or four sorts per kind,
policies, articles and stock that makes about 50 and 190 records."""

Key = tuple[str, str, str]
"""Table, record and field."""


@dataclasses.dataclass(frozen=True)
class Records:
    """Tables of rows, by number or name. Nobody writes to them."""

    tables: Mapping[str, Mapping[str, Mapping[str, Any]]]

    def row(self, table: str, name: str) -> Mapping[str, Any] | None:
        return self.tables[table].get(name)


@functools.lru_cache(maxsize=512)
def generate_records(seed: int, size: str) -> Records:
    """The records of a seed."""
    rng = random.Random(f"desk records {seed} {size}")
    kinds, customers, orders, tickets = SIZES[size]
    sorts = 2 if size == "tiny" else 4
    products = _make_products(rng, KINDS[:kinds], sorts)
    people = rng.sample(NAMES, customers)
    clients = {
        f"c{n}": {"name": name, "tier": rng.choice(TIERS)} for n, name in enumerate(people, 1)
    }
    sold = {
        str(n): {
            "product": rng.choice(list(products)),
            "customer": rng.choice(list(clients)),
            "status": rng.choices(STATUSES, (6, 2, 1))[0],
            "days": rng.choice(DAYS),
        }
        for n in rng.sample(range(1, orders + 1), orders)
    }
    basic, gold = rng.choice(WINDOWS)
    codes = rng.sample(CODES, kinds)
    fixes = rng.sample(FIXES, len(ERRORS))
    errors = rng.sample(ERRORS, tickets if size == "tiny" else len(ERRORS))
    return Records(
        {
            "products": products,
            "customers": clients,
            "orders": dict(sorted(sold.items(), key=lambda item: int(item[0]))),
            "tickets": {str(n): {"status": "open"} for n in range(1, tickets + 1)},
            "articles": dict(sorted((e, {"fix": f}) for e, f in zip(errors, fixes, strict=False))),
            "policies": {
                RETURNS: {"basic": basic, "gold": gold},
                PROMOTIONS: dict(zip(KINDS[:kinds], codes, strict=True)),
            },
        }
    )


def _make_products(rng: random.Random, kinds: tuple[str, ...], sorts: int) -> dict[str, Any]:
    """Products with a price, a plug and a stock; every kind has one in stock at least."""
    rows = [kind for kind in kinds for _ in range(sorts)]
    prices = rng.sample(range(20, 20 + 5 * len(rows)), len(rows))
    found = {
        f"p{n}": {
            "kind": kind,
            "price": price,
            "plug": rng.choice(("x", "y")),
            "stock": rng.choice((0, 1, 2, 5)),
        }
        for n, (kind, price) in enumerate(zip(rows, prices, strict=True), 1)
    }
    for kind in kinds:
        own = [row for row in found.values() if row["kind"] == kind]
        if not any(row["stock"] for row in own):
            rng.choice(own)["stock"] = 2
    return found


class Copy:
    """The records as one episode has changed them."""

    def __init__(self, records: Records) -> None:
        self.records = records
        self.changes: dict[Key, Any] = {}

    def row(self, table: str, name: str) -> dict[str, Any] | None:
        """A record with its changes, if there is one of that name."""
        base = self.records.row(table, name)
        if base is None:
            return None
        changed = {f: v for (t, n, f), v in self.changes.items() if (t, n) == (table, name)}
        return dict(base) | changed

    def change(self, table: str, name: str, field: str, value: Any) -> None:
        self.changes[table, name, field] = value
