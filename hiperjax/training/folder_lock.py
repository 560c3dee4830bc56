"""One process trains in a run folder: claimed before anything slow, held while the run goes on.

The lock is a small file that says who holds it. It outlives a killed process; whether that process
still lives is then asked by its id and the time it started, so a number used again does not count.
"""

import contextlib
import dataclasses
import datetime
import json
import os
import pathlib
import socket
from collections.abc import Iterator

from hiperjax.config import ConfigError
from hiperjax.files import dump_json

try:
    import fcntl
except ImportError:  # not on every platform; two processes in the same millisecond then race
    fcntl = None

LOCK = "lock.json"


@dataclasses.dataclass(frozen=True)
class Holder:
    """A process that trains, in words that another one can check."""

    host: str
    namespace: str
    """namespace of process ids: a container has its own"""
    pid: int
    started: str
    """when the process started, by the machine's own clock of this boot"""
    since: str
    """when it took the lock, for people"""

    @property
    def is_here(self) -> bool:
        """Whether its process id means anything to this process."""
        return (self.host, self.namespace) == (socket.gethostname(), _namespace())

    @property
    def lives(self) -> bool:
        """Whether that very process still runs; a zombie does not."""
        return _start_of(self.pid) == self.started


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _start_of(pid: int) -> str:
    """When process `pid` started; empty where there is none (or it is dead and not yet waited for).

    Without a /proc only the number is known.
    """
    try:
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else f"{boot}/{fields[19]}"
    except OSError:
        pass
    if pathlib.Path("/proc/self/stat").exists():
        return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "unknown"


def this_process() -> Holder:
    """The process that asks."""
    now = datetime.datetime.now().isoformat(" ", "seconds")
    return Holder(socket.gethostname(), _namespace(), os.getpid(), _start_of(os.getpid()), now)


@contextlib.contextmanager
def _guard(path: pathlib.Path) -> Iterator[int]:
    """The lock's file, opened while no other process looks at it."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if fcntl is not None:
                with contextlib.suppress(OSError):  # file systems without it
                    fcntl.flock(file, fcntl.LOCK_EX)
            try:
                same = os.path.samestat(os.fstat(file), os.stat(path))
            except FileNotFoundError:
                same = False
            if same:  # else it was removed while this process waited
                yield file
                return
        finally:
            os.close(file)


def _read(file: int) -> Holder | None:
    """Who holds it; None for nobody, or for a claim that was cut short."""
    try:
        raw = json.loads(os.pread(file, 1 << 16, 0))
        holder = Holder(**raw)
        return holder if isinstance(holder.pid, int) else None
    except (ValueError, TypeError, RecursionError):
        return None


class FolderLock:
    """Held from `acquire` to `release`; `taken_over` says whose stale lock it was, if any."""

    def __init__(self, folder: pathlib.Path):
        self.path, self.taken_over = folder / LOCK, ""
        self._mine: Holder | None = None

    def acquire(self) -> None:
        """Take the lock; take it again where somebody removed it meanwhile.

        Raises:
          ConfigError: another process holds it; says which and what to do.
        """
        with _guard(self.path) as file:
            holder = _read(file)
            if holder is not None and holder == self._mine:
                return
            if holder is not None and self._mine is not None:
                raise ConfigError(
                    f"{self.path.parent}: process {holder.pid} on {holder.host} trains there since "
                    f"{holder.since}, though this process held the lock until somebody removed it; "
                    "this one stops and writes nothing more"
                )
            if holder is not None:
                self._refuse_living(holder)
                self.taken_over = (
                    f"the process that trained here ({holder.pid} on {holder.host}, since "
                    f"{holder.since}) has died; its lock is taken over"
                )
            self._mine = this_process()
            os.ftruncate(file, 0)
            os.pwrite(file, dump_json(dataclasses.asdict(self._mine)).encode(), 0)

    def _refuse_living(self, holder: Holder) -> None:
        who = f"process {holder.pid} on {holder.host} since {holder.since}"
        if not holder.is_here:
            raise ConfigError(
                f"{self.path.parent}: locked by {who}, of which this machine cannot know whether "
                f"it still runs; if it does not, remove {self.path}"
            )
        if holder.lives:
            raise ConfigError(
                f"{self.path.parent}: {who} is training there; wait for it, stop it (kill "
                f"{holder.pid}), or choose another folder by --out"
            )

    def release(self) -> None:
        """Give it back; nothing where it is somebody else's by now."""
        if self._mine is None or not self.path.exists():
            return
        with contextlib.suppress(OSError), _guard(self.path) as file:
            if _read(file) == self._mine:
                self.path.unlink()
        self._mine = None


def make_new_folder(wanted: pathlib.Path) -> pathlib.Path:
    """A folder that was not there before: `wanted`, or the same with -2, -3, ..."""
    wanted.parent.mkdir(parents=True, exist_ok=True)
    number, folder = 1, wanted
    while True:
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            number += 1
            folder = wanted.with_name(f"{wanted.name}-{number}")
