"""Tasks of the shop: what to buy, with which options, below which price.

Everything drawn by chance comes from Python's generator in the order of the original: actual
prices of products with a range, then one price cap per product (or human instruction), then, from
the same seed anew, the shuffle. So a seed fixes the goals and their order to the letter.

Goals are kept as numbers and written out on demand: a large catalogue has millions of them.
"""

import dataclasses
import functools
import math
import operator
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from hiperjax.envs.webshop.catalogue import HumanInstruction, Product

GoalKind = Literal["synthetic", "human"]
NO_CAP = 1_000_000
"""The price cap of a goal that names none."""
_CAPS = tuple(10.0 * step for step in range(1, 100))
_PRICE_TEXT = ", and price lower than {:.2f} dollars"


@dataclasses.dataclass(frozen=True, slots=True)
class Goal:
    """One task."""

    kind: GoalKind
    asin: str
    category: str
    query: str
    title: str
    product_category: str
    instruction: str
    attributes: tuple[str, ...]
    price_cap: float | int
    options: tuple[tuple[str, str], ...] | tuple[str, ...]
    """(name, value) pairs of a synthetic goal, values of a human one"""
    weight: float | int
    """the goal's share where the original draws one at random"""

    @property
    def option_values(self) -> tuple[str, ...]:
        return tuple(o if isinstance(o, str) else o[1] for o in self.options)

    def to_official(self) -> dict[str, Any]:
        """The goal under the original's field names, as its recordings and hashes hold it."""
        named = self.kind == "synthetic"
        return {
            "asin": self.asin,
            "category": self.category,
            "query": self.query,
            "name": self.title,
            "product_category": self.product_category,
            "instruction_text": self.instruction,
            "attributes": list(self.attributes),
            "price_upper": self.price_cap,
            "goal_options": dict(self.options) if named else list(self.options),  # pyright: ignore
            "weight": self.weight,
        }


@dataclasses.dataclass(frozen=True)
class GoalList(Sequence[Goal]):
    """All goals of a catalogue under one seed, in the order of that seed."""

    products: Sequence[Product]
    kind: GoalKind
    seed: int
    prices: Float[np.ndarray, " products"]
    """actual price of each product: what the reward compares with the cap"""
    sources: tuple["_Source", ...]
    places: Int[np.ndarray, "goals 2"]
    """(source, combination of its options) of each goal, shuffled"""

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Goal:  # pyright: ignore[reportIncompatibleMethodOverride]
        if not 0 <= index < len(self.places):
            raise IndexError(f"goal {index}: expected 0 to {len(self.places) - 1}")
        source, combination = self.places[index]
        return self.sources[source].write(self.products, int(combination))

    @functools.cached_property
    def targets(self) -> Int[np.ndarray, " goals"]:
        """Index in `products` of each goal's own product."""
        return np.array([source.place for source in self.sources], np.int64)[self.places[:, 0]]


@dataclasses.dataclass(frozen=True, slots=True)
class _Source:
    """What the goals of one product, or of one human instruction, have in common."""

    place: int
    text: str
    attributes: tuple[str, ...]
    human: HumanInstruction | None
    cap: float | int = NO_CAP
    weight: float | int = 1

    def write(self, products: Sequence[Product], combination: int) -> Goal:
        product = products[self.place]
        if self.human is None:
            options = _pick_options(product, combination)
            named = ", and ".join(f"{name}: {value}" for name, value in options)
            text = f"{self.text} with {named}" if named else self.text
        else:
            options, text = self.human.options, self.text
        return Goal(
            kind="synthetic" if self.human is None else "human",
            asin=product.asin,
            category=product.category,
            query=product.query,
            title=product.title,
            product_category=product.product_category,
            instruction=text + (_PRICE_TEXT.format(self.cap) if self.cap != NO_CAP else ""),
            attributes=self.attributes,
            price_cap=self.cap,
            options=options,
            weight=self.weight,
        )


