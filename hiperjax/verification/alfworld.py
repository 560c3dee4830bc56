"""Letter-for-letter checks of the native ALFWorld engine.

Transcripts are JSON lines, plain or gzipped, one game each:

    {"game": PATH, "reset": {"obs", "admissible"},
     "steps": [{"cmd", "obs", "admissible", "reward", "done", "won"}, ...]}

where PATH is the folder of the game below the games folder.
"""

import collections
import difflib
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hiperjax.envs.alfworld.engine import act, describe_start, is_won, list_admissible
from hiperjax.envs.alfworld.game import Game, State
from hiperjax.envs.alfworld.games import (
    GAME_FILE,
    GamesError,
    find_games_folder,
    load_library,
    read_game,
)
from hiperjax.envs.alfworld.oracle import RealEngine, Reply
from hiperjax.verification.recordings import RecordingError, read_recordings, reading

INVALID = ("", "help me", "go to mars 1", "Look", "put it down", "take  mug 1 from desk 1", "\x00")
TRAVEL_SHARE = 0.35
"""Share of live commands that may be `go to`; the others are drawn from the rest of the list."""
INVALID_SHARE = 0.05


def verify_alfworld(
    games: Path | str | None = None,
    transcripts: Path | str | None = None,
    *,
    walkthroughs: bool = False,
    live: int = 0,
    live_steps: int = 40,
    seed: int = 0,
) -> int:
    """Check the native engine; prints counts and the first mismatch, returns 1 if there is one.

    Args:
        games: folder of official games (`$ALFWORLD_DATA` or `~/.cache/alfworld` where None).
        transcripts: games recorded on the real engine, to be replayed.
        walkthroughs: also play every game's own walkthrough, which must win.
        live: also play so many random games side by side with the real engine.
        live_steps: random commands per live game.
        seed: seed of the live commands and of the choice of live games.
    """
    if transcripts is None and not walkthroughs and not live:
        raise RecordingError("nothing to verify: give transcripts, walkthroughs or live games")
    root = find_games_folder(games)
    mismatches = []
    if transcripts is not None:
        mismatches += replay_transcripts(root, Path(transcripts))
    if walkthroughs:
        mismatches += replay_walkthroughs(root)
    if live:
        mismatches += walk_live(root, count=live, steps=live_steps, seed=seed)
    if mismatches:
        print(mismatches[0])
        print(f"alfworld: {len(mismatches)} mismatches; the first is above")
        return 1
    print("alfworld: no mismatch")
    return 0


def replay_transcripts(root: Path, path: Path) -> list[str]:
    """Play recorded games on the native engine; what differs, in words."""
    mismatches, steps, games = [], 0, 0
    for record in read_recordings(path):
        games += 1
        with reading(f"{path}, game {games}"):
            mismatches += _replay(root, record)
            steps += len(record["steps"])
    if not games:
        raise RecordingError(f"{path}: no transcripts in this file; expected JSON lines")
    print(f"transcripts: {games} games, {steps} steps, {len(mismatches)} mismatches")
    return mismatches


def _replay(root: Path, record: dict[str, Any]) -> list[str]:
    played = _Played(_open(root, record["game"]), record["game"])
    first = record["reset"]
    expected = Reply(first["obs"], tuple(first["admissible"]), 0.0, False, False)
    mismatches = played.compare("(reset)", expected)
    for step in record["steps"]:
        played.step(step["cmd"])
        expected = Reply(
            step["obs"],
            tuple(step["admissible"]),
            float(step["reward"]),
            bool(step["done"]),
            bool(step["won"]),
        )
        mismatches += played.compare(step["cmd"], expected)
    return mismatches


def replay_walkthroughs(root: Path) -> list[str]:
    """Play the walkthrough that every game file brings; the games it does not win."""
    library = load_library(root)
    lost = []
    for path in library:
        game = library.open(path)
        state = game.start
        for command in game.walkthrough:
            state, _ = act(game, state, command)
        if not is_won(game, state):
            lost.append(f"{path}: its walkthrough does not win: {list(game.walkthrough)}")
    print(f"walkthroughs: {len(library) - len(lost)} of {len(library)} games won")
    return lost


def walk_live(root: Path, *, count: int, steps: int, seed: int) -> list[str]:
    """Random walks on the native and the real engine side by side.

    Every second game is first won by its walkthrough: both engines go on answering after that.
    """
    engine = RealEngine()
    rng = random.Random(seed)
    paths = [p.parent.relative_to(root).as_posix() for p in sorted(root.glob(f"*/*/*/{GAME_FILE}"))]
    mismatches, total, verbs = [], 0, collections.Counter()
    for number, path in enumerate(rng.sample(paths, min(count, len(paths)))):
        played = _Played(_open(root, path), path)
        differences = played.compare("(reset)", engine.reset(root / path))
        script = list(played.game.walkthrough if number % 2 else ())
        for turn in range(len(script) + steps):
            known = turn < len(script)
            command = script[turn] if known else choose_command(rng, played.admissible)
            played.step(command)
            differences += played.compare(command, engine.step(command))
            total += 1
            verbs[command.split(" ")[0] if command in played.before else "(invalid)"] += 1
            if differences:
                break
        mismatches += differences
    spread = ", ".join(f"{verb} {n}" for verb, n in verbs.most_common())
    print(f"live: {min(count, len(paths))} games, {total} steps, {len(mismatches)} mismatches")
    print(f"live commands: {spread}")
    return mismatches


def choose_command(rng: random.Random, admissible: Sequence[str]) -> str:
    """A random command: mostly not travel, now and then one that the world does not know."""
    if rng.random() < INVALID_SHARE:
        return rng.choice(INVALID)
    by_verb: dict[str, list[str]] = {}
    for command in admissible:
        by_verb.setdefault(command.split(" ")[0], []).append(command)
    travel = by_verb.pop("go", [])
    if travel and rng.random() < TRAVEL_SHARE:
        return rng.choice(travel)
    return rng.choice(by_verb[rng.choice(sorted(by_verb))])  # or `look` would drown the rest


class _Played:
    """One game on the native engine, compared with another record of it."""

    def __init__(self, game: Game, path: str) -> None:
        self.game, self.path = game, path
        self.state: State = game.start
        self.text = describe_start(game)
        self.admissible = list_admissible(game, self.state)
        self.before: tuple[str, ...] = ()
        self.turn = 0

    def step(self, command: str) -> None:
        self.before = self.admissible
        self.state, self.text = act(self.game, self.state, command, self.before)
        self.admissible = list_admissible(self.game, self.state)
        self.turn += 1

    def compare(self, command: str, expected: Reply) -> list[str]:
        won = self.turn > 0 and is_won(self.game, self.state)
        found = Reply(self.text, self.admissible, float(won), won, won)
        return [
            f"{self.path}, step {self.turn}, {command!r}: {name} differs\n"
            + _format_difference(getattr(expected, name), getattr(found, name))
            for name in Reply._fields
            if getattr(expected, name) != getattr(found, name)
        ]


def _format_difference(expected: Any, found: Any) -> str:
    before, after = (
        list(value) if isinstance(value, tuple) else str(value).splitlines()
        for value in (expected, found)
    )
    lines = difflib.unified_diff(before, after, "expected", "found", lineterm="", n=1)
    return "\n".join(f"  {line}" for line in lines)


def _open(root: Path, path: str) -> Game:
    file = root / path / GAME_FILE
    if not file.is_file():
        raise GamesError(f"{file}: no such game; is {root} the folder the transcripts name?")
    return read_game(file)
