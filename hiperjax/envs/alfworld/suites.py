"""The two suites: `household` (generated games) and `alfworld` (official games from a folder)."""

import dataclasses
import functools
import hashlib
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from hiperjax.envs.alfworld.catalog import list_names
from hiperjax.envs.alfworld.criteria import PASSED, list_satisfied, write_checklist
from hiperjax.envs.alfworld.engine import (
    act,
    describe_start,
    is_won,
    list_admissible,
    list_reached,
)
from hiperjax.envs.alfworld.expert import ScriptedExpert, Search
from hiperjax.envs.alfworld.game import Game, State, speak
from hiperjax.envs.alfworld.games import load_library, read_task_type
from hiperjax.envs.alfworld.generator import SPLITS, generate_game
from hiperjax.envs.alfworld.mistakes import make_mistake
from hiperjax.envs.alfworld.oracle import RealEnv
from hiperjax.envs.alfworld.problem import TASK_TYPES
from hiperjax.envs.alfworld.scenes import Dials
from hiperjax.envs.alfworld.training_tasks import (
    MixedTasks,
    read_room,
    renumber,
    split_number,
)
from hiperjax.envs.base import Expert, Step, Suite, TextEnv
from hiperjax.envs.plans import name_bucket
from hiperjax.types import Checklist, CommandGroup, ExampleTurn, Observation, PromptHints

ENGINES = ("native", "real")
TRAIN, VALID_ROOMS = "train", "valid_rooms"
_TASK = "put some pen on shelf."
_PLACES = ("go to desk 1", "go to drawer 1", "go to shelf 1", "inventory", "look")
EXAMPLE = (
    ExampleTurn(
        Observation("You are in the middle of a room.", _TASK, _PLACES),
        True,
        "find a pen",
        "go to desk 1",
    ),
    ExampleTurn(
        Observation(
            "You arrive at desk 1. On the desk 1, you see a book 1, and a pen 1.",
            _TASK,
            (*_PLACES[1:], "take book 1 from desk 1", "take pen 1 from desk 1"),
        ),
        False,
        "find a pen",
        "take pen 1 from desk 1",
    ),
)
ROLE = "You are an expert in a household: you walk through it and handle things to do a task."
HINTS = PromptHints(
    unlisted=("help",),
    minor=("close", "examine", "inventory", "look"),
    groups=(CommandGroup("go to "),),
    banner=r"-=.*?=-|Your task is to:.*|Looking quickly around you, you see .*",
    unstarred=("put",),
)


OFFICIAL_HINTS = dataclasses.replace(
    HINTS, words=(*list_names(), *map(str, range(1, 31)), *HINTS.phrases)
)
"""Official rooms hold what no few hundred episodes show all of."""


class GameSource(Suite):
    """A suite whose tasks are games."""

    role = ROLE
    hints = HINTS
    example = EXAMPLE
    reports_milestones = True
    reports_criteria = True

    def open_game(self, task_id: str) -> Game:
        """The game of a task; `KeyError` naming the task if there is none."""
        raise NotImplementedError

    def checklist(self, task_id: str) -> Checklist | None:
        """What is to be seen, held, treated, lit, opened and placed."""
        return write_checklist(self.open_game(task_id))

    def difficulty(self, task_id: str) -> str:
        """Task type and the bucket of its plan length."""
        return f"{self.task_type(task_id)}/{name_bucket(self.plan_length(task_id))}"

    def plan_length(self, task_id: str) -> int:
        """Commands of the game's own walkthrough, which knows where all things are."""
        return len(self.open_game(task_id).walkthrough)

    def make_env(self) -> TextEnv:
        return AlfworldEnv(self)

    def make_mistake(self, observation: Observation, rng: random.Random) -> str:
        return make_mistake(observation, rng)


