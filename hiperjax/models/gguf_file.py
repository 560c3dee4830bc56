"""GGUF files: their header, read and checked before a byte of weights is, and their tensors.

A file is a magic word, a version, counts, key-value pairs, a table of tensors and, from the next
multiple of an alignment on, the tensors' blocks. The package `gguf` knows the blocks; its own
reader of headers takes many times as long and does not notice every truncation.
"""

import math
import mmap
import pathlib
import struct
from typing import Any, NamedTuple

import numpy as np

from hiperjax.models.errors import ModelError

KINDS = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q6_K")
"""Storage of tensors that is read."""
VERSIONS = (2, 3)
SCALARS = dict(enumerate(("u1", "i1", "<u2", "<i2", "<u4", "<i4", "<f4", "?")))
SCALARS |= {10: "<u8", 11: "<i8", 12: "<f8"}
STRING, ARRAY = 8, 9
MAX_DIMS = 4


def import_gguf() -> Any:
    """The package that knows the blocks, or an error that says how to install it."""
    try:
        import gguf
    except ImportError as error:
        raise ModelError(
            "GGUF files are read through the package gguf, which is not installed: pip install "
            "'hiperjax[gguf]'"
        ) from error
    return gguf


class GgufTensor(NamedTuple):
    """Where one tensor lies and how it is stored."""

    path: pathlib.Path
    kind: str
    shape: tuple[int, ...]
    offset: int
    size: int
    """Bytes."""

    def read(self) -> np.ndarray:
        """The tensor in float32; of quantized blocks, what they stand for."""
        gguf = import_gguf()
        blocks = np.memmap(self.path, np.uint8, "r", self.offset, (self.size,))
        rows = math.prod(self.shape[:-1])
        values = gguf.dequantize(blocks.reshape(rows, -1), gguf.GGMLQuantizationType[self.kind])
        return np.asarray(values, np.float32).reshape(self.shape)


class GgufFile(NamedTuple):
    """What the header of a file says."""

    path: pathlib.Path
    fields: dict[str, Any]
    tensors: dict[str, GgufTensor]

    def need(self, key: str, kind: type) -> Any:
        """A field that must be there and be of this kind."""
        if key not in self.fields:
            raise ModelError(f"{self.path}: no field {key}; is it a language model's file?")
        return self.get(key, kind)

    def get(self, key: str, kind: type, default: Any = None) -> Any:
        """A field that may be absent, but is of this kind."""
        if key not in self.fields:
            return default
        value = self.fields[key]
        if not isinstance(value, kind):
            raise ModelError(
                f"{self.path}: field {key} holds {type(value).__name__}; expected {kind.__name__}"
            )
        return value


class _Cursor:
    """Reads on through a file's bytes; beyond their end it says that the file is truncated."""

    def __init__(self, path: pathlib.Path, data: mmap.mmap):
        self.path, self.data, self.at = path, data, 0

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise ModelError(
                f"{self.path}: its header wants {count} bytes at byte {self.at}, the file ends at "
                f"{len(self.data)}; it is truncated or damaged: download it again"
            )
        self.at += count
        return self.data[self.at - count : self.at]

    def whole(self, code: str) -> int:
        return struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))[0]

    def text(self) -> str:
        start = self.at
        try:
            return self.take(self.whole("Q")).decode()
        except UnicodeDecodeError as error:
            raise ModelError(f"{self.path}: no UTF-8 text at byte {start}; damaged?") from error

    def value(self, kind: int) -> Any:
        """One value: a number, a text, a list of texts, or an array of numbers."""
        if kind in SCALARS:
            return self.numbers(kind, 1)[0].item()
        if kind == STRING:
            return self.text()
        if kind != ARRAY:
            raise ModelError(f"{self.path}: value of type {kind} at byte {self.at}; damaged?")
        inner, count = self.whole("I"), self.whole("Q")
        if inner == STRING:
            return [self.text() for _ in range(count)]
        if inner not in SCALARS:
            raise ModelError(f"{self.path}: array of type {inner} at byte {self.at}; damaged?")
        return self.numbers(inner, count)

    def numbers(self, kind: int, count: int) -> np.ndarray:
        dtype = np.dtype(SCALARS[kind])
        return np.frombuffer(self.take(count * dtype.itemsize), dtype)


def read_gguf(path: str | pathlib.Path) -> GgufFile:
    """Fields and tensors of a file, checked against its size; no tensor is read.

    Raises:
      ModelError: no GGUF file, a truncated one, or tensors stored in a way that is not read.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a GGUF file")
    if path.stat().st_size < 24:
        raise ModelError(f"{path}: {path.stat().st_size} bytes; no GGUF file, or a truncated one")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _read_header(_Cursor(path, data))


def _read_header(cursor: _Cursor) -> GgufFile:
    path = cursor.path
    if (magic := cursor.take(4)) != b"GGUF":
        raise ModelError(f"{path}: starts with {magic!r}; expected a GGUF file")
    if (version := cursor.whole("I")) not in VERSIONS:
        raise ModelError(f"{path}: GGUF version {version}; expected one of {VERSIONS}")
    num_tensors, num_fields = cursor.whole("Q"), cursor.whole("Q")
    fields: dict[str, Any] = {}
    for _ in range(num_fields):
        name = cursor.text()
        fields[name] = cursor.value(cursor.whole("I"))
    rows = [_read_row(cursor) for _ in range(num_tensors)]
    alignment = fields.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1:
        raise ModelError(f"{path}: general.alignment {alignment!r}; damaged?")
    start = -(-cursor.at // alignment) * alignment
    tensors = {row[0]: _locate(cursor, start, *row) for row in rows}
    return GgufFile(path, fields, tensors)


def _read_row(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
    """Name, shape (slowest axis first), kind and offset of one tensor."""
    name, dims = cursor.text(), cursor.whole("I")
    if not 1 <= dims <= MAX_DIMS:
        raise ModelError(f"{cursor.path}: tensor {name} has {dims} axes; damaged?")
    shape = tuple(cursor.whole("Q") for _ in range(dims))[::-1]
    return name, shape, cursor.whole("I"), cursor.whole("Q")


def _locate(
    cursor: _Cursor, start: int, name: str, shape: tuple[int, ...], kind: int, offset: int
) -> GgufTensor:
    gguf = import_gguf()
    known = {member.value: member.name for member in gguf.GGMLQuantizationType}
    if known.get(kind) not in KINDS:
        raise ModelError(
            f"{cursor.path}: tensor {name} is stored as {known.get(kind, f'type {kind}')}; "
            f"expected one of {', '.join(KINDS)}"
        )
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind)]
    if shape[-1] % block or not math.prod(shape):
        raise ModelError(f"{cursor.path}: tensor {name} {shape} is no whole number of {block}s")
    total = math.prod(shape) // block * size
    if start + offset + total > len(cursor.data):
        raise ModelError(
            f"{cursor.path}: tensor {name} ends at byte {start + offset + total}, the file at "
            f"{len(cursor.data)}; it is truncated: download it again"
        )
    return GgufTensor(cursor.path, known[kind], shape, start + offset, total)
