"""The walk: imitate, then collect, learn, evaluate, record, save; on one screen."""

import dataclasses
import datetime
import functools
import pathlib
import signal
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from hiperjax.acting.demonstrations import transcribe
from hiperjax.acting.rollout import RolloutResult
from hiperjax.assembly import (
    CHECKPOINTS,
    CONFIG,
    Agent,
    build_agent,
    fold,
    join_processes,
    load_config,
    play_expert,
    restore_run,
    save_run,
)
from hiperjax.checkpoint import Checkpoints
from hiperjax.config import ConfigError, RunConfig, validate
from hiperjax.evaluation import Evaluation, evaluate
from hiperjax.learning.health import describe, warn_of_collapse
from hiperjax.learning.imitation import (
    imitate,
    keep_trained,
    make_batch,
    make_optimizer,
    measure_loss,
    start_imitation,
)
from hiperjax.learning.minibatches import deal
from hiperjax.learning.state import TrainState
from hiperjax.ledger import Ledger, count_pass, count_rollout, keep_books
from hiperjax.metrics import Recorder, Timer, Unrecorded
from hiperjax.models.lora import combine, split_trained
from hiperjax.models.transformer import Params
from hiperjax.processes import exchange, is_first
from hiperjax.progress import Progress
from hiperjax.transcript import write_samples
from hiperjax.types import PackedBatch, Trajectory


class TrainingStopped(RuntimeError):
    """A run that must not go on; its last good state is saved."""


@dataclasses.dataclass
class Run:
    """A run under way."""

    agent: Agent
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


def train(config: RunConfig, *, resume: pathlib.Path | None = None) -> pathlib.Path:
    """Train from a configuration, or go on with the run in folder `resume`; returns the folder.

    The first Ctrl-C or SIGTERM finishes the iteration under way, saves and returns; a second one
    stops at once.

    Raises:
      TrainingStopped: too many failed episodes or skipped steps.
    """
    run = open_run(config, resume)
    stop = _StopRequest(run.progress)
    iterations = run.agent.config.iterations
    with stop:
        if run.iteration == 0 and not run.checkpoints.exists():
            tell_scripts(run)
            warm_start(run)
            evaluate_and_save(run)
        while run.iteration < iterations and not any(exchange(stop.asked)):
            iterate(run)
            evaluate_and_save(run)
        stopped = run.iteration < iterations
        if stopped:
            save(run, best=False)
    run.recorder.close()
    run.agent.workers.close()
    run.progress.finish(run.folder, run.iteration, run.best, run.best_iteration, stopped)
    return run.folder


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
    folder = resume or exchange(config.out or default_folder(config))[0]
    if resume is None and any(exchange(is_first() and (folder / CONFIG).exists())):
        raise ConfigError(
            f"out is {folder}, which holds a run; expected a new folder: choose another, or go on "
            f"with that run by --resume {folder}"
        )
    agent = build_agent(config, resume)
    if resume is None and is_first():
        save_run(agent, folder)
    checkpoints = Checkpoints(folder / CHECKPOINTS)
    iteration, meta = 0, {"best": -1.0, "best_iteration": 0, "target_seconds": None, "seconds": 0.0}
    if resume is not None and checkpoints.exists():
        iteration, state = checkpoints.restore(agent.describe_state())
        meta = checkpoints.index["meta"]
    else:
        state = agent.fresh_state(agent.init_policy())
    started = iteration if checkpoints.exists() else -1
    return Run(
        agent=agent,
        folder=folder,
        checkpoints=checkpoints,
        recorder=Recorder(folder, iteration=started) if is_first() else Unrecorded(),
        progress=Progress(config.iterations, quiet=not is_first()),
        state=state,
        iteration=iteration,
        **meta,
    )


def tell_scripts(run: Run) -> None:
    """Say what WebShop's evaluations of this run are to be read against: ceiling and scripts."""
    suite = run.agent.suite
    if suite.name == "webshop":
        from hiperjax.verification.webshop_scripts import evaluate_scripts

        split, turns = run.agent.config.eval.splits[0], run.agent.max_turns
        run.progress.say(evaluate_scripts(suite, split, max_turns=turns))  # type: ignore[arg-type]


def default_folder(config: RunConfig) -> pathlib.Path:
    """runs/PRESET-seedS-DATE-TIME"""
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return pathlib.Path("runs") / f"{config.preset or 'run'}-seed{config.seed}-{stamp}"


# -- imitation -----------------------------------------------------------------------------------


def warm_start(run: Run) -> None:
    """The policy to start from: another run's, or one that imitates the scripted expert.

    The policy's optimizer, the critic and the reference start fresh.
    """
    config = run.agent.config
    if config.init is not None:
        source, state = restore_run(config.init, "start", config.mesh)
        policy = run.agent.adopt(state.policy, source.model)
    elif config.imitation.steps > 0:
        policy = imitate_expert(run.agent, run.state.policy, run.progress)
    else:
        return
    run.state = run.agent.fresh_state(policy)


