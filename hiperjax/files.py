"""Files that others read: written whole or not at all, as JSON that every parser takes."""

import contextlib
import errno
import json
import math
import os
import pathlib
import shutil
import uuid
from collections.abc import Iterator, Mapping
from typing import Any


class DamagedFile(ValueError):
    """A file that cannot be read; the message names it, the place in it and the cure."""


def cache_folder() -> pathlib.Path:
    """Where this program keeps what it can make or fetch again."""
    cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(cache) / "hiperjax"


def _unique(path: pathlib.Path) -> pathlib.Path:
    """A hidden name beside `path` that no other process uses."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.partial")


def write_text(path: str | pathlib.Path, text: str, *, durable: bool = True) -> None:
    """Write a file under another name and rename it: nobody ever reads half of it.

    What is no ordinary file (a pipe, /dev/stdout) is written straight. What is not `durable` may be
    lost with the machine's power, and costs no wait for the disk.
    """
    path = pathlib.Path(path)
    if path.exists() and not path.is_file():
        with path.open("w", encoding="utf-8") as file:
            file.write(text)
        return
    path = path.resolve()  # a link stays one
    partial = _unique(path)
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def try_to_write(path: pathlib.Path) -> None:
    """Make the folder of a file that is to be written later, and see that it can be.

    Raises:
      OSError: it cannot.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "a folder")
    if not path.exists() or path.is_file():  # else a pipe, /dev/stdout
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = _unique(path.resolve())
        partial.touch()
        partial.unlink()


@contextlib.contextmanager
def new_folder(target: str | pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder to fill, which becomes `target` when it is complete, and vanishes if it never is.

    Raises:
      FileExistsError: the target holds something, before or by then.
    """
    target = pathlib.Path(target).absolute()
    _refuse_existing(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = _unique(target)
    partial.mkdir()
    try:
        yield partial
        try:
            partial.rename(target)
        except OSError:
            _refuse_existing(target)
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _refuse_existing(target: pathlib.Path) -> None:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{target}: not empty; give a new folder, or empty this one")


def defined(value: Any) -> Any:
    """The same value with null in place of every number that JSON cannot express."""
    if isinstance(value, Mapping):
        return {key: defined(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [defined(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def dump_json(value: Any, *, indent: int | None = None) -> str:
    """Strict JSON: what is not a finite number is null; paths are strings."""
    return json.dumps(defined(value), indent=indent, default=str, allow_nan=False)


def write_json(path: str | pathlib.Path, value: Any) -> None:
    """Write strict JSON, all of it or nothing."""
    write_text(path, dump_json(value, indent=1) + "\n")


def is_unicode(text: str) -> bool:
    """Whether it can be written: a lone surrogate cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_text(path: str | pathlib.Path, *, cure: str) -> str:
    """The text of a file that must be there and be UTF-8.

    Raises:
      DamagedFile: it is not text.
      FileNotFoundError: it is absent.
    """
    try:
        return pathlib.Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DamagedFile(f"{path}: byte {error.start} is no UTF-8 text; {cure}") from None
    except IsADirectoryError:
        raise DamagedFile(f"{path}: a folder; expected a file; {cure}") from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def parse_json(text: str | bytes, *, strict: bool = True) -> Any:
    """Whatever JSON says; where it is `strict`, NaN and Infinity are refused.

    Raises:
      ValueError: no JSON (json.JSONDecodeError, with its place), or no UTF-8.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant if strict else None)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_json(path: str | pathlib.Path, *, cure: str) -> dict[str, Any]:
    """The JSON object in a file.

    Args:
      path: The file.
      cure: what to do where it is damaged; ends the error's line.

    Raises:
      DamagedFile: cut, no JSON, or no object; names the line.
      FileNotFoundError: it is absent.
    """
    text = read_text(path, cure=cure)
    try:
        found = parse_json(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise DamagedFile(f"{path}: {where}: {error.msg}; {cure}") from None
    except ValueError as error:
        raise DamagedFile(f"{path}: {error}; {cure}") from None
    if not isinstance(found, dict):
        kind = type(found).__name__
        raise DamagedFile(f"{path}: holds a {kind}; expected an object; {cure}")
    return found
