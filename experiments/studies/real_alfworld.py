"""Official ALFWorld games: estimators beside each other, from two starts, over seeds.

`python -m experiments.studies.real_alfworld --games DIR` trains what is missing below `--folder`,
goes on with what was stopped, evaluates every finished run on all of valid_seen, greedily and at
temperature 0.4, keeps settings and metrics of each run small in `experiments/results/real_alfworld`
and prints the table. `--side-by-side 2` trains two runs at a time, each on a core of its own.

All estimators of a start and a seed begin with the same imitated policy and play as many episodes;
those that compare within a group play 8 episodes of each task.
"""

import concurrent.futures
import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import Literal

import tyro

from hiperjax.intervals import wilson_interval
from hiperjax.training.metrics import METRICS, read_lines
from hiperjax.training.run_folder import CONFIG

RESULTS = pathlib.Path(__file__).parents[1] / "results" / "real_alfworld"
GROUPED = ("grpo", "gigpo")
GROUP_SIZE = 8
Start = Literal["mediocre", "good"]
PRESETS: dict[Start, str] = {"mediocre": "alfworld-small-mediocre", "good": "alfworld-small"}
SPLITS, TEMPERATURES = ("valid_seen",), (0.0, 0.4)
AT = (0, 25, 50, 100)
"""Iterations whose success the table shows, beside the end and the best."""


@dataclasses.dataclass(frozen=True)
class Study:
    """What to train and where."""

    games: pathlib.Path = pathlib.Path("~/.cache/alfworld")
    """Folder of official games."""
    folder: pathlib.Path = pathlib.Path("runs/real_alfworld")
    """One run folder for each start, estimator and seed goes below it."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """Seeds."""
    estimators: tuple[str, ...] = ("hae", "hae_paper", "flat_gae", *GROUPED)
    """Estimators."""
    starts: tuple[Start, ...] = ("mediocre", "good")
    """How much is imitated before."""
    iterations: int = 100
    """Iterations of 48 episodes."""
    side_by_side: int = 1
    """Runs at a time, each on a core of its own."""
    table_only: bool = False
    """Train nothing, tabulate what is kept."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of the study."""

    start: Start
    estimator: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.start}-{self.estimator}-{self.seed}"


def list_cells(study: Study) -> list[Cell]:
    """Every run: seeds outermost, so that a study cut short compares all estimators."""
    return [
        Cell(start, estimator, seed)
        for seed in study.seeds
        for start in study.starts
        for estimator in study.estimators
    ]


def find_start(study: Study, cell: Cell) -> pathlib.Path:
    """The run whose imitated policy a run begins with."""
    return study.folder / f"start-{cell.start}-{cell.seed}"


def imitate_command(study: Study, cell: Cell) -> list[str] | None:
    """What imitates a run's start; None where it is done."""
    out = find_start(study, cell)
    if (out / "checkpoints").is_dir():
        return None
    if (out / CONFIG).is_file():
        return ["train", "--resume", str(out)]
    given = ["--env.games", str(study.games.expanduser()), "--seed", str(cell.seed)]
    return ["imitate", PRESETS[cell.start], *given, "--out", str(out)]


def train_command(study: Study, cell: Cell) -> list[str] | None:
    """What trains a run, or goes on with it; None where it is done."""
    out = study.folder / cell.name
    if (out / CONFIG).is_file():
        records = read_lines(out / METRICS) if (out / METRICS).is_file() else []
        done = max((record["iteration"] for record in records), default=-1)
        return None if done >= study.iterations else ["train", "--resume", str(out)]
    group = ["--rollout.group-size", str(GROUP_SIZE)] if cell.estimator in GROUPED else []
    return [
        "train", PRESETS[cell.start], "--init", str(find_start(study, cell)),
        "--env.games", str(study.games.expanduser()), "--seed", str(cell.seed),
        "--credit.estimator", cell.estimator, "--iterations", str(study.iterations),
        "--eval.every", "25", "--eval.splits", *SPLITS, *group, "--out", str(out),
    ]  # fmt: skip


