"""The objects of a run, built and ready: what acts, what learns, and where arrays live."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax

from hiperjax.acting.collector import Collector
from hiperjax.acting.prompts import Prompter
from hiperjax.acting.two_stage import Executor
from hiperjax.config import RunConfig
from hiperjax.distributed.mesh import Placement
from hiperjax.envs.base import Suite
from hiperjax.envs.workers import EnvWorkers
from hiperjax.learning import layout, packing
from hiperjax.learning.imitation import choose_micro
from hiperjax.learning.learner import Learner
from hiperjax.learning.state import TrainState
from hiperjax.models.architecture import TransformerConfig
from hiperjax.models.lora import adapt, base_config
from hiperjax.models.transformer import Params, abstract_params, init_params
from hiperjax.models.weights import load_params
from hiperjax.random_keys import Stream, derive_key
from hiperjax.types import FinalPrompts, PackedBatch, Sequences, Trajectory, TurnRows

SHORT_TURN, USUAL_TURN = 16, 48
"""Tokens of a turn in a growing context, by which room is made: rows of a sequence, sequences of a
batch. Where turns are shorter, or longer, the room grows."""


@dataclasses.dataclass
class RunComponents:
    """What acts and what learns, ready to run."""

    config: RunConfig
    suite: Suite
    prompter: Prompter
    model: TransformerConfig
    workers: EnvWorkers
    rollout: Collector
    learner: Learner
    max_turns: int
    placement: Placement
    executor: Executor | None = None
    """who writes the action blocks, frozen; None: the policy"""
    attention_columns: int = 0
    """attention runs on rows of one window each, their columns a multiple of this; 0: by a mask"""
    least: layout.Room = layout.NO_ROOM
    """sizes of the largest batch so far, on accelerators: on a CPU what a batch is packed into
    depends on it alone, and a run that is resumed goes on to the bit"""

    def init_policy(self) -> Params:
        """The checkpoint folder's parameters, leaf by leaf where they belong; else random ones."""
        plain, key = base_config(self.model), derive_key(self.config.seed, Stream.PARAMS)
        if self.config.model.folder is None:
            return self.adopt(self.placement.init_sharded(lambda: init_params(plain, key)), plain)
        dtype = self.model.dtype if self.model.lora_rank else "float32"
        wanted = self.placement.describe(abstract_params(plain))
        shardings = jax.tree.map(lambda leaf: leaf.sharding, wanted)
        loaded = load_params(self.config.model.folder, plain, dtype=dtype, shardings=shardings)
        return self.adopt(loaded, plain)

    def adopt(self, policy: Params, shape: TransformerConfig) -> Params:
        """A policy to start from: the same function as this one of another shape; see `adapt`."""
        key = partial(derive_key, self.config.seed, Stream.ADAPTERS)
        return self.placement.init_sharded(
            lambda policy: adapt(policy, shape, self.model, key()), policy
        )

    @property
    def imitated_at_once(self) -> int:
        """Sequences of a pass of imitation, whose gradients add up to a step's."""
        c = self.config
        return choose_micro(c.imitation.sequences, c.ppo.micro_sequences)

    def pack_turns(self, trajectories: Sequence[Trajectory]) -> tuple[Sequences, TurnRows]:
        """The turns of trajectories in packed sequences, as imitation reads them."""
        windows = [w for t in trajectories for w in layout.split_windows(t, final=False)]
        return packing.pack_windows(windows, **self._layout)[:2]

    def pack(
        self, trajectories: Sequence[Trajectory], *, seed: int
    ) -> tuple[PackedBatch, FinalPrompts | None]:
        """One iteration's trajectories as arrays, in shapes that serve the whole run.

        The prompts after truncated episodes are rows of the batch where windows grow.
        """
        p, episodes = self.config.ppo, self.config.rollout.episodes
        grown = self.prompter.windows.grow
        # Turns of a sequence that is well filled: a guess, past which the capacity grows.
        full = p.sequence_length // USUAL_TURN if grown else 2 * p.sequence_turns // 3
        batch = packing.pack(
            trajectories,
            max_turns=self.max_turns,
            capacity=-(-episodes * self.max_turns // max(1, full)),
            multiple=p.minibatch_sequences,
            reply_length=layout.round_up(self.config.prompt.reply_length, 8),
            trajectory_multiple=episodes,
            seed=seed,
            costs=self.suite.delegates,
            **self._layout,
        )
        if batch.sequences.attention_rows is not None:
            _, windows, columns = batch.sequences.attention_rows.shape
            self.least = layout.Room(batch.sequences.reply_index.shape[1], windows, columns)
        if grown:
            return batch, None
        length = layout.round_up(self.config.prompt.prompt_length, 16)
        final = packing.pack_final_prompts(
            trajectories, length=length, trajectory_multiple=episodes
        )
        return batch, final

    @property
    def _layout(self) -> dict[str, Any]:
        p, grown = self.config.ppo, self.prompter.windows.grow
        rows = p.sequence_turns
        if grown:  # a row that is empty costs next to nothing
            most = min(self.max_turns + 1, p.sequence_length // SHORT_TURN)
            rows = max(rows, layout.round_up(most, 8))
        return dict(
            length=p.sequence_length,
            per_sequence=rows,
            prefix=self.prompter.shared_prefix,
            grown=grown,
            attention_columns=self.attention_columns,
            least=self.least,
        )

    def fresh_state(self, policy: Params) -> TrainState:
        """The state that training starts in; takes the policy over."""
        key = partial(derive_key, self.config.seed, Stream.STATE)
        return self.placement.init_sharded(lambda policy: self.learner.init(policy, key()), policy)

    def describe_state(self) -> TrainState:
        """Shapes and shardings of a state; takes no memory."""
        plain = base_config(self.model)
        bare = dataclasses.replace(self, placement=Placement())

        def build() -> TrainState:
            return bare.fresh_state(bare.adopt(init_params(plain, jax.random.key(0)), plain))

        return self.placement.describe(jax.eval_shape(build))
