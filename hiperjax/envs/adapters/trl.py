"""TRL's environment classes: public methods are tools, `get_reward` pays at the end."""

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", list: "array"}
ANSWER = "answer"


class TrlWorld:
    """One environment object; a final tool, `answer`, ends the episode as a plain message would.

    Args:
      factory: makes it.
    """

    def __init__(self, factory: Callable[[], Any]) -> None:
        self._env = factory()
        self._tools = {
            name: method
            for name, method in inspect.getmembers(self._env, callable)
            if not name.startswith("_") and name not in ("reset", "get_reward", "close")
        }

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Open a task: its columns are keyword arguments."""
        task = dict((options or {}).get("task", {}))
        said = self._env.reset(**task)
        return said or str(task.get("prompt", "")), {}

    def list_tools(self) -> list[dict[str, Any]]:
        """Its methods, and the final answer."""
        rows = [_describe(name, method) for name, method in self._tools.items()]
        answer = _describe(ANSWER, lambda text: text)["input_schema"]
        return [*rows, {"name": ANSWER, "description": "Say the answer.", "input_schema": answer}]

    def step(self, action: Mapping[str, Any]) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Call a method; what it raises is said to the agent, as TRL does."""
        if action["name"] == ANSWER:
            paid = float(getattr(self._env, "get_reward", float)())
            return "", paid, True, False, {}
        try:
            said = self._tools[action["name"]](**action["arguments"])
        except Exception as error:
            said = f"Error: {error}"
        return str(said), 0.0, False, False, {}


def _describe(name: str, method: Callable[..., Any]) -> dict[str, Any]:
    parameters = inspect.signature(method).parameters
    properties = {p: {"type": _TYPES.get(x.annotation, "string")} for p, x in parameters.items()}
    needed = [p for p, x in parameters.items() if x.default is x.empty]
    about = re.sub(r"\s+", " ", (method.__doc__ or "").split("\n\n")[0]).strip()
    schema = {"type": "object", "properties": properties, "required": needed}
    return {"name": name, "description": about, "input_schema": schema}
