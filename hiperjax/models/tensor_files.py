"""Safetensors files, read and written one tensor at a time through numpy and ml_dtypes.

A file is an 8-byte little-endian length, a JSON header of that length (dtype, shape and byte range
of every tensor), then the bytes. A large checkpoint is several such files and an index that says
which tensor lies in which.
"""

import json
import math
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from hiperjax.files import parse_json, read_json, write_json
from hiperjax.models.errors import ModelError

DTYPES = {
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
}
CODES = {dtype: code for code, dtype in DTYPES.items()}
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
MAX_HEADER = 100 << 20


class TensorEntry(NamedTuple):
    """Where one tensor lies."""

    path: pathlib.Path
    offset: int
    dtype: np.dtype
    shape: tuple[int, ...]

    def open(self) -> np.ndarray:
        """A read-only view of the bytes on disk: slicing it reads only the slice."""
        if math.prod(self.shape) == 0:
            return np.zeros(self.shape, self.dtype)
        return np.memmap(self.path, self.dtype, "r", self.offset, self.shape)


def _read_header(path: pathlib.Path) -> tuple[dict[str, Any], int]:
    """Parsed header and the offset of the first byte after it."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER):
            raise ModelError(
                f"{path}: {size} bytes, too few for its header; the file is truncated or no "
                "safetensors file: download it again"
            )
        try:
            header = parse_json(file.read(length))
        except ValueError as error:
            raise ModelError(f"{path}: its header is not JSON; no safetensors file?") from error
    if not isinstance(header, dict):
        raise ModelError(f"{path}: its header is no JSON object; no safetensors file?")
    return header, 8 + length


def _check_entry(path: pathlib.Path, name: str, entry: Any) -> None:
    """Refuse what describes no tensor."""

    def whole(values: object) -> bool:
        return isinstance(values, list) and all(type(x) is int and x >= 0 for x in values)

    fields = entry if isinstance(entry, dict) else {}
    shape, offsets = fields.get("shape"), fields.get("data_offsets")
    fits = isinstance(fields.get("dtype"), str) and whole(shape) and whole(offsets)
    if not fits or len(offsets) != 2:  # type: ignore[arg-type]
        raise ModelError(
            f"{path}: tensor {name!r} has no dtype, shape and two data_offsets; the file is "
            "damaged: download it again"
        )


def read_entries(path: pathlib.Path) -> dict[str, TensorEntry]:
    """Every tensor of one file, checked against the file's size; no tensor is read.

    Raises:
      ModelError: a truncated file, or a tensor whose dtype or byte range makes no sense.
    """
    header, start = _read_header(path)
    size = path.stat().st_size
    entries = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        _check_entry(path, name, entry)
        if entry["dtype"] not in DTYPES:
            raise ModelError(
                f"{path}: tensor {name} has dtype {entry['dtype']}; expected one of "
                f"{', '.join(DTYPES)} (quantized checkpoints cannot be trained)"
            )
        dtype, shape = DTYPES[entry["dtype"]], tuple(entry["shape"])
        first, end = entry["data_offsets"]
        if end - first != math.prod(shape) * dtype.itemsize:
            raise ModelError(f"{path}: tensor {name} {shape} {dtype} spans {end - first} bytes")
        if start + end > size:
            raise ModelError(
                f"{path}: tensor {name} ends at byte {start + end}, the file at {size}; the file "
                "is truncated: download it again"
            )
        entries[name] = TensorEntry(path, start + first, dtype, shape)
    return entries


def find_tensors(folder: str | pathlib.Path) -> dict[str, TensorEntry]:
    """Every tensor of a checkpoint folder: its single file, or all files of its index."""
    folder = pathlib.Path(folder)
    if (folder / SINGLE).is_file():
        return read_entries(folder / SINGLE)
    index = folder / INDEX
    if not index.is_file():
        raise FileNotFoundError(
            f"{folder}: neither {SINGLE} nor {INDEX}; expected a Hugging Face checkpoint folder "
            "with safetensors weights"
        )
    where = read_json(index, cure="download it again").get("weight_map")
    if not isinstance(where, dict):
        raise ModelError(f"{index}: field weight_map is {where!r}; expected an object")
    if not all(isinstance(name, str) for name in where.values()):
        raise ModelError(f"{index}: field weight_map names no files; download it again")
    entries: dict[str, TensorEntry] = {}
    for name in sorted(set(where.values())):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder}: {INDEX} names {name}, which is absent")
        entries |= read_entries(folder / name)
    lost = sorted(set(where) - set(entries))
    if lost:
        raise ModelError(f"{index}: names {lost[0]} and {len(lost) - 1} more that no file holds")
    return entries


class TensorSpec(NamedTuple):
    """A tensor about to be written."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def split_shards(specs: Iterable[TensorSpec], max_bytes: int) -> list[list[TensorSpec]]:
    """Consecutive tensors into files of at most `max_bytes` (one tensor at least)."""
    shards: list[list[TensorSpec]] = [[]]
    total = 0
    for spec in specs:
        if shards[-1] and total + spec.size > max_bytes:
            shards.append([])
            total = 0
        shards[-1].append(spec)
        total += spec.size
    return shards


def shard_names(count: int, single: str) -> list[str]:
    if count == 1:
        return [single]
    return [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]


def encode_header(specs: Iterable[TensorSpec]) -> bytes:
    """The length and header of a file that holds these tensors in this order."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for spec in specs:
        header[spec.name] = {
            "dtype": CODES[spec.dtype],
            "shape": list(spec.shape),
            "data_offsets": [at, at + spec.size],
        }
        at += spec.size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def write_tensors(
    folder: pathlib.Path,
    specs: list[TensorSpec],
    read: Callable[[TensorSpec], np.ndarray],
    *,
    max_bytes: int,
    single: str = SINGLE,
) -> None:
    """Write shards (and their index, if several), asking `read` for one tensor after another."""
    shards = split_shards(specs, max_bytes)
    names = shard_names(len(shards), single)
    where: dict[str, str] = {}
    for name, shard in zip(names, shards, strict=True):
        with (folder / name).open("wb") as file:
            file.write(encode_header(shard))
            for spec in shard:
                file.write(np.ascontiguousarray(read(spec), spec.dtype).tobytes())
                where[spec.name] = name
    if len(shards) > 1:
        write_index(folder, where, sum(spec.size for spec in specs))


def write_index(folder: pathlib.Path, where: Mapping[str, str], total: int) -> None:
    index = {"metadata": {"total_size": total}, "weight_map": dict(where)}
    write_json(folder / INDEX, index)
