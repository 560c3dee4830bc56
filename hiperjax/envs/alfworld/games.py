"""A folder of official games: where it is, its splits and their order, and a packed cache of it.

The folder is the one that holds `train`, `valid_seen`, ... (`json_2.1.1` of `alfworld-download`) or
a parent of it. A split is any of its subfolders with games below; games are ordered by relative
path. The cache is one file: every game indexed and compressed, with the hash of the file it was
read from. A file of unchanged size and time is trusted; any other is hashed and, where its content
differs, read again.
"""

import dataclasses
import hashlib
import json
import os
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hiperjax.envs.alfworld.game import Game, build_game, decode_game, encode_game
from hiperjax.envs.alfworld.problem import TASK_TYPES, ProblemError, parse_problem

GAME_FILE = "game.tw-pddl"
PACK_FORMAT = "hiperjax-games-3"
_NO_GAMES = (
    "get the official ones with `alfworld-download` (they go to ~/.cache/alfworld or"
    " $ALFWORLD_DATA), or make some with `hiperjax games generate`"
)


class GamesError(ValueError):
    """A folder of games that cannot be used: says where, what is wrong, and what to do."""


@dataclasses.dataclass(frozen=True, slots=True)
class GameFile:
    """One game in a folder."""

    path: str
    """path of the game's folder below the games folder: `train/TASK/TRIAL` """
    size: int
    mtime_ns: int

    @property
    def split(self) -> str:
        return self.path.split("/", 1)[0]

    @property
    def task_type(self) -> str:
        """From the name of the task folder; `GamesError` where it is unknown."""
        return read_task_type(self.path)


def read_task_type(path: str) -> str:
    """The task type that a game's folder name states."""
    for part in reversed(path.split("/")):
        if part.split("-", 1)[0] in TASK_TYPES:
            return part.split("-", 1)[0]
    raise GamesError(
        f"{path}: no part of this path starts with a task type; expected one of {TASK_TYPES}"
    )


def find_games_folder(folder: Path | str | None = None) -> Path:
    """The folder of splits: below `folder`, else `$ALFWORLD_DATA`, else `~/.cache/alfworld`."""
    given = folder or os.environ.get("ALFWORLD_DATA") or Path.home() / ".cache" / "alfworld"
    root = Path(given).expanduser()
    if not root.is_dir():
        raise GamesError(f"{root}: no such folder; {_NO_GAMES}")
    for candidate in (root, *sorted(root.glob("json_*"), reverse=True)):
        if next(candidate.glob(f"*/*/*/{GAME_FILE}"), None) is not None:
            return candidate
    raise GamesError(f"{root}: found no {GAME_FILE} in SPLIT/TASK/TRIAL below it; {_NO_GAMES}")


def list_games(root: Path) -> tuple[GameFile, ...]:
    """All games below a folder of splits, sorted by relative path."""
    games = []
    for folder, folders, files in os.walk(root):
        folders.sort()
        if GAME_FILE in files:
            status = os.stat(os.path.join(folder, GAME_FILE))
            path = Path(folder).relative_to(root).as_posix()
            games.append(GameFile(path, status.st_size, status.st_mtime_ns))
    return tuple(sorted(games, key=lambda game: game.path))


