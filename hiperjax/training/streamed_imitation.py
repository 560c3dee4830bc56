"""Imitation of a stream: the expert's episodes, then the policy's own with the expert's labels.

Nothing is kept: an episode is played, learned from once, and forgotten. What each step learns from
is a function of the run's seed and of the policy at the beginning of its round, so imitation that
was stopped goes on bit for bit from the portion, or the round, it was saved before.
"""

import dataclasses
import time
from collections.abc import Iterator, Sequence

import jax
import numpy as np
import optax

from hiperjax.acting.demonstrations import relabel
from hiperjax.acting.expert_stream import ExpertStream, PortionPlan
from hiperjax.envs.workers import EnvFailure
from hiperjax.learning.imitation import (
    ImitationBatch,
    imitate,
    make_batch,
    measure_loss,
    split_steps,
)
from hiperjax.random_keys import Stream, derive_key
from hiperjax.stop import REQUEST
from hiperjax.training.components import RunComponents
from hiperjax.training.console import Progress
from hiperjax.training.diagnostics import loop_share
from hiperjax.training.imitation_state import Imitation
from hiperjax.training.stopped import TrainingStopped
from hiperjax.training.tasks import choose_tasks
from hiperjax.types import Sequences, Trajectory, TurnRows

PORTION = 60
"""Episodes the expert plays at a time."""
SAY_SECONDS = 20.0
"""How often a line says where it stands, between measurements."""


@dataclasses.dataclass
class Pace:
    """Token slots per second, padding included, since the last line."""

    slots: int = 0
    since: float = dataclasses.field(default_factory=time.perf_counter)

    def count(self, batch: ImitationBatch) -> None:
        """Add a step."""
        self.slots += int(np.prod(batch.sequences.tokens.shape))

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.since

    def take(self) -> float:
        """Slots per second; begin anew."""
        rate = self.slots / max(self.seconds, 1e-9)
        self.slots, self.since = 0, time.perf_counter()
        return rate


@dataclasses.dataclass
class StreamedImitation:
    """Where it stands, and what it draws from."""

    components: RunComponents
    optimizer: optax.GradientTransformation
    now: Imitation
    progress: Progress
    stream: ExpertStream
    held: ImitationBatch
    """the expert's episodes on the first training tasks: never learned from"""
    pace: Pace = dataclasses.field(default_factory=Pace)
    losses: list[jax.Array] = dataclasses.field(default_factory=list)
    """of the steps since the last measurement"""

    def step_through(self, batches: Iterator[ImitationBatch], most: int) -> None:
        """At most so many optimizer steps, one per batch."""
        c, now = self.components, self.now
        order = np.arange(c.config.imitation.sequences, dtype=np.int32)[None]
        with c.placement.use_mesh():
            for _, batch in zip(range(most), batches, strict=False):
                placed = c.placement.replicate(batch)
                now.state, loss = imitate(
                    now.state,
                    placed,
                    order,
                    optimizer=self.optimizer,
                    config=c.model,
                    micro=c.imitated_at_once,
                )
                self.losses.append(loss)
                self.pace.count(batch)
                now.done += 1
                if self.pace.seconds > SAY_SECONDS:
                    self.say_pace()

    def say_pace(self) -> None:
        """Where it stands, without a measurement."""
        jax.block_until_ready(self.losses[-1])
        total = count_steps(self.components)
        self.progress.imitation_pace(self.now.done, total, float(self.losses[-1]), self.pace.take())

    def measure(self, said: str = "") -> None:
        """The loss on held-out episodes; remembers the best policy of the first stage."""
        c, now, losses = self.components, self.now, self.losses
        with c.placement.use_mesh():
            found = measure_loss(
                now.state.policy, self.held, config=c.model, micro=c.imitated_at_once
            )
            held = float(found)
        keep = now.done > c.config.imitation.steps
        now.note_loss(held, c.model, cure="lower imitation.learning_rate", keep=keep)
        loss = float(np.mean(jax.device_get(losses))) if losses else float("nan")
        self.losses = []
        self.progress.imitation(now.done, count_steps(c), loss, held, said)

    def list_batches(
        self, packed: tuple[Sequences, TurnRows], seed: int
    ) -> Iterator[ImitationBatch]:
        """Step by step, the turns of some packed episodes."""
        c = self.components.config
        return split_steps(*packed, c.imitation.sequences, (c.seed, Stream.IMITATION, seed))

    def take_portion(self) -> list[Trajectory]:
        """The expert's next episodes."""
        portion = next(self.stream)
        self.tell_losses(portion.failures, PORTION)
        return portion.trajectories

    def tell_losses(self, failures: Sequence[EnvFailure], played: int) -> None:
        """Name what was lost of so many episodes; refuse to go on where it is too much."""
        self.progress.lost(failures)
        check_losses(self.components, failures, played)


