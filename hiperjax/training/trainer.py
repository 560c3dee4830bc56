"""The training loop: imitate, then collect, learn, evaluate, record, save."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import jax

from hiperjax.acting.collector import RolloutResult
from hiperjax.config import RunConfig
from hiperjax.distributed.processes import fetch, is_first
from hiperjax.learning.credit.types import Credit, CreditInputs
from hiperjax.learning.learner import Learner
from hiperjax.learning.state import LearnResult, Work
from hiperjax.random_keys import Stream, derive_key
from hiperjax.stop import REQUEST, StopAsked
from hiperjax.training.checkpoint import SaveError, explain
from hiperjax.training.collecting import collect
from hiperjax.training.diagnostics import describe, judge_boundaries, warn_of_collapse
from hiperjax.training.episode_record import EpisodeBatch
from hiperjax.training.evaluation import Evaluation, evaluate
from hiperjax.training.interrupt import StopRequest, agree_to_stop, given_up_together
from hiperjax.training.run import Run, open_run, save
from hiperjax.training.samples import write_samples
from hiperjax.training.stopped import TrainingStopped
from hiperjax.training.timer import Timer
from hiperjax.training.unfinished import Unfinished
from hiperjax.training.utilization import Ledger, build_ledger, count_pass, count_rollout
from hiperjax.training.verdicts import score
from hiperjax.training.warm_start import warm_start
from hiperjax.types import PackedBatch, Trajectory

SPENT = ("judge", "compile", "checkpoint", "evaluate")
"""Phases that the ledger books as they are."""
BASELINE_EPISODES = 300
"""Tasks that scripted baselines play at most."""


def train(
    config: RunConfig,
    *,
    resume: pathlib.Path | None = None,
    iterations: int | None = None,
    accept_changed_prompt: bool = False,
    beside: Callable[[Run], contextlib.AbstractContextManager[object]] | None = None,
) -> pathlib.Path:
    """Train from a configuration, or go on with the run in folder `resume`, to the end it was
    given or to `iterations`, if its prompt is still the same or may change; returns the folder.
    What `beside` makes of the run is entered while it goes on: a page of it, for instance.

    The first Ctrl-C, SIGTERM or SIGHUP is heard in every phase, which is finished or given up as
    the line printed says, then the state is saved and the folder returned; a second one stops at
    once. What was given up is not recorded: a resumed run does it again, with the same keys.

    Raises:
      TrainingStopped: too many failed episodes or skipped steps.
      SaveError: the disk is full, or fails otherwise.
    """
    with StopRequest() as stop:
        run = open_run(config, resume, iterations, accept_changed_prompt=accept_changed_prompt)
        try:
            stop.announce_on(run.progress)
            with beside(run) if beside is not None else contextlib.nullcontext():
                run_to_end(run)
        except OSError as error:
            last = run.checkpoints.index["last"] if run.checkpoints.exists() else "none"
            raise SaveError(
                f"iteration {run.iteration}: {explain(error, run.folder)}; last state saved in "
                f"{run.folder}: {last}"
            ) from error
        finally:
            run.close()
    return run.folder


def run_to_end(run: Run) -> None:
    """Start where nothing is saved yet; iterate until all is done, or a stop is asked for."""
    stopped = False
    try:
        if not run.has_begun:
            report_baselines(run)
            warm_start(run)
            run.unfinished = Unfinished()  # the policy is there, its evaluation is not
        if run.unfinished is not None:
            finish_evaluation(run)
            save_when_due(run)
        run.hold_executor()
        while run.iteration < run.components.config.iterations:
            agree_to_stop()
            iterate(run)
            save_when_due(run)
        run.hold_executor()
    except StopAsked:
        stopped = True
        with REQUEST.during("finishing the checkpoint under way"):
            if run.has_begun:
                save(run, best=False)
    run.progress.finish(
        run.folder,
        run.iteration,
        run.best,
        run.best_iteration,
        run.describe_stop() if stopped else "",
    )


def report_baselines(run: Run) -> None:
    """Say what evaluations of this run are to be read against, where the suite has that."""
    split = run.components.config.eval.splits[0]
    with given_up_together("giving up the scripted baselines; nothing is saved before they ran"):
        report = run.components.suite.report_baselines(
            split, max_turns=run.components.max_turns, episodes=BASELINE_EPISODES
        )
    if report is not None:
        run.progress.say(report)


def learn(
    run: Run, trajectories: Sequence[Trajectory], timer: Timer
) -> tuple[PackedBatch, dict[str, float], LearnResult]:
    """One iteration's learning from its trajectories: the batch, its metrics, all that came out."""
    config = run.components.config
    doing = f"finishing the update of iteration {run.iteration + 1}, then saving"
    with timer.phase("pack"), REQUEST.during(doing):
        batch, final = run.components.pack(trajectories, seed=run.iteration)
    update = REQUEST.during(doing)
    with timer.phase("update"), update, run.components.placement.use_mesh():
        key = derive_key(config.seed, Stream.UPDATE, run.iteration)
        shared = run.components.placement.replicate((batch, final))
        learned = run.components.learner.learn(run.state, *shared, key=key)
        run.state = learned.state
        metrics = {name: float(x) for name, x in jax.device_get(learned.metrics).items()}
    return batch, metrics, learned


