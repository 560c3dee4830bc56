"""hiperjax: training LLM agents for long tasks, in JAX.

What people come for stands here and is imported when it is asked for, so that `import hiperjax`
wakes nothing: worlds, and tools that read run folders, do without JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hiperjax.envs.base import Step, Suite, TextEnv
    from hiperjax.envs.checks import check_suite
    from hiperjax.training.build import restore_run as load_run
    from hiperjax.training.evaluation import evaluate
    from hiperjax.training.trainer import train
    from hiperjax.types import Observation, Trajectory

__version__ = "0.1.0"

_FACE = {  # name here -> module, and its name there where that is another
    "train": "hiperjax.training.trainer",
    "evaluate": "hiperjax.training.evaluation",
    "load_run": "hiperjax.training.build:restore_run",
    "Suite": "hiperjax.envs.base",
    "TextEnv": "hiperjax.envs.base",
    "Step": "hiperjax.envs.base",
    "Observation": "hiperjax.types",
    "Trajectory": "hiperjax.types",
    "check_suite": "hiperjax.envs.checks",
}

__all__ = [
    "Observation",
    "Step",
    "Suite",
    "TextEnv",
    "Trajectory",
    "check_suite",
    "evaluate",
    "load_run",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _FACE:
        raise AttributeError(f"module 'hiperjax' has no attribute {name!r}; it has {__all__}")
    module, _, inside = _FACE[name].partition(":")
    return getattr(importlib.import_module(module), inside or name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