def evaluate_commands(study: Study, cell: Cell) -> list[list[str]]:
    """What evaluates a finished run, of what is not evaluated yet."""
    kept = RESULTS / cell.name
    commands = []
    for which in ("last", "best"):
        for temperature in TEMPERATURES:
            out = kept / f"{which}-{temperature}.json"
            how = ["--which", which, "--split", SPLITS[0], "--temperature", str(temperature)]
            if not out.exists():
                commands.append(
                    ["evaluate", str(study.folder / cell.name), *how, "--out", str(out)]
                )
    return commands


def call(command: Sequence[str], core: int) -> None:
    """Run a command of the program on one core."""
    cores = sorted(os.sched_getaffinity(0))
    pinned = ["taskset", "-c", str(cores[core % len(cores)])] if shutil.which("taskset") else []
    subprocess.run([*pinned, sys.executable, "-m", "hiperjax.cli", *command], check=True)


def run_cell(study: Study, cell: Cell, core: int) -> None:
    """Train, evaluate and keep one run; its start is there."""
    if command := train_command(study, cell):
        call(command, core)
    kept = RESULTS / cell.name
    kept.mkdir(parents=True, exist_ok=True)
    for command in evaluate_commands(study, cell):
        call(command, core)
    for name in (CONFIG, METRICS):
        shutil.copy(study.folder / cell.name / name, kept / name)


def run_study(study: Study) -> None:
    """Every run that is missing, `side_by_side` at a time."""
    cells = list_cells(study)
    with concurrent.futures.ThreadPoolExecutor(study.side_by_side) as pool:
        starts = {find_start(study, cell): cell for cell in cells}
        for stage in (starts.values(), cells):
            jobs = []
            for number, cell in enumerate(stage):
                if stage is cells:
                    jobs.append(pool.submit(run_cell, study, cell, number))
                elif command := imitate_command(study, cell):
                    jobs.append(pool.submit(call, command, number))
            for job in jobs:
                job.result()


def describe_cell(folder: pathlib.Path) -> dict[str, str]:
    """The figures of one kept run, as the table prints them."""
    records = read_lines(folder / METRICS)
    curve = {r["iteration"]: r[k] for r in records for k in [f"eval/{SPLITS[0]}/success"] if k in r}
    last = records[-10:]
    found = {f"at {n}": f"{curve[n]:.3f}" for n in AT if n in curve}
    found |= {"end": f"{curve[max(curve)]:.3f}", "best": f"{max(curve.values()):.3f}"}
    for name in ("switch_share", "segment_length", "malformed_share", "inadmissible_share"):
        values = [record[name] for record in last if name in record]
        if values:
            found[name] = f"{sum(values) / len(values):.3f}"
    for path in sorted(folder.glob("*-*.json")):
        rate = json.loads(path.read_text())[f"eval/{SPLITS[0]}/success"]
        low, high = wilson_interval(round(rate * 140), 140)
        found[path.stem] = f"{rate:.3f} [{low:.2f}, {high:.2f}]"
    return found


def print_table(study: Study, results: pathlib.Path = RESULTS) -> None:
    """One row per kept run, in Markdown; what is missing is a dash."""
    cells = [cell for cell in list_cells(study) if (results / cell.name / METRICS).is_file()]
    rows = {cell.name: describe_cell(results / cell.name) for cell in cells}
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    print("| run | " + " | ".join(names) + " |\n|---|" + "---|" * len(names))
    for name, row in rows.items():
        print(f"| {name} | " + " | ".join(row.get(column, "-") for column in names) + " |")
    print(f"\n{len(rows)} of {len(list_cells(study))} runs are there")


def main(study: Study) -> None:
    """Train what is missing, then print the table."""
    if not study.table_only:
        run_study(study)
    print_table(study)


if __name__ == "__main__":
    main(tyro.cli(Study))