def account_iteration(
    run: Run, result: RolloutResult, batch: PackedBatch, work: Work, timer: Timer
) -> Ledger:
    """Where the iteration's time went so far; its timer has been running since it began."""
    p, seconds = run.components.config.ppo, timer.seconds
    prefix = len(run.components.prompter.shared_prefix)
    micro = p.micro_sequences or p.minibatch_sequences
    scored = count_pass(batch, prefix, work.score_sequences)
    updated = count_pass(batch, prefix, micro, work.minibatch_sizes)
    slots = count_rollout(result.stats) | {
        "score": scored.times(work.score_passes),
        "update": updated.times(work.update_passes),
    }
    environment = result.seconds["environment"]
    rollout = max(0.0, seconds["rollout"] - environment - result.seconds["host"])
    clocked = {name: seconds.get(name, 0.0) for name in SPENT}
    clocked["environment"] = environment
    device = {"rollout": rollout, "update": seconds["update"]}
    whole = timer.elapsed + run.saving
    clocked["host"] = whole - sum(clocked.values()) - sum(device.values())
    turns = sum(len(trajectory.turns) for trajectory in result.trajectories)
    return build_ledger(slots, clocked, device, turns)


def iterate(run: Run) -> Ledger:
    """Collect, learn, evaluate where it is time, record; returns where the time went.

    Raises:
      StopAsked: while it collected, and nothing has changed; or while it evaluated: then the run
        has an iteration that is `unfinished`.
    """
    timer = Timer(run.progress.phase)
    config = run.components.config
    collected = collect(run, timer)
    result, scored = collected.result, score(run, collected.kept, timer)
    batch, metrics, learned = learn(run, scored.trajectories, timer)
    metrics |= describe(collected.played) | scored.metrics | collected.metrics
    if config.plan.boundaries != "learned" and run.components.suite.reports_milestones:
        metrics |= judge_boundaries(collected.played)
    metrics |= {"failed_episodes": len(result.failures)} | result.stats.metrics()
    run.iteration += 1
    if run.curriculum is not None:
        run.curriculum.count((episode.task_id, episode.success) for episode in collected.played)
    record_episodes(run, scored.trajectories, learned.inputs)
    evaluation, given_up = {}, None
    if run.iteration % config.eval.every == 0 or run.iteration == config.iterations:
        try:
            evaluation = run_evaluation(run, timer)
        except StopAsked as stop:
            given_up = stop
    timer.seconds["checkpoint"] = run.saving
    ledger = account_iteration(run, result, batch, learned.work, timer)
    run.saving = 0.0
    accounts = ledger.metrics()
    if run.components.prompter.windows.grow:
        per_turn = {f"tokens_per_turn/{name}": n for name, n in ledger.tokens_per_turn().items()}
        accounts = per_turn | accounts
    timings = timer.seconds | {f"ledger/{kind}": s for kind, s in ledger.seconds.items()}
    run.unfinished = Unfinished(metrics, accounts, timings)
    if given_up is not None:
        raise given_up
    record(run, evaluation, timer)
    return ledger


def record(run: Run, evaluation: Mapping[str, float], timer: Timer) -> None:
    """Write the record of the iteration that is done, and say what it holds.

    Raises:
      TrainingStopped: too many skipped steps in a row; the state is saved.
    """
    done, run.unfinished = run.unfinished, None
    assert done is not None, "an iteration was done"
    if run.lock is not None:
        run.lock.acquire()
    metrics = {**done.metrics, **evaluation, **done.accounts}
    run.recorder.write(run.iteration, metrics, done.seconds)
    if run.iteration == 0:
        return
    run.progress.iteration(run.iteration, metrics, timer.seconds)
    warning = warn_of_collapse(metrics["switch_share"], metrics["episode_length"])
    if warning and run.components.config.plan.boundaries == "learned":
        run.progress.warn(warning)
    if int(run.state.skipped) >= run.components.config.ppo.max_skipped_steps:
        save(run, best=False)
        raise TrainingStopped(
            f"iteration {run.iteration}: {int(run.state.skipped)} optimizer steps in a row had a "
            "gradient or parameters that are not finite and were skipped; the parameters before "
            f"them are saved in {run.folder}; lower ppo.learning_rate"
        )


