"""A run folder as it is: under way, cut, damaged or of another version, what there is gets read."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from hiperjax.report.text import show_line
from hiperjax.training.record_files import (
    CONFIG,
    EPISODES,
    EVALUATIONS,
    METRICS,
    PROGRESS,
    TIMINGS,
    parse_record,
)

Record = dict[str, Any]
Point = tuple[int, float]
MOST_TRIALS = 20_000
"""Tasks of a split at most, where their number must be read off the rates."""


class NotARun(FileNotFoundError):
    """A folder without anything that a run writes."""


@dataclasses.dataclass(frozen=True)
class Counts:
    """Successes among the tasks of one split or task type at one evaluation."""

    iteration: int
    successes: int
    trials: int
    exact: bool
    """False: read off the rates; `trials` then divides the number played, so that intervals can
    only be too wide"""


@dataclasses.dataclass(frozen=True)
class RunData:
    """What one run folder tells."""

    folder: pathlib.Path
    name: str
    settings: Mapping[str, Any]
    """flat: `credit.estimator` and so on, as written by the version that trained"""
    metrics: Sequence[Record] = ()
    """by iteration, each once"""
    timings: Sequence[Record] = ()
    evaluations: Sequence[Record] = ()
    episodes: Sequence[Record] = ()
    progress: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """what is missing or damaged, a sentence each"""

    @property
    def seed(self) -> int | None:
        seed = self.settings.get("seed")
        return seed if isinstance(seed, int) else None

    @property
    def iteration(self) -> int:
        """Iterations recorded."""
        return self.metrics[-1]["iteration"] if self.metrics else 0

    @property
    def iterations(self) -> int | None:
        """Iterations planned, where the settings tell."""
        planned = self.settings.get("iterations")
        return planned if isinstance(planned, int) else None

    def curve(self, name: str) -> list[Point]:
        """Finite values of one scalar by iteration."""
        return curve_of(self.metrics, name)

    def names(self) -> list[str]:
        """Names of the recorded scalars, in order of appearance."""
        return [n for n in dict.fromkeys(k for r in self.metrics for k in r) if n != "iteration"]

    def counts(self, split: str, kind: str = "success") -> list[Counts]:
        """Counts of a split, or of one of its task types, by evaluation."""
        least = 1
        if kind == "success":  # every task has a type
            parts = [_counts_from_rates(self.curve(f"eval/{split}/{k}")) for k in
                     self.task_types(split)]  # fmt: skip
            least = max(1, sum(part[0].trials for part in parts if part))
        rates = self.curve(f"eval/{split}/{kind}")
        found = {c.iteration: c for c in _counts_from_rates(rates, least)}
        for record in self.evaluations:
            pair = _tally(record.get("tallies"), kind)
            if pair and record.get("split") == split:
                at = record["iteration"]
                found[at] = Counts(at, *pair, exact=True)
        return [found[i] for i in sorted(found)]

    def splits(self) -> list[str]:
        """Evaluated splits, in order of appearance."""
        parts = [name.split("/") for name in self.names() if name.startswith("eval/")]
        return list(dict.fromkeys(p[1] for p in parts if len(p) == 3))

    def task_types(self, split: str) -> list[str]:
        """Task types of a split, in order of appearance."""
        prefix = f"eval/{split}/"
        kinds = [n.removeprefix(prefix) for n in self.names() if n.startswith(prefix)]
        return [kind for kind in kinds if kind not in ("success", "score", "loops")]


def _tally(tallies: Any, kind: str) -> tuple[int, int] | None:
    """Successes and trials, if that is what stands there."""
    pair = tallies.get(kind) if isinstance(tallies, dict) else None
    if not isinstance(pair, list) or [type(x) for x in pair] != [int, int]:
        return None
    successes, trials = pair
    return (successes, trials) if 0 <= successes <= trials and trials else None


def _counts_from_rates(rates: Sequence[Point], least: int = 1) -> list[Counts]:
    """The smallest number of trials, at least `least`, of which every rate is a share."""
    if not rates or any(not 0 <= rate <= 1 for _, rate in rates):
        return []
    shares = [Fraction(rate).limit_denominator(MOST_TRIALS) for _, rate in rates]
    trials = math.lcm(*(share.denominator for share in shares))
    trials *= -(-least // trials)
    if trials > MOST_TRIALS:
        return []
    return [Counts(i, round(rate * trials), trials, exact=False) for i, rate in rates]


def curve_of(records: Iterable[Record], name: str) -> list[Point]:
    """Finite values of one scalar by iteration."""
    pairs = ((r["iteration"], as_number(r.get(name))) for r in records)
    return [(i, value) for i, value in pairs if value is not None]


def as_number(value: Any) -> float | None:
    """A finite float; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        value = float(value)
    except OverflowError:
        return None
    return value if math.isfinite(value) else None


