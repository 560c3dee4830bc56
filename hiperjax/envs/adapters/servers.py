"""Suites over servers: MCP servers started by a command, OpenEnv servers at an address.

Tasks stand in a JSON-lines file, one object per line: "id", "prompt", and optionally "split"
(train, if it says nothing), "type", "setup" and "arguments" (MCP), "reset" (OpenEnv), "criteria":
[{"name", "question", "weight", "depends"}], a checklist, for a judge to verify.
"""

import dataclasses
import json
import pathlib
import shlex
from functools import partial
from typing import Any

from hiperjax.envs.adapters.mcp import McpWorld
from hiperjax.envs.adapters.openenv import OpenEnvWorld
from hiperjax.envs.adapters.world import AdaptedSuite, adapt
from hiperjax.envs.criteria import check_checklist
from hiperjax.envs.options import SuiteError
from hiperjax.types import ActionMode, Checklist, Criterion

ROLE = "You do what is asked with the tools at hand."


@dataclasses.dataclass(frozen=True, slots=True)
class McpOptions:
    """Which server, which tasks."""

    command: str = ""
    """starts the server; split as a shell would"""
    tasks: pathlib.Path | None = None
    """JSON lines"""
    role: str = ROLE
    """one sentence for the prompt"""
    max_turns: int = 30
    """turn limit"""
    timeout: float = 60.0
    """seconds that an answer may take"""


@dataclasses.dataclass(frozen=True, slots=True)
class OpenEnvOptions:
    """Which server, which tasks."""

    url: str = ""
    """such as ws://127.0.0.1:8000/ws"""
    tasks: pathlib.Path | None = None
    """JSON lines"""
    role: str = ROLE
    """one sentence for the prompt"""
    actions: ActionMode = "tools"
    """tools or free"""
    max_turns: int = 30
    """turn limit"""
    timeout: float = 60.0
    """seconds that an answer may take"""


def make_mcp_suite(**options: Any) -> AdaptedSuite:
    """A suite over an MCP server.

    Raises:
      SuiteError: no command, no tasks, or a line of them that is none.
    """
    o = McpOptions(**options)
    command = shlex.split(o.command)
    if not command:
        raise SuiteError("suite mcp: found no option command; expected what starts the server")
    tasks, checklists = read_tasks("mcp", o.tasks)
    return adapt(
        partial(McpWorld, command, timeout=o.timeout), tasks, name="mcp", role=o.role,
        max_turns=o.max_turns, actions="tools", checklists=checklists,
    )  # fmt: skip


def make_openenv_suite(**options: Any) -> AdaptedSuite:
    """A suite over an OpenEnv server.

    Raises:
      SuiteError: no address, no tasks, or a line of them that is none.
    """
    o = OpenEnvOptions(**options)
    if not o.url:
        raise SuiteError("suite openenv: found no option url; expected ws://HOST:PORT/ws")
    tasks, checklists = read_tasks("openenv", o.tasks)
    return adapt(
        partial(OpenEnvWorld, o.url, timeout=o.timeout), tasks, name="openenv", role=o.role,
        max_turns=o.max_turns, actions=o.actions, checklists=checklists,
    )  # fmt: skip


def read_tasks(
    suite: str, path: pathlib.Path | None
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, Checklist]]:
    """Tasks by split, and the checklists of those that have criteria.

    Raises:
      SuiteError: no file, or a line that is no task.
    """
    if path is None or not path.is_file():
        raise SuiteError(f"suite {suite}: option tasks is {path}; expected a file of JSON lines")
    tasks: dict[str, list[dict[str, Any]]] = {}
    checklists: dict[str, Checklist] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        where = f"suite {suite}: {path}, line {number}"
        try:
            row = json.loads(line)
            name, _ = row["id"], row["prompt"]
            found = [
                Criterion(**(c | {"depends": tuple(c.get("depends", ()))}))
                for c in row.pop("criteria", ())
            ]
            if found:
                checklists[name] = check_checklist(Checklist(tuple(found)), where)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SuiteError(f"{where}: {type(error).__name__}: {error}") from error
        tasks.setdefault(row.get("split", "train"), []).append(row)
    return tasks, checklists
