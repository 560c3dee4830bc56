"""WebShop without Java, browser or server: catalogue, search, pages, goals, reward, in Python."""

import dataclasses
from pathlib import Path
from typing import Any, Literal, get_args

from hiperjax.envs.webshop.expert import Grain
from hiperjax.envs.webshop.files import load_shop
from hiperjax.envs.webshop.generator import load_generated, make_shop
from hiperjax.envs.webshop.goals import GoalKind
from hiperjax.envs.webshop.nouns import make_tagger
from hiperjax.envs.webshop.profiles import ProfileName, get_profile
from hiperjax.envs.webshop.suite import WebShopEnv, WebShopSuite

__all__ = ["WebShopEnv", "WebShopSuite", "WebshopOptions", "make_webshop_suite"]


@dataclasses.dataclass(frozen=True)
class WebshopOptions:
    """Which shop, which goals, and how they are shown."""

    profile: ProfileName = "strict"
    """strict (disjoint splits, fair options) or hiper (as its authors ran it)"""
    data: str | Path | None = None
    """folder of the official files; none: the generated catalogue"""
    goals: GoalKind = "synthetic"
    """synthetic, or human for instructions written by people"""
    max_turns: int = 15
    """the usual turn limit; HiPER's logged runs use 15"""
    seed: int | None = None
    """seed of the goal order; none: the profile's own"""
    size: Literal["tiny", "full"] = "full"
    """size of the generated catalogue; tiny: few short products for a model trained from nothing"""
    workers: int = 1
    """profile hiper: how many worker seeds training tasks are drawn from"""
    show_selected: bool | None = None
    """whether observations name the chosen options; none: the profile's own"""
    tagger: str = "lexicon"
    """what finds title nouns where the catalogue brings none: lexicon or spacy"""
    grain: Grain = "coarse"
    """grain of the expert's subgoals: coarse errands of several turns, or fine phases"""


def make_webshop_suite(*args: Any, **kwargs: Any) -> WebShopSuite:
    """WebShop's tasks; arguments are the fields of `WebshopOptions`."""
    options = WebshopOptions(*args, **kwargs)
    rules = get_profile(options.profile)
    for name, known in (("goals", GoalKind), ("grain", Grain), ("size", Literal["tiny", "full"])):
        value, expected = getattr(options, name), get_args(known)
        if value not in expected:
            raise ValueError(f"webshop {name} {value!r}: expected one of {', '.join(expected)}")
    if options.data is not None:
        shop = load_shop(Path(options.data))
    else:
        shop = make_shop("tiny") if options.size == "tiny" else load_generated()
    seed = rules.seed if options.seed is None else options.seed
    if not len(shop.list_goals(options.goals, seed)):
        kind = options.goals
        raise ValueError(f"{shop.name}: no {kind} goals; for human ones add items_human_ins*.json")
    make_tagger(options.tagger)  # an unknown name should fail now, not at the first purchase
    shown = options.show_selected
    return WebShopSuite(
        shop,
        rules,
        kind=options.goals,
        seed=seed,
        max_turns=options.max_turns,
        workers=options.workers,
        show_selected=rules.show_selected if shown is None else shown,
        tagger=options.tagger,
        grain=options.grain,
    )
