"""The immutable part of the world, built once per process and shared by all its sessions."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

from hiperjax.envs.webshop.catalogue import Product, describe
from hiperjax.envs.webshop.goals import GoalDrafts, GoalKind, GoalList, draw_goals, gather_drafts
from hiperjax.envs.webshop.search import SearchIndex, build_index


@dataclasses.dataclass(frozen=True, eq=False)
class Shop:
    """Products, the index over them, and their goals by kind and seed."""

    name: str
    """what was loaded, for results: the folder, or the generated catalogue's name"""
    products: Sequence[Product]
    index: SearchIndex
    places: Mapping[str, int]
    """identifier to index in `products`"""

    def get(self, asin: str) -> Product:
        return self.products[self.places[asin]]

    @functools.lru_cache(maxsize=256)  # noqa: B019 - a shop lives as long as its process
    def list_goals(self, kind: GoalKind, seed: int) -> GoalList:
        """Goals of a seed; built at the first call."""
        return draw_goals(self.products, self._gather_drafts(kind), kind, seed)

    @functools.lru_cache(maxsize=16)  # noqa: B019
    def _gather_drafts(self, kind: GoalKind) -> GoalDrafts:
        return gather_drafts(self.products, kind)


def build_shop(name: str, products: Sequence[Product]) -> Shop:
    """A shop over products held in memory."""
    index = build_index((product.asin, describe(product)) for product in products)
    return Shop(name, products, index, {p.asin: place for place, p in enumerate(products)})