def count_steps(components: RunComponents) -> int:
    """Optimizer steps of the whole imitation."""
    c = components.config.imitation
    return c.steps + c.rounds * c.round_steps


def check_losses(components: RunComponents, failures: Sequence[EnvFailure], played: int) -> None:
    """Refuse to go on where the environment loses too many episodes."""
    limit = components.config.env.max_failure_rate
    if len(failures) > limit * played or len(failures) >= played:
        raise TrainingStopped(
            f"imitation: {len(failures)} of {played} episodes were lost in the environment; "
            f"expected at most a share of env.max_failure_rate {limit}; the first: "
            f"{failures[0].cause}"
        )


def open_stream(
    components: RunComponents,
    optimizer: optax.GradientTransformation,
    now: Imitation,
    progress: Progress,
) -> StreamedImitation:
    """What imitation of a stream needs beside its state."""
    config, c = components.config, components.config.imitation
    plan = PortionPlan(
        suite=components.suite,
        prompter=components.prompter,
        max_turns=components.max_turns,
        seed=config.seed,
        noise=c.noise,
        mistakes=c.mistakes,
        episodes=PORTION,
        backend=config.env.backend,
        step_timeout=config.env.step_timeout,
    )
    stream = ExpertStream(plan, workers=c.workers, first=now.portion)
    held = plan.play(-1)
    progress.lost(held.failures)
    check_losses(components, held.failures, PORTION)
    batch = components.placement.replicate(make_batch(*components.pack_turns(held.trajectories)))
    return StreamedImitation(components, optimizer, now, progress, stream, batch)


def follow_expert(work: StreamedImitation) -> None:
    """Steps on one portion of the expert's episodes."""
    c, now = work.components.config.imitation, work.now
    doing = f"finishing the portion under way, at imitation step {now.done}, then saving it"
    with REQUEST.during(doing):
        number, before = work.stream.number, now.done
        packed = work.components.pack_turns(work.take_portion())
        batches = work.list_batches(packed, number)
        work.step_through(batches, c.steps - now.done)
        if now.done // c.check_every > before // c.check_every or now.done >= c.steps:
            work.measure()
    now.portion = work.stream.number


def follow_labels(work: StreamedImitation) -> None:
    """One round: the policy's own episodes with the expert's labels, filled up with the expert's.

    Episodes are sampled at `rollout.temperature` in every other round, and greedy in the others:
    each way has mistakes of its own.
    """
    components, now = work.components, work.now
    c = components.config.imitation
    number = (now.done - c.steps) // c.round_steps
    doing = f"giving up round {number + 1} of imitation, which a resumed run repeats, and saving"
    with REQUEST.during(doing):
        own = play_own(work, number)
        lost: list[EnvFailure] = []
        learned = relabel(
            components.prompter,
            components.suite,
            own,
            workers=components.workers,
            failures=lost,
        )
        work.tell_losses(lost, len(own))
        needed = (c.round_steps + 1) * c.sequences
        packed = components.pack_turns(learned)
        while len(packed[0].tokens) < needed:
            learned += work.take_portion()
            packed = components.pack_turns(learned)
    with REQUEST.during(f"finishing round {number + 1} of imitation, then saving it"):
        work.step_through(work.list_batches(packed, 1_000_000 + number), c.round_steps)
        success = np.mean([episode.success for episode in own])
        said = (
            f"round {number + 1}/{c.rounds}, own success {success:.2f}, loops {loop_share(own):.2f}"
        )
        work.measure(said)
    now.portion = work.stream.number


def play_own(work: StreamedImitation, number: int) -> list[Trajectory]:
    """Episodes of the policy as it stands, on training tasks."""
    components, config = work.components, work.components.config
    count = config.imitation.round_episodes
    tasks = choose_tasks(components.suite.tasks("train"), config.seed + 1, number * count, count)
    played = components.rollout.collect(
        work.now.state.policy,
        tasks,
        key=derive_key(config.seed, Stream.IMITATION, number),
        temperature=config.rollout.temperature if number % 2 == 0 else 0.0,
    )
    work.tell_losses(played.failures, count)
    return played.trajectories
