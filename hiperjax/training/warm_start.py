"""The policy that reinforcement learning starts from: imitation, or another run's start."""

from functools import partial

import numpy as np

from hiperjax.acting.demonstrations import transcribe
from hiperjax.learning.imitation import (
    imitate,
    keep_trained,
    make_batch,
    make_optimizer,
    measure_loss,
    start_imitation,
)
from hiperjax.models.lora import combine, split_trained
from hiperjax.models.transformer import Params
from hiperjax.training.build import play_expert, restore_run
from hiperjax.training.components import RunComponents
from hiperjax.training.console import Progress
from hiperjax.training.run import Run
from hiperjax.training.stopped import TrainingStopped


def warm_start(run: Run) -> None:
    """The policy to start from: another run's, or one that imitates the scripted expert.

    The policy's optimizer, the critic and the reference start fresh.
    """
    config = run.components.config
    if config.init is not None:
        source, state = restore_run(config.init, "start", config.mesh, accept_changed_prompt=True)
        policy = run.components.adopt(state.policy, source.model)
    elif config.imitation.steps > 0:
        policy = imitate_expert(run.components, run.state.policy, run.progress)
    else:
        return
    run.state = run.components.fresh_state(policy)


def imitate_expert(components: RunComponents, policy: Params, progress: Progress) -> Params:
    """Behavior cloning with early stopping on held-out episodes; returns the best policy seen."""
    config, c = components.config, components.config.imitation
    progress.phase("expert episodes")
    progress.say(f"imitation: playing {c.episodes} expert episodes")
    demos = play_expert(config, components.suite, c.episodes, noise=c.noise, seed=config.seed)
    if len(demos) < c.episodes:
        progress.warn(f"imitation: {c.episodes - len(demos)} episodes lost in the environment")
    trajectories = transcribe(components.prompter, demos)
    held = max(1, round(c.holdout * len(trajectories)))
    test, train = (
        make_batch(*components.pack_turns(part)) for part in
        (trajectories[:held], trajectories[held:])
    )  # fmt: skip
    optimizer = make_optimizer(c.learning_rate, c.steps)
    test, train = components.placement.replicate((test, train))
    state = components.placement.init_sharded(
        partial(start_imitation, components.model, optimizer), policy
    )
    best, best_loss, bad = keep_trained(state.policy, components.model), float("inf"), 0
    rng = np.random.default_rng((config.seed, 2))
    for done in range(0, c.steps, c.check_every):
        steps = min(c.check_every, c.steps - done)
        order = rng.integers(0, len(train.reply), (steps, c.sequences)).astype(np.int32)
        with components.placement.use_mesh():
            state, loss = imitate(state, train, order, optimizer=optimizer, config=components.model)
            held_loss = float(measure_loss(state.policy, test, config=components.model))
        if not np.isfinite(held_loss):
            raise TrainingStopped(
                f"imitation step {done + steps}: the held-out loss is {held_loss}; nothing is "
                "saved yet; check the weights it starts from"
            )
        progress.imitation(done + steps, c.steps, float(loss), held_loss)
        bad = 0 if held_loss < best_loss else bad + 1
        if held_loss < best_loss:
            best, best_loss = keep_trained(state.policy, components.model), held_loss
        if held_loss <= c.stop_loss:
            break
        if bad >= c.patience:
            progress.say(f"imitation: stopped early, no better held-out loss in {bad} measurements")
            break
    frozen = split_trained(state.policy, components.model)[1]
    return components.adopt(combine(best, frozen), components.model)