class AlfworldEnv(TextEnv):
    """One episode of a household game. Knows no turn limit: `truncated` is always False.

    `hidden` are openings of commands that are accepted and not listed; with `onward` the places to
    go to are listed in the order one would pass them walking around the room.
    """

    def __init__(
        self, source: GameSource, hidden: tuple[str, ...] = (), onward: bool = False
    ) -> None:
        self._source = source
        self._hidden = hidden
        self._onward = onward

    def reset(self, task_id: str) -> Observation:
        self.game = self._source.open_game(task_id)
        self.state = self.game.start
        self._admissible = list_admissible(self.game, self.state)
        self._reached = list_reached(self.game, self.state)
        self._passed: frozenset[str] = frozenset()
        return self._observe(describe_start(self.game))

    def step(self, action: str) -> Step:
        self.state, reply = act(self.game, self.state, action, self._admissible)
        self._admissible = list_admissible(self.game, self.state)
        won = is_won(self.game, self.state)
        before, self._reached = self._reached, self._reached | list_reached(self.game, self.state)
        milestone = self._reached != before
        now = list_satisfied(self.game, self.state)
        self._passed |= now & PASSED
        observation = self._observe(reply)
        return Step(
            observation, float(won), won, False, won, milestone, satisfied=now | self._passed
        )

    def change(self, state: State) -> None:
        """Go on from another state of the game, which no command led to."""
        self.state, self._admissible = state, list_admissible(self.game, state)

    def _observe(self, text: str) -> Observation:
        shown = self._admissible
        if self._hidden:
            shown = tuple(c for c in shown if not c.startswith(self._hidden))
        if self._onward:
            shown = self._turn_onward(shown)
        return Observation(text, self.game.sentence, shown)

    def _turn_onward(self, commands: tuple[str, ...]) -> tuple[str, ...]:
        game, here = self.game, self.state.location
        travel = [c for c in commands if c.startswith("go to ")]
        where = {c: game.location_of[game.receptacle_of[c[6:]]] for c in travel}
        travel.sort(key=lambda c: (where[c] <= here, where[c]))
        return (*travel, *(c for c in commands if not c.startswith("go to ")))


class TaskIds(Sequence[str]):
    """`prefix/0`, `prefix/1`, ... without holding them."""

    def __init__(self, prefix: str, length: int) -> None:
        self._prefix = prefix
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index):  # type: ignore[override]
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._length))]
        if not -self._length <= index < self._length:
            raise IndexError(f"task {index} of {self._length}")
        return f"{self._prefix}/{index % self._length}"


@dataclasses.dataclass(frozen=True, slots=True)
class HouseholdOptions(Dials):
    """What generated games are like, and what the agent is shown of them."""

    task_types: tuple[str, ...] = ()
    """only these; none means all six"""
    seed: int = 0
    """another one draws other games"""
    search: Search | None = None
    """the expert's order of search; none: onward in tiny games, likely in others"""
    hidden: tuple[str, ...] | None = None
    """openings of commands that are accepted and not listed; none: the size's own"""


@dataclasses.dataclass(frozen=True, slots=True)
class AlfworldOptions:
    """Which official games, in which words, on which engine."""

    games: Path | str | None = None
    """folder of the games; none: $ALFWORLD_DATA or ~/.cache/alfworld"""
    task_types: tuple[str, ...] = ()
    """only these; none means all six"""
    dialect: Literal["put", "move"] | None = None
    """the word for laying something down; none: the files' own"""
    search: Search = "likely"
    """the expert's order of search"""
    engine: Literal["native", "real"] = "native"
    """ours, or the original (extra alfworld)"""
    rooms: tuple[int, ...] = ()
    """rooms of `train` that are kept out of it, as the split `valid_rooms`"""
    renumber: bool = False
    """deal the numbers of things and places anew each time a game of `train` comes again"""
    generated: float = 0.0
    """share of generated games, of size full, among those of `train`"""


