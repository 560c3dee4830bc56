"""The three layouts of contexts over seeds: success, seconds per iteration, tokens per turn.

    python -m experiments.studies.layouts --preset household-tiny

trains every (layout, seed) that is not yet in the folder, one after another, each with its own
imitation, and prints the table; `--out FILE` keeps the figures as JSON. Seconds are medians over
iterations: of the wall clock, without compilation, so compare runs made on one quiet machine.
"""

import dataclasses
import json
import pathlib
import statistics
import subprocess
import sys
from collections.abc import Sequence

import tyro

from hiperjax.training.metrics import METRICS, TIMINGS, read_lines

LAYOUTS = ("turn", "subgoal", "episode")


@dataclasses.dataclass(frozen=True)
class Study:
    """What to train and where."""

    preset: str = "household-tiny"
    """Preset of all runs."""
    folder: pathlib.Path = pathlib.Path("runs/layouts")
    """One run folder for each layout and seed goes below it."""
    layouts: tuple[str, ...] = LAYOUTS
    """Values of prompt.window."""
    window_length: int | None = None
    """prompt.window-length of all runs; none means the preset's."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """Seeds."""
    iterations: int | None = None
    """Iterations; none means the preset's."""
    table_only: bool = False
    """Train nothing, tabulate what is there."""
    out: pathlib.Path | None = None
    """Also write the figures as JSON."""

    def run(self, layout: str, seed: int) -> pathlib.Path:
        """Folder of one run."""
        return self.folder / f"{self.preset}-{layout}-{seed}"


def train_missing(study: Study) -> None:
    """Run `hiperjax train` for every run that has no folder yet."""
    for seed in study.seeds:
        for layout in study.layouts:
            out = study.run(layout, seed)
            if out.exists():
                continue
            flags = ["--seed", str(seed), "--out", str(out), "--prompt.window", layout]
            if study.window_length is not None:
                flags += ["--prompt.window-length", str(study.window_length)]
            if study.iterations is not None:
                flags += ["--iterations", str(study.iterations)]
            command = [sys.executable, "-m", "hiperjax.cli", "train", study.preset, *flags]
            subprocess.run(command, check=True)


def summarize(run: pathlib.Path) -> dict[str, float]:
    """The figures of one run."""
    records, timings = read_lines(run / METRICS), read_lines(run / TIMINGS)
    name = next(k for k in records[0] if k.startswith("eval/") and k.endswith("/success"))
    scores = [r[name] for r in records if name in r]
    played = [r for r in records if "prompt_tokens" in r]
    turns = [r["episode_length"] for r in played]
    computed = [
        (r["prompt_tokens"] - r["shared_tokens"] + r["decode_tokens"]) / r["reply_tokens"]
        * r["reply_length"]
        for r in played
    ]  # fmt: skip
    later = [r for r in timings if r["iteration"] > 1]
    return {
        "start": scores[0],
        "best": max(scores),
        "end": scores[-1],
        "iterations": records[-1]["iteration"],
        "rollout_seconds": statistics.median(r["rollout"] for r in later),
        "update_seconds": statistics.median(r["update"] for r in later),
        "tokens_per_turn": statistics.mean(computed),
        "turns_per_episode": statistics.mean(turns),
        "overflows": sum(r.get("window_overflows", 0.0) for r in played),
    }


def collect(study: Study) -> dict[str, dict[str, float]]:
    """Figures of every run that there is."""
    runs = {(layout, seed): study.run(layout, seed)
            for layout in study.layouts for seed in study.seeds}  # fmt: skip
    return {
        f"{layout}, seed {seed}": summarize(run)
        for (layout, seed), run in runs.items()
        if len(read_lines(run / METRICS)) > 2
    }


def print_table(found: dict[str, dict[str, float]]) -> None:
    """One row per run, in Markdown."""
    names = list(next(iter(found.values()), {}))
    print("| run | " + " | ".join(names) + " |\n|---|" + "---|" * len(names))
    for run, row in found.items():
        print(f"| {run} | " + " | ".join(f"{row[n]:.3g}" for n in names) + " |")


def parse_args(words: Sequence[str] | None = None) -> Study:
    """The command line."""
    return tyro.cli(Study, args=words)


def main(study: Study) -> None:
    """Train what is missing, then print the table."""
    if not study.table_only:
        train_missing(study)
    found = collect(study)
    print_table(found)
    if study.out is not None:
        study.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main(parse_args())
