"""Scalars to the run folder: JSON lines and TensorBoard events.

`metrics.jsonl` holds what a seed determines, and nothing else: a resumed run's file equals that of
a run that was never interrupted. What a clock measures stands in `timings.jsonl`.
"""

import os
import pathlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from hiperjax.files import dump_json, write_text
from hiperjax.training.events import Events
from hiperjax.training.record_files import EVALUATIONS, METRICS, TIMINGS, parse_record
from hiperjax.training.trackers import Tracker

EVENTS = "events"


def read_records(path: pathlib.Path) -> tuple[list[dict], list[str]]:
    """Records of a JSON-lines file, and a complaint for every line that is none.

    A crash may cut the last line; a line lost in the middle is no reason to lose the others.
    """
    if not path.exists():
        return [], []
    records, complaints = [], []
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line and number == len(lines):
            break
        try:
            record = parse_record(line)
            if number == len(lines):
                raise ValueError("cut short")
            records.append(record)
        except ValueError as error:
            complaints.append(f"{path}: line {number}: {error}; the line is dropped")
    return records, complaints


def read_lines(path: pathlib.Path) -> list[dict]:
    """Records of a JSON-lines file; what is no record is reported and dropped."""
    records, complaints = read_records(path)
    for complaint in complaints:
        warnings.warn(complaint, stacklevel=2)
    return records


def rewind(path: pathlib.Path, iteration: int, *, one_each: bool = False) -> list[str]:
    """Forget every record later than the iteration; returns what was wrong with the file.

    `one_each`: there should be one record of each iteration from 0 on.
    """
    records, complaints = read_records(path)
    kept = [record for record in records if record["iteration"] <= iteration]
    if one_each:
        rows = {record["iteration"]: record for record in kept}
        missing = [str(i) for i in range(iteration + 1) if i not in rows]
        if missing:
            shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            complaints.append(f"{path}: no record of {len(missing)} iterations ({shown})")
        if len(rows) < len(kept):
            complaints.append(
                f"{path}: {len(kept) - len(rows)} records of iterations that come again; "
                "the last of each is kept"
            )
        kept = list(rows.values())
    write_text(path, "".join(dump_json(record) + "\n" for record in kept))
    return complaints


def append(path: pathlib.Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Add records to a JSON-lines file; they are on the disk before a later checkpoint is."""
    with path.open("a") as file:
        file.write("".join(dump_json(record) + "\n" for record in records))
        file.flush()
        os.fsync(file.fileno())


class Recorder:
    """Writes one record per iteration; opening it at an iteration forgets everything later."""

    def __init__(
        self, folder: pathlib.Path, *, iteration: int = -1, tracker: Tracker | None = None
    ):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.complaints = [
            *rewind(folder / METRICS, iteration, one_each=True),
            *rewind(folder / TIMINGS, iteration),
            *rewind(folder / EVALUATIONS, iteration),
        ]
        """what was wrong with the files of an earlier session"""
        self._tracker = tracker
        self._events = Events(folder / EVENTS, first=iteration + 1)

    def write(
        self, iteration: int, metrics: Mapping[str, float], timings: Mapping[str, float]
    ) -> None:
        """Append the iteration's scalars; `metrics` must not depend on the clock."""
        self._append(METRICS, iteration, metrics)
        self._append(TIMINGS, iteration, timings)
        scalars = {**metrics, **{f"seconds/{name}": value for name, value in timings.items()}}
        self._events.write(iteration, scalars)
        if self._tracker is not None:
            self._tracker.write(iteration, scalars)

    def evaluation(self, record: Mapping[str, Any]) -> None:
        """Append the counts of one evaluation; they must not depend on the clock."""
        append(self.folder / EVALUATIONS, [record])

    def _append(self, name: str, iteration: int, values: Mapping[str, float]) -> None:
        record = {"iteration": iteration} | {k: float(v) for k, v in values.items()}
        append(self.folder / name, [record])

    def close(self) -> None:
        self._events.close()
        if self._tracker is not None:
            self._tracker.close()


class Unrecorded:
    """The recorder of a process that is not the first: another one writes."""

    complaints: tuple[str, ...] = ()

    def write(
        self, iteration: int, metrics: Mapping[str, float], timings: Mapping[str, float]
    ) -> None:
        """Nothing."""

    def evaluation(self, record: Mapping[str, Any]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""
