"""Suites by name: ours, and other people's through the entry point group `hiperjax.suites`.

An entry point of that group is a callable that takes the suite's options as keyword arguments and
returns a `Suite`.
"""

import importlib
import importlib.metadata
from typing import Any

from hiperjax.envs.base import Suite
from hiperjax.envs.ladder import RUNGS, make_ladder_suite

ENTRY_POINT_GROUP = "hiperjax.suites"
_FACTORIES = {
    "household": "hiperjax.envs.alfworld.suites:HouseholdSuite",
    "alfworld": "hiperjax.envs.alfworld.suites:AlfworldSuite",
    "webshop": "hiperjax.envs.webshop:make_webshop_suite",
}


def list_suites() -> tuple[str, ...]:
    """Every name `make_suite` takes."""
    installed = (point.name for point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP))
    return (*_FACTORIES, *(f"ladder/{rung}" for rung in RUNGS), *installed)


def make_suite(name: str, **options: Any) -> Suite:
    """The suite of a name. Options are the suite's own; one it does not know is an error."""
    if name in _FACTORIES:
        module, _, factory = _FACTORIES[name].partition(":")
        return getattr(importlib.import_module(module), factory)(**options)
    if name.startswith("ladder/"):
        return make_ladder_suite(name.removeprefix("ladder/"), **options)
    for point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP, name=name):
        return point.load()(**options)
    raise KeyError(f"suite {name!r}: expected one of {', '.join(list_suites())}")
