"""Scalars to the run folder: JSON lines and TensorBoard events.

`metrics.jsonl` holds what a seed determines, and nothing else: a resumed run's file equals that of
a run that was never interrupted. What a clock measures stands in `timings.jsonl`.
"""

import json
import pathlib
from collections.abc import Mapping

from tensorboardX import SummaryWriter

from hiperjax.files import dump_json, write_text

METRICS, TIMINGS, EVENTS = "metrics.jsonl", "timings.jsonl", "events"


def read_lines(path: pathlib.Path) -> list[dict]:
    """Records of a JSON-lines file; a last line cut short by a crash is dropped."""
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _rewind(path: pathlib.Path, iteration: int) -> None:
    kept = [r for r in read_lines(path) if r["iteration"] <= iteration]
    write_text(path, "".join(dump_json(r) + "\n" for r in kept))


class Recorder:
    """Writes one record an iteration; opening it at an iteration forgets everything later."""

    def __init__(self, folder: pathlib.Path, *, iteration: int = -1):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        for name in (METRICS, TIMINGS):
            _rewind(folder / name, iteration)
        self._events = SummaryWriter(str(folder / EVENTS), purge_step=iteration + 1)

    def write(
        self, iteration: int, metrics: Mapping[str, float], timings: Mapping[str, float]
    ) -> None:
        """Append the iteration's scalars; `metrics` must not depend on the clock."""
        self._append(METRICS, iteration, metrics)
        self._append(TIMINGS, iteration, timings)
        for group, values in (("", metrics), ("seconds/", timings)):
            for name, value in values.items():
                self._events.add_scalar(group + name, value, iteration)
        self._events.flush()

    def _append(self, name: str, iteration: int, values: Mapping[str, float]) -> None:
        record = {"iteration": iteration} | {k: float(v) for k, v in values.items()}
        with (self.folder / name).open("a") as file:
            file.write(dump_json(record) + "\n")

    def close(self) -> None:
        self._events.close()


class Unrecorded:
    """The recorder of a process that is not the first: another one writes."""

    def write(
        self, iteration: int, metrics: Mapping[str, float], timings: Mapping[str, float]
    ) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""
