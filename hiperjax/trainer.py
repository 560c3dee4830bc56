"""The walk: imitate, then collect, learn, evaluate, record, save; on one screen."""

import dataclasses
import datetime
import functools
import pathlib
import signal
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hiperjax.acting.demonstrations import transcribe
from hiperjax.acting.rollout import RolloutResult
from hiperjax.assembly import (
    CHECKPOINTS,
    TOKENIZER,
    Agent,
    build_agent,
    fold,
    load_config,
    play_expert,
    restore_run,
    save_config,
)
from hiperjax.checkpoint import Checkpoints
from hiperjax.config import RunConfig, validate
from hiperjax.envs.webshop import WebShopSuite
from hiperjax.evaluation import Evaluation, evaluate
from hiperjax.learning.health import describe, warn_of_collapse
from hiperjax.learning.imitation import (
    ImitationState,
    imitate,
    make_batch,
    make_optimizer,
    measure_loss,
)
from hiperjax.learning.packing import pack, pack_prompts, pack_turns, round_up
from hiperjax.learning.state import TrainState
from hiperjax.metrics import Recorder, Timer
from hiperjax.models.transformer import Params
from hiperjax.progress import Progress
from hiperjax.transcript import write_samples
from hiperjax.types import Sequences, Trajectory, TurnRows
from hiperjax.verification.webshop_scripts import evaluate_scripts


class TrainingStopped(RuntimeError):
    """A run that must not go on; its last good state is saved."""


@dataclasses.dataclass
class Run:
    """A run under way."""

    agent: Agent
    folder: pathlib.Path
    checkpoints: Checkpoints
    recorder: Recorder
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
    with stop:
        if run.iteration == 0 and not run.checkpoints.exists():
            tell_scripts(run)
            warm_start(run)
            evaluate_and_save(run, force=True)
        while run.iteration < run.agent.config.iterations and not stop.asked:
            iterate(run)
            evaluate_and_save(run, force=stop.asked)
    run.recorder.close()
    run.agent.workers.close()
    run.progress.finish(run.folder, run.iteration, run.best, run.best_iteration, stop.asked)
    return run.folder


def open_run(config: RunConfig, resume: pathlib.Path | None) -> Run:
    """A new run in a new folder, or an interrupted one as its last checkpoint left it."""
    config = validate(config if resume is None else load_config(resume))
    folder = resume or config.out or default_folder(config)
    agent = build_agent(config, resume)
    if resume is None:
        save_config(config, folder)
        agent.prompter.tokenizer.save_pretrained(folder / TOKENIZER)
    policy = agent.init_policy(fold(config.seed, 0))
    state = agent.learner.init(policy, fold(config.seed, 1))
    checkpoints = Checkpoints(folder / CHECKPOINTS)
    iteration, meta = 0, {"best": -1.0, "best_iteration": 0, "target_seconds": None, "seconds": 0.0}
    if resume is not None and checkpoints.exists():
        iteration, state = checkpoints.restore(state)
        meta = checkpoints.index["meta"]
    started = iteration if checkpoints.exists() else -1
    return Run(
        agent=agent,
        folder=folder,
        checkpoints=checkpoints,
        recorder=Recorder(folder, iteration=started),
        progress=Progress(config.iterations),
        state=state,
        iteration=iteration,
        **meta,
    )


def tell_scripts(run: Run) -> None:
    """Say what WebShop's evaluations of this run are to be read against: ceiling and scripts."""
    suite = run.agent.suite
    if isinstance(suite, WebShopSuite):
        split = run.agent.config.eval.splits[0]
        run.progress.say(evaluate_scripts(suite, split, max_turns=run.agent.max_turns))


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
        policy = restore_run(config.init, "start")[1].policy
    elif config.imitation.steps > 0:
        policy = imitate_expert(run.agent, run.state.policy, run.progress)
    else:
        return
    run.state = run.agent.learner.init(policy, fold(config.seed, 1))


