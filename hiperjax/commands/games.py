"""Games folders: tables, and generated games as files."""

import pathlib
from typing import Annotated, Literal

from hiperjax.commands.arguments import Folder, Positional
from hiperjax.envs.alfworld.export import write_games
from hiperjax.envs.alfworld.games import find_games_folder, format_stats, load_library
from hiperjax.envs.alfworld.scenes import Dials


def games_stats(folder: Annotated[pathlib.Path | None, Positional] = None, /) -> int:
    """Games by split and task type.

    Args:
      folder: games folder; default: $ALFWORLD_DATA or ~/.cache/alfworld.
    """
    print(format_stats(load_library(find_games_folder(folder))))
    return 0


def games_generate(
    folder: Folder,
    /,
    *,
    count: int = 60,
    split: Literal["train", "seen", "unseen"] = "train",
    size: Literal["tiny", "small", "full"] = "tiny",
    seed: int = 0,
) -> int:
    """Write generated games as game.tw-pddl files, which the real engine plays too.

    Args:
      folder: where to write; a subfolder a split.
      count: how many.
      split: which split's games.
      size: size of the rooms.
      seed: Seed of the generator.
    """
    paths = write_games(folder, split, count, seed=seed, dials=Dials(size=size))
    print(f"{len(paths)} games below {folder / split}")
    return 0
