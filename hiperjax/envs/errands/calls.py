"""What an orchestrator can do, and how a reply that holds several calls is read.

Calls stand one after the other, `create[ann | helper] assign[ann | 1]`, with or without semicolons
between them, or in one JSON list. What is no call is refused by itself: the others count.
"""

import json
import re
from collections.abc import Sequence

from hiperjax.envs.calls import Call, CallError, read_call
from hiperjax.types import Tool

CREATE, ASSIGN, ACT, FINISH = "create", "assign", "act", "finish"
_CALL = re.compile(r"[\s;]*(\w+\s*\[[^\[\]]*\])")
_ROOM_ERRAND = re.compile(r"room (\d+): (.+)")


def _make_tool(name: str, description: str, /, **arguments: str) -> Tool:
    properties = {argument: {"type": kind} for argument, kind in arguments.items()}
    schema = {"type": "object", "properties": properties, "required": list(arguments)}
    return Tool(name, description, schema | {"additionalProperties": False})


TOOLS = (
    _make_tool(CREATE, "Create a sub-agent.", name="string", role="string"),
    _make_tool(
        ASSIGN,
        "Send a sub-agent to an errand: its number, or room NUMBER: and what to do there. All that "
        "are sent in one reply work at the same time.",
        name="string",
        errand="string",
    ),
    _make_tool(
        ACT, "Do something in a room yourself; no other call beside it.", room="integer",
        action="string",
    ),
    _make_tool(FINISH, "End the work.", text="string"),
)  # fmt: skip


def read_calls(action: str) -> tuple[list[Call], list[str]]:
    """The calls of a reply in order, and what was refused, a line each."""
    calls: list[Call] = []
    refused: list[str] = []
    for text in _split(action.strip()):
        try:
            calls.append(read_call(text, TOOLS))
        except CallError as error:
            refused.append(str(error))
    return calls, refused


def _split(text: str) -> Sequence[str]:
    if text.startswith("["):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            return [text]
        return [json.dumps(each) if isinstance(each, dict) else str(each) for each in found]
    if text.startswith("{"):
        return [text]
    found, at = [], 0
    while match := _CALL.match(text, at):
        found.append(match[1])
        at = match.end()
    rest = text[at:].strip(" ;\n\t")
    return [*found, rest] if rest or not found else found


def read_errand(text: str) -> tuple[int, str | None] | None:
    """The room that an errand names, and what it says is to be done; None: as the task says it."""
    text = text.strip().lower()
    if text.isdecimal():
        return int(text), None
    found = _ROOM_ERRAND.fullmatch(text)
    return (int(found[1]), found[2]) if found else None
