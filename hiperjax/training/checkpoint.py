"""Saving and restoring training state with Orbax: the last, the best and the first are kept.

A checkpoint is a folder written under another name and renamed when complete, so a run killed while
saving leaves no half-written one behind. Beside it stands a record: sizes and checksums of its
files, verified whenever it is read, and what was saved beside the state. `index.json` says which
checkpoint is which; where the one asked for is damaged, the newest good one serves, and it is said.
"""

import concurrent.futures
import errno
import hashlib
import logging
import os
import pathlib
import shutil
import threading
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from hiperjax.files import DamagedFile, read_json, write_json
from hiperjax.training.record_files import CURE
from hiperjax.training.unfinished import Unfinished

INDEX = "index.json"
SAVE_SECONDS = 1800.0
"""A state that is not on disk after so long is given up."""
MOST_ITERATIONS = 10**9
Which = Literal["last", "best", "start"]
"""Which of the states a run keeps: the newest, the best evaluated, the one before iteration 1."""


def is_foreign(record: logging.LogRecord) -> bool:
    """Whether a log record is not Orbax's: what fails there is raised, and told in one line."""
    return "orbax" not in pathlib.PurePath(record.pathname).parts


logging.getLogger("absl").addFilter(is_foreign)


class CheckpointError(ValueError):
    """A checkpoint that is not there, not complete, or not of this architecture."""


class SaveError(RuntimeError):
    """A state that could not be saved; says why, and which one still is."""


def _shapes(tree: Any) -> dict[str, tuple]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path): tuple(np.shape(leaf)) for path, leaf in leaves}


def _need_room(folder: pathlib.Path, state: Any) -> None:
    """Refuse to begin what the disk cannot hold: half-way, the threads that write it fail one by
    one, each with a traceback that nobody can catch."""
    leaves = jax.tree.leaves(state)
    needed = sum(getattr(x, "nbytes", 8) for x in leaves) // jax.process_count()
    if shutil.disk_usage(folder).free < needed:
        raise OSError(errno.ENOSPC, f"a state of {needed / 1e6:.1f} MB")


