"""Checklists as worlds write them: made, and checked before anybody pays by them."""

import math
from collections.abc import Collection, Iterable, Sequence

from hiperjax.types import Checklist, Criterion

TOLERANCE = 1e-6
"""By how much the weights of a request may miss 1."""


class ChecklistError(ValueError):
    """A checklist that nobody can pay by; one line, for a person to read."""


def make_checklist(items: Iterable[tuple[str, str, Collection[str]]]) -> Checklist | None:
    """A checklist of one request whose items weigh the same; None where there are no items.

    Args:
      items: name, question and dependencies of each; what it depends on and is not listed itself is
        left out.
    """
    rows = list(items)
    known = {name for name, _, _ in rows}
    if not rows:
        return None
    return check_checklist(
        Checklist(
            tuple(
                Criterion(name, question, 1 / len(rows), tuple(d for d in depends if d in known))
                for name, question, depends in rows
            )
        )
    )


def check_checklist(checklist: Checklist, where: str = "checklist") -> Checklist:
    """The checklist, if it can be paid by.

    Raises:
      ChecklistError: no items, a name twice, an unknown dependency or one of a later request, a
        cycle, a weight that is no positive number, a request whose weights do not sum to 1.
    """
    items = checklist.items
    if not items:
        raise ChecklistError(f"{where}: found no criteria; expected at least one")
    requests: dict[str, int] = {}
    for item in items:
        if item.name in requests:
            raise ChecklistError(f"{where}: found two criteria {item.name!r}; expected one")
        requests[item.name] = item.request
    sums: dict[int, float] = {}
    for item in items:
        if not (math.isfinite(item.weight) and item.weight > 0):
            raise ChecklistError(
                f"{where}, criterion {item.name}: weight is {item.weight}; expected above 0"
            )
        sums[item.request] = sums.get(item.request, 0.0) + item.weight
        for other in item.depends:
            if requests.get(other, item.request + 1) > item.request:
                raise ChecklistError(
                    f"{where}, criterion {item.name}: depends on {other!r}; expected a criterion "
                    "of its own request or an earlier one"
                )
    for request in range(max(sums) + 1):
        found = sums.get(request, 0.0)
        if abs(found - 1) > TOLERANCE:
            raise ChecklistError(
                f"{where}, request {request}: weights sum to {found:.6g}; expected 1"
            )
    _check_cycles(items, where)
    return checklist


def _check_cycles(items: Sequence[Criterion], where: str) -> None:
    left = {item.name: set(item.depends) for item in items}
    while left:
        free = [name for name, depends in left.items() if not depends & left.keys()]
        if not free:
            raise ChecklistError(
                f"{where}: {', '.join(left)} depend on each other in a cycle; expected an order"
            )
        for name in free:
            del left[name]


def weigh(checklist: Checklist, satisfied: Collection[str]) -> float:
    """Weight of the criteria that hold, mean over the requests: from 0 to 1."""
    share = sum(item.weight for item in checklist.items if item.name in satisfied)
    return round(share / checklist.num_requests, 9)  # all of them are 1, not almost


def grade(checklist: Checklist, satisfied: Collection[str]) -> float:
    """What the criteria that hold weigh; 0 where a gate fails."""
    if any(item.gate and item.name not in satisfied for item in checklist.items):
        return 0.0
    return weigh(checklist, satisfied)
