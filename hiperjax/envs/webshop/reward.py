"""What a purchase is worth, between 0 and 1, with its parts.

    score = r_type * (attribute matches + option matches + price kept) / (attributes + options + 1)

`r_type` says whether the bought product is of the kind that was asked for. Two rules compare
options. `pair` is the original's: the option of a synthetic goal enters as a printed (name, value)
pair whose colour is read only where the value is a bare colour word, while the chosen value's
colour is read wherever its letters occur, so that 6.6 % of the official goals cannot be met by
their own product. `value` treats both sides alike, as the original does for human goals.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from hiperjax.envs.webshop.catalogue import BREADCRUMB, Product
from hiperjax.envs.webshop.fuzzy import matches
from hiperjax.envs.webshop.goals import Goal
from hiperjax.envs.webshop.nouns import Tagger

OptionRule = Literal["pair", "value"]

_COLOR_TEXT = (
    "alabaster apricot aqua ash asphalt azure banana beige black blue blush bordeaux bronze brown"
    " burgundy camel camo caramel champagne charcoal cheetah chestnut chocolate christmas coffee"
    " cognac copper coral cranberry cream crystal dark denim eggplant elephant espresso fuchsia"
    " gold granite grape graphite grass gray green grey heather indigo ivory ivy khaki lavender"
    " lemon leopard light lilac lime magenta maroon mauve merlot midnight mint mocha multicolor"
    " mushroom mustard natural navy nude olive orange peach pewter pink plum purple rainbow red"
    " rose royal rust sand sapphire seashell silver skull slate steel stone stonewash sunflower tan"
    " taupe teal tiger turquoise violet walnut wheat white wine yellow"
)
COLORS = tuple(_COLOR_TEXT.split())


@dataclasses.dataclass(frozen=True, slots=True)
class Reward:
    """A purchase's score and what it is made of."""

    score: float
    r_type: float
    query_match: bool
    category_match: bool
    title_score: float
    attribute_matches: int
    attributes: int
    option_matches: int
    options: int
    price_match: bool

    @property
    def parts(self) -> int:
        """By how much the matches are divided."""
        return self.attributes + self.options + 1

    def to_info(self) -> dict[str, Any]:
        """The breakdown under the original's names; option entries only where options count."""
        info: dict[str, Any] = {
            "r_type": self.r_type,
            "r_att": self.attribute_matches / self.attributes,
            "w_att": self.attributes / self.parts,
            "query_match": self.query_match,
            "category_match": self.category_match,
            "title_score": self.title_score,
        }
        if self.options:
            info["r_option"] = self.option_matches / self.options
            info["w_option"] = self.options / self.parts
        return info | {"r_price": self.price_match, "w_price": 1 / self.parts}


def normalize_color(value: str) -> str:
    """The first colour word whose letters occur in a value, else the value."""
    return next((color for color in COLORS if color in value), value)


def match_title(bought: Sequence[str], wanted: Sequence[str]) -> float:
    """Shared nouns (each once) over the wanted title's nouns (repeats counted)."""
    return len(set(bought) & set(wanted)) / len(wanted) if wanted else 0.2


def match_category(bought: str, wanted: str) -> bool:
    """Whether two breadcrumbs share at least two entries."""
    crumbs = [{crumb.strip() for crumb in path.split(BREADCRUMB)} for path in (bought, wanted)]
    return len(crumbs[0] & crumbs[1]) >= 2


def rate_type(query_match: bool, category_match: bool, title_score: float) -> float:
    """Whether the kind is right. A title that shares next to nothing overrules the rest."""
    if title_score == 0.0:
        return 0.0
    if title_score < 0.1:
        return 0.1
    return 1.0 if query_match or category_match or title_score > 0.2 else 0.5


def count_attributes(product: Product, goal: Goal) -> int:
    """Goal attributes found among the product's, or in its title, bullets or description."""
    texts = (
        product.title.lower(),
        " ".join(product.bullets).lower(),
        product.description.lower(),
    )
    return sum(
        any(matches(own, wanted) for own in product.attributes) or any(wanted in t for t in texts)
        for wanted in goal.attributes
    )


def count_options(chosen: Mapping[str, str], goal: Goal, rule: OptionRule) -> int:
    """Goal options that some chosen value matches; superfluous choices cost nothing."""
    own = [normalize_color(value) for value in chosen.values()]
    if rule == "pair":
        wanted = [_print_pair(option) for option in goal.options]
    else:
        wanted = [normalize_color(value) for value in goal.option_values]
        exact = set(chosen.values())
        return sum(
            value in exact or any(matches(choice, color) for choice in own)
            for value, color in zip(goal.option_values, wanted, strict=True)
        )
    return sum(any(matches(choice, text) for choice in own) for text in wanted)


def _print_pair(option: str | tuple[str, str]) -> str:
    """A goal option as the original's matcher sees it."""
    if isinstance(option, str):
        return normalize_color(option)
    return next((color for color in COLORS if color in option), str(option))


def score_purchase(
    product: Product,
    price: float,
    chosen: Mapping[str, str],
    goal: Goal,
    target: Product,
    tagger: Tagger,
    rule: OptionRule,
) -> Reward:
    """Score buying `product` at its actual `price` with `chosen` options for a goal."""
    bought_nouns = tagger(product.title) if product.nouns is None else product.nouns
    wanted_nouns = tagger(target.title) if target.nouns is None else target.nouns
    title_score = match_title(bought_nouns, wanted_nouns)
    query_match = product.query == goal.query
    category_match = match_category(product.product_category, goal.product_category)
    r_type = rate_type(query_match, category_match, title_score)
    attribute_matches = count_attributes(product, goal)
    option_matches = count_options(chosen, goal, rule)
    price_match = bool(price <= goal.price_cap)
    parts = len(goal.attributes) + len(goal.options) + 1
    return Reward(
        score=(attribute_matches + option_matches + price_match) / parts * r_type,
        r_type=r_type,
        query_match=query_match,
        category_match=category_match,
        title_score=title_score,
        attribute_matches=attribute_matches,
        attributes=len(goal.attributes),
        option_matches=option_matches,
        options=len(goal.options),
        price_match=price_match,
    )
