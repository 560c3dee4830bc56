"""Suites by name: ours, and other people's through the entry point group `hiperjax.suites`.

An entry point of that group is a callable that takes the suite's options as keyword arguments and
returns a `Suite`: a class, or a function. Its options are the fields of its attribute `Options`, a
frozen dataclass, where it has one; otherwise its own keyword arguments.
"""

import importlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from hiperjax.entry_points import list_names, load_all
from hiperjax.envs.base import Suite
from hiperjax.envs.ladder import RUNGS, LadderOptions, make_ladder_suite, read_chain
from hiperjax.envs.options import SuiteError, check_options, list_options, read_options

__all__ = ["SuiteError", "list_suites", "make_suite", "parse_options", "suite_options"]

ENTRY_POINT_GROUP = "hiperjax.suites"
LADDER = "ladder/"
_MAKERS = {
    "household": ("hiperjax.envs.alfworld.suites", "HouseholdSuite", "HouseholdOptions"),
    "alfworld": ("hiperjax.envs.alfworld.suites", "AlfworldSuite", "AlfworldOptions"),
    "desk": ("hiperjax.envs.desk.suite", "DeskSuite", "DeskOptions"),
    "errands": ("hiperjax.envs.errands.suite", "ErrandsSuite", "ErrandsOptions"),
    "gymnasium": (
        "hiperjax.envs.adapters.gymnasium",
        "make_gymnasium_suite",
        "GymnasiumOptions",
    ),
    "mcp": ("hiperjax.envs.adapters.servers", "make_mcp_suite", "McpOptions"),
    "openenv": ("hiperjax.envs.adapters.servers", "make_openenv_suite", "OpenEnvOptions"),
    "webshop": ("hiperjax.envs.webshop", "make_webshop_suite", "WebshopOptions"),
}


def list_suites() -> tuple[str, ...]:
    """Every name `make_suite` takes."""
    rungs = (f"{LADDER}{rung}" for rung in (*RUNGS, "chain-L"))
    return (*_MAKERS, *rungs, *list_names(ENTRY_POINT_GROUP))


def _find(name: str) -> tuple[Callable[..., Any], dict[str, Any] | None]:
    """What makes the suite, and its options with their types (None: whatever it takes)."""
    if name in _MAKERS:
        module, maker, options = _MAKERS[name]
        loaded = importlib.import_module(module)
        return getattr(loaded, maker), list_options(getattr(loaded, options))
    rung = name.removeprefix(LADDER)
    if name.startswith(LADDER) and (rung in RUNGS or read_chain(rung)):
        return partial(make_ladder_suite, rung), list_options(LadderOptions)
    for _, maker in load_all(ENTRY_POINT_GROUP, name):
        return maker, list_options(getattr(maker, "Options", maker))
    raise SuiteError(f"suite {name!r}: expected one of {', '.join(list_suites())}")


def suite_options(name: str) -> dict[str, Any] | None:
    """The options of a suite with their types; None where it takes any, and nobody can say."""
    return _find(name)[1]


def parse_options(name: str, given: Sequence[str]) -> dict[str, Any]:
    """Options of a suite from `key=value` settings."""
    return read_options(name, suite_options(name), given)


def make_suite(name: str, **options: Any) -> Suite:
    """The suite of a name, with options of its own.

    Raises:
      SuiteError: no such suite or option, or the suite refused what it was given.
    """
    maker, known = _find(name)
    check_options(name, known, list(options))
    try:  # other people's code runs here
        return maker(**options)
    except Exception as error:
        ours = type(error).__module__.startswith("hiperjax.") or isinstance(error, OSError)
        if ours:  # it says what it found and expects
            raise
        said = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise SuiteError(f"suite {name}: {said}") from error
