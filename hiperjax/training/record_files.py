"""The files in which a run records itself; light, so that readers wake nothing heavy."""

import json
from typing import Any

METRICS, TIMINGS = "metrics.jsonl", "timings.jsonl"
"""Scalars per iteration: what the seed determines, and what the clock measured."""
EVALUATIONS = "evaluations.jsonl"
"""Counts per evaluation, split and task type, which the rates in `metrics.jsonl` leave out."""
EPISODES = "episodes.jsonl"
"""Chosen episodes turn by turn, and what subgoals were used for."""
CONFIG = "config.json"
"""Settings of the run."""
PROGRESS = "progress.json"
"""What the run is doing now; replaced as it goes on."""
CURE = "restore it from a copy, or start the run anew"
"""What to do where a file of a run is damaged."""


def parse_record(line: bytes) -> dict[str, Any]:
    """A line of a JSON-lines file: an object that says which iteration it is of.

    Raises:
      ValueError: it is none.
    """
    try:
        record = json.loads(line)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(record, dict) or type(record.get("iteration")) is not int:
        raise ValueError("no object with a whole number as its iteration")
    return record
