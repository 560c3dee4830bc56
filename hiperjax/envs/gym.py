"""Gymnasium's API over any suite: `gymnasium.make("hiperjax.envs.gym:hiperjax/household-tiny-v0")`.

Observations and actions are strings; `info` holds `task_id`, `task`, `admissible`, and after a step
`success`, `milestone`, and `score` where the world has one. The turn limit is Gymnasium's own
wrapper around the environment: it sets `truncated`, and only the world sets `terminated`.
"""

from typing import Any

import gymnasium

from hiperjax.envs.base import Suite
from hiperjax.envs.ladder import RUNGS
from hiperjax.envs.registry import make_suite
from hiperjax.types import Observation

NAMESPACE = "hiperjax"
_ALPHABET = "abcdefghijklmnopqrstuvwxyz 0123456789"


class AnyText(gymnasium.Space[str]):
    """Every string. Samples are short and meaningless; draw from `info["admissible"]` instead."""

    def __init__(self, seed: int | None = None) -> None:
        super().__init__(shape=(), dtype=None, seed=seed)

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """A random string."""
        length = int(self.np_random.integers(1, 24))
        return "".join(_ALPHABET[i] for i in self.np_random.integers(len(_ALPHABET), size=length))

    def contains(self, x: Any) -> bool:
        """Whether `x` is a string."""
        return isinstance(x, str)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AnyText)  # vector environments compare their members' spaces

    @property
    def is_np_flattenable(self) -> bool:
        return False


class SuiteEnv(gymnasium.Env[str, str]):
    """One environment of a suite, over one of its splits.

    `reset(options={"task_id": ...})` opens a task of your choice, any other reset a random one.
    """

    def __init__(self, suite: Suite, split: str = "train") -> None:
        self.suite, self.split = suite, split
        self.observation_space, self.action_space = AnyText(), AnyText()
        self._tasks = suite.tasks(split)
        self._env = suite.make_env()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Open a task."""
        super().reset(seed=seed)
        self._task_id = (options or {}).get("task_id")
        if self._task_id is None:
            self._task_id = self._tasks[int(self.np_random.integers(len(self._tasks)))]
        observation = self._env.reset(self._task_id)
        return observation.text, self._describe(observation)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Act; any string is legal."""
        step = self._env.step(action)
        info = dict(step.info) | self._describe(step.observation)
        info |= {"success": step.success, "milestone": step.milestone}
        if step.score is not None:
            info["score"] = step.score
        return step.observation.text, step.reward, step.terminated, step.truncated, info

    def close(self) -> None:
        """Release the environment."""
        self._env.close()

    def _describe(self, observation: Observation) -> dict[str, Any]:
        return {
            "task_id": self._task_id,
            "task": observation.task,
            "admissible": observation.admissible,
        }


def make_env(name: str, split: str = "train", **options: Any) -> SuiteEnv:
    """An environment of the suite of a name; options are the suite's own."""
    return SuiteEnv(make_suite(name, **options), split)


def register_envs() -> None:
    """Register every suite with Gymnasium; done when this module is imported."""
    entries: dict[str, tuple[dict[str, Any], int]] = {
        "household-tiny": ({"name": "household", "size": "tiny"}, 16),
        "household-small": ({"name": "household", "size": "small"}, 50),
        "household-full": ({"name": "household", "size": "full"}, 50),
        "alfworld": ({"name": "alfworld"}, 50),
        "webshop": ({"name": "webshop"}, 15),
        "desk-tiny": ({"name": "desk", "size": "tiny"}, 16),
        "desk-full": ({"name": "desk", "size": "full"}, 16),
    }
    for rung in RUNGS:
        suite = make_suite(f"ladder/{rung}")
        entries[f"ladder-{rung}"] = ({"name": suite.name}, suite.max_turns)
    for name, (options, max_turns) in entries.items():
        gymnasium.register(
            f"{NAMESPACE}/{name}-v0",
            entry_point="hiperjax.envs.gym:make_env",
            kwargs=options,
            max_episode_steps=max_turns,
        )


register_envs()
