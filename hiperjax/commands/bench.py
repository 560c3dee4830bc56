"""`hiperjax bench`: some iterations of a run or preset, and where their time went."""

import dataclasses
import pathlib
import tempfile
from typing import Annotated

import tyro

from hiperjax.config import RunConfig
from hiperjax.presets import DEFAULT, PRESETS
from hiperjax.training.build import restore_run
from hiperjax.training.run import open_run
from hiperjax.training.run_folder import load_config
from hiperjax.training.trainer import iterate
from hiperjax.training.utilization import render
from hiperjax.training.warm_start import warm_start


def bench(
    target: Annotated[str, tyro.conf.Positional] = DEFAULT, /, *, iterations: int = 3, skip: int = 1
) -> int:
    """Run some iterations and print the waste ledger; nothing of them is kept.

    Args:
      target: run folder, whose last policy is taken, or preset, which imitates first.
      iterations: to run and average over.
      skip: iterations run before those, to compile.
    """
    folder = None if target in PRESETS else pathlib.Path(target)
    config = PRESETS[target][1] if folder is None else load_config(folder)
    with tempfile.TemporaryDirectory() as place:
        run = open_run(_without_evaluation(config, pathlib.Path(place) / "bench"), None)
        if folder is None:
            warm_start(run)
        else:
            run.state = restore_run(folder, "last")[1]
        ledgers = [iterate(run) for _ in range(skip + iterations)]
        run.close()
    print(render(ledgers[skip:]))
    return 0


def _without_evaluation(config: RunConfig, out: pathlib.Path) -> RunConfig:
    """The same run somewhere else, which never stops to evaluate."""
    never = dataclasses.replace(config.eval, every=10**9)
    return dataclasses.replace(config, out=out, iterations=10**9, eval=never)
