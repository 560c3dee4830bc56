"""Options of suites as a command line gives them: `key=value`, read by the types of their fields.

A suite's options are the fields of its options dataclass, or the keyword arguments of whatever
makes it. Every mistake is one line with what was found, what is expected, and where.
"""

import dataclasses
import inspect
import pathlib
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal

WORDS = {"true": True, "false": False}
LISTS = (tuple, list, Sequence)


class SuiteError(ValueError):
    """No such suite, no such option, or a suite that cannot be made as it was asked for."""


def list_options(source: Any) -> dict[str, Any] | None:
    """Option -> its type, of an options dataclass or of whatever takes options as keywords.

    None where it takes any keyword, and nobody can say which.
    """
    if dataclasses.is_dataclass(source) and isinstance(source, type):
        hints = typing.get_type_hints(source)
        return {field.name: hints[field.name] for field in dataclasses.fields(source)}
    called: Any = source
    parameters = inspect.signature(called).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    hints = typing.get_type_hints(source.__init__ if isinstance(source, type) else source)
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return {name: hints.get(name, str) for name in named}


def check_options(suite: str, known: Mapping[str, Any] | None, given: Sequence[str]) -> None:
    """Refuse options that the suite does not have."""
    unknown = [] if known is None else [name for name in given if name not in known]
    if unknown:
        expected = f"one of {', '.join(known)}" if known else "none: it has no options"
        raise SuiteError(f"suite {suite}: found option {unknown[0]!r}; expected {expected}")


def read_options(
    suite: str, known: Mapping[str, Any] | None, given: Sequence[str]
) -> dict[str, Any]:
    """The values of `key=value` settings.

    Raises:
      SuiteError: no such key, or a value that is not of its type.
    """
    found: dict[str, Any] = {}
    for setting in given:
        name, equals, value = setting.partition("=")
        if not equals or not name:
            raise SuiteError(f"suite {suite}: found option {setting!r}; expected KEY=VALUE")
        check_options(suite, known, [name])
        kind = str if known is None else known[name]
        try:
            found[name] = read_value(kind, value)
        except ValueError as error:
            raise SuiteError(
                f"suite {suite}: option {name} is {value!r}; expected {error}"
            ) from None
    return found


def read_value(kind: Any, text: str) -> Any:
    """A value of a type, from text. Raises `ValueError` saying what is expected."""
    arguments = typing.get_args(kind)
    origin = typing.get_origin(kind) or kind
    if origin in (types.UnionType, typing.Union):
        if type(None) in arguments and text.lower() == "none":
            return None
        return read_value(next(each for each in arguments if each is not type(None)), text)
    if origin is Literal:
        found = next((each for each in arguments if str(each) == text), None)
        if found is None:
            raise ValueError(f"one of {', '.join(map(str, arguments))}")
        return found
    if origin in LISTS or (isinstance(origin, type) and issubclass(origin, Sequence | tuple)
                           and origin is not str):  # fmt: skip
        inside = arguments[0] if arguments else str
        return tuple(read_value(inside, part) for part in text.split(",") if part)
    if origin is bool:
        if text.lower() not in WORDS:
            raise ValueError("true or false")
        return WORDS[text.lower()]
    if origin in (int, float):
        try:
            return origin(text)
        except ValueError:
            raise ValueError("a whole number" if origin is int else "a number") from None
    return pathlib.Path(text) if origin is pathlib.Path else text
