"""Products: one immutable record each, parsed from the official JSON schema.

A product file is a list of objects, an attribute file maps identifiers to attributes and a
written instruction, a file of human instructions maps identifiers to lists of them. Whatever is
missing or malformed raises `CatalogueError`, which names the file, the product and the field.
"""

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

BREADCRUMB = "\u203a"
DEFAULT_PRICE = 100.0
DEFAULT_ATTRIBUTES = ("DUMMY_ATTR",)
_LONGEST_IDENTIFIER = 10


class CatalogueError(ValueError):
    """A product file says something the rules give no meaning to."""


@dataclasses.dataclass(frozen=True, slots=True)
class HumanInstruction:
    """A task written by a person for one product."""

    text: str
    attributes: tuple[str, ...]
    options: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Product:
    """What the shop knows of one product."""

    asin: str
    """identifier of at most ten characters"""
    title: str
    description: str
    bullets: tuple[str, ...]
    options: tuple[tuple[str, tuple[str, ...]], ...]
    """groups in the file's order: name, values"""
    category: str
    query: str
    """the search term it was collected under"""
    product_category: str
    """categories from the widest to the narrowest, joined by `BREADCRUMB` between spaces"""
    prices: tuple[float, ...]
    """one price, or the two ends of a range"""
    attributes: tuple[str, ...]
    instruction: str | None = None
    instruction_attributes: tuple[str, ...] = ()
    human: tuple[HumanInstruction, ...] = ()
    nouns: tuple[str, ...] | None = None
    """nouns of the title, repeats kept, where the file brings them"""

    @property
    def price_tag(self) -> str:
        return " to ".join(f"${price}" for price in self.prices)


def describe(product: Product) -> str:
    """The text search sees: title, description, first bullet, options."""
    options = ", and ".join(f"{name}: {', '.join(values)}" for name, values in product.options)
    first = product.bullets[0] if product.bullets else ""
    return " ".join((product.title, product.description, first, options)).lower()


def parse_products(
    records: Iterable[Any],
    attributes: Mapping[str, Any],
    human: Mapping[str, Any] | None = None,
    file: str = "products",
    attribute_file: str = "attributes",
    human_file: str = "human instructions",
) -> Iterator[Product]:
    """Products of a file in its order; repeated and overlong identifiers are left out.

    The names of the files are for errors.
    """
    seen: set[str] = set()
    for place, record in enumerate(records):
        if not isinstance(record, Mapping):
            raise CatalogueError(
                f"{file}: entry {place} is {type(record).__name__}, expected an object"
            )
        reader = _Reader(record, file, f"product {record.get('asin', f'number {place}')!r}")
        asin = reader.read("asin", str)
        if asin == "nan" or len(asin) > _LONGEST_IDENTIFIER or asin in seen:
            continue
        seen.add(asin)
        facts = _Reader(attributes.get(asin, {}), attribute_file, f"product {asin!r}")
        humans = _parse_humans((human or {}).get(asin, ()), asin, human_file)
        yield _parse_product(reader, facts, asin, humans)


def _parse_product(
    reader: "_Reader", facts: "_Reader", asin: str, humans: tuple[HumanInstruction, ...]
) -> Product:
    bullets = reader.read("small_description", list, str)
    instruction = facts.read("instruction", str, type(None), default=None)
    wanted = facts.read_texts("instruction_attributes", ())
    if instruction is not None and not wanted:
        raise facts.complain("instruction_attributes", "none", "one at least beside an instruction")
    return Product(
        asin=asin,
        title=reader.read("name", str),
        description=reader.read("full_description", str),
        bullets=(bullets,) if isinstance(bullets, str) else reader.read_texts("small_description"),
        options=_parse_options(reader),
        category=reader.read("category", str),
        query=reader.read("query", str).lower().strip(),
        product_category=reader.read("product_category", str),
        prices=_parse_prices(reader),
        attributes=facts.read_texts("attributes", DEFAULT_ATTRIBUTES),
        instruction=instruction,
        instruction_attributes=wanted,
        human=humans,
        nouns=reader.read_texts("title_nouns") if "title_nouns" in reader.record else None,
    )


def _parse_humans(entries: Any, asin: str, file: str) -> tuple[HumanInstruction, ...]:
    where = f"product {asin!r}"
    if not isinstance(entries, Sequence) or isinstance(entries, str):
        raise CatalogueError(f"{file}: {where} is {type(entries).__name__}, expected a list")
    readers = [_Reader(entry, file, where) for entry in entries]
    return tuple(
        HumanInstruction(
            text=reader.read("instruction", str),
            attributes=reader.read_texts("instruction_attributes"),
            options=reader.read_texts("instruction_options"),
        )
        for reader in readers
    )


def _parse_prices(reader: "_Reader") -> tuple[float, ...]:
    pricing = reader.read("pricing", str, type(None), default=None) or ""
    prices: list[float] = []
    for part in pricing.split("$")[1:]:
        digits = re.sub(r"[^\d.]", "", part)
        try:
            prices.append(float(digits))
        except ValueError:
            raise reader.complain("pricing", repr(pricing), 'such as "$9.99"') from None
    return tuple(prices[:2]) or (DEFAULT_PRICE,)


def _parse_options(reader: "_Reader") -> tuple[tuple[str, tuple[str, ...]], ...]:
    groups = reader.read("customization_options", dict, str, type(None), default=None)
    if isinstance(groups, str) and groups:
        raise reader.complain("customization_options", repr(groups[:40]), "an object or nothing")
    options: dict[str, tuple[str, ...]] = {}
    for name, entries in (groups or {}).items():
        if entries is None:
            continue
        if not isinstance(entries, list):
            raise reader.complain(f"customization_options[{name!r}]", repr(entries), "a list")
        where = f"{reader.where}, option {name!r}"
        values = (_Reader(entry, reader.file, where).read("value", str) for entry in entries)
        options[name.lower()] = tuple(v.strip().replace("/", " | ").lower() for v in values)
    return tuple(options.items())


@dataclasses.dataclass(frozen=True, slots=True)
class _Reader:
    """Typed access to one JSON object, with errors that say where they stand."""

    record: Any
    file: str
    where: str

    def __post_init__(self) -> None:
        if not isinstance(self.record, Mapping):
            raise CatalogueError(
                f"{self.file}: {self.where} is {type(self.record).__name__}, expected an object"
            )

    def complain(self, field: str, found: str, expected: str) -> CatalogueError:
        return CatalogueError(
            f"{self.file}: {self.where}, field {field}: found {found}, expected {expected}"
        )

    def read(self, field: str, *kinds: type, **default: Any) -> Any:
        names = " or ".join(kind.__name__ for kind in kinds)
        if field not in self.record:
            if "default" in default:
                return default["default"]
            raise self.complain(field, "nothing", names)
        value = self.record[field]
        if not isinstance(value, kinds):
            raise self.complain(field, f"{type(value).__name__} {str(value)[:40]!r}", names)
        return value

    def read_texts(self, field: str, missing: Sequence[str] | None = None) -> tuple[str, ...]:
        default = {} if missing is None else {"default": missing}
        values = self.read(field, list, **default)
        for value in values:
            if not isinstance(value, str):
                raise self.complain(field, f"{value!r} in the list", "strings only")
        return tuple(values)
