"""The policy that reinforcement learning starts from: imitation, or one of another run's."""

import contextlib
from typing import NamedTuple

import numpy as np
import optax

from hiperjax.acting.demonstrations import transcribe
from hiperjax.envs.workers import EnvFailure
from hiperjax.files import DamagedFile
from hiperjax.learning.imitation import (
    ImitationBatch,
    imitate,
    make_batch,
    make_optimizer,
    measure_loss,
)
from hiperjax.models.lora import combine, split_trained
from hiperjax.models.transformer import Params
from hiperjax.stop import REQUEST, StopAsked
from hiperjax.training import imitation_state
from hiperjax.training.build import play_expert, restore_run
from hiperjax.training.checkpoint import CheckpointError, Checkpoints
from hiperjax.training.components import RunComponents
from hiperjax.training.console import Progress
from hiperjax.training.imitation_state import Imitation, SavedNow
from hiperjax.training.interrupt import agree_to_stop, given_up_together
from hiperjax.training.run import Run
from hiperjax.training.run_folder import IMITATION
from hiperjax.training.streamed_imitation import (
    count_steps,
    follow_expert,
    follow_labels,
    open_stream,
)


def warm_start(run: Run) -> None:
    """The policy to start from: another run's, or one that imitates the scripted expert.

    Without `imitation.steps`, rounds on the policy's own episodes go on from the other run's. The
    policy's optimizer, the critic and the reference start fresh.

    Raises:
      StopAsked: imitation under way is saved; the next call goes on with it.
    """
    config, c, policy = run.components.config, run.components.config.imitation, run.state.policy
    if config.init is not None:
        source, state = restore_run(
            config.init, config.init_state, config.mesh, accept_changed_prompt=True
        )
        policy = run.components.adopt(state.policy, source.model)
    imitates = c.steps > 0 if config.init is None else c.steps == 0 and c.rounds > 0
    if imitates:
        kept = Checkpoints(run.folder / IMITATION)
        policy = imitate_expert(run.components, policy, run.progress, kept)
    if imitates or config.init is not None:
        run.state = run.components.fresh_state(policy)


def imitate_expert(
    components: RunComponents,
    policy: Params,
    progress: Progress,
    kept: Checkpoints | None = None,
) -> Params:
    """Behavior cloning with early stopping on held-out episodes; returns the best policy seen.

    Args:
      components: of the run.
      policy: to start from; taken over.
      progress: hears of every measurement.
      kept: where it is saved when it is stopped, and goes on from; None: nowhere.

    Raises:
      StopAsked: it was asked to, and is saved.
      TrainingStopped: its loss is not finite.
    """
    c = components.config.imitation
    optimizer = make_optimizer(c.learning_rate, count_steps(components))
    now = _restore(components, optimizer, progress, kept)
    now = now or imitation_state.begin(components, optimizer, policy)
    if c.episodes == 0:
        _imitate_stream(components, optimizer, now, progress, kept)
    else:
        _imitate_again(components, optimizer, now, progress, kept)
    frozen = split_trained(now.state.policy, components.model)[1]
    return combine(now.best, frozen)


def _imitate_stream(
    components: RunComponents,
    optimizer: optax.GradientTransformation,
    now: Imitation,
    progress: Progress,
    kept: Checkpoints | None,
) -> None:
    """Each of the expert's episodes once, then the policy's own with its labels."""
    c, saved, total = components.config.imitation, SavedNow(), count_steps(components)
    progress.phase("imitation", now.done, total)
    progress.say(f"imitation: {total} steps on a stream of expert episodes")
    work = open_stream(components, optimizer, now, progress)
    try:
        while now.done < total and now.held_loss > c.stop_loss:
            with contextlib.suppress(StopAsked):  # asked before its steps: nothing has changed
                (follow_expert if now.done < c.steps else follow_labels)(work)
            _save_when_asked(now, kept, saved)
    finally:
        work.stream.close()


