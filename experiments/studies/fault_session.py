"""A training process under a storm: started, watched, and what it leaves behind."""

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence

from hiperjax.training.folder_lock import LOCK
from hiperjax.training.metrics import METRICS

TAG = "HIPERJAX_FAULT_RUN"
"""Environment variable by which every process of a storm is known, children included."""
PATIENCE = 900.0
"""Seconds after which whatever is waited for counts as never coming."""
REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


class StormError(RuntimeError):
    """A promise that was not kept; says which."""


def wait_until(holds: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
    """Poll until something holds.

    Raises:
      StormError: it does not in time.
    """
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise StormError(f"{what}: not within {seconds:g} s")
        time.sleep(0.02)


def read_rows(folder: pathlib.Path) -> list[bytes]:
    """Complete lines of the run's record."""
    path = folder / METRICS
    if not path.exists():
        return []
    return [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def list_processes(tag: str) -> list[int]:
    """Living processes of a storm; those that are dead and not yet waited for do not count."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            environment = (entry / "environ").read_bytes()
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except (OSError, IndexError):
            continue
        if f"{TAG}={tag}".encode() in environment.split(b"\0") and state not in "ZX":
            found.append(int(entry.name))
    return found


@contextlib.contextmanager
def heard_signals() -> Iterator[None]:
    """What starts here hears the storm's signals, which `nohup` and a shell's background ignore."""
    old = {
        number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGHUP, signal.SIGINT)
    }
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


@dataclasses.dataclass
class Session:
    """One process of `hiperjax train`, and its run folder."""

    folder: pathlib.Path
    tag: str
    python_path: Sequence[pathlib.Path]
    log: pathlib.Path
    process: subprocess.Popen[bytes]

    @classmethod
    def start(
        cls,
        folder: pathlib.Path,
        arguments: Sequence[str],
        *,
        tag: str,
        python_path: Sequence[pathlib.Path],
        log: pathlib.Path,
    ) -> "Session":
        """Run the command line, its output in `log`."""
        paths = [*map(str, python_path), str(REPOSITORY), str(REPOSITORY / "kernels")]
        known = os.environ.get("PYTHONPATH")
        environment = os.environ | {
            TAG: tag,
            "PYTHONPATH": os.pathsep.join([*paths, *([known] if known else [])]),
            "JAX_PLATFORMS": "cpu",
        }
        with log.open("wb") as file, heard_signals():
            process = subprocess.Popen(
                [sys.executable, "-m", "hiperjax.cli", "train", *arguments],
                env=environment, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        return cls(folder, tag, python_path, log, process)

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def lives(self) -> bool:
        return self.process.poll() is None

    @property
    def holds_lock(self) -> bool:
        """Whether the run folder's lock names this process."""
        try:
            return json.loads((self.folder / LOCK).read_text())["pid"] == self.process.pid
        except (OSError, ValueError):  # not there, or not yet whole
            return False

    def rows(self) -> int:
        """Iterations on record."""
        return len(read_rows(self.folder))

    def wait_for_rows(self, count: int) -> None:
        """Wait until so many are on record, or the process has ended as it should."""

        def there() -> bool:
            if not self.lives and self.process.returncode:
                raise StormError(f"ended with {self.process.returncode}: {self.output[-2000:]}")
            return self.rows() >= count or not self.lives

        wait_until(there, f"row {count} of {self.folder}")

    def workers(self) -> list[int]:
        """Its environment workers."""
        found = []
        for pid in list_processes(self.tag):
            try:
                command = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
                parent = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except (OSError, IndexError):
                continue
            if int(parent[1]) == self.process.pid and b"spawn_main" in command:
                found.append(pid)
        return sorted(found)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self, what: str, seconds: float = PATIENCE) -> int:
        """Wait for its end, and for its workers'; its exit code."""
        wait_until(lambda: not self.lives, f"end after {what}", seconds)
        wait_until(lambda: not list_processes(self.tag), f"end of the workers after {what}", 60)
        return self.process.returncode

    def destroy(self) -> None:
        """Kill it and its workers."""
        if self.lives:
            self.process.kill()
        self.process.wait()
        for pid in list_processes(self.tag):
            os.kill(pid, 9)
