"""The objects of a run, built and ready: what acts, what learns, and where arrays live."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax

from hiperjax.acting.collector import Collector
from hiperjax.acting.prompts import Prompter
from hiperjax.config import RunConfig
from hiperjax.distributed.mesh import Placement
from hiperjax.envs.base import Suite
from hiperjax.envs.workers import EnvWorkers
from hiperjax.learning import packing
from hiperjax.learning.learner import Learner
from hiperjax.learning.state import TrainState
from hiperjax.models.architecture import TransformerConfig
from hiperjax.models.lora import adapt, base_config
from hiperjax.models.transformer import Params, abstract_params, init_params
from hiperjax.models.weights import load_params
from hiperjax.random_keys import Stream, derive_key
from hiperjax.types import FinalPrompts, PackedBatch, Sequences, Trajectory, TurnRows


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

    def init_policy(self) -> Params:
        """The checkpoint folder's parameters, leaf by leaf where they belong; else random ones."""
        plain, key = base_config(self.model), derive_key(self.config.seed, Stream.PARAMS)
        if self.config.model.folder is None:
            return self.adopt(self.placement.make(lambda: init_params(plain, key)), plain)
        dtype = self.model.dtype if self.model.lora_rank else "float32"
        wanted = self.placement.describe(abstract_params(plain))
        places = jax.tree.map(lambda leaf: leaf.sharding, wanted)
        loaded = load_params(self.config.model.folder, plain, dtype=dtype, shardings=places)
        return self.adopt(loaded, plain)

    def adopt(self, policy: Params, shape: TransformerConfig) -> Params:
        """A policy to start from: the same function as this one of another shape; see `adapt`."""
        key = partial(derive_key, self.config.seed, Stream.ADAPTERS)
        return self.placement.make(lambda policy: adapt(policy, shape, self.model, key()), policy)

    def pack_turns(self, trajectories: Sequence[Trajectory]) -> tuple[Sequences, TurnRows]:
        """The turns of trajectories in packed sequences, as imitation reads them."""
        turns = [turn for trajectory in trajectories for turn in trajectory.turns]
        return packing.pack_turns(turns, **self._layout)[:2]

    def pack(
        self, trajectories: Sequence[Trajectory], *, seed: int
    ) -> tuple[PackedBatch, FinalPrompts]:
        """One iteration's trajectories as arrays, in shapes that serve the whole run."""
        p, episodes = self.config.ppo, self.config.rollout.episodes
        common = max(1, 2 * p.sequence_turns // 3)
        batch = packing.pack(
            trajectories,
            max_turns=self.max_turns,
            capacity=-(-episodes * self.max_turns // common),
            multiple=p.minibatch_sequences,
            reply_length=packing.round_up(self.config.prompt.reply_length, 8),
            trajectory_multiple=episodes,
            seed=seed,
            **self._layout,
        )
        length = packing.round_up(self.config.prompt.prompt_length, 16)
        final = packing.pack_final_prompts(
            trajectories, length=length, trajectory_multiple=episodes
        )
        return batch, final

    @property
    def _layout(self) -> dict[str, Any]:
        p = self.config.ppo
        return dict(
            length=p.sequence_length,
            per_sequence=p.sequence_turns,
            prefix=self.prompter.shared_prefix,
        )

    def fresh_state(self, policy: Params) -> TrainState:
        """The state that training starts in; takes the policy over."""
        key = partial(derive_key, self.config.seed, Stream.STATE)
        return self.placement.make(lambda policy: self.learner.init(policy, key()), policy)

    def describe_state(self) -> TrainState:
        """Shapes and places of a state; takes no memory."""
        plain = base_config(self.model)
        bare = dataclasses.replace(self, placement=Placement())

        def build() -> TrainState:
            return bare.fresh_state(bare.adopt(init_params(plain, jax.random.key(0)), plain))

        return self.placement.describe(jax.eval_shape(build))
