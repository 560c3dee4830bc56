"""The desk in the form of other people's worlds, and as an MCP server.

The same session as the suite's: one episode comes out the same through all doors.

    python -m hiperjax.envs.desk.world --task desk-tiny/train/3
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from hiperjax.envs.adapters.mcp import ToolServer
from hiperjax.envs.calls import Call, CallError, read_call, write_call
from hiperjax.envs.desk.suite import DeskSuite, Session
from hiperjax.envs.desk.tools import TOOLS


class DeskWorld:
    """`reset`, `step`, `list_tools`, `score`, `state` over one session (see `adapters.world`).

    Args:
      options: of the suite.
    """

    def __init__(self, **options: Any) -> None:
        self._suite = DeskSuite(**options)

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Open the task whose id is given; the seed changes nothing: a task is all there is."""
        task = (options or {}).get("task") or self._suite.tasks("train")[0]
        name = task if isinstance(task, str) else task["id"]
        self._session = Session(self._suite.get_task(name))
        return "A customer comes to your desk.", self._describe()

    def step(
        self, action: str | Mapping[str, Any]
    ) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Act: a call, or the text of one."""
        session = self._session
        text = action if isinstance(action, str) else _write(action)
        if session.over:
            return "Error: the customer has left.", 0.0, True, False, self._describe()
        try:
            said = session.call(read_call(text, TOOLS))
        except CallError as error:
            said = f"Error: {error}"
        reward = self._suite.pay(session) if session.over else 0.0
        return said, reward, session.over, False, self._describe()

    def list_tools(self) -> list[dict[str, Any]]:
        """The desk's tools, in MCP's form."""
        return [
            {"name": t.name, "description": t.description, "input_schema": dict(t.schema)}
            for t in TOOLS
        ]

    def score(self) -> dict[str, Any]:
        """What the episode comes to so far."""
        held = self._session.satisfied
        items = self._session.task.checklist.items
        criteria = {item.name: item.name in held for item in items}
        return {"score": self._session.score, "criteria": criteria}

    def state(self) -> dict[str, Any]:
        """Changes, audit log, criteria."""
        return self._session.state()

    def close(self) -> None:
        """Nothing is held."""

    def _describe(self) -> dict[str, Any]:
        session = self._session
        return {
            "task": session.task.requests[session.request].text,
            "request": session.request,
            "satisfied": sorted(session.satisfied),
            "success": session.over and session.is_done,
        }


def _write(action: Mapping[str, Any]) -> str:
    return write_call(Call(str(action.get("name")), dict(action.get("arguments") or {})), "json")


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve one task over standard input and output."""
    parser = argparse.ArgumentParser(description="A desk task as an MCP server on stdio.")
    parser.add_argument("--task", default="desk-tiny/train/0", help="id of the task")
    parser.add_argument("--size", default="tiny", help="tiny or full")
    given = parser.parse_args(arguments)
    world = DeskWorld(size=given.size)
    world.reset(options={"task": given.task})
    ToolServer(world).serve(sys.stdin, sys.stdout)


if __name__ == "__main__":
    main()
