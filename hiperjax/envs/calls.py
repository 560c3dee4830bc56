"""Calls of tools as actions: written, read, checked against the tool's schema.

An action is JSON, `{"name": ..., "arguments": {...}}`, or compact, `name[first | second]`, whose
arguments stand in the order of the schema's properties. What is no call of a tool at hand is a
`CallError`, whose text the world answers with: a bad call is data.
"""

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jsonschema

from hiperjax.types import Tool

CallForm = Literal["json", "compact"]
SEPARATOR = "|"
_CONVERSIONS = {"integer": int, "number": float}


class Call(NamedTuple):
    """A call that fits its tool's schema."""

    name: str
    arguments: dict[str, Any]


class CallError(ValueError):
    """What is wrong with a call, in one line, for an agent to read."""


def read_call(action: str, tools: Sequence[Tool]) -> Call:
    """The call that an action makes.

    Raises:
      CallError: no call, no such tool, or arguments that its schema refuses.
    """
    text = action.strip()
    known = {tool.name: tool for tool in tools}
    name, arguments = _read_json(text) if text.startswith("{") else _split(text)
    if name not in known:
        raise CallError(f"no tool {_clip(name)!r}; expected one of {', '.join(known) or 'none'}")
    tool = known[name]
    if not isinstance(arguments, Mapping):
        arguments = _place(tool, arguments)
    _check(tool, arguments)
    return Call(name, dict(arguments))


def write_call(call: Call, form: CallForm) -> str:
    """A call as an action."""
    if form == "json":
        return json.dumps({"name": call.name, "arguments": call.arguments}, ensure_ascii=False)
    return f"{call.name}[{f' {SEPARATOR} '.join(str(x) for x in call.arguments.values())}]"


def describe_tools(tools: Sequence[Tool]) -> str:
    """The tools, one per line, as a prompt shows them."""
    return "\n".join(
        f"- {tool.name}: {tool.description} Arguments: {json.dumps(dict(tool.schema))}"
        for tool in tools
    )


def _read_json(text: str) -> tuple[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CallError(f"no JSON: {str(error).splitlines()[0]}") from None
    name, arguments = found.get("name"), found.get("arguments", {})
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise CallError('expected {"name": a tool, "arguments": an object}')
    return name, arguments


def _split(text: str) -> tuple[str, list[str]]:
    name, opening, rest = text.partition("[")
    if not opening or not rest.endswith("]"):
        raise CallError(f"no call: {_clip(text)!r}; expected name[argument {SEPARATOR} argument]")
    inside = rest[:-1].strip()
    parts = inside.split(SEPARATOR) if inside else []
    return name.strip(), [part.strip() for part in parts]


def _place(tool: Tool, values: Sequence[str]) -> dict[str, Any]:
    properties: Mapping[str, Any] = tool.schema.get("properties", {})
    if len(values) > len(properties):
        raise CallError(f"{tool.name} takes {len(properties)} arguments; found {len(values)}")
    placed: dict[str, Any] = {}
    for (name, schema), value in zip(properties.items(), values, strict=False):
        convert = _CONVERSIONS.get(schema.get("type", ""), str)
        try:
            placed[name] = convert(value)
        except ValueError:
            placed[name] = value  # the schema says what is wrong
    return placed


def _check(tool: Tool, arguments: Mapping[str, Any]) -> None:
    error = next(_validator(tool.name, json.dumps(dict(tool.schema))).iter_errors(arguments), None)
    if error is not None:
        where = f", {'.'.join(map(str, error.path))}" if error.path else ""
        raise CallError(f"{tool.name}{where}: {_clip(error.message)}")


@functools.lru_cache(maxsize=1024)
def _validator(name: str, schema: str) -> Any:
    """Raises `CallError` for a schema that is none: a foreign world may bring one."""
    made: Any = json.loads(schema)
    try:
        jsonschema.Draft202012Validator.check_schema(made)
    except jsonschema.SchemaError as error:
        raise CallError(f"tool {name} has no valid schema: {_clip(error.message)}") from None
    return jsonschema.Draft202012Validator(made)


def _clip(text: str, limit: int = 120) -> str:
    return text if len(text) <= limit else f"{text[:limit]}..."
