"""A tiny run under a seeded storm of faults, resumed after each, against the uninterrupted one.

    python -m experiments.studies.fault_run --seed 1 --blows 60 --out FILE.json

The run plays generated games (`fault_world`) in two worker processes. Checked after every blow:
the record on disk is a prefix of the uninterrupted run's, byte for byte, no row twice; lost
episodes are named and counted; no process is left over. Seconds lost run from the blow to the next
row that was not on record before it. Exit code 1 where a promise was not kept.
"""

import contextlib
import dataclasses
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

import tyro

from experiments.studies import fault_world
from experiments.studies.fault_blows import (
    BLOWS,
    LOSSES,
    keep_before,
    lose_episodes,
    put_back,
)
from experiments.studies.fault_session import Session, StormError, list_processes, read_rows
from hiperjax.files import write_json

SETTINGS = {
    "env.suite": "faulty",
    "env.backend": "process",
    "env.num-workers": 2,
    "env.step-timeout": 5,
    "env.max-failure-rate": 0.9,
    "env.max-turns": 4,
    "model.hidden-size": 16,
    "model.intermediate-size": 24,
    "model.num-layers": 1,
    "model.num-heads": 2,
    "model.num-kv-heads": 1,
    "rollout.episodes": 6,
    "rollout.slots": 4,
    "rollout.pipeline-groups": 1,
    "imitation.steps": 20,
    "imitation.check-every": 5,
    "imitation.episodes": 20,
    "ppo.minibatch-sequences": 16,
    "critic.random-features": 8,
    "eval.every": 4,
    "eval.max-tasks": 4,
    "checkpoint-every": 2,
}
"""An iteration well below a second; two workers; a checkpoint every second iteration."""


UNINTERRUPTED_SECONDS = 3600.0
"""That a run of so many iterations in peace may take."""


@dataclasses.dataclass(frozen=True)
class Study:
    """What strikes, and how often."""

    seed: int = 1
    """Of the storm: which blow comes when. The run's own seed is 1."""
    blows: int = 60
    """How many."""
    iterations: int | None = None
    """Of the run; none: as many as the blows take."""
    kinds: tuple[str, ...] = (*BLOWS, *LOSSES)
    """Which blows."""
    folder: pathlib.Path | None = None
    """Where it happens; none: a folder that is removed afterwards. The uninterrupted run found
    there is used again."""
    seconds: float | None = None
    """No blow begins after so many seconds; none: all of them come."""
    out: pathlib.Path | None = None
    """Also write what happened as JSON."""

    @property
    def length(self) -> int:
        return self.iterations or 6 * self.blows + 8  # it goes on while a second process starts


@dataclasses.dataclass
class Blow:
    """One blow, and what it cost."""

    kind: str
    row: int
    """rows on record when it came"""
    seconds: float = 0.0
    """from the blow to the next row that was not on record then"""
    lost: int = 0
    """episodes, named and counted"""


