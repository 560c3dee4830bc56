"""tau2-bench's Gymnasium environment: calls are JSON text, tools are OpenAI's function objects."""

import json
from collections.abc import Callable, Mapping
from typing import Any


class TauWorld:
    """One `AgentGymEnv`; a task holds its "task_id".

    Args:
      make: makes it from a task, such as
        `lambda task: AgentGymEnv(domain="retail", task_id=task["task_id"])`.
    """

    def __init__(self, make: Callable[[Mapping[str, Any]], Any]) -> None:
        self._make, self._env = make, None
        self._info: dict[str, Any] = {}

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """An environment of its own for each task."""
        self.close()
        self._env = self._make((options or {})["task"])
        text, info = self._env.reset(seed=seed)
        self._info = dict(info)
        policy = str(self._info.get("policy", ""))
        return str(text), {"task": policy or str(text)}

    def step(self, action: Any) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Act: a call as JSON text, anything else as it is."""
        assert self._env is not None, "reset comes first"
        sent = action if isinstance(action, str) else json.dumps(action)
        text, reward, terminated, truncated, info = self._env.step(sent)
        self._info |= dict(info)
        said = {"success": bool(terminated) and float(reward) == 1.0}
        return str(text), float(reward), bool(terminated), bool(truncated), said

    def list_tools(self) -> list[dict[str, Any]]:
        """Its tools in MCP's form."""
        rows = [getattr(tool, "openai_schema", tool) for tool in self._info.get("tools", ())]
        functions = [row.get("function", row) for row in rows]
        return [
            {
                "name": f["name"],
                "description": f.get("description", ""),
                "input_schema": f.get("parameters", {}),
            }
            for f in functions
        ]

    def close(self) -> None:
        """Release it."""
        if self._env is not None:
            self._env.close()
        self._env = None
