"""GEM's environments (`gem.make`): Gymnasium's five values, without options."""

import importlib
from collections.abc import Mapping
from typing import Any


class GemWorld:
    """One GEM environment; a task may name which by its key "env"."""

    def __init__(self, env: str | None = None, **kwargs: Any) -> None:
        self._name, self._kwargs, self._env = env, kwargs, None

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Make the environment where it is not made yet, and open it."""
        name = (options or {}).get("task", {}).get("env", self._name)
        if self._env is None or name != self._name:
            self._env = importlib.import_module("gem").make(name, **self._kwargs)
            self._name = name
        text, info = self._env.reset(seed=seed)
        return text, dict(info or {})

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Act."""
        assert self._env is not None, "reset comes first"
        text, reward, terminated, truncated, info = self._env.step(action)
        return text, float(reward), bool(terminated), bool(truncated), dict(info or {})

    def close(self) -> None:
        """Release it, where it knows how."""
        if self._env is not None and hasattr(self._env, "close"):
            self._env.close()