def imitate_expert(agent: Agent, policy: Params, progress: Progress) -> Params:
    """Behavior cloning with early stopping on held-out episodes; returns the best policy seen."""
    config, c = agent.config, agent.config.imitation
    progress.say(f"imitation: playing {c.episodes} expert episodes")
    demos = play_expert(config, agent.suite, c.episodes, noise=c.noise, seed=config.seed)
    trajectories = transcribe(agent.prompter, demos)
    held = max(1, round(c.holdout * len(trajectories)))
    test, train = (
        make_batch(*agent.pack_turns(part)) for part in
        (trajectories[:held], trajectories[held:])
    )  # fmt: skip
    optimizer = make_optimizer(c.learning_rate, c.steps)
    test, train = agent.placement.share((test, train))
    state = agent.placement.make(partial(start_imitation, agent.model, optimizer), policy)
    best, best_loss, bad = keep_trained(state.policy, agent.model), float("inf"), 0
    rng = np.random.default_rng((config.seed, 2))
    for done in range(0, c.steps, c.check_every):
        steps = min(c.check_every, c.steps - done)
        order = rng.integers(0, len(train.reply), (steps, c.sequences)).astype(np.int32)
        with agent.placement.in_force():
            state, loss = imitate(state, train, order, optimizer=optimizer, config=agent.model)
            held_loss = float(measure_loss(state.policy, test, config=agent.model))
        progress.imitation(done + steps, c.steps, float(loss), held_loss)
        bad = 0 if held_loss < best_loss else bad + 1
        if held_loss < best_loss:
            best, best_loss = keep_trained(state.policy, agent.model), held_loss
        if held_loss <= c.stop_loss:
            break
        if bad >= c.patience:
            progress.say(f"imitation: stopped early, no better held-out loss in {bad} measurements")
            break
    frozen = split_trained(state.policy, agent.model)[1]
    return agent.adopt(combine(best, frozen), agent.model)


# -- reinforcement learning ----------------------------------------------------------------------


def choose_tasks(tasks: Sequence[str], seed: int, first: int, count: int) -> list[str]:
    """Tasks number `first .. first + count - 1` of an endless seeded shuffle, epoch by epoch.

    A function of its arguments alone: the position in the order is the iteration's number.
    """
    out = []
    for number in range(first, first + count):
        epoch, place = divmod(number, len(tasks))
        out.append(tasks[int(_shuffle(len(tasks), seed, epoch)[place])])
    return out


