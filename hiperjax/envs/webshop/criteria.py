"""What is to hold in the course of a purchase, as a checklist verified from the session."""

from hiperjax.envs.criteria import make_checklist
from hiperjax.envs.webshop.goals import Goal
from hiperjax.envs.webshop.pages import Page, Session, list_shown
from hiperjax.types import Checklist

SEARCHED, FOUND, OPENED, PRICE, BOUGHT = "searched", "found", "opened", "price", "bought"
PASSED = frozenset({SEARCHED, FOUND, OPENED})
"""Criteria that stay satisfied once they were; options may be chosen anew."""


def _name_options(goal: Goal) -> list[str]:
    """One criterion for each option that the goal names, by its value."""
    return [f"option:{value.lower()}" for value in dict.fromkeys(goal.option_values)]


def write_checklist(goal: Goal) -> Checklist | None:
    """The criteria of a goal, all of the same weight."""
    options = _name_options(goal)
    rows = [
        (SEARCHED, "Did the agent search for something?", ()),
        (FOUND, "Was the wanted product listed among the results shown?", (SEARCHED,)),
        (OPENED, "Did the agent open the page of the wanted product?", (FOUND,)),
    ]
    for option in options:
        value = option.partition(":")[2]
        rows.append((option, f"Is {value!r} chosen on the wanted product's page?", (OPENED,)))
    rows += [
        (PRICE, "Did what was bought cost no more than asked for?", (OPENED,)),
        (BOUGHT, "Was the wanted product bought?", (OPENED, *options)),
    ]
    return make_checklist(rows)


def list_satisfied(session: Session, price_kept: bool = False) -> frozenset[str]:
    """Criteria that hold now; `price_kept`: something was bought, within its price."""
    goal, found = session.goal, set()
    if session.page is not Page.SEARCH:
        found.add(SEARCHED)
    if session.page is Page.RESULTS and any(p.asin == goal.asin for p in list_shown(session)):
        found.add(FOUND)
    if session.product is not None and session.product.asin == goal.asin:
        chosen = {value.lower() for value in session.chosen.values()}
        found |= {OPENED} | {f"option:{value}" for value in chosen} & set(_name_options(goal))
        if session.page is Page.DONE:
            found.add(BOUGHT)
    if price_kept:
        found.add(PRICE)
    return frozenset(found)
