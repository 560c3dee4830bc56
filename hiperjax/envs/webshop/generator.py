"""The generated catalogue: an invented shop in the official files' schema.

`write_data_file` writes the file that ships with the package; a test holds the two together.
Larger catalogues of the same kind serve benchmarks.
"""

import functools
import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from hiperjax.envs.webshop import wares
from hiperjax.envs.webshop.catalogue import BREADCRUMB, Product, parse_products
from hiperjax.envs.webshop.shop import Shop, build_shop
from hiperjax.envs.webshop.wares import Kind

DATA_FILE = Path(__file__).with_name("generated.json.gz")
SEED = 20
PRODUCT_COUNT = 360
_DIGITS = "0123456789ABCDEFGHJKLMNPQRSTUVWXYZ"

Catalogue = dict[str, Any]
"""The three official files in one object: `products`, `attributes`, `human`."""


def generate(count: int, seed: int = SEED) -> Catalogue:
    """A catalogue of `count` products; kinds take turns, so that each query has competitors."""
    rng = random.Random(seed)
    products, attributes, human = [], {}, {}
    for number in range(count):
        kind = wares.KINDS[number % len(wares.KINDS)]
        product = _make_product(kind, number, rng)
        own = rng.sample(kind.attributes, rng.randint(2, min(4, len(kind.attributes))))
        _describe_product(product, kind, own, rng)
        asin = product["asin"]
        attributes[asin] = {"attributes": own}
        if rng.random() < 0.6:
            attributes[asin] |= _instruct(kind, own, rng)
        if rng.random() < 0.2:
            human[asin] = [_ask(kind, product, own, rng)]
        products.append(product)
    return {"products": products, "attributes": attributes, "human": human}


def _name(number: int) -> str:
    """Ten characters: scattered digits first, so that order in a page says nothing."""
    scattered = number * 7_919_317 % 34**6
    text = ""
    for _ in range(6):
        scattered, digit = divmod(scattered, 34)
        text += _DIGITS[digit]
    return f"G{text}{number % 1000:03d}"


def _make_product(kind: Kind, number: int, rng: random.Random) -> Catalogue:
    groups = _make_options(kind, rng)
    crumbs = [wares.DEPARTMENTS[kind.category], *kind.path.split("/")]
    return {
        "asin": _name(number),
        "category": kind.category,
        "query": kind.query,
        "product_category": f" {BREADCRUMB} ".join(crumbs),
        "pricing": _make_pricing(kind, rng),
        "images": [f"generated/{number}.png"],
        "customization_options": {
            name: [{"value": value, "image": None} for value in values]
            for name, values in groups.items()
        }
        or "",
    }


def _make_options(kind: Kind, rng: random.Random) -> dict[str, list[str]]:
    """None to three groups, most often two."""
    pools = {"color": wares.COLORS, kind.size_name: kind.sizes, "style": wares.STYLES}
    count = rng.choices((0, 1, 2, 3), (15, 25, 50, 10))[0]
    names = rng.sample(list(pools)[:2], count) if count < 2 else list(pools)[:count]
    return {
        name: [v for v in pools[name] if v in chosen]
        for name in names
        for chosen in [rng.sample(pools[name], rng.randint(2, min(5, len(pools[name]))))]
    }


def _make_pricing(kind: Kind, rng: random.Random) -> str:
    low = rng.randint(*kind.prices) - rng.choice((0.01, 0.05, 0.5, 0.0))
    draw = rng.random()
    if draw < 0.06:
        return ""
    return f"${low:.2f} - ${low * rng.uniform(1.2, 2.0):.2f}" if draw < 0.18 else f"${low:.2f}"


def _describe_product(product: Catalogue, kind: Kind, own: list[str], rng: random.Random) -> None:
    """Write title, its nouns, bullets and description."""
    brand, series = rng.choice(wares.BRANDS), rng.choice(wares.SERIES)
    named = [attribute.title() for attribute in own[: rng.randint(1, 2)]]
    owner = kind.query.split("'s ")[0].title() + "'s " if "'s " in kind.query else ""
    product["name"] = f"{brand} {series} {owner}{' '.join(named)} {kind.noun.title()}"
    product["title_nouns"] = [brand.lower(), series.lower(), kind.noun]
    product["small_description"] = [
        f"The {series} {kind.noun} is {attribute}: {rng.choice(_REASONS)}" for attribute in own
    ]
    use = rng.choice(kind.uses)
    sentence = f"{brand} made the {series} {kind.noun} for {use}. {rng.choice(_CLOSINGS)}"
    product["full_description"] = sentence if rng.random() < 0.8 else ""


