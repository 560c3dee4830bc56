"""What other people's packages bring: suites, estimators, renderers, found by entry point."""

import importlib.metadata
from collections.abc import Iterator
from typing import Any


class EntryPointError(ValueError):
    """An installed package names something that cannot be imported."""


def list_names(group: str) -> tuple[str, ...]:
    """Names that installed packages bring to a group."""
    return tuple(point.name for point in importlib.metadata.entry_points(group=group))


def load_all(group: str, name: str) -> Iterator[tuple[str, Any]]:
    """Where each entry point of this name points, and what stands there.

    Raises:
      EntryPointError: it cannot be imported; says why.
    """
    for point in importlib.metadata.entry_points(group=group, name=name):
        try:
            found = point.load()
        except Exception as error:  # whatever a foreign module does when it is imported
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise EntryPointError(
                f"entry point {name} of {group} is {point.value}, which cannot be imported "
                f"({reason}); mend or uninstall that package"
            ) from error
        yield point.value, found