class GameLibrary:
    """The games of a folder, compressed in memory; opening one takes about a millisecond."""

    def __init__(self, root: Path, entries: Mapping[str, "Entry"], dictionary: bytes) -> None:
        self.root = root
        self._entries = entries
        self._dictionary = dictionary

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(sorted({path.split("/", 1)[0] for path in self._entries}))

    def find_dialect(self) -> str:
        """The one dialect of all games; `GamesError` naming a game of each where they are mixed."""
        examples = {entry.dialect: path for path, entry in self._entries.items()}
        if len(examples) > 1:
            raise GamesError(
                f"{self.root}: mixed dialects, such as {examples['move']} (move) and"
                f" {examples['put']} (put); choose one with the option `dialect`, or give a folder"
                " of one release"
            )
        return next(iter(examples))

    @property
    def nbytes(self) -> int:
        """Size of all games as held in memory."""
        return sum(len(entry.packed) for entry in self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def list_split(self, split: str) -> tuple[str, ...]:
        """Paths of the games of a split, in order."""
        if split not in self.splits:
            raise KeyError(f"split {split!r} of {self.root}: expected one of {self.splits}")
        return tuple(path for path in self._entries if path.split("/", 1)[0] == split)

    def open(self, path: str) -> Game:
        """The game of a path below the games folder."""
        if path not in self._entries:
            raise KeyError(f"game {path!r}: not among the {len(self)} games of {self.root}")
        unpacker = zlib.decompressobj(zdict=self._dictionary)
        return decode_game(unpacker.decompress(self._entries[path].packed))


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """One packed game, and the file it was read from."""

    size: int
    mtime_ns: int
    content_hash: str
    dialect: str
    packed: bytes


def load_library(folder: Path | str | None = None, cache: Path | None = None) -> GameLibrary:
    """The games of a folder, from its packed cache where that is current, else read and packed.

    Raises:
      GamesError: no games, or games that cannot be used; names the file.
    """
    root = find_games_folder(folder)
    files = list_games(root)
    place = cache or _cache_path(root)
    known, dictionary = _read_pack(place)
    entries, changed = {}, len(known) != len(files)
    for file in files:
        entry = known.get(file.path)
        if entry is None or (entry.size, entry.mtime_ns) != (file.size, file.mtime_ns):
            entry, dictionary = _read_entry(root, file, entry, dictionary)
            changed = True
        entries[file.path] = entry
    if changed:
        try:
            _write_pack(place, entries, dictionary)
        except OSError as error:  # the games are here all the same
            warnings.warn(
                f"cannot keep the packed games ({error}): every start reads {root} anew;"
                " set XDG_CACHE_HOME to a folder that can be written",
                stacklevel=2,
            )
    return GameLibrary(root, entries, dictionary)


def _read_entry(
    root: Path, file: GameFile, known: Entry | None, dictionary: bytes
) -> tuple[Entry, bytes]:
    path = root / file.path / GAME_FILE
    data = path.read_bytes()
    digest = hashlib.blake2b(data, digest_size=16).hexdigest()
    if known is not None and known.content_hash == digest:
        return dataclasses.replace(known, size=file.size, mtime_ns=file.mtime_ns), dictionary
    game = read_game(path, data)
    encoded = encode_game(game)
    dictionary = dictionary or encoded  # games resemble each other: the first one primes the rest
    packer = zlib.compressobj(9, zdict=dictionary)
    packed = packer.compress(encoded) + packer.flush()
    dialect = "put" if game.old_dialect else "move"
    return Entry(file.size, file.mtime_ns, digest, dialect, packed), dictionary


def read_game(path: Path, data: bytes | None = None) -> Game:
    """Read one game file (or its content, if at hand); `GamesError` names the file."""
    try:
        text = (path.read_bytes() if data is None else data).decode("utf-8")
        problem = parse_problem(text)
        game = build_game(problem)
    except (ProblemError, UnicodeDecodeError) as error:
        raise GamesError(f"{path}: {error}; download or generate this game again") from error
    except (KeyError, ValueError) as error:
        raise GamesError(
            f"{path}: its facts do not fit together ({type(error).__name__}: {error});"
            " download or generate this game again"
        ) from error
    stated = read_task_type(path.parent.as_posix())
    if stated != game.goal.kind:
        raise GamesError(
            f"{path}: the folder says {stated}, the goal is {game.goal.kind};"
            " the game lies in the wrong folder"
        )
    return game


def _cache_path(root: Path) -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = hashlib.blake2b(str(root.resolve()).encode(), digest_size=8).hexdigest()
    return base / "hiperjax" / f"games-{name}.pack"


def _write_pack(place: Path, entries: Mapping[str, Entry], dictionary: bytes) -> None:
    index = {
        path: [entry.size, entry.mtime_ns, entry.content_hash, entry.dialect, len(entry.packed)]
        for path, entry in entries.items()
    }
    head = json.dumps({"dictionary": len(dictionary), "games": index}).encode()
    parts = [zlib.compress(head), dictionary, *(entry.packed for entry in entries.values())]
    digest = hashlib.blake2b(b"".join(parts), digest_size=16).hexdigest()
    first = f"{PACK_FORMAT} {digest} {len(parts[0])}\n".encode()
    place.parent.mkdir(parents=True, exist_ok=True)
    draft = place.with_name(f"{place.name}.{os.getpid()}")
    draft.write_bytes(b"".join([first, *parts]))
    draft.replace(place)


def _read_pack(place: Path) -> tuple[dict[str, Entry], bytes]:
    """What a pack holds; nothing where it is absent, of another format, or damaged."""
    if not place.is_file():
        return {}, b""
    first, _, rest = place.read_bytes().partition(b"\n")
    words = first.decode("ascii", "replace").split(" ")
    digest = hashlib.blake2b(rest, digest_size=16).hexdigest()
    if len(words) != 3 or words[:2] != [PACK_FORMAT, digest]:
        return {}, b""
    start = int(words[2])
    head: dict[str, Any] = json.loads(zlib.decompress(rest[:start]))
    dictionary = rest[start : start + head["dictionary"]]
    start += head["dictionary"]
    entries = {}
    for path, (size, mtime_ns, content_hash, dialect, length) in head["games"].items():
        packed = rest[start : start + length]
        entries[path] = Entry(size, mtime_ns, content_hash, dialect, packed)
        start += length
    return entries, dictionary


def format_stats(library: GameLibrary, split_order: Sequence[str] = ()) -> str:
    """The table of a data set: games by split and task type."""
    columns = [kind.split("_then_")[0].replace("pick_", "") for kind in TASK_TYPES]
    columns = ["simple", "look", *(c.split("_")[0] for c in columns[2:])]
    lines = [f"| split | {' | '.join(columns)} | all |", "|" + "---|" * (len(columns) + 2)]
    for split in split_order or library.splits:
        kinds = [read_task_type(path) for path in library.list_split(split)]
        counts = [kinds.count(kind) for kind in TASK_TYPES]
        lines.append(f"| {split} | {' | '.join(map(str, counts))} | {len(kinds):,} |")
    return "\n".join(lines)