@contextlib.contextmanager
def make_disk(folder: pathlib.Path) -> Iterator[str]:
    """A small disk of its own at `folder`, if one can be had; yields why not, or nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True)
        reason = mounted.stderr.strip()
    except FileNotFoundError as error:
        reason = str(error)
    if reason:
        yield f"skipped: no small disk can be mounted here ({reason})"
        return
    try:
        yield ""
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


class Storm:
    """A run and the blows it takes."""

    def __init__(self, study: Study, place: pathlib.Path):
        self.study, self.place = study, place
        self.tag = f"{os.getpid()}-{study.seed}-{time.time_ns()}"
        self.orders, self.packages = place / "orders", place / "packages"
        for left in (self.orders, place / "before", place / "disk" / "run"):  # by one cut short
            shutil.rmtree(left, ignore_errors=True)
        self.orders.mkdir()
        fault_world.install(self.packages)
        self.random = random.Random(study.seed)
        self.blows: list[Blow] = []
        self.sessions = 0
        self.reference: list[bytes] = []

    def start(self, folder: pathlib.Path) -> Session:
        """Begin the run, or go on with it."""
        self.sessions += 1
        arguments = ["household-tiny", "--out", str(folder), "--iterations", str(self.study.length)]
        arguments += ["--env.options", f"orders={self.orders}"]
        arguments += [word for k, v in SETTINGS.items() for word in (f"--{k}", str(v))]
        if (folder / "config.json").exists():
            arguments = ["--resume", str(folder)]
        log = self.place / f"session-{self.sessions:03d}.log"
        return Session.start(folder, arguments, tag=self.tag, python_path=[self.packages], log=log)

    def run_reference(self) -> None:
        """The uninterrupted run, unless it is there."""
        folder = self.place / f"reference-{self.study.length}"
        if len(read_rows(folder)) <= self.study.length:
            session = self.start(folder)
            try:
                code = session.end("the uninterrupted run", UNINTERRUPTED_SECONDS)
            finally:
                session.destroy()
            if code:
                raise StormError(f"the uninterrupted run: {session.output[-2000:]}")
        self.reference = read_rows(folder)

    def check(self, session: Session) -> None:
        """The record is a prefix of the uninterrupted run's: no row differs, none comes twice."""
        rows = read_rows(session.folder)
        for number, (row, expected) in enumerate(zip(rows, self.reference, strict=False)):
            if row != expected:
                raise StormError(f"row {number} differs from the uninterrupted run's: {row!r}")
        if len(rows) > len(self.reference):
            raise StormError(f"{len(rows)} rows; expected at most {len(self.reference)}")

    def strike(self, session: Session, kind: str) -> Session:
        """One blow that costs no episode; returns the session that goes on."""
        # None more: the blow comes while the program starts.
        session.wait_for_rows(session.rows() + self.random.randint(0, 1))
        time.sleep(self.random.random() * 0.5)
        self.check(session)
        blow = Blow(kind, session.rows())
        started = time.monotonic()
        BLOWS[kind](session)
        if not session.lives:
            self.refuse_leftover(kind)
            self.check(session)
            session = self.start(session.folder)
        session.wait_for_rows(blow.row + 1)
        self.note(blow, started)
        return session

    def strike_losses(self, session: Session, kinds: Sequence[str]) -> Session:
        """Blows that cost episodes, one after another; the run then goes on as if none had come."""
        session.wait_for_rows(session.rows() + 1)
        keep_before(session)
        for kind in kinds:
            blow = Blow(kind, session.rows())
            started = time.monotonic()
            blow.lost = lose_episodes(session, self.orders, LOSSES[kind])
            self.note(blow, started)
        put_back(session)
        self.refuse_leftover("blows that cost episodes")
        self.check(session)
        return self.start(session.folder)

    def note(self, blow: Blow, started: float) -> None:
        """Record and print a blow that began at that time."""
        blow.seconds = time.monotonic() - started
        self.blows.append(blow)
        print(f"{len(self.blows):3d} {blow.kind:<24} at row {blow.row:3d}  {blow.seconds:6.1f} s  "
              f"{blow.lost} lost", flush=True)  # fmt: skip

    def refuse_leftover(self, after: str) -> None:
        """Raise `StormError` where processes are left over."""
        leftover = list_processes(self.tag)
        if leftover:
            raise StormError(f"{after}: processes {leftover} are left over")

    def rage(self, kinds: Sequence[str]) -> None:
        """All blows, then the rest of the run in peace."""
        until = time.monotonic() + (self.study.seconds or 1e9)
        session = self.start(self.place / "disk" / "run")
        try:
            session.wait_for_rows(1)
            for group in plan_blows(kinds, self.study.blows, self.random):
                if time.monotonic() > until or session.rows() >= len(self.reference) - 2:
                    break
                if group[0] in LOSSES:
                    session = self.strike_losses(session, group)
                else:
                    session = self.strike(session, group[0])
            code = session.end("the last iteration", UNINTERRUPTED_SECONDS)
        finally:
            session.destroy()
        self.check(session)
        if code or session.rows() != len(self.reference):
            raise StormError(f"the run ended with {code} after {session.rows()} rows")
        self.refuse_leftover("the end")


def plan_blows(kinds: Sequence[str], blows: int, chance: random.Random) -> list[list[str]]:
    """So many blows in random order, all kinds before one comes again; those that cost episodes
    come together, since the run is set back after them."""
    groups, left = [], blows
    while left > 0:
        order = chance.sample(kinds, len(kinds))[:left]
        left -= len(order)
        losses = [kind for kind in order if kind in LOSSES]
        groups += [losses if kind in LOSSES else [kind] for kind in order if kind not in losses[1:]]
    return groups


def tabulate(blows: Sequence[Blow]) -> str:
    """One row per kind of blow, in Markdown."""
    lines = ["| blow | times | seconds lost: median | most | episodes lost, named and counted |",
             "|---|---|---|---|---|"]  # fmt: skip
    for kind in (*BLOWS, *LOSSES):
        mine = [blow for blow in blows if blow.kind == kind]
        if mine:
            seconds = sorted(blow.seconds for blow in mine)
            lost = sum(blow.lost for blow in mine)
            lines.append(f"| {kind} | {len(mine)} | {seconds[len(seconds) // 2]:.1f} | "
                         f"{seconds[-1]:.1f} | {lost} |")  # fmt: skip
    return "\n".join(lines)


def run_storm(study: Study, place: pathlib.Path) -> dict:
    """The study in a folder; what happened.

    Raises:
      StormError: a promise was not kept.
    """
    storm = Storm(study, place)
    with make_disk(place / "disk") as skipped:
        kinds = [kind for kind in study.kinds if not (skipped and kind == "full disk")]
        if skipped and "full disk" in study.kinds:
            print(f"full disk: {skipped}", flush=True)
        storm.run_reference()
        started = time.monotonic()
        storm.rage(kinds)
    print(f"\n{tabulate(storm.blows)}\n")
    print(
        f"{len(storm.blows)} blows in {time.monotonic() - started:.0f} s; all "
        f"{len(storm.reference)} rows equal the uninterrupted run's byte for byte, none comes "
        "twice; no process is left over"
    )
    return {
        "seed": study.seed,
        "full_disk": skipped or "done",
        "rows": len(storm.reference),
        "blows": [dataclasses.asdict(blow) for blow in storm.blows],
    }


def parse_args(words: Sequence[str] | None = None) -> Study:
    """The command line."""
    return tyro.cli(Study, args=words)


def main(study: Study) -> int:
    """Run the storm, print its table."""
    with contextlib.ExitStack() as stack:
        place = study.folder
        if place is None:
            place = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        place.mkdir(parents=True, exist_ok=True)
        try:
            found = run_storm(study, place)
        except StormError as error:
            print(f"fault_run: {error}", file=sys.stderr)
            return 1
    if study.out is not None:
        write_json(study.out, found)
    return 0


if __name__ == "__main__":
    sys.exit(main(parse_args()))
