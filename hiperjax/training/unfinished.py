"""An iteration learned from but not recorded yet, since a stop came before its evaluation ended."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Unfinished:
    """What its record will hold beside the evaluation; nothing yet, before the first iteration."""

    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """of its episodes and of what was learned; first in the record"""
    accounts: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """of the work it took; last in the record"""
    seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """wall time so far, by phase"""

    def dump(self) -> dict[str, Any]:
        """As JSON has it; what is undefined becomes null there."""
        return {
            field.name: {name: float(x) for name, x in getattr(self, field.name).items()}
            for field in dataclasses.fields(self)
        }

    @staticmethod
    def load(raw: Any) -> "Unfinished | None":
        """From JSON; None where there is none, or something else.

        The order of the fields is kept, so that the record is the same byte for byte.
        """
        names = {field.name for field in dataclasses.fields(Unfinished)}
        if not isinstance(raw, dict) or set(raw) != names:
            return None
        parts = raw.values()
        if not all(isinstance(part, dict) for part in parts):
            return None
        values = [value for part in parts for value in part.values()]
        if not all(value is None or type(value) in (int, float) for value in values):
            return None
        return Unfinished(
            **{
                name: {k: math.nan if v is None else float(v) for k, v in part.items()}
                for name, part in raw.items()
            }
        )