@functools.lru_cache(maxsize=2)
def _shuffle(size: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(size)


def collect(run: Run, timer: Timer) -> RolloutResult:
    """One iteration's episodes.

    Raises:
      TrainingStopped: a larger share of them failed than the config allows.
    """
    config, i = run.agent.config, run.iteration
    r = config.rollout
    groups = r.episodes // r.group_size
    tasks = choose_tasks(run.agent.suite.tasks("train"), config.seed, i * groups, groups)
    with timer.phase("rollout"):
        result = run.agent.rollout.collect(
            run.state.policy,
            [task for task in tasks for _ in range(r.group_size)],
            key=fold(config.seed, 3, i),
            temperature=r.temperature,
            top_p=r.top_p,
        )
    for failure in result.failures:
        run.progress.say(f"episode of task {failure.task_id} lost: {failure.error}")
    if len(result.failures) > config.env.max_failure_rate * r.episodes:
        save(run, best=False)
        raise TrainingStopped(
            f"iteration {i}: {len(result.failures)} of {r.episodes} episodes failed; expected at "
            f"most a share of env.max_failure_rate {config.env.max_failure_rate}; the errors stand "
            f"above, the state is saved in {run.folder}"
        )
    return result


def learn(
    run: Run, trajectories: Sequence[Trajectory], timer: Timer
) -> tuple[PackedBatch, dict[str, float]]:
    """One iteration's learning from its trajectories."""
    config = run.agent.config
    with timer.phase("pack"):
        batch, final = run.agent.pack(trajectories, seed=run.iteration)
    with timer.phase("update"), run.agent.placement.in_force():
        key = fold(config.seed, 4, run.iteration)
        shared = run.agent.placement.share((batch, final))
        run.state, metrics = run.agent.learner.learn(run.state, *shared, key=key)
        metrics = {name: float(value) for name, value in jax.device_get(metrics).items()}
    return batch, metrics


def account(
    run: Run, result: RolloutResult, batch: PackedBatch, passes: dict[str, float], timer: Timer
) -> Ledger:
    """The iteration's books so far; its timer has been running since it began."""
    p, seconds = run.agent.config.ppo, timer.seconds
    prefix = len(run.agent.prompter.shared_prefix)
    micro = p.micro_sequences or p.minibatch_sequences
    dealt = deal(int(batch.count), p.minibatch_sequences, p.micro_sequences)
    scored = run.agent.learner.score_sequences
    slots = count_rollout(result.stats) | {
        "score": count_pass(batch, prefix, scored).times(passes["score"]),
        "update": count_pass(batch, prefix, micro, dealt).times(passes["update"]),
    }
    environment = result.seconds["environment"]
    rollout = max(0.0, seconds["rollout"] - environment - result.seconds["host"])
    clocked = {name: seconds.get(name, 0.0) for name in ("compile", "checkpoint", "evaluate")}
    clocked["environment"] = environment
    device = {"rollout": rollout, "update": seconds["update"]}
    whole = timer.elapsed + run.saving
    clocked["host"] = whole - sum(clocked.values()) - sum(device.values())
    return keep_books(slots, clocked, device)


def iterate(run: Run) -> Ledger:
    """Collect, learn, record; returns where the time went."""
    timer = Timer()
    config = run.agent.config
    result = collect(run, timer)
    health = describe(result.trajectories)
    batch, metrics = learn(run, result.trajectories, timer)
    metrics |= health
    stats = dataclasses.asdict(result.stats)
    metrics |= {"failed_episodes": len(result.failures)} | {k: float(v) for k, v in stats.items()}
    run.iteration += 1
    if is_first() and (run.iteration % config.eval.every == 0 or run.iteration == 1):
        write_samples(run.folder, run.iteration, result.trajectories, run.agent.prompter.tokenizer)
    if run.iteration % config.eval.every == 0 or run.iteration == config.iterations:
        metrics |= run_evaluation(run, timer)
    passes = {name: metrics.pop(f"passes/{name}") for name in ("score", "update")}
    timer.seconds["checkpoint"] = run.saving
    ledger = account(run, result, batch, passes, timer)
    run.saving = 0.0
    timings = timer.seconds | {f"ledger/{kind}": s for kind, s in ledger.seconds.items()}
    run.recorder.write(run.iteration, metrics | ledger.metrics(), timings)
    run.progress.iteration(run.iteration, metrics, timer.seconds)
    warning = warn_of_collapse(health["switch_share"], health["episode_length"])
    if warning:
        run.progress.warn(warning)
    if int(run.state.skipped) >= config.ppo.max_skipped_steps:
        save(run, best=False)
        raise TrainingStopped(
            f"iteration {run.iteration}: {int(run.state.skipped)} optimizer steps in a row had a "
            "non-finite gradient and were skipped; the parameters before them are saved in "
            f"{run.folder}; lower ppo.learning_rate"
        )
    return ledger


def run_evaluation(run: Run, timer: Timer) -> dict[str, float]:
    """Evaluate on the configured splits; remember the best and the time to the target."""
    c = run.agent.config.eval
    metrics: dict[str, float] = {}
    for number, split in enumerate(c.splits):
        with timer.phase("evaluate"):
            result = evaluate(
                run.agent.rollout,
                run.state.policy,
                run.agent.suite,
                split,
                key=fold(run.agent.config.seed, 5, number),
                temperature=c.temperature,
                max_tasks=c.max_tasks,
            )
        metrics |= result.metrics()
        run.progress.evaluation(run.iteration, result)
        if number == 0:
            _note_score(run, result)
    return metrics


def _note_score(run: Run, result: Evaluation) -> None:
    rate, target = result.overall.rate, run.agent.config.target
    if rate > run.best:
        run.best, run.best_iteration = rate, run.iteration
    if target is not None and rate >= target and run.target_seconds is None:
        run.target_seconds = run.seconds + run.progress.elapsed
        run.progress.say(f"target {target} reached after {run.target_seconds:.0f} s")


def save(run: Run, *, best: bool) -> None:
    """Checkpoint the state after `run.iteration` iterations."""
    started = time.perf_counter()
    run.checkpoints.save(run.iteration, run.state, meta=run.meta, best=best)
    run.saving += time.perf_counter() - started


def evaluate_and_save(run: Run) -> None:
    """Save when it is time: at the start, every k iterations, at the end, at a new best.

    Before the first iteration, evaluate the policy that training starts from.
    """
    config = run.agent.config
    if run.iteration == 0:
        timer = Timer()
        metrics = run_evaluation(run, timer)
        run.recorder.write(0, metrics, timer.seconds)
    best = run.best_iteration == run.iteration
    due = run.iteration % config.checkpoint_every == 0 or run.iteration == config.iterations
    if due or best:
        save(run, best=best)


class _StopRequest:
    """Turns the first Ctrl-C or SIGTERM into a wish; the second one is obeyed at once."""

    def __init__(self, progress: Progress):
        self.asked, self._progress = False, progress
        self._old: dict[int, Any] = {}

    def _ask(self, number: int, frame: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        self._progress.say("finishing this iteration, then saving; once more to stop at once")

    def __enter__(self) -> "_StopRequest":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._old[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)


__all__ = ["Run", "TrainingStopped", "choose_tasks", "imitate_expert", "open_run", "train"]
