"""A run under way: opened in its folder, new or resumed, and saved there."""

import contextlib
import dataclasses
import datetime
import pathlib
import shutil
import time
from typing import Any

import jax

from hiperjax.config import ConfigError, RunConfig
from hiperjax.distributed.processes import allgather_objects, is_first
from hiperjax.learning.minibatches import all_finite
from hiperjax.learning.state import TrainState
from hiperjax.training.build import build_components, join_processes
from hiperjax.training.checkpoint import Checkpoints
from hiperjax.training.components import RunComponents
from hiperjax.training.console import Progress
from hiperjax.training.curriculum import Curriculum, make_curriculum
from hiperjax.training.episode_record import EpisodeLog
from hiperjax.training.executor import hold_executor
from hiperjax.training.folder_lock import FolderLock, make_new_folder
from hiperjax.training.metrics import Recorder, Unrecorded, read_records
from hiperjax.training.prompt_record import write_prompt
from hiperjax.training.record_files import METRICS
from hiperjax.training.run_folder import (
    CHECKPOINTS,
    CONFIG,
    IMITATION,
    find_run,
    load_config,
    resolve_paths,
    save_config,
    save_run,
)
from hiperjax.training.scorer import EpisodeScorer, make_scorer
from hiperjax.training.stopped import TrainingStopped
from hiperjax.training.trackers import Tracker, check_tracker
from hiperjax.training.unfinished import Unfinished
from hiperjax.validation import validate


@dataclasses.dataclass
class Run:
    """A run under way."""

    components: RunComponents
    folder: pathlib.Path
    checkpoints: Checkpoints
    recorder: Recorder | Unrecorded
    episodes: EpisodeLog
    progress: Progress
    scorer: EpisodeScorer
    lock: FolderLock | None
    """lock of the folder; held by the first process"""
    state: TrainState
    iteration: int
    """iterations done"""
    best: float
    """best success on the first evaluation split"""
    best_iteration: int
    target_seconds: float | None
    seconds: float
    """wall time of earlier sessions of this run"""
    stop_reason: str = ""
    """why the run must not go on once its state is saved"""
    curriculum: Curriculum | None = None
    """which training tasks are played how often, where not each equally"""
    saving: float = 0.0
    """seconds spent on checkpoints since the last record"""
    unfinished: Unfinished | None = None
    """an iteration that is not recorded yet"""

    @property
    def meta(self) -> dict[str, Any]:
        counts = {} if self.curriculum is None else self.curriculum.saved
        return {
            "best": self.best,
            "best_iteration": self.best_iteration,
            "target_seconds": self.target_seconds,
            "seconds": self.seconds + self.progress.elapsed,
            **counts,
        }

    @property
    def has_begun(self) -> bool:
        """Whether there is a policy to iterate from: imitation, if any, is over."""
        return self.iteration > 0 or self.unfinished is not None or self.checkpoints.exists()

    @property
    def is_saved_unfinished(self) -> bool:
        """Whether the state is saved as one whose evaluation was given up."""
        saved = self.checkpoints.exists() and self.checkpoints.index["last"] == self.iteration
        return saved and self.checkpoints.unfinished(self.iteration) is not None

    def describe_stop(self) -> str:
        """Where the run was stopped, and what is saved."""
        if self.has_begun:
            return f"after iteration {self.iteration}, saved"
        if Checkpoints(self.folder / IMITATION).exists():
            return "in imitation, saved"
        return "before there was anything to save"

    def hold_executor(self) -> None:
        """See that a frozen executor is what it was when the run began."""
        c, policy = self.components, self.state.policy
        source = c.config.plan.executor
        hold_executor(self.folder, source, c.executor, policy, writes=is_first())

    def close(self) -> None:
        """Give back what the run holds: files, environments, the folder's lock."""
        with contextlib.ExitStack() as stack:  # each, whatever becomes of the others
            if self.lock is not None:
                stack.callback(self.lock.release)
            stack.callback(self.components.workers.close)
            stack.callback(self.recorder.close)