def _imitate_again(
    components: RunComponents,
    optimizer: optax.GradientTransformation,
    now: Imitation,
    progress: Progress,
    kept: Checkpoints | None,
) -> None:
    """The same episodes over and over, some of them held out."""
    c, saved = components.config.imitation, SavedNow()
    batches = _play(components, progress)
    rng = np.random.default_rng((components.config.seed, 2))
    for first in range(0, c.steps, c.check_every):
        steps = min(c.check_every, c.steps - first)
        order = rng.integers(0, len(batches.train.reply), (steps, c.sequences)).astype(np.int32)
        if first < now.done:  # an earlier session took these steps
            continue
        _advance(components, optimizer, now, order, batches, progress)
        if now.held_loss <= c.stop_loss:
            break
        if now.bad >= c.patience:
            progress.say(
                f"imitation: stopped early, no better held-out loss in {now.bad} measurements"
            )
            break
        _save_when_asked(now, kept, saved)


class Batches(NamedTuple):
    """Packed expert episodes."""

    test: ImitationBatch
    """held out"""
    train: ImitationBatch


def _advance(
    components: RunComponents,
    optimizer: optax.GradientTransformation,
    now: Imitation,
    order: np.ndarray,
    batches: Batches,
    progress: Progress,
) -> None:
    """Some steps, and a measurement; `order` is that of the sequences, step by step."""
    done = now.done + len(order)
    doing = f"finishing imitation up to its measurement at step {done}, then saving it"
    with REQUEST.during(doing), components.placement.use_mesh():
        model, micro = components.model, components.imitated_at_once
        now.state, loss = imitate(
            now.state, batches.train, order, optimizer=optimizer, config=model, micro=micro
        )
        held_loss = float(measure_loss(now.state.policy, batches.test, config=model, micro=micro))
    now.done = done
    now.note_loss(held_loss, components.model, cure="check the weights it starts from", keep=False)
    progress.imitation(done, components.config.imitation.steps, float(loss), held_loss)


def _restore(
    components: RunComponents,
    optimizer: optax.GradientTransformation,
    progress: Progress,
    kept: Checkpoints | None,
) -> Imitation | None:
    """Imitation that an earlier session was stopped in, if there is any that can be read."""
    if kept is None or not kept.exists():
        return None
    try:
        now = imitation_state.restore(components, optimizer, kept)
    except (CheckpointError, DamagedFile) as error:
        progress.warn(f"imitation begins anew: {error}")
        imitation_state.forget(kept)
        return None
    for notice in kept.notices:
        progress.warn(notice)
    progress.say(f"imitation: going on after step {now.done} of {count_steps(components)}")
    return now


def _save_when_asked(now: Imitation, kept: Checkpoints | None, saved: SavedNow) -> None:
    """Save imitation where it is stopped here, or was not saved for long."""
    try:
        agree_to_stop()
    except StopAsked:
        if kept is not None:
            now.save(kept)
        raise
    if kept is not None and saved.is_due():
        now.save(kept)


def _play(components: RunComponents, progress: Progress) -> Batches:
    """Expert episodes, some of them held out."""
    config, c = components.config, components.config.imitation
    progress.phase("expert episodes")
    progress.say(f"imitation: playing {c.episodes} expert episodes")
    with given_up_together(
        "giving up the expert episodes under way, which a resumed run plays again"
    ):
        failures: list[EnvFailure] = []
        demos = play_expert(
            config,
            components.suite,
            c.episodes,
            noise=c.noise,
            mistakes=c.mistakes,
            seed=config.seed,
            failures=failures,
        )
        progress.lost(failures)
        trajectories = transcribe(components.prompter, demos)
    if len(trajectories) < c.episodes:
        lost = c.episodes - len(trajectories)
        progress.warn(f"imitation: {lost} episodes lost in the environment")
    held = max(1, round(c.holdout * len(trajectories)))
    batches = (
        make_batch(*components.pack_turns(part))
        for part in (trajectories[:held], trajectories[held:])
    )
    return components.placement.replicate(Batches(*batches))
