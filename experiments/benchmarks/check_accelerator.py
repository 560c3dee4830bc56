"""One command for ten minutes of an accelerator: what runs there, how fast, and how near to right.

    python -m experiments.benchmarks.check_accelerator --out DIR [--tiny] [--stages machine kernels]

Each stage is a process of its own with a limit of its own, in the order of what it is worth; one
that overruns is killed, and the next begins. `summary.json` is written after every stage. Weights
are random; nothing but the repository is needed. `--tiny` runs machine, kernels and iteration with
small shapes, on any machine.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import NamedTuple

from hiperjax.devices import claim_memory

MODULE = "experiments.benchmarks.check_accelerator"
STAGES_MODULE = "experiments.benchmarks.accelerator_stages"
ITERATION = "experiments.benchmarks.iteration"


class Stage(NamedTuple):
    """One process."""

    name: str
    limit: int
    """seconds"""
    about: str
    tiny: bool = False
    """whether it runs with --tiny"""


STAGES = (
    Stage("machine", 30, "versions, device, peak product, copy bandwidth", tiny=True),
    Stage("kernels", 70, "attention on rows against the mask, values and gradients", tiny=True),
    Stage("decode", 90, "a decode step by slots and context, beside the roofline"),
    Stage("prefill", 30, "prompts of 448 tokens, 4 to 32 at a time"),
    Stage("update", 150, "forward and backward of a micro-batch, by attention, remat, size"),
    Stage("iteration", 150, "a whole iteration", tiny=True),
    Stage("trace", 20, "a profile of decode steps"),
)
TINY_ITERATION = ("--episodes", "2", "--slots", "2", "--max-turns", "2", "--iterations", "1")
ITERATION_1B = ("--shape", "qwen2.5-1.5b", "--pipeline-groups", "2", "--iterations", "1")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a stage ended."""

    stage: str
    ended: str
    """ok, failed, or killed"""
    seconds: float
    output: str
    """the last lines it wrote"""


def command_of(stage: Stage, out: pathlib.Path, tiny: bool) -> list[str]:
    """What a stage runs."""
    if stage.name == "iteration":
        sizes = TINY_ITERATION if tiny else ITERATION_1B
        return [sys.executable, "-m", ITERATION, *sizes, "--out", str(out / "iteration.json")]
    small = ["--tiny"] if tiny else []
    return [sys.executable, "-m", STAGES_MODULE, stage.name, "--out", str(out), *small]


def run_stage(stage: Stage, command: Sequence[str]) -> Outcome:
    """Run a stage to its end or its limit; past it, it is killed with all it started."""
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            command, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code: int | None = process.wait(stage.limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            code = None
        said.seek(0)
        output = said.read()[-4000:]
    # A benchmark that misses a target ends with 1, and has run.
    fine = code == 0 or (code == 1 and stage.name == "iteration" and "MISSED" in output)
    ended = f"killed after {stage.limit} s" if code is None else "ok" if fine else "failed"
    return Outcome(stage.name, ended, time.perf_counter() - started, output)


def parse_args(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder of the results")
    parser.add_argument("--tiny", action="store_true", help="small shapes, on any machine")
    names = [stage.name for stage in STAGES]
    parser.add_argument("--stages", nargs="+", choices=names, help="default: all there are")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """Run the stages; 1 where one failed or was killed."""
    args = parse_args(words)
    args.out.mkdir(parents=True, exist_ok=True)
    claim_memory()
    wanted = args.stages or [s.name for s in STAGES if s.tiny or not args.tiny]
    outcomes: list[Outcome] = []
    for stage in STAGES:
        if stage.name in wanted:
            outcome = run_stage(stage, command_of(stage, args.out, args.tiny))
            outcomes.append(outcome)
            print(f"{stage.name:<10}{outcome.ended:<20}{outcome.seconds:6.1f} s   {stage.about}")
            if outcome.ended != "ok":
                print(outcome.output)
            kept = [dataclasses.asdict(x) for x in outcomes]
            (args.out / "summary.json").write_text(json.dumps(kept, indent=1) + "\n")
    return int(any(outcome.ended != "ok" for outcome in outcomes))


if __name__ == "__main__":
    raise SystemExit(main())