def open_run(
    config: RunConfig,
    resume: pathlib.Path | None,
    iterations: int | None = None,
    *,
    accept_changed_prompt: bool = False,
) -> Run:
    """A new run in a new folder, or an interrupted one as its last checkpoint left it.

    What is resumed keeps its settings, but for the mesh: that is `config`'s, and for `iterations`,
    where given: the run then ends after so many, and a falling learning rate falls over them. The
    folder is claimed before anything slow, and locked until `Run.close`. Another prompt than a run
    was trained on is refused, or accepted and recorded.

    Raises:
      ConfigError: the new run's folder holds one already, or another process trains there; or the
        prompt of a resumed one has changed.
    """
    planned = None
    if resume is not None:
        config = dataclasses.replace(load_config(resume), mesh=config.mesh)
        planned = config.iterations
        if iterations is not None:
            config = dataclasses.replace(config, iterations=iterations)
    config = resolve_paths(validate(take_shape(config)))
    check_tracker(config.track)
    join_processes(config.mesh)
    folder, lock = claim_folder(config, resume)
    try:
        components = build_components(
            config,
            None if resume is None else folder,
            accept_changed_prompt=accept_changed_prompt,
        )
        return _open_claimed(components, folder, lock, planned)
    except BaseException:
        if lock is not None:
            lock.release()
            if resume is None:
                with contextlib.suppress(OSError):  # not empty: something was written
                    folder.rmdir()
        raise


def take_shape(config: RunConfig) -> RunConfig:
    """The same run with the architecture of the agent it starts from, if it starts from one: a
    Hugging Face folder, and the sizes of a model from random weights are not."""
    init = config.init
    if init is None or find_run(init) == init or config.model.folder is not None:
        return config
    return dataclasses.replace(config, model=load_config(find_run(init)).model)


def claim_folder(
    config: RunConfig, resume: pathlib.Path | None
) -> tuple[pathlib.Path, FolderLock | None]:
    """The run's folder, made and locked by the first process for all of them.

    Raises:
      ConfigError: in every process: the folder holds a run already, or another one trains there.
    """
    claim, lock = ("", ""), None
    if is_first():
        try:
            lock = _lock_folder(config, resume)
            claim = (str(lock.path.parent), "")
        except ConfigError as error:
            claim = ("", str(error))
        except OSError as error:
            where = resume or config.out or default_folder(config).parent
            claim = ("", f"{where}: {error.strerror}; expected a folder that can be written")
    folder, refusal = allgather_objects(claim)[0]
    if refusal:
        raise ConfigError(refusal)
    return pathlib.Path(folder), lock


def _lock_folder(config: RunConfig, resume: pathlib.Path | None) -> FolderLock:
    if resume is None and config.out is None:
        folder = make_new_folder(default_folder(config))
    else:
        folder = resume or pathlib.Path(config.out or "")
        folder.mkdir(parents=True, exist_ok=True)
    lock = FolderLock(folder)
    lock.acquire()
    held = [name for name in (CONFIG, CHECKPOINTS, METRICS) if (folder / name).exists()]
    if resume is None and held:
        lock.release()
        raise ConfigError(
            f"out is {folder}, which holds a run ({', '.join(held)}); expected a new folder: "
            f"choose another, or go on with that run by --resume {folder}"
        )
    return lock


