"""The official files in a user's folder: found, checked, streamed, and cached where large.

    items_shuffle_1000.json   or items_shuffle.json     products
    items_ins_v2_1000.json    or items_ins_v2.json      attributes and synthetic instructions
    items_human_ins_1000.json or items_human_ins.json   human instructions (only for human goals)

A product file over `CACHE_FROM` bytes is read once, product by product, into a cache folder: the
search index as arrays, the products as lines of JSON fetched from disk when a page shows them.
"""

import dataclasses
import functools
import hashlib
import json
import mmap
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from hiperjax.envs.webshop.catalogue import (
    CatalogueError,
    HumanInstruction,
    Product,
    describe,
    parse_products,
)
from hiperjax.envs.webshop.goals import gather_drafts
from hiperjax.envs.webshop.search import build_index, load_index, save_index
from hiperjax.envs.webshop.shop import Shop, build_shop
from hiperjax.files import parse_json

CACHE_FROM = 100_000_000
_CACHE_VERSION = 1
_CHUNK = 1 << 20
_SMALL_COUNT, _SMALL_GOALS = 1000, 6910
_WHERE = (
    "the WebShop authors publish these files through the setup script of the repository"
    " princeton-nlp/WebShop (small: 1000 products; all: 1.18 million); download them with a browser"
    " if the script's download quota is spent"
)


@dataclasses.dataclass(frozen=True, slots=True)
class OfficialFiles:
    """The files of one catalogue, all present."""

    products: Path
    attributes: Path
    human: Path | None


def find_files(folder: Path) -> OfficialFiles:
    """The small catalogue if it is there, else the full one; reports all that is missing."""
    for ending in ("_1000.json", ".json"):
        products = folder / f"items_shuffle{ending}"
        attributes = folder / f"items_ins_v2{ending}"
        if not products.exists() and (ending != ".json" or not attributes.exists()):
            continue
        missing = [path.name for path in (products, attributes) if not path.exists()]
        if missing:
            raise FileNotFoundError(f"{folder}: missing {', '.join(missing)}; {_WHERE}")
        # The authors use one file of human instructions with either catalogue.
        humans = (folder / f"items_human_ins{own}" for own in (ending, ".json"))
        human = next((path for path in humans if path.exists()), None)
        return OfficialFiles(products, attributes, human)
    names = "items_shuffle_1000.json and items_ins_v2_1000.json (or both without _1000)"
    raise FileNotFoundError(f"{folder}: missing {names}; {_WHERE}")


@functools.lru_cache(maxsize=4)
def load_shop(folder: Path, cache: Path | None = None) -> Shop:
    """The shop of a folder; a large catalogue goes through `cache` (default: the user's own)."""
    files = find_files(folder)
    if files.products.stat().st_size >= CACHE_FROM:
        return load_cached_shop(files, cache or get_cache_root())
    products = tuple(read_products(files))
    if files.products.name.endswith("_1000.json"):
        _check_small(files, products)
    return build_shop(str(folder), products)


def _check_small(files: OfficialFiles, products: Sequence[Product]) -> None:
    """Refuse a small catalogue that has not the official numbers of products and goals."""
    goals = sum(gather_drafts(products, "synthetic").counts)
    for path, found, expected, what in (
        (files.products, len(products), _SMALL_COUNT, "products"),
        (files.attributes, goals, _SMALL_GOALS, "synthetic goals"),
    ):
        if found != expected:
            raise CatalogueError(
                f"{path}: {found} {what}, expected {expected};"
                " the file is not the official one or was cut: download it again"
            )


def read_products(files: OfficialFiles) -> Iterator[Product]:
    """Products in the file's order, one in memory at a time."""
    attributes = read_object(files.attributes)
    human = read_object(files.human) if files.human else None
    records = stream_list(files.products)
    names = (str(files.products), str(files.attributes), str(files.human))
    return parse_products(records, attributes, human, *names)


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object from a file."""
    try:
        value = parse_json(path.read_bytes(), strict=False)
    except ValueError as error:
        raise CatalogueError(
            f"{path}: not readable as JSON ({error}); the file was probably cut: download it again"
        ) from error
    if not isinstance(value, dict):
        raise CatalogueError(f"{path}: found a JSON {type(value).__name__}, expected an object")
    return value


def stream_list(path: Path) -> Iterator[Any]:
    """Entries of a JSON list, without ever holding more than one and a chunk of text."""
    decoder = json.JSONDecoder()
    with path.open(encoding="utf-8") as file:
        text = _read_chunk(file, _CHUNK, path).lstrip()
        if text[:1] != "[":
            raise CatalogueError(f"{path}: starts with {text[:10]!r}, expected a JSON list")
        text, count = text[1:], 0
        while True:
            text = text.lstrip(" \t\r\n,")
            if text[:1] == "]":
                return
            try:
                entry, end = decoder.raw_decode(text)
            except RecursionError:
                raise CatalogueError(
                    f"{path}: entry {count} is nested too deeply; download it again"
                ) from None
            except ValueError as error:
                more = _read_chunk(file, max(_CHUNK, len(text)), path)
                if not more:
                    raise CatalogueError(
                        f"{path}: breaks off or is not JSON in entry {count} ({error});"
                        " the file was probably cut: download it again"
                    ) from error
                text += more
                continue
            yield entry
            text, count = text[end:], count + 1


def _read_chunk(file: TextIO, size: int, path: Path) -> str:
    try:
        return file.read(size)
    except UnicodeDecodeError as error:
        raise CatalogueError(
            f"{path}: breaks off or is not UTF-8 ({error}); download it again"
        ) from error


def get_cache_root() -> Path:
    """Where caches go: `$HIPERJAX_CACHE`, else the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("HIPERJAX_CACHE") or Path(base) / "hiperjax") / "webshop"