def finish_evaluation(run: Run) -> None:
    """Evaluate and record: the policy that training starts from, or an iteration whose evaluation
    was given up."""
    timer = Timer(run.progress.phase)
    assert run.unfinished is not None
    evaluation = run_evaluation(run, timer)
    seconds = dict(run.unfinished.seconds)
    for name, value in timer.seconds.items():
        seconds[name] = seconds.get(name, 0.0) + value
    run.unfinished = dataclasses.replace(run.unfinished, seconds=seconds)
    record(run, evaluation, timer)


@partial(jax.jit, static_argnames="learner")
def explain_credit(learner: Learner, inputs: CreditInputs) -> Credit:
    """The credit that a batch was learned from; a program of its own, so that recording leaves the
    learner's as they are."""
    return learner.credit_of(inputs)


def record_episodes(run: Run, trajectories: Sequence[Trajectory], inputs: CreditInputs) -> None:
    """Chosen episodes with their rewards, values and advantages, when it is time."""
    c = run.components
    due = run.iteration % c.config.eval.every == 0 or run.iteration == 1
    if due and is_first():
        name = f"iteration_{run.iteration:06d}"
        write_samples(run.folder, name, trajectories, c.prompter.tokenizer)
    if not run.episodes.wants(trajectories, due=due):
        return
    with c.placement.use_mesh():
        found = fetch((inputs, explain_credit(c.learner, inputs)))
    fields = found[0]._asdict() | found[1].by_turn()
    batch = EpisodeBatch(
        iteration=run.iteration,
        trajectories=trajectories,
        credited={name: x for name, x in fields.items() if x is not None},
        estimator=c.config.credit.estimator,
        decode=c.prompter.tokenizer.decode,
        task_type=c.suite.task_type,
    )
    run.episodes.write(batch, due=due)


def run_evaluation(run: Run, timer: Timer) -> dict[str, float]:
    """Evaluate on the configured splits; remember the best and the time to the target."""
    c = run.components.config.eval
    doing = (
        f"giving up the evaluation at iteration {run.iteration}, which a resumed run repeats, and "
        "saving"
    )
    results = []
    for number, split in enumerate(c.splits):
        with timer.phase("evaluate"), REQUEST.during(doing):
            result = evaluate(
                run.components.rollout,
                run.state.policy,
                run.components.suite,
                split,
                key=derive_key(run.components.config.seed, Stream.EVALUATION, number),
                temperature=c.temperature,
                max_tasks=c.max_tasks,
            )
        results.append(result)
        run.progress.evaluation(run.iteration, result)
    for result in results:
        run.recorder.evaluation(result.record(run.iteration))
        if is_first() and result.trajectories:
            name = f"{result.split}_{run.iteration:06d}"
            tokenizer = run.components.prompter.tokenizer
            write_samples(run.folder, name, result.trajectories, tokenizer)
    _note_score(run, results[0])
    lossy = [r for r in results if not r.may_choose(run.components.config.env.max_failure_rate)]
    if lossy:
        run.stop_reason = (
            f"evaluation at iteration {run.iteration}, split {lossy[-1].split}: "
            f"{lossy[-1].describe_losses()}; expected at most a share of env.max_failure_rate "
            f"{run.components.config.env.max_failure_rate} lost; the errors stand above, the "
            f"state is saved in {run.folder}"
        )
    return {name: value for result in results for name, value in result.metrics().items()}


def _note_score(run: Run, result: Evaluation) -> None:
    if not result.may_choose(run.components.config.env.max_failure_rate):
        return
    rate, target = result.overall.rate, run.components.config.target
    if rate > run.best:
        run.best, run.best_iteration = rate, run.iteration
    if target is not None and rate >= target and run.target_seconds is None:
        run.target_seconds = run.seconds + run.progress.elapsed
        run.progress.say(f"target {target} reached after {run.target_seconds:.0f} s")


def save_when_due(run: Run) -> None:
    """Save when it is time: at the start, every k iterations, at the end, at a new best.

    Raises:
      TrainingStopped: an evaluation lost more episodes than the config allows; the state is saved.
    """
    config = run.components.config
    best = run.best_iteration == run.iteration and run.best >= 0
    due = run.iteration % config.checkpoint_every == 0 or run.iteration == config.iterations
    if due or best or run.stop_reason or run.is_saved_unfinished:
        save(run, best=best)
    if run.stop_reason:
        raise TrainingStopped(run.stop_reason)
