"""SkyRL-Gym's text environments: `init(prompt)`, and one dictionary for what a step says."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any


class SkyRLWorld:
    """One `BaseTextEnv`; a task holds its "prompt", a list of messages, and what `make` wants.

    Args:
      make: makes the environment from the task, such as
        `lambda task: skyrl_gym.make("gsm8k", env_config={}, extras=task["extras"])`.
    """

    def __init__(self, make: Callable[[Mapping[str, Any]], Any]) -> None:
        self._make, self._env = make, None

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Sequence[Mapping[str, str]], dict[str, Any]]:
        """An environment of its own for each episode, as SkyRL makes them."""
        task = (options or {})["task"]
        self.close()
        self._env = self._make(task)
        messages, info = self._env.init(list(task["prompt"]))
        return list(messages), dict(info or {})

    def step(self, action: str) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Act; an episode that is done is terminated."""
        assert self._env is not None, "reset comes first"
        said = self._env.step(action)
        info = dict(said.get("metadata") or {})
        return list(said["observations"]), float(said["reward"]), bool(said["done"]), False, info

    def score(self) -> None:
        """Its rewards say all."""
        return None

    def close(self) -> None:
        """Release it."""
        if self._env is not None:
            self._env.close()
        self._env = None
