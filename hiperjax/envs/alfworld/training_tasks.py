"""What to train on beside the official games as they are: rooms kept out, numbers dealt anew, and
generated games among them.

A room is the last number of a game's task folder (`pick_and_place_simple-Mug-None-Desk-308`).
"""

import dataclasses
import random
import re
from collections.abc import Sequence

from hiperjax.envs.alfworld.game import Game

RENUMBERINGS = 1000
"""Ways in which the numbers of one game are dealt."""
LENGTH = 1_000_000
"""Tasks of a mixed list."""
NUMBERED = "#"
"""Between a game's path and the number of its renumbering."""
_NAME = re.compile(r"\b([a-z]+) (\d+)\b")


def read_room(path: str) -> int:
    """The room of a game, from its folder's name; -1 where that names none."""
    for part in reversed(path.split("/")):
        pieces = part.split("-")
        if len(pieces) == 5 and pieces[-1].isdigit():
            return int(pieces[-1])
    return -1


def renumber(game: Game, number: int) -> Game:
    """The same game with the numbers of each class of things and places dealt anew.

    What the world prints in which order stays; only names change, in the walkthrough too.
    """
    rng = random.Random(number)
    names: dict[str, str] = {}
    for group in (game.receptacles, game.objects):
        classes: dict[str, list[str]] = {}
        for name in group:
            classes.setdefault(name.split(" ")[0], []).append(name)
        for members in classes.values():
            names |= dict(zip(members, rng.sample(members, len(members)), strict=True))
    return dataclasses.replace(
        game,
        receptacles=tuple(names[name] for name in game.receptacles),
        objects=tuple(names[name] for name in game.objects),
        walkthrough=tuple(
            _NAME.sub(lambda match: names.get(match[0], match[0]), command)
            for command in game.walkthrough
        ),
    )


def split_number(task_id: str) -> tuple[str, int | None]:
    """A task's game, and its renumbering if it has one."""
    path, marked, number = task_id.partition(NUMBERED)
    return path, int(number) if marked and number.isdigit() else None


class MixedTasks(Sequence[str]):
    """Official games renumbered, and generated ones, in an order that is always the same.

    Task `i` is a function of `i` alone; over a run every game comes equally often.
    """

    def __init__(
        self, official: Sequence[str], generated: Sequence[str], share: float, *, renumbered: bool
    ) -> None:
        self._official, self._generated = official, generated
        self._share, self._renumbered = share, renumbered

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, index):  # type: ignore[override]
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -LENGTH <= index < LENGTH:
            raise IndexError(f"task {index} of {LENGTH}")
        at = index % LENGTH
        before, after = int(at * self._share), int((at + 1) * self._share)
        if after > before:  # evenly among the others
            return self._generated[before % len(self._generated)]
        epoch, game = divmod(at - before, len(self._official))
        number = epoch % RENUMBERINGS
        path = self._official[game]
        return f"{path}{NUMBERED}{number}" if self._renumbered and number else path