def _hash(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sums(folder: pathlib.Path) -> dict[str, list]:
    """Size and checksum of every file below a folder."""
    paths = _list_files(folder)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = zip(paths, pool.map(_hash, paths), strict=True)
        return {str(p.relative_to(folder)): [p.stat().st_size, digest] for p, digest in found}


def _list_files(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _flush(folder: pathlib.Path) -> None:
    """Have the disk hold what was written: a machine may lose its power."""
    for path in (*_list_files(folder), *filter(pathlib.Path.is_dir, folder.rglob("*")), folder):
        file = os.open(path, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)


class Checkpoints:
    """The `checkpoints` folder of a run."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder.absolute()
        self.notices: list[str] = []
        """what a person should know of what was read"""
        self._held: int | None = None
        """iteration whose state is in the hands of this process, as it lies on the disk"""
        self._checkpointer = ocp.StandardCheckpointer()

    @property
    def index(self) -> dict[str, Any]:
        """`last`, `best`, `start`: iteration numbers; `shapes` of a state's leaves.

        Raises:
          CheckpointError: nothing was saved here.
          DamagedFile: it is cut, or fields are missing.
        """
        path = self.folder / INDEX
        if not path.is_file():
            raise CheckpointError(
                f"{self.folder}: no {INDEX}; expected the checkpoints folder of a run that saved "
                "at least once"
            )
        index = read_json(path, cure=CURE)
        fields = {name: int for name in get_args(Which)} | {"shapes": dict, "meta": dict}
        for name, kind in fields.items():
            if type(index.get(name)) is not kind:
                word = "a whole number" if kind is int else "an object"
                raise DamagedFile(
                    f"{path}: field {name} is {index.get(name)!r}; expected {word}; {CURE}"
                )
        for name in get_args(Which):
            if not 0 <= index[name] < MOST_ITERATIONS:
                raise DamagedFile(f"{path}: field {name} is no count of iterations; {CURE}")
        for name, shape in index["shapes"].items():
            if not isinstance(shape, list) or any(type(size) is not int for size in shape):
                raise DamagedFile(
                    f"{path}: field shapes[{name!r}] is {shape!r}; expected a list of whole "
                    f"numbers; {CURE}"
                )
        return index

    def exists(self) -> bool:
        """Whether anything was saved here."""
        return (self.folder / INDEX).is_file()

    def refuse_lost(self, recorded: int) -> None:
        """Refuse to begin anew where states were saved and cannot be found any more.

        Args:
          recorded: newest iteration of which the run has a record.

        Raises:
          CheckpointError: says what is missing.
        """
        if recorded > 0 and not self.exists():
            raise CheckpointError(
                f"{self.folder / INDEX}: missing, though the run has a record of iteration "
                f"{recorded}, which it would make anew; {CURE}"
            )

    def _path(self, iteration: int) -> pathlib.Path:
        return self.folder / f"iteration_{iteration:06d}"

    def _record(self, iteration: int) -> pathlib.Path:
        return self._path(iteration).with_suffix(".json")

    def meta(self, iteration: int) -> dict[str, Any]:
        """What was saved beside the state of that iteration."""
        record = self._record(iteration)
        meta = read_json(record, cure=CURE).get("meta")
        for name, value in meta.items() if isinstance(meta, dict) else [("meta", meta)]:
            if not (value is None and meta) and type(value) not in (int, float):
                raise DamagedFile(f"{record}: field {name} is {value!r}; expected a number; {CURE}")
        return meta  # type: ignore[return-value]

    def unfinished(self, iteration: int) -> Unfinished | None:
        """What is still to be done for that iteration before the next one."""
        return Unfinished.load(read_json(self._record(iteration), cure=CURE).get("unfinished"))

    def find_damage(self, iteration: int) -> str:
        """What is wrong with a checkpoint; empty where it is as it was written."""
        path, record = self._path(iteration), self._record(iteration)
        if not path.is_dir():
            return f"{path}: missing, though {INDEX} names it"
        if not record.is_file():
            return f"{record}: missing, so that the checkpoint beside it cannot be verified"
        try:
            files = read_json(record, cure=CURE).get("files")
        except DamagedFile as error:
            return str(error)
        try:
            found = _sums(path)
        except FileNotFoundError:
            return f"{path}: removed while it was read"
        wanted = files if isinstance(files, dict) else {}
        for name, entry in wanted.items():
            if not isinstance(entry, list) or len(entry) != 2:
                return f"{record}: field files[{name!r}] is no size and checksum"
        for name in sorted({*wanted, *found}):
            if wanted.get(name) != found.get(name):
                have, want = (x.get(name, ["no file"])[0] for x in (found, wanted))
                return (
                    f"{path / name}: not as it was written ({have} bytes, {want} were written); "
                    "half-written or damaged"
                )
        return "" if wanted else f"{record}: names no files"

    def save(
        self,
        iteration: int,
        state: Any,
        *,
        meta: dict[str, Any],
        best: bool,
        unfinished: Unfinished | None = None,
    ) -> None:
        """Save and make it the last one (and the best one); remove what is neither.

        Args:
          iteration: after which the state is this one.
          state: a tree of arrays.
          meta: numbers to keep beside it.
          best: whether it is the best one.
          unfinished: what is still to be done for that iteration.

        Raises:
          SaveError: the state could not be written; the ones saved before are untouched.
        """
        try:
            record = {"meta": meta} | (
                {} if unfinished is None else {"unfinished": unfinished.dump()}
            )
            self._save(iteration, state, record=record, best=best)
        except (OSError, ValueError, RuntimeError) as error:
            last = f"iteration {self.index['last']}" if self.exists() else "none"
            for half in self.folder.glob(f"{self._path(iteration).name}.*tmp*"):
                shutil.rmtree(half, ignore_errors=True)  # room for what comes next
            raise SaveError(
                f"{self.folder}: the state of iteration {iteration} could not be saved: "
                f"{explain(error, self.folder)}; last state saved: {last}"
            ) from error

    def _save(self, iteration: int, state: Any, *, record: dict[str, Any], best: bool) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path, first = self._path(iteration), jax.process_index() == 0
        # What an earlier session left under that name may be another state.
        other = path.exists() and (self._held != iteration or bool(self.find_damage(iteration)))
        if self._ask_first(other, first):
            shutil.rmtree(path, ignore_errors=True)
        if not path.exists():
            _need_room(self.folder, state)
            self._checkpointer.save(path, state)
            wait_for(self._checkpointer.wait_until_finished, SAVE_SECONDS)
        self._held = iteration
        index = self.index if self.exists() else {}
        index |= {"last": iteration, "meta": record["meta"], "shapes": _listed(_shapes(state))}
        if best or "best" not in index:
            index["best"] = iteration
        index.setdefault("start", iteration)
        if first:
            _flush(path)
            write_json(self._record(iteration), record | {"files": _sums(path)})
            self._write(index)
        if jax.process_count() > 1:  # nobody reads the index before it is written
            multihost_utils.sync_global_devices(f"checkpoint {iteration}")

    def _ask_first(self, answer: bool, first: bool) -> bool:
        """The first process's answer, in all of them; only it may remove what they see."""
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("checkpoint looked at")
        return answer and first

    def _write(self, index: dict[str, Any]) -> None:
        """The index, and away with the states it does not name."""
        write_json(self.folder / INDEX, index)
        kept = {
            path.name
            for which in get_args(Which)
            for path in (self._path(index[which]), self._record(index[which]))
        }
        for path in (*self.folder.glob("iteration_*"), *self.folder.glob(".*.partial")):
            if path.name not in kept and path.is_dir():
                shutil.rmtree(path)
            elif path.name not in kept:
                path.unlink()

    def restore(self, like: Any, which: Which = "last") -> tuple[int, Any]:
        """The state saved as `last`, `best` or `start`, in the structure, shapes and placement of
        `like`; the newest good one where that is damaged (`start` has no other).

        Raises:
          CheckpointError: nothing saved, no good checkpoint, or another architecture.
        """
        iteration = self._choose(which)
        path, index = self._path(iteration), self.index
        expected, found = _shapes(like), {k: tuple(v) for k, v in index["shapes"].items()}
        for name in sorted({*expected, *found}):
            if expected.get(name) != found.get(name):
                raise CheckpointError(
                    f"{path}: another architecture: {name} has shape {found.get(name)}; expected "
                    f"{expected.get(name)}; use the config the checkpoint was made with"
                )
        try:
            state = self._checkpointer.restore(
                path, jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
            )
        except (ValueError, OSError, KeyError) as error:
            if self.index != index:  # a run under way has moved on and removed it
                return self.restore(like, which)
            raise CheckpointError(f"{path}: cannot be read: {error}") from error
        self._held = iteration
        return iteration, state

    def _choose(self, which: Which) -> int:
        """The iteration to read: what is asked for, else the newest that is good."""
        index = self.index
        others = {index[name] for name in get_args(Which)} - {index[which]}
        wanted = [index[which], *([] if which == "start" else sorted(others, reverse=True))]
        complaints: list[str] = []
        for iteration in wanted:
            damage = self.find_damage(iteration)
            if damage and self.index != index:  # a run under way has moved on meanwhile
                return self._choose(which)
            if not damage:
                if complaints:
                    self.notices.append(
                        f"{complaints[0]}; the state of iteration {iteration} is taken instead"
                    )
                return iteration
            complaints.append(damage)
        raise CheckpointError(f"{complaints[0]}; no good one is left to take instead; {CURE}")


def wait_for(function: Callable[[], Any], seconds: float) -> None:
    """Wait for a call in a thread of its own: no longer than that, and signals are heard.

    Raises:
      TimeoutError: it did not end in time; its thread is left to itself.
    """
    raised: list[BaseException] = []

    def call() -> None:
        try:
            function()
        except BaseException as error:  # raised again below
            raised.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"not written after {seconds:g} s: the disk does not answer")
    if raised:
        raise raised[0]


def _listed(shapes: dict[str, tuple]) -> dict[str, list[int]]:
    return {name: list(shape) for name, shape in shapes.items()}


def explain(error: BaseException, folder: pathlib.Path) -> str:
    """One line for what the libraries below say in hundreds."""
    text = " ".join(str(error).split())
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or "No space left" in text or "RESOURCE_EXHAUSTED" in text or "quota" in text:
        free = shutil.disk_usage(folder if folder.exists() else folder.parent).free
        return f"no space left on the disk of {folder} ({free / 1e6:.0f} MB free)"
    return text[:300]
