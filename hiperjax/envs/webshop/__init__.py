"""WebShop without Java, browser or server: catalogue, search, pages, goals, reward, in Python."""

from pathlib import Path

from hiperjax.envs.webshop.expert import Grain
from hiperjax.envs.webshop.files import load_shop
from hiperjax.envs.webshop.generator import load_generated, make_shop
from hiperjax.envs.webshop.goals import GoalKind
from hiperjax.envs.webshop.nouns import make_tagger
from hiperjax.envs.webshop.profiles import ProfileName, get_profile
from hiperjax.envs.webshop.suite import WebShopEnv, WebShopSuite

__all__ = ["WebShopEnv", "WebShopSuite", "make_webshop_suite"]


def make_webshop_suite(
    profile: ProfileName = "strict",
    data: str | Path | None = None,
    goals: GoalKind = "synthetic",
    max_turns: int = 15,
    seed: int | None = None,
    *,
    tiny: bool = False,
    workers: int = 1,
    show_selected: bool | None = None,
    tagger: str = "lexicon",
    grain: Grain = "coarse",
) -> WebShopSuite:
    """WebShop's tasks.

    Args:
        profile: `strict` (disjoint splits, fair options) or `hiper` (as its authors ran it).
        data: folder of the official files; None for the generated catalogue.
        goals: `synthetic`, or `human` for instructions written by people.
        max_turns: the usual turn limit; HiPER's logged runs use 15.
        seed: of the goal order; None for the profile's own.
        tiny: with the generated catalogue, few short products for a model trained from nothing.
        workers: under `hiper`, how many worker seeds training tasks are drawn from.
        show_selected: whether observations name the chosen options; None for the profile's own.
        tagger: what finds title nouns where the catalogue brings none: `lexicon` or `spacy`.
        grain: of the expert's subgoals: `coarse` errands of several turns, or `fine` phases.
    """
    rules = get_profile(profile)
    if goals not in ("synthetic", "human"):
        raise ValueError(f"webshop goals {goals!r}: expected 'synthetic' or 'human'")
    if grain not in ("coarse", "fine"):
        raise ValueError(f"webshop grain {grain!r}: expected 'coarse' or 'fine'")
    if tiny and data is not None:
        raise ValueError(f"tiny=True with data={str(data)!r}: only the generated catalogue has it")
    if data is not None:
        shop = load_shop(Path(data))
    else:
        shop = make_shop("tiny") if tiny else load_generated()
    seed = rules.seed if seed is None else seed
    if not len(shop.list_goals(goals, seed)):
        raise ValueError(f"{shop.name}: no {goals} goals; for human ones add items_human_ins*.json")
    make_tagger(tagger)  # a name it does not know should fail now, not at the first purchase
    return WebShopSuite(
        shop,
        rules,
        kind=goals,
        seed=seed,
        max_turns=max_turns,
        workers=workers,
        show_selected=rules.show_selected if show_selected is None else show_selected,
        tagger=tagger,
        grain=grain,
    )