_REASONS = (
    "we tested it for a year before we sold the first one",
    "no extra steps and nothing to look after",
    "our customers asked for it, so every batch has it now",
    "checked by hand before it is packed",
    "it stays that way after months of use",
)
_CLOSINGS = (
    "It comes in a plain paper box.",
    "Spare parts and refills are listed under the same series.",
    "Take it back within ninety days if it does not please you.",
    "Please read the size table before you order.",
)


def _instruct(kind: Kind, own: list[str], rng: random.Random) -> Catalogue:
    """A synthetic instruction over some of a product's attributes."""
    wanted = own[: rng.randint(1, len(own))]
    first, rest = wanted[:2], wanted[2:]
    text = f"Find me {', '.join(first)} {kind.query}"
    text += f" with {', '.join(rest)}" if rest else ""
    text += f" for {rng.choice(kind.uses)}" if rng.random() < 0.4 else ""
    return {"instruction": text, "instruction_attributes": wanted}


def _ask(kind: Kind, product: Catalogue, own: list[str], rng: random.Random) -> Catalogue:
    """An instruction as a person might word it."""
    groups = product["customization_options"] or {}
    values = [rng.choice(entries)["value"] for entries in groups.values()]
    wish = f" in {' and '.join(values)}" if values else ""
    text = rng.choice(
        (
            f"i need a {kind.noun}{wish}, and it has to be {own[0]}.",
            f"could you look for {own[0]} {kind.query}{wish}",
            f"my old {kind.noun} broke, i would like a new {own[0]} one{wish}.",
        )
    )
    return {
        "asin": product["asin"],
        "instruction": text,
        "attributes": own,
        "options": [f"{name}: {value}" for name, value in zip(groups, values, strict=True)],
        "instruction_attributes": own[:1],
        "instruction_options": values,
    }


def generate_tiny() -> Catalogue:
    """A product for every pair of a few adjectives and nouns, with options of one word.

    A title is two words, an identifier the same two around the number of the noun's aisle. Both
    recur in other products, so that a product left out of training is a new combination of familiar
    words.
    """
    rng = random.Random(SEED)
    departments = list(wares.DEPARTMENTS)
    products, attributes = [], {}
    for place, noun in enumerate(wares.TINY_NOUNS):
        aisle = place % len(departments)
        for adjective in wares.TINY_ADJECTIVES:
            title, asin = f"{adjective} {noun}", f"{adjective}{aisle + 1}{noun}".upper()
            products.append(
                {
                    "asin": asin,
                    "category": departments[aisle],
                    "query": noun,
                    "product_category": noun,
                    "pricing": f"${rng.randint(1, 4) * 10 - 1}",
                    "images": [""],
                    "customization_options": _make_tiny_options(rng) or "",
                    "name": title,
                    "title_nouns": [adjective, noun],
                    "small_description": [],
                    "full_description": "",
                }
            )
            attributes[asin] = {
                "attributes": [title],
                "instruction": f"Find me {title}",
                "instruction_attributes": [title],
            }
    return {"products": products, "attributes": attributes, "human": {}}


def _make_tiny_options(rng: random.Random) -> dict[str, list[dict[str, str]]]:
    """Most often colors and sizes; else three colors, or nothing."""
    count = rng.choices((0, 1, 2), (10, 30, 60))[0]
    groups = {"color": wares.TINY_COLORS, "size": wares.TINY_SIZES}
    return {
        name: [{"value": value} for value in rng.sample(groups[name], 3 if count == 1 else 2)]
        for name in list(groups)[:count]
    }


def read_catalogue(catalogue: Catalogue) -> Iterator[Product]:
    """Products of a generated catalogue, by the official files' own parser."""
    return parse_products(catalogue["products"], catalogue["attributes"], catalogue["human"])


@functools.cache
def make_shop(size: Literal["tiny"] | int) -> Shop:
    """A shop over a freshly generated catalogue: `tiny`, or of so many products."""
    catalogue = generate_tiny() if size == "tiny" else generate(size)
    return build_shop(f"generated-{size}", tuple(read_catalogue(catalogue)))


@functools.cache
def load_generated() -> Shop:
    """The shop over the data file that ships with the package."""
    with gzip.open(DATA_FILE, "rt", encoding="utf-8") as file:
        products = tuple(read_catalogue(json.load(file)))
    return build_shop(f"generated-{len(products)}", products)


def write_data_file(path: Path = DATA_FILE) -> None:
    """Write the shipped data file; the same bytes each time."""
    text = json.dumps(generate(PRODUCT_COUNT), separators=(",", ":"))
    path.write_bytes(gzip.compress(text.encode(), mtime=0))
