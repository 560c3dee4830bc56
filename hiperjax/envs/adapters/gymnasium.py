"""Suites over environments registered with Gymnasium, by their id."""

import dataclasses
import importlib
from functools import partial
from typing import Any

from hiperjax.envs.adapters.world import AdaptedSuite, adapt
from hiperjax.envs.options import SuiteError
from hiperjax.types import ActionMode


@dataclasses.dataclass(frozen=True, slots=True)
class GymnasiumOptions:
    """Which environment, and how it is played."""

    id: str = ""
    """as `gymnasium.make` takes it; MODULE:ID imports the module first"""
    role: str = "You act in a world that answers in text."
    """one sentence for the prompt"""
    actions: ActionMode = "listed"
    """listed (info["admissible"]), free, or tools"""
    tasks: int = 1000
    """training tasks, each a seed"""
    held_out: int = 100
    """tasks of the split `unseen`, with seeds of their own"""
    max_turns: int = 30
    """turn limit"""
    seed: int = 0
    """another one draws other seeds"""


def make_gymnasium_suite(**options: Any) -> AdaptedSuite:
    """A suite of one Gymnasium environment of text, whose tasks are seeds.

    Raises:
      SuiteError: no such environment, or its package is not installed.
    """
    o = GymnasiumOptions(**options)
    import gymnasium

    module, _, name = o.id.rpartition(":")
    try:
        if module:  # `gymnasium.make` imports it, `gymnasium.spec` does not
            importlib.import_module(module)
        gymnasium.spec(name)
    except (gymnasium.error.Error, ImportError) as error:
        said = str(error).splitlines()[0]
        raise SuiteError(f"suite gymnasium: option id is {o.id!r}: {said}") from error
    return adapt(
        partial(gymnasium.make, o.id, disable_env_checker=True),
        {
            "train": [f"seed-{n}" for n in range(o.tasks)],
            "unseen": [f"unseen-{n}" for n in range(o.held_out)],
        },
        name=f"gymnasium-{name.rpartition('/')[2]}",
        role=o.role,
        max_turns=o.max_turns,
        actions=o.actions,
        seed=o.seed,
    )