def load_cached_shop(files: OfficialFiles, root: Path) -> Shop:
    """A shop over products on disk; the first call for a set of files writes the cache."""
    folder = root / _fingerprint(files)
    if folder.exists():
        try:
            return _open_cache(files, folder)
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
            shutil.rmtree(folder, ignore_errors=True)  # damaged: it is made anew
    _make_cache(files, folder)
    return _open_cache(files, folder)


def _make_cache(files: OfficialFiles, folder: Path) -> None:
    """Written aside and renamed, so that a folder of that name is whole."""
    root = folder.parent
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix="partial-") as partial:
        _write_cache(files, Path(partial) / "cache")
        try:
            (Path(partial) / "cache").rename(folder)
        except OSError:
            if not folder.exists():  # else another process was faster: its cache serves
                raise


def _open_cache(files: OfficialFiles, folder: Path) -> Shop:
    asins = parse_json((folder / "asins.json").read_bytes())
    places = {asin: place for place, asin in enumerate(asins)}
    index = load_index(folder / "index.npz")
    return Shop(str(files.products.parent), StoredProducts(folder), index, places)


def _write_cache(files: OfficialFiles, folder: Path) -> None:
    folder.mkdir()
    asins = write_products(read_products(files), folder)
    (folder / "asins.json").write_text(json.dumps(asins))
    stored = StoredProducts(folder)
    save_index(build_index((p.asin, describe(p)) for p in stored), folder / "index.npz")


def _fingerprint(files: OfficialFiles) -> str:
    parts = [f"version {_CACHE_VERSION}"]
    for path in (files.products, files.attributes, files.human):
        if path is not None:
            status = path.stat()
            parts.append(f"{path.resolve()} {status.st_size} {status.st_mtime_ns}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:20]


def write_products(products: Iterator[Product], folder: Path) -> list[str]:
    """Write products for `StoredProducts`; returns their identifiers in order."""
    offsets, asins = [0], []
    with (folder / "products.jsonl").open("wb") as file:
        for product in products:
            fields = [getattr(product, field.name) for field in dataclasses.fields(product)]
            fields[_HUMAN] = [dataclasses.astuple(entry) for entry in product.human]
            line = json.dumps(fields).encode() + b"\n"
            file.write(line)
            offsets.append(offsets[-1] + len(line))
            asins.append(product.asin)
    np.save(folder / "offsets.npy", np.array(offsets, np.int64))
    return asins


_FIELDS = [field.name for field in dataclasses.fields(Product)]
_HUMAN = _FIELDS.index("human")


class StoredProducts(Sequence[Product]):
    """Products in a mapped file, decoded when asked for; the last few thousand stay decoded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._offsets = np.load(folder / "offsets.npy")
        with (folder / "products.jsonl").open("rb") as file:
            empty = len(self._offsets) == 1  # an empty file cannot be mapped
            self._lines = b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if len(self._lines) != self._offsets[-1]:
            raise ValueError(f"{folder}: {len(self._lines)} bytes; expected {self._offsets[-1]}")
        self._decode = functools.lru_cache(maxsize=4096)(self._decode_line)

    def __reduce__(self) -> tuple[type["StoredProducts"], tuple[Path]]:
        return StoredProducts, (self.folder,)  # another process maps the same file

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, place: int) -> Product:  # pyright: ignore[reportIncompatibleMethodOverride]
        if not 0 <= place < len(self):
            raise IndexError(f"product {place}: expected 0 to {len(self) - 1}")
        return self._decode(int(place))

    def __iter__(self) -> Iterator[Product]:
        return map(self._decode_line, range(len(self)))

    def _decode_line(self, place: int) -> Product:
        fields = json.loads(self._lines[self._offsets[place] : self._offsets[place + 1]])
        fields[_HUMAN] = [HumanInstruction(*map(_freeze, entry)) for entry in fields[_HUMAN]]
        return Product(*map(_freeze, fields))


def _freeze(value: Any) -> Any:
    return tuple(map(_freeze, value)) if isinstance(value, list) else value