def _open_claimed(
    components: RunComponents, folder: pathlib.Path, lock: FolderLock | None, planned: int | None
) -> Run:
    """`planned`: iterations that a resumed run was to have until now; None: it is a new one."""
    config, resume = components.config, planned is not None
    if is_first():
        suite = components.suite
        write_prompt(folder, components.prompter.renderer, suite.hints, suite.dialect)
        if not resume:
            save_run(folder, config, components.prompter.tokenizer, components.model)
    checkpoints = Checkpoints(folder / CHECKPOINTS)
    records = read_records(folder / METRICS)[0]
    checkpoints.refuse_lost(max((record["iteration"] for record in records), default=0))
    unfinished, saved = None, {}
    iteration, meta = 0, {"best": -1.0, "best_iteration": 0, "target_seconds": None, "seconds": 0.0}
    if resume and checkpoints.exists():
        iteration, state = checkpoints.restore(components.describe_state())
        saved = checkpoints.meta(iteration)
        meta = {name: saved.get(name, value) for name, value in meta.items()}
        unfinished = checkpoints.unfinished(iteration)
    else:
        state = components.fresh_state(components.init_policy())
    started = iteration if checkpoints.exists() else -1
    recorded = started if unfinished is None else iteration - 1  # its episodes are, its row is not
    extended = [] if planned is None else _extend(config, folder, planned, iteration)
    progress = Progress(config.iterations, quiet=not is_first(), folder=folder)
    recorder = _open_recorder(config, folder, recorded, progress)
    episodes = EpisodeLog(folder, components.suite.task_type, started, writes=is_first())
    taken_over = [lock.taken_over] if lock is not None and lock.taken_over else []
    plain = config.prompt.style == "chat" and not components.prompter.tokenizer.chat_template
    bare = ["the tokenizer has no chat template: the model is shown plain text"] if plain else []
    damage = (*checkpoints.notices, *recorder.complaints, *episodes.complaints)
    for notice in (*bare, *extended, *taken_over, *damage):
        progress.warn(notice)
    return Run(
        components=components,
        folder=folder,
        checkpoints=checkpoints,
        recorder=recorder,
        episodes=episodes,
        progress=progress,
        scorer=make_scorer(config, components.suite, folder if is_first() else None),
        lock=lock,
        state=state,
        iteration=iteration,
        unfinished=unfinished,
        curriculum=make_curriculum(config.curriculum, components.suite, config.seed, saved),
        **meta,
    )


def _open_recorder(
    config: RunConfig, folder: pathlib.Path, recorded: int, progress: Progress
) -> Recorder | Unrecorded:
    """What writes scalars; `recorded` is the last iteration that keeps its records."""
    if not is_first():
        return Unrecorded()
    tracked = config.track.to != "none"
    tracker = Tracker(config, folder, progress.warn) if tracked else None
    return Recorder(folder, iteration=recorded, tracker=tracker)


def _extend(config: RunConfig, folder: pathlib.Path, before: int, done: int) -> list[str]:
    """Note another number of iterations than the run was started with; returns what to say."""
    if config.iterations == before:
        return []
    if config.iterations < done:
        raise ConfigError(
            f"iterations is {config.iterations}; {folder} has done {done}: expected at least those"
        )
    if is_first():
        save_config(config, folder)
    return [
        f"the run ends after {config.iterations} iterations instead of {before}; a falling "
        f"learning rate falls over {config.iterations} from here on"
    ]


def default_folder(config: RunConfig) -> pathlib.Path:
    """runs/PRESET-seedS-DATE-TIME"""
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return pathlib.Path("runs") / f"{config.preset or 'run'}-seed{config.seed}-{stamp}"


def save(run: Run, *, best: bool) -> None:
    """Checkpoint the state after `run.iteration` iterations.

    Raises:
      TrainingStopped: its parameters are not finite, so the last good state stays the last one.
    """
    started = time.perf_counter()
    if run.lock is not None:
        run.lock.acquire()
    if not bool(_finite(run.state.policy)):
        saved = run.checkpoints.exists()
        last = f"iteration {run.checkpoints.index['last']}" if saved else "none"
        raise TrainingStopped(
            f"iteration {run.iteration}: the policy's parameters are not finite and are not saved; "
            f"last state saved in {run.folder}: {last}; lower ppo.learning_rate, or check the "
            "weights it starts from"
        )
    run.checkpoints.save(
        run.iteration, run.state, meta=run.meta, best=best, unfinished=run.unfinished
    )
    if is_first():  # the run has a state of its own by now
        shutil.rmtree(run.folder / IMITATION, ignore_errors=True)
    run.saving += time.perf_counter() - started


_finite = jax.jit(all_finite)
