"""Recordings of other programs: read, or refused in one line that says what they lack."""

import contextlib
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hiperjax.files import DamagedFile, parse_json


class RecordingError(ValueError):
    """A recording is not of the form that is documented, or there is none."""


def _read(path: Path) -> bytes:
    try:
        raw = path.read_bytes()
        return gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DamagedFile(f"{path}: its gzip is damaged ({error}); copy it again") from None


def _parse(text: bytes, where: str) -> Any:
    try:
        return parse_json(text, strict=False)
    except ValueError as error:
        raise DamagedFile(f"{where}: not JSON ({error}); copy it again") from None


def read_recording(path: Path) -> Any:
    """The JSON of a file, plain or gzipped."""
    return _parse(_read(path), str(path))


def read_recordings(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file of JSON lines, plain or gzipped."""
    for number, line in enumerate(_read(path).splitlines(), start=1):
        record = _parse(line, f"{path}, line {number}")
        if not isinstance(record, dict):
            raise RecordingError(f"{path}, line {number}: no JSON object; expected one a line")
        yield record


@contextlib.contextmanager
def reading(where: object) -> Iterator[None]:
    """What a recording lacks, while it is looked through, is one line and no traceback."""
    try:
        yield
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise RecordingError(
            f"{where}: {type(error).__name__}: {error}; expected the form that the module's "
            "documentation gives"
        ) from error
