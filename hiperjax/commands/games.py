"""Games folders: tables, and generated games as files."""

import pathlib
from typing import Annotated, Literal

from hiperjax.commands.arguments import Folder, Positional
from hiperjax.envs.alfworld.export import write_games
from hiperjax.envs.alfworld.games import find_games_folder, format_stats, load_library
from hiperjax.envs.alfworld.scenes import Dials
from hiperjax.envs.plans import describe_spectrum
from hiperjax.envs.registry import SuiteError, make_suite
from hiperjax.options.ranges import ConfigError
from hiperjax.training.metrics import read_records
from hiperjax.training.record_files import METRICS


def games_stats(folder: Annotated[pathlib.Path | None, Positional] = None, /) -> int:
    """Games by split and task type.

    Args:
      folder: games folder; default: $ALFWORLD_DATA or ~/.cache/alfworld.
    """
    print(format_stats(load_library(find_games_folder(folder))))
    return 0


def games_spectrum(
    folder: Annotated[pathlib.Path | None, Positional] = None,
    /,
    *,
    split: str = "train",
    size: Literal["tiny", "small", "full"] | None = None,
    count: int = 1000,
    run: pathlib.Path | None = None,
) -> int:
    """Plan lengths of games, and where a gap between them is wide.

    Args:
      folder: games folder; default: $ALFWORLD_DATA or ~/.cache/alfworld.
      split: which split's games.
      size: generated games of this size instead of a folder's.
      count: games looked at, the split's first.
      run: run folder of a curriculum, whose success by plan length is shown beside.
    """
    suite = make_suite("household", size=size) if size else make_suite("alfworld", games=folder)
    try:
        tasks = suite.tasks(split)[:count]
    except KeyError as error:
        raise SuiteError(str(error.args[0])) from None
    success = None if run is None else read_success(run)
    lengths = [length for task in tasks if (length := suite.plan_length(task)) is not None]
    print(describe_spectrum(lengths, success))
    return 0


def read_success(run: pathlib.Path) -> dict[str, float]:
    """Success by plan length in the last iteration that a run recorded: the best stratum's of each.

    Raises:
      ConfigError: it has no curriculum over plan lengths.
    """
    records = read_records(run / METRICS)[0]
    prefix = "curriculum/success/"
    strata = {k.removeprefix(prefix): v for k, v in (records or [{}])[-1].items() if prefix in k}
    found: dict[str, float] = {}
    for name, value in strata.items():
        bucket = name.rpartition("/")[2]
        found[bucket] = max(value, found.get(bucket, 0.0))
    if not found:
        raise ConfigError(
            f"{run / METRICS} tells no success by plan length; expected a run with "
            "curriculum.kind edge or horizon that has done an iteration"
        )
    return found


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
