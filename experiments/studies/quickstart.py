"""The quick start over seeds and estimators: start, end, time to the target, switch share.

`python -m experiments.studies.quickstart` trains every (estimator, seed) that is not yet in the
folder, one after another, and prints the table. The comparisons start from the default
run's imitation of the same seed, so that only the estimator differs.
"""

import dataclasses
import json
import pathlib
import subprocess
import sys
from collections.abc import Sequence

import tyro

from hiperjax.training.checkpoint import Checkpoints
from hiperjax.training.metrics import METRICS, TIMINGS, read_lines

ESTIMATORS = ("hae", "hae_paper", "flat_gae")


@dataclasses.dataclass(frozen=True)
class Study:
    """What to train and where."""

    folder: pathlib.Path = pathlib.Path("runs/quickstart")
    """One run folder for each estimator and seed goes below it."""
    preset: str = "household-tiny"
    """Preset of all runs."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """Seeds."""
    estimators: tuple[str, ...] = ESTIMATORS
    """Estimators, the first one with its own imitation."""
    table_only: bool = False
    """Train nothing, tabulate what is there."""


def train_missing(study: Study) -> None:
    """Run `hiperjax train` for every run that has no folder yet."""
    for seed in study.seeds:
        for estimator in study.estimators:
            out = study.folder / f"{estimator}-{seed}"
            if out.exists():
                continue
            flags = ["--seed", str(seed), "--out", str(out), "--credit.estimator", estimator]
            if estimator != study.estimators[0]:
                flags += ["--init", str(study.folder / f"{study.estimators[0]}-{seed}")]
            command = [sys.executable, "-m", "hiperjax.cli", "train", study.preset, *flags]
            subprocess.run(command, check=True)


def summarize(run: pathlib.Path, split: str = "unseen") -> dict[str, float | None]:
    """The figures of one run."""
    records = read_lines(run / METRICS)
    scores = [r[f"eval/{split}/success"] for r in records if f"eval/{split}/success" in r]
    last = records[-10:]
    timings = read_lines(run / TIMINGS)
    seconds = [sum(v for k, v in r.items() if k.startswith("ledger/")) for r in timings]
    target = json.loads((run / "config.json").read_text())["target"]
    meta = Checkpoints(run / "checkpoints").index["meta"]
    return {
        "start": scores[0],
        "best": max(scores),
        "end": scores[-1],
        "end3": sum(scores[-3:]) / len(scores[-3:]),
        "iterations": records[-1]["iteration"],
        "to_target": meta["target_seconds"] if target else None,
        "total": meta["seconds"],
        "median_iteration": sorted(seconds[1:])[len(seconds[1:]) // 2],
        "switch": sum(r["switch_share"] for r in last) / len(last),
        "segment": sum(r["segment_length"] for r in last) / len(last),
        "malformed": sum(r["malformed_share"] for r in last) / len(last),
    }


def print_table(study: Study) -> None:
    """One row per run, in Markdown."""
    names = ("start", "best", "end", "end3", "to_target", "total", "switch", "segment", "malformed")
    print("| run | " + " | ".join(names) + " |\n|---|" + "---|" * len(names))
    for estimator in study.estimators:
        for seed in study.seeds:
            run = study.folder / f"{estimator}-{seed}"
            if not (run / METRICS).is_file():
                continue
            row = summarize(run)
            cells = ["-" if row[n] is None else f"{row[n]:.3g}" for n in names]
            print(f"| {estimator}, seed {seed} | " + " | ".join(cells) + " |")


def parse_args(words: Sequence[str] | None = None) -> Study:
    """The command line."""
    return tyro.cli(Study, args=words)


def main(study: Study) -> None:
    """Train what is missing, then print the table."""
    if not study.table_only:
        train_missing(study)
    print_table(study)


if __name__ == "__main__":
    main(parse_args())