class HouseholdSuite(GameSource):
    """Generated games. A task id says everything about a game but the suite's options.

    Arguments are the fields of `HouseholdOptions`.
    """

    splits = SPLITS
    sizes: ClassVar = {"train": 1_000_000, "seen": 140, "unseen": 134}

    def __init__(
        self,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        options = HouseholdOptions(*args, **kwargs)
        tiny = options.size == "tiny"
        names = (field.name for field in dataclasses.fields(Dials))
        self.dials = Dials(**{name: getattr(options, name) for name in names})
        self.name = f"household-{options.size}"
        self.max_turns = 16 if tiny else 50
        self._task_types = _check_task_types(options.task_types)
        self._seed = options.seed
        self.search = options.search or ("onward" if tiny else "likely")
        defaults = (*HINTS.unlisted, *HINTS.minor) if tiny else ()
        self._hidden = defaults if options.hidden is None else tuple(options.hidden)

    def tasks(self, split: str) -> Sequence[str]:
        if split not in self.sizes:
            raise KeyError(f"split {split!r} of {self.name}: expected one of {self.splits}")
        return TaskIds(f"{self.name}/{split}", self.sizes[split])

    def task_type(self, task_id: str) -> str:
        _, index = self._parse(task_id)
        return self._task_types[index % len(self._task_types)]

    def open_game(self, task_id: str) -> Game:
        split, index = self._parse(task_id)
        return generate_game(self._seed, split, index, self.task_type(task_id), self.dials)

    def make_env(self) -> AlfworldEnv:
        return AlfworldEnv(self, self._hidden, onward=self.search == "onward")

    def make_expert(self, seed: int, noise: float = 0.0) -> Expert:
        return ScriptedExpert(seed, noise, self.search)

    def _parse(self, task_id: str) -> tuple[str, int]:
        name, split, index = (*task_id.split("/"), "", "")[:3]
        if name != self.name or split not in self.sizes or not index.isdigit():
            raise KeyError(f"task {task_id!r}: expected {self.name}/SPLIT/NUMBER")
        if int(index) >= self.sizes[split]:
            raise KeyError(f"task {task_id!r}: {split} has {self.sizes[split]} tasks")
        return split, int(index)


class AlfworldSuite(GameSource):
    """Official games from a folder. A task id is the path of its game below the games folder.

    Arguments are the fields of `AlfworldOptions`. `engine="real"` plays them on the real engine
    (extra `alfworld`), in the files' own dialect.
    Splits have the names of their folders; where there is none of that name, `seen` and `unseen`
    stand for `valid_seen` and `valid_unseen`.
    """

    name = "alfworld"
    hints = OFFICIAL_HINTS
    max_turns = 50
    min_prompt_tokens = 128
    aliases: ClassVar = {"seen": "valid_seen", "unseen": "valid_unseen"}

    def __init__(
        self,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        options = AlfworldOptions(*args, **kwargs)
        if options.engine not in ENGINES:
            raise ValueError(f"engine {options.engine!r}: expected one of {ENGINES}")
        self._library = load_library(options.games)
        self._engine = options.engine
        self.reports_milestones = self.reports_criteria = options.engine == "native"
        self._task_types = frozenset(_check_task_types(options.task_types))
        self.search = options.search
        self.dialect = options.dialect or self._library.find_dialect()
        self._rooms = frozenset(options.rooms)
        held = self._rooms and TRAIN in self._library.splits and self._list_official(VALID_ROOMS)
        self.splits = (*self._library.splits, *((VALID_ROOMS,) if held else ()))
        self._renumber, self._share = options.renumber, options.generated
        self._household = HouseholdSuite(size="full", task_types=options.task_types)
        if not 0.0 <= self._share < 1.0:
            raise ValueError(f"generated is {self._share}; expected a share from 0 to below 1")
        if (self._renumber or self._share > 0) and self._engine == "real":
            raise ValueError("engine is real, which plays files as they are; expected native with "
                             "renumber or generated")  # fmt: skip

    def describe(self) -> str:
        return f"{self.name} ({self.dialect} dialect)"

    def tasks(self, split: str) -> Sequence[str]:
        official = self._list_official(split)
        if split != TRAIN or not (self._renumber or self._share):
            return official
        generated = self._household.tasks(TRAIN)
        return MixedTasks(official, generated, self._share, renumbered=self._renumber)

    @functools.cache  # noqa: B019 - a suite lives as long as the program
    def _list_official(self, split: str) -> tuple[str, ...]:
        folder = TRAIN if split == VALID_ROOMS and self._rooms else split
        if folder not in self._library.splits:
            folder = self.aliases.get(split, split)
        paths = self._library.list_split(folder)
        if folder == TRAIN and self._rooms:
            held = split == VALID_ROOMS
            paths = tuple(path for path in paths if (read_room(path) in self._rooms) == held)
        # In an order without meaning, always the same: by path they are sorted by task type, and
        # the first or last few hundred would be of one type.
        paths = sorted(paths, key=lambda path: hashlib.sha256(path.encode()).digest())
        return tuple(path for path in paths if read_task_type(path) in self._task_types)

    def task_type(self, task_id: str) -> str:
        if self._is_generated(task_id):
            return self._household.task_type(task_id)
        return read_task_type(task_id)

    def _is_generated(self, task_id: str) -> bool:
        return self._share > 0 and task_id.startswith(f"{self._household.name}/")

    def open_game(self, task_id: str) -> Game:
        if self._is_generated(task_id):
            game = self._household.open_game(task_id)
        else:
            path, number = split_number(task_id)
            game = self._library.open(path)
            game = game if number is None else renumber(game, number)
        return game if game.old_dialect == (self.dialect == "put") else speak(game, self.dialect)

    def make_env(self) -> TextEnv:
        return RealEnv(self._library.root) if self._engine == "real" else AlfworldEnv(self)

    def make_expert(self, seed: int, noise: float = 0.0) -> Expert:
        return ScriptedExpert(seed, noise, self.search)


def _check_task_types(task_types: Sequence[str]) -> tuple[str, ...]:
    unknown = [kind for kind in task_types if kind not in TASK_TYPES]
    if unknown:
        raise ValueError(f"task_types {list(task_types)}; expected some of {', '.join(TASK_TYPES)}")
    return tuple(task_types) or TASK_TYPES
