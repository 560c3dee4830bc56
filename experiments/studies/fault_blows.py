"""What a storm does to a run: each blow strikes, waits for what should come, and checks it.

A blow is a function of the storm. It returns with a process that goes on, or with none: then the
storm resumes the run. One that costs episodes strikes a copy of the run, which the storm then
leaves behind, so that the rest can be compared with the uninterrupted run byte for byte.
"""

import contextlib
import errno
import json
import os
import pathlib
import re
import shutil
import signal
import time
from collections.abc import Callable

from experiments.studies.fault_session import Session, StormError, read_rows, wait_until
from hiperjax.training.checkpoint import Checkpoints

LOST = re.compile(r"episode of task (\S+) lost: (.+)")


def expect(holds: object, message: str) -> None:
    """Raise `StormError` where a promise is not kept."""
    if not holds:
        raise StormError(message)


def kill(session: Session) -> None:
    """SIGKILL."""
    session.signal(signal.SIGKILL)
    session.end("SIGKILL")


def _stop(session: Session, number: int) -> None:
    """A wish to stop; before the program listens, it ends at once, with nothing to lose."""
    name = signal.Signals(number).name
    session.signal(number)
    code = session.end(name)
    if (code == -number and not session.output) or (code == 130 and is_interrupted(session)):
        return
    expect(code == 0, f"{name}: exit code {code}: {session.output[-2000:]}")
    told = f"{name}: " in session.output and "--resume" in session.output
    expect(told or "done: " in session.output, f"{name}: {session.output[-2000:]}")


def await_lock(session: Session) -> None:
    """Wait until the run folder is its own, or it has ended."""
    wait_until(lambda: not session.lives or session.holds_lock, "the lock")


def is_interrupted(session: Session) -> bool:
    """Whether it says that it was stopped before the program would finish anything."""
    return session.output.endswith("hiperjax train: interrupted\n")


def terminate(session: Session) -> None:
    """SIGTERM."""
    _stop(session, signal.SIGTERM)


def hang_up(session: Session) -> None:
    """SIGHUP."""
    _stop(session, signal.SIGHUP)


def interrupt_twice(session: Session) -> None:
    """SIGINT, and again; not while Python itself starts, which has its own way to end."""
    await_lock(session)
    session.signal(signal.SIGINT)
    time.sleep(0.05)
    with contextlib.suppress(ProcessLookupError):
        session.signal(signal.SIGINT)
    code = session.end("SIGINT twice")
    expect(
        code in (0, 130, -signal.SIGINT),
        f"SIGINT twice: exit code {code}: {session.output[-2000:]}",
    )
    expect("Traceback" not in session.output, session.output[-2000:])


def pause(session: Session) -> None:
    """SIGSTOP for a while, then SIGCONT."""
    session.signal(signal.SIGSTOP)
    time.sleep(1.0)
    session.signal(signal.SIGCONT)


def cut_checkpoint(session: Session) -> None:
    """SIGKILL, then half of the newest checkpoint's largest file is gone."""
    kill(session)
    checkpoints = Checkpoints(session.folder / "checkpoints")
    index = checkpoints.index
    if index["last"] in (index["best"], index["start"]) and index["best"] == index["start"]:
        return  # there is no other one to go on from
    folder = session.folder / "checkpoints" / f"iteration_{index['last']:06d}"
    victim = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    os.truncate(victim, victim.stat().st_size // 2)


def start_second(session: Session) -> None:
    """Another process trains in the same folder, or tries to."""
    await_lock(session)
    other = Session.start(
        session.folder,
        ["--resume", str(session.folder)],
        tag=f"{session.tag}-second",
        python_path=session.python_path,
        log=session.log.with_suffix(".second"),
    )
    code = other.end("a second process")
    if not session.lives and code == 0:
        return  # the first one was done before
    expect(code == 2 and "is training there" in other.output, f"second process: {other.output}")
    expect(other.output.count("\n") == 1, f"second process: more than a line: {other.output}")


def fill_disk(session: Session) -> None:
    """The run folder's disk fills, and is emptied once the process has ended."""
    ballast = session.folder.parent / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError as error:
            expect(error.errno == errno.ENOSPC, str(error))
    try:
        code = session.end("a full disk")
    finally:
        ballast.unlink()
    if code == 0 and "done: " in session.output:
        return
    expect(code == 1, f"full disk: exit code {code}: {session.output[-2000:]}")
    said = [line for line in session.output.splitlines() if line.startswith("hiperjax train:")]
    expect(
        len(said) == 1 and "no space left" in said[0].lower(),
        f"full disk: {session.output[-2000:]}",
    )
    expect("Traceback" not in session.output, f"full disk: {session.output[-3000:]}")


Strike = Callable[[Session, pathlib.Path], None]


def kill_worker(session: Session, orders: pathlib.Path) -> None:
    """SIGKILL to an environment worker."""
    _signal_worker(session, signal.SIGKILL)


def hang_worker(session: Session, orders: pathlib.Path) -> None:
    """SIGSTOP to an environment worker, for good."""
    _signal_worker(session, signal.SIGSTOP)


def _signal_worker(session: Session, number: int) -> None:
    workers = session.workers()
    expect(workers, "no environment worker is there")
    os.kill(workers[0], number)


def make_world_raise(session: Session, orders: pathlib.Path) -> None:
    """An environment raises."""
    (orders / "raise").touch()


def make_world_lie(session: Session, orders: pathlib.Path) -> None:
    """An environment returns nonsense."""
    (orders / "nonsense").touch()


def keep_before(session: Session) -> None:
    """Copy the run as it is before episodes are lost."""
    session.signal(signal.SIGSTOP)
    shutil.copytree(session.folder, _before(session))
    session.signal(signal.SIGCONT)


def put_back(session: Session) -> None:
    """End the process, and set the run back to before episodes were lost."""
    session.destroy()
    shutil.rmtree(session.folder)
    shutil.move(_before(session), session.folder)


def _before(session: Session) -> pathlib.Path:
    return session.folder.parent.parent / "before"


def lose_episodes(session: Session, orders: pathlib.Path, strike: Strike) -> int:
    """Strike what costs episodes; how many were lost.

    Every one must be named and counted: as many are said to be lost as the record holds.
    """
    kept, said = session.rows(), len(LOST.findall(session.output))
    strike(session, orders)

    def lost() -> int:
        rows = [json.loads(row) for row in read_rows(session.folder)[kept:]]
        return int(sum(v for row in rows for k, v in row.items()
                       if k == "failed_episodes" or k.endswith("/lost")))  # fmt: skip

    wait_until(lambda: lost() > 0 or not session.lives, "a lost episode on record")
    expect(session.lives, f"ended with {session.process.returncode}: {session.output[-2000:]}")
    counted, named = lost(), LOST.findall(session.output)[said:]
    expect(len(named) >= counted, f"{counted} episodes lost, {len(named)} named: {named}")
    expect(not list(orders.iterdir()), "an order that no environment took")
    return counted


BLOWS: dict[str, Callable[[Session], None]] = {
    "SIGKILL": kill,
    "SIGTERM": terminate,
    "SIGHUP": hang_up,
    "SIGINT twice": interrupt_twice,
    "SIGSTOP, SIGCONT": pause,
    "checkpoint cut": cut_checkpoint,
    "second process": start_second,
    "full disk": fill_disk,
}
"""Those that cost no episode."""

LOSSES: dict[str, Strike] = {
    "worker killed": kill_worker,
    "worker hung": hang_worker,
    "world raises": make_world_raise,
    "world returns nonsense": make_world_lie,
}
"""Those that cost some."""
