"""A run under way: opened in its folder, new or resumed, and saved there."""

import dataclasses
import datetime
import pathlib
import time
from typing import Any

from hiperjax.config import ConfigError, RunConfig, validate
from hiperjax.distributed.processes import allgather_objects, is_first
from hiperjax.learning.state import TrainState
from hiperjax.training.build import build_components, join_processes
from hiperjax.training.checkpoint import Checkpoints
from hiperjax.training.components import RunComponents
from hiperjax.training.console import Progress
from hiperjax.training.metrics import Recorder, Unrecorded
from hiperjax.training.run_folder import CHECKPOINTS, CONFIG, load_config, save_run


class TrainingStopped(RuntimeError):
    """A run that must not go on; its last good state is saved."""


@dataclasses.dataclass
class Run:
    """A run under way."""

    components: RunComponents
    folder: pathlib.Path
    checkpoints: Checkpoints
    recorder: Recorder | Unrecorded
    progress: Progress
    state: TrainState
    iteration: int
    """iterations done"""
    best: float
    """best success on the first evaluation split"""
    best_iteration: int
    target_seconds: float | None
    seconds: float
    """wall time of earlier sessions of this run"""
    saving: float = 0.0
    """seconds spent on checkpoints since the last record"""

    @property
    def meta(self) -> dict[str, Any]:
        return {
            "best": self.best,
            "best_iteration": self.best_iteration,
            "target_seconds": self.target_seconds,
            "seconds": self.seconds + self.progress.elapsed,
        }


def open_run(config: RunConfig, resume: pathlib.Path | None) -> Run:
    """A new run in a new folder, or an interrupted one as its last checkpoint left it.

    What is resumed keeps its settings, but for the mesh: that is `config`'s.

    Raises:
      ConfigError: the new run's folder holds one already.
    """
    if resume is not None:
        config = dataclasses.replace(load_config(resume), mesh=config.mesh)
    config = validate(config)
    join_processes(config.mesh)
    folder = resume or allgather_objects(config.out or default_folder(config))[0]
    if resume is None and any(allgather_objects(is_first() and (folder / CONFIG).exists())):
        raise ConfigError(
            f"out is {folder}, which holds a run; expected a new folder: choose another, or go on "
            f"with that run by --resume {folder}"
        )
    components = build_components(config, resume)
    if resume is None and is_first():
        save_run(folder, components.config, components.prompter.tokenizer, components.model)
    checkpoints = Checkpoints(folder / CHECKPOINTS)
    iteration, meta = 0, {"best": -1.0, "best_iteration": 0, "target_seconds": None, "seconds": 0.0}
    if resume is not None and checkpoints.exists():
        iteration, state = checkpoints.restore(components.describe_state())
        meta = checkpoints.index["meta"]
    else:
        state = components.fresh_state(components.init_policy())
    started = iteration if checkpoints.exists() else -1
    return Run(
        components=components,
        folder=folder,
        checkpoints=checkpoints,
        recorder=Recorder(folder, iteration=started) if is_first() else Unrecorded(),
        progress=Progress(config.iterations, quiet=not is_first()),
        state=state,
        iteration=iteration,
        **meta,
    )


def default_folder(config: RunConfig) -> pathlib.Path:
    """runs/PRESET-seedS-DATE-TIME"""
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return pathlib.Path("runs") / f"{config.preset or 'run'}-seed{config.seed}-{stamp}"


def save(run: Run, *, best: bool) -> None:
    """Checkpoint the state after `run.iteration` iterations."""
    started = time.perf_counter()
    run.checkpoints.save(run.iteration, run.state, meta=run.meta, best=best)
    run.saving += time.perf_counter() - started