def _pick_options(product: Product, combination: int) -> tuple[tuple[str, str], ...]:
    """The combination of that number when the last option name counts fastest."""
    picked: list[tuple[str, str]] = []
    for name, values in sorted(product.options, reverse=True):
        combination, place = divmod(combination, len(values))
        picked.append((name, values[place]))
    return tuple(reversed(picked))


def draw_price(prices: tuple[float, ...], rng: random.Random) -> float:
    """The actual price: the one there is, or a uniform draw from the range."""
    return prices[0] if len(prices) == 1 else rng.uniform(*prices)


def draw_cap(price: float, rng: random.Random) -> float | int:
    """The larger of two of the next four tens above a price; `NO_CAP` where fewer than two are."""
    above = [cap for cap in _CAPS if cap > price][:4]
    return max(rng.sample(above, 2)) if len(above) >= 2 else NO_CAP


@dataclasses.dataclass(frozen=True, slots=True)
class GoalDrafts:
    """What no seed changes about the goals of one kind; gathered in one pass over the products."""

    ranges: tuple[tuple[float, ...], ...]
    """price or price range of each product"""
    sources: tuple["_Source", ...]
    counts: tuple[int, ...]
    """goals of each source"""


def gather_drafts(products: Sequence[Product], kind: GoalKind) -> GoalDrafts:
    """Everything about goals but what is drawn."""
    ranges: list[tuple[float, ...]] = []
    sources: list[_Source] = []
    counts: list[int] = []
    for place, product in enumerate(products):
        ranges.append(product.prices)
        for text, attributes, human, count in _list_sources(product, kind):
            sources.append(_Source(place, text, attributes, human))
            counts.append(count)
    if kind == "synthetic":
        weights = _weigh(sources, counts)
        sources = [
            dataclasses.replace(source, weight=weight)
            for source, weight in zip(sources, weights, strict=True)
        ]
    return GoalDrafts(tuple(ranges), tuple(sources), tuple(counts))


def draw_goals(
    products: Sequence[Product], drafts: GoalDrafts, kind: GoalKind, seed: int
) -> GoalList:
    """Draw prices and caps, then shuffle."""
    rng = random.Random(seed)
    prices = [draw_price(own, rng) for own in drafts.ranges]
    sources = tuple(
        dataclasses.replace(source, cap=draw_cap(prices[source.place], rng))
        for source in drafts.sources
    )
    counts = np.array(drafts.counts, np.int64)
    order = list(range(int(counts.sum())))
    random.Random(seed).shuffle(order)
    owner = np.repeat(np.arange(len(counts)), counts)
    first = np.cumsum(counts) - counts
    places = np.stack([owner, np.arange(len(owner)) - first[owner]], axis=1)[order]
    return GoalList(products, kind, seed, np.array(prices), sources, places.astype(np.int32))


def _list_sources(
    product: Product, kind: GoalKind
) -> Iterator[tuple[str, tuple[str, ...], HumanInstruction | None, int]]:
    """Text, attributes, human instruction and number of goals of each of a product's sources."""
    if kind == "synthetic" and product.instruction is not None:
        count = math.prod(len(values) for _, values in product.options)
        yield product.instruction, product.instruction_attributes, None, count
    if kind == "human":
        for human in product.human:
            if human.attributes:
                yield human.text.strip("."), human.attributes, human, 1


def _weigh(sources: list[_Source], counts: list[int]) -> list[float]:
    """Weight of a goal: mean over its attributes of one over the goals that share it.

    Added up from left to right, as in the original: from Python 3.12 on `sum` compensates for
    rounding, and last digits differ.
    """
    shared: dict[str, int] = defaultdict(int)
    for source, count in zip(sources, counts, strict=True):
        for attribute in source.attributes:
            shared[attribute] += count
    return [
        functools.reduce(operator.add, (1.0 / shared[a] for a in source.attributes), 0.0)
        / len(source.attributes) if count else 0.0
        for source, count in zip(sources, counts, strict=True)
    ]  # fmt: skip
