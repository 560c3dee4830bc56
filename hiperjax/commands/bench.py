"""`hiperjax bench`: some iterations of a run or preset, and where their time went."""

import dataclasses
import pathlib
import sys
import tempfile
from typing import Annotated

from hiperjax.commands.arguments import Positional
from hiperjax.config import RunConfig
from hiperjax.presets import DEFAULT, PRESETS
from hiperjax.training.build import restore_run
from hiperjax.training.run import open_run
from hiperjax.training.run_folder import find_run, find_tokenizer, load_config
from hiperjax.training.trainer import iterate
from hiperjax.training.utilization import render
from hiperjax.training.warm_start import warm_start


def bench(
    target: Annotated[str, Positional] = DEFAULT,
    /,
    *,
    iterations: int = 3,
    skip: int = 1,
    accept_changed_prompt: bool = False,
) -> int:
    """Run some iterations and print the waste ledger; nothing of them is kept.

    Args:
      target: run folder, whose last policy is taken, or preset, which imitates first.
      iterations: to run and average over.
      skip: iterations run before those, to compile.
      accept_changed_prompt: measure a run although its prompt is not the one it was trained on.
    """
    trained = None
    if target in PRESETS:
        config = PRESETS[target][1]
    else:
        folder = find_run(target)
        config = _with_tokenizer(load_config(folder), find_tokenizer(folder))
        trained = restore_run(folder, "last", accept_changed_prompt=accept_changed_prompt)[1]
    with tempfile.TemporaryDirectory() as temporary:
        run = open_run(_without_evaluation(config, pathlib.Path(temporary) / "bench"), None)
        if trained is None:
            warm_start(run)
        else:
            run.state = trained
        ledgers = []
        for number in range(skip + iterations):
            why = "left out: it compiles" if number < skip else "measured"
            print(f"iteration {number + 1} of {skip + iterations}, {why}", file=sys.stderr)
            ledgers.append(iterate(run))
        run.close()
    print(render(ledgers[skip:]))
    return 0


def _with_tokenizer(config: RunConfig, tokenizer: pathlib.Path) -> RunConfig:
    """The same run with the tokenizer it has, and not one trained anew."""
    if config.model.folder is not None:
        return config
    return dataclasses.replace(
        config, init=None, model=dataclasses.replace(config.model, tokenizer=tokenizer)
    )


def _without_evaluation(config: RunConfig, out: pathlib.Path) -> RunConfig:
    """The same run somewhere else, which never stops to evaluate."""
    never = dataclasses.replace(config.eval, every=10**9)
    return dataclasses.replace(config, out=out, iterations=10**9, eval=never)