def imitate_expert(agent: Agent, policy: Params, progress: Progress) -> Params:
    """Behavior cloning with early stopping on held-out episodes; returns the best policy seen."""
    config, c = agent.config, agent.config.imitation
    progress.say(f"imitation: playing {c.episodes} expert episodes")
    demos = play_expert(config, agent.suite, c.episodes, noise=c.noise, seed=config.seed)
    trajectories = transcribe(agent.prompter, demos)
    held = max(1, round(c.holdout * len(trajectories)))
    test, train = (
        make_batch(*_pack_for_imitation(config, part)) for part in
        (trajectories[:held], trajectories[held:])
    )  # fmt: skip
    optimizer = make_optimizer(c.learning_rate, c.steps)
    state = ImitationState(policy, optimizer.init(policy))
    best, best_loss, bad = policy, float("inf"), 0
    rng = np.random.default_rng((config.seed, 2))
    for done in range(0, c.steps, c.check_every):
        steps = min(c.check_every, c.steps - done)
        order = rng.integers(0, len(train.reply), (steps, c.sequences)).astype(np.int32)
        state, loss = imitate(state, train, order, optimizer=optimizer, config=agent.model)
        held_loss = float(measure_loss(state.policy, test, config=agent.model))
        progress.imitation(done + steps, c.steps, float(loss), held_loss)
        bad = 0 if held_loss < best_loss else bad + 1
        if held_loss < best_loss:
            best, best_loss = jax.tree.map(jnp.copy, state.policy), held_loss
        if held_loss <= c.stop_loss:
            break
        if bad >= c.patience:
            progress.say(f"imitation: stopped early, no better held-out loss in {bad} measurements")
            break
    return best


def _pack_for_imitation(
    config: RunConfig, trajectories: Sequence[Trajectory]
) -> tuple[Sequences, TurnRows]:
    turns = [turn for trajectory in trajectories for turn in trajectory.turns]
    p = config.ppo
    return pack_turns(turns, length=p.sequence_length, per_sequence=p.sequence_turns)[:2]


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


def learn(run: Run, trajectories: Sequence[Trajectory], timer: Timer) -> dict[str, float]:
    """One iteration's learning from its trajectories."""
    config = run.agent.config
    p, episodes = config.ppo, config.rollout.episodes
    most = -(-episodes * run.agent.max_turns // p.sequence_turns)
    with timer.phase("pack"):
        batch = pack(
            trajectories,
            max_turns=run.agent.max_turns,
            length=p.sequence_length,
            per_sequence=p.sequence_turns,
            capacity=round_up(most, p.minibatch_sequences),
            multiple=p.minibatch_sequences,
            reply_length=round_up(config.prompt.reply_length, 8),
            trajectory_multiple=episodes,
            seed=run.iteration,
        )
        prompts = [t.final_prompt_ids for t in trajectories]
        final = pack_prompts(prompts, length=p.sequence_length, rows=episodes)
    with timer.phase("update"):
        key = fold(config.seed, 4, run.iteration)
        run.state, metrics = run.agent.learner.learn(run.state, batch, final, key=key)
        metrics = {name: float(value) for name, value in jax.device_get(metrics).items()}
    used = batch.sequences.token_mask[: batch.count]
    metrics["padding_share"] = 1 - float(used.mean())
    return metrics


def iterate(run: Run) -> None:
    """Collect, learn, record."""
    timer = Timer()
    config = run.agent.config
    result = collect(run, timer)
    health = describe(result.trajectories)
    metrics = learn(run, result.trajectories, timer) | health
    stats = dataclasses.asdict(result.stats)
    metrics |= {"failed_episodes": len(result.failures)} | {k: float(v) for k, v in stats.items()}
    run.iteration += 1
    if run.iteration % config.eval.every == 0 or run.iteration == 1:
        write_samples(run.folder, run.iteration, result.trajectories, run.agent.prompter.tokenizer)
    if run.iteration % config.eval.every == 0 or run.iteration == config.iterations:
        metrics |= run_evaluation(run, timer)
    run.recorder.write(run.iteration, metrics, timer.seconds)
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
    run.checkpoints.save(run.iteration, run.state, meta=run.meta, best=best)


def evaluate_and_save(run: Run, *, force: bool) -> None:
    """Save when it is time: every k iterations, at the end, at a new best, when asked to.

    Before the first iteration, evaluate the policy that training starts from.
    """
    config = run.agent.config
    if run.iteration == 0:
        timer = Timer()
        metrics = run_evaluation(run, timer)
        run.recorder.write(0, metrics, timer.seconds)
    best = run.best_iteration == run.iteration
    due = run.iteration % config.checkpoint_every == 0 or run.iteration == config.iterations
    if due or best or force:
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