class LinesFile:
    """A JSON-lines file that may grow: each call reads only what was appended.

    A line that is no record is left out and counted. A last line without its end is one being
    written. A file that became shorter was rewound, and is read anew.
    """

    def __init__(self, path: pathlib.Path):
        self._path, self._start = path, b""
        self._forget()

    def _forget(self) -> None:
        self._offset, self._lines, self._damaged = 0, 0, []
        self.records: list[Record] = []

    def read(self) -> bool:
        """Read on; True where anything changed."""
        if not self._path.is_file():
            changed = bool(self._offset)
            self._forget()
            return changed
        with self._path.open("rb") as file:
            start = file.read(min(64, self._offset))
            rewound = file.seek(0, 2) < self._offset or start != self._start[: len(start)]
            if rewound:
                self._forget()
            file.seek(self._offset)
            whole, _, _ = (new := file.read()).rpartition(b"\n")
        if not whole and not new.startswith(b"\n"):
            return rewound
        if not self._offset:
            self._start = new[:64]
        self._offset += len(whole) + 1
        for line in whole.split(b"\n"):
            self._add(line)
        return True

    def _add(self, line: bytes) -> None:
        self._lines += 1
        try:
            self.records.append(parse_record(line))
        except ValueError:
            self._damaged.append(self._lines)

    @property
    def note(self) -> str | None:
        """What was left out."""
        if not self._damaged:
            return None
        return (
            f"{self._path.name}: {len(self._damaged)} of {self._lines} lines are damaged and were "
            f"left out, the first of them line {self._damaged[0]}"
        )


class RunReader:
    """Reads a run folder, again and again at little cost."""

    def __init__(self, folder: pathlib.Path, name: str | None = None):
        if not folder.is_dir():
            raise NotARun(f"{folder}: no such folder; expected a run, as `hiperjax train` makes it")
        if not any((folder / file).exists() for file in (CONFIG, METRICS, PROGRESS)):
            raise NotARun(
                f"{folder}: neither {CONFIG} nor {METRICS}; expected a run folder, as `hiperjax "
                "train` makes one"
            )
        self.folder = folder
        self.name = show_line(name or folder.resolve().name, 80)
        self._files = {n: LinesFile(folder / n) for n in (METRICS, TIMINGS, EVALUATIONS, EPISODES)}
        self._stamp: object = None
        self._data: RunData | None = None

    def read(self) -> RunData:
        """The run as it is now; the same object as before where no file has changed."""
        changed = [file.read() for file in self._files.values()]
        paths = [self.folder / name for name in (CONFIG, PROGRESS)]
        stamp = [(p.stat().st_mtime_ns, p.stat().st_size) for p in paths if p.is_file()]
        if self._data is None or any(changed) or stamp != self._stamp:
            self._data, self._stamp = self._build(), stamp
        return self._data

    def _build(self) -> RunData:
        notes = [file.note for file in self._files.values() if file.note]
        settings = self._read_object(CONFIG, notes.append)
        if not settings:
            notes.append(f"{CONFIG} is missing: settings, seed and the number of iterations")
        metrics, timings = (_in_order(self._files[n].records) for n in (METRICS, TIMINGS))
        if not metrics:
            notes.append(f"{METRICS} holds no record yet: there are no curves")
        elif not any(name.startswith("eval/") for record in metrics for name in record):
            notes.append("no evaluation was recorded: success below is that of training episodes")
        if not self._files[EPISODES].records:
            notes.append(f"{EPISODES} holds no episode: the run is young, or of an older version")
        return RunData(
            folder=self.folder,
            name=self.name,
            settings=flatten(settings),
            metrics=metrics,
            timings=timings,
            evaluations=list(self._files[EVALUATIONS].records),
            episodes=list(self._files[EPISODES].records),
            progress=self._read_object(PROGRESS, notes.append),
            notes=tuple(notes),
        )

    def _read_object(self, name: str, note: Callable[[str], None]) -> dict[str, Any]:
        path = self.folder / name
        if not path.is_file():
            return {}
        try:
            found = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            note(f"{name} is damaged ({show_line(str(error), 80)}) and was left out")
            return {}
        return found if isinstance(found, dict) else {}


def open_runs(folders: Sequence[pathlib.Path]) -> list[RunReader]:
    """A reader for each folder, by names that tell them apart.

    Raises:
      NotARun: nothing in one of them is a run's, or there is no folder.
    """
    if not folders:
        raise NotARun("no run named; expected the folder of at least one run")
    pairs = zip(folders, name_runs(folders), strict=True)
    return [RunReader(folder, name) for folder, name in pairs]


def read_runs(folders: Sequence[pathlib.Path]) -> list[RunData]:
    """Run folders as they are now; see `open_runs`."""
    return [reader.read() for reader in open_runs(folders)]


def name_runs(folders: Sequence[pathlib.Path]) -> list[str]:
    """The last part of each path, or as many parts as it takes to tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    for depth in range(1, max(map(len, parts), default=1) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{folder}#{number}" for number, folder in enumerate(folders, start=1)]


def flatten(settings: Mapping[str, Any], prefix: str = "", depth: int = 8) -> dict[str, Any]:
    """Nested settings by dotted name."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict) and depth:
            flat |= flatten(value, f"{prefix}{name}.", depth - 1)
        else:
            flat[prefix + name] = value
    return flat


def _in_order(records: Iterable[Record]) -> list[Record]:
    """By iteration; of two records of one iteration the later one."""
    by_iteration = {record["iteration"]: record for record in records}
    return [by_iteration[i] for i in sorted(by_iteration)]
