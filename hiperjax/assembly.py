"""From a configuration to the objects of a run: suite, tokenizer, model, rollout, learner."""

import dataclasses
import json
import pathlib
import types
import typing
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh
from jaxtyping import Array, Key

from hiperjax import mesh as meshes
from hiperjax.acting.blocks import TAGS
from hiperjax.acting.demonstrations import Demonstration, demonstrate, list_texts
from hiperjax.acting.prompts import Prompter, Renderer, make_renderer
from hiperjax.acting.rollout import Rollout
from hiperjax.checkpoint import Checkpoints, Which
from hiperjax.config import ConfigError, MeshConfig, RunConfig
from hiperjax.envs.base import Suite
from hiperjax.envs.registry import make_suite
from hiperjax.envs.workers import EnvWorkers, make_workers
from hiperjax.learning import packing
from hiperjax.learning.advantages import ESTIMATORS
from hiperjax.learning.learner import Learner
from hiperjax.learning.state import TrainState
from hiperjax.mesh import MeshError, Placement
from hiperjax.models.lora import adapt, base_config
from hiperjax.models.shapes import SHAPES
from hiperjax.models.tensor_files import find_tensors
from hiperjax.models.tokenizers import check_vocabulary, load_tokenizer, train_tokenizer
from hiperjax.models.transformer import (
    Params,
    TransformerConfig,
    abstract_params,
    init_params,
)
from hiperjax.models.weights import check_tensors, load_params
from hiperjax.processes import SharedRollout
from hiperjax.types import FinalPrompts, PackedBatch, Sequences, Trajectory, TurnRows

CONFIG, TOKENIZER, CHECKPOINTS = "config.json", "tokenizer", "checkpoints"
ARCHITECTURE = "architecture.json"
"""The config.json of the checkpoint folder that a run started from."""
VOCABULARY_EPISODES = 400
"""Expert episodes whose words make up a trained tokenizer's vocabulary."""


@dataclasses.dataclass
class Agent:
    """What acts and what learns, ready to run."""

    config: RunConfig
    suite: Suite
    prompter: Prompter
    model: TransformerConfig
    workers: EnvWorkers
    rollout: Rollout | SharedRollout
    learner: Learner
    max_turns: int
    placement: Placement

    def init_policy(self) -> Params:
        """The checkpoint folder's parameters, leaf by leaf where they belong; else random ones."""
        plain, key = base_config(self.model), fold(self.config.seed, 0)
        if self.config.model.folder is None:
            return self.adopt(self.placement.make(lambda: init_params(plain, key)), plain)
        dtype = self.model.dtype if self.model.lora_rank else "float32"
        wanted = self.placement.describe(abstract_params(plain))
        places = jax.tree.map(lambda leaf: leaf.sharding, wanted)
        loaded = load_params(self.config.model.folder, plain, dtype=dtype, shardings=places)
        return self.adopt(loaded, plain)

    def adopt(self, policy: Params, shape: TransformerConfig) -> Params:
        """A policy to start from: the same function as this one of another shape; see `adapt`."""
        key = partial(fold, self.config.seed, 6)
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
        key = partial(fold, self.config.seed, 1)
        return self.placement.make(lambda policy: self.learner.init(policy, key()), policy)

    def describe_state(self) -> TrainState:
        """Shapes and places of a state; takes no memory."""
        plain = base_config(self.model)
        bare = dataclasses.replace(self, placement=Placement())

        def build() -> TrainState:
            return bare.fresh_state(bare.adopt(init_params(plain, jax.random.key(0)), plain))

        return self.placement.describe(jax.eval_shape(build))


def suite_options(config: RunConfig) -> dict[str, Any]:
    """The fields of `env` that the suite takes."""
    env = config.env
    types = {"task_types": env.task_types} if env.task_types else {}
    if env.suite == "household":
        return {"size": env.size} | types
    if env.suite == "alfworld":
        return {"games": env.games} | types
    if env.suite == "webshop":
        tiny = env.data is None and env.size == "tiny"
        return {"data": env.data, "profile": env.profile, "goals": env.goals, "tiny": tiny}
    return {}


def make_run_renderer(config: RunConfig, suite: Suite) -> Renderer:
    """The renderer of the run's prompt style."""
    prompt = config.prompt
    return make_renderer(prompt.style, role=suite.role, history_length=prompt.history_length)


def play_expert(
    config: RunConfig, suite: Suite, episodes: int, *, noise: float, seed: int
) -> list[Demonstration]:
    """Expert episodes on the training tasks, from the end of the list backwards, and again.

    A task that comes again is played with other noise.
    """
    tasks = suite.tasks("train")
    ids = [tasks[len(tasks) - 1 - i % len(tasks)] for i in range(episodes)]
    turns = config.env.max_turns or suite.max_turns
    return list(demonstrate(suite, ids, max_turns=turns, seed=seed, noise=noise))


def build_tokenizer(config: RunConfig, suite: Suite, folder: pathlib.Path | None) -> Any:
    """The run folder's tokenizer, else the checkpoint's, else one trained on expert episodes."""
    if folder is not None and (folder / TOKENIZER).is_dir():
        return load_tokenizer(folder / TOKENIZER)
    if config.init is not None:
        return load_tokenizer(config.init / TOKENIZER)
    brought = config.model.folder or config.model.tokenizer
    if brought is not None:
        return load_tokenizer(brought)
    renderer = make_run_renderer(config, suite)
    demos = play_expert(config, suite, VOCABULARY_EPISODES, noise=0.2, seed=0)
    texts = (text for demo in demos for text in list_texts(renderer, demo))
    return train_tokenizer(texts, TAGS, phrases=renderer.phrases)


def model_shape(
    config: RunConfig, vocab_size: int, folder: pathlib.Path | None = None
) -> TransformerConfig:
    """The transformer the run trains; `folder` is the run's, if it has one.

    Raises:
      ConfigError: no published architecture of that name.
    """
    m = config.model
    options: dict[str, Any] = dict(
        dtype=m.dtype,
        remat=m.remat,
        attention=m.attention,
        decode_unroll=m.decode_unroll,
        lora_rank=m.lora_rank,
        lora_alpha=m.lora_alpha,
        lora_targets=m.lora_targets,
    )
    if m.folder is not None:
        kept = folder is not None and (folder / ARCHITECTURE).is_file()
        source = folder / ARCHITECTURE if folder is not None and kept else m.folder
        return TransformerConfig.from_hf(source, **options)
    if m.shape is not None:
        if m.shape not in SHAPES:
            raise ConfigError(f"model.shape is {m.shape!r}; expected one of {', '.join(SHAPES)}")
        return dataclasses.replace(SHAPES[m.shape], **options)
    return TransformerConfig(
        vocab_size=vocab_size,
        hidden_size=m.hidden_size,
        intermediate_size=m.intermediate_size,
        num_layers=m.num_layers,
        num_heads=m.num_heads,
        num_kv_heads=m.num_kv_heads,
        head_dim=m.hidden_size // m.num_heads,
        embedding_std=m.embedding_std,
        embedding_scale=True,
        **options,
    )


def check_weights(config: RunConfig) -> None:
    """Refuse to train a published shape without weights, unless that is what is wanted.

    Raises:
      ConfigError: says which folder is missing.
    """
    m = config.model
    if m.shape is not None and m.folder is None and not m.random_weights:
        raise ConfigError(
            f"model.shape is {m.shape} and model.folder is not given; expected --model.folder DIR, "
            "a Hugging Face folder with config.json, tokenizer and safetensors of that model (or "
            "--model.random-weights, for tests of speed and memory)"
        )


def join_processes(mesh: MeshConfig) -> None:
    """Meet the run's other processes, if it has any; before anything else is done with JAX."""
    given = (mesh.coordinator, mesh.num_processes, mesh.process_id)
    if mesh.distributed or any(x is not None for x in given):
        meshes.start_processes(*given)


def make_placement(mesh: MeshConfig) -> Placement:
    """Where the run's arrays live; the first device, unless more is asked for.

    Raises:
      MeshError: the sizes do not multiply to the number of devices.
    """
    sizes = (mesh.data, mesh.fsdp, mesh.tensor)
    if sizes == (1, 1, 1) and jax.process_count() == 1:
        return Placement()
    return Placement(meshes.make_mesh(*sizes))


def check_placement(config: RunConfig, model: TransformerConfig, mesh: Mesh | AbstractMesh) -> None:
    """Refuse what the mesh does not divide, before any device memory is taken.

    Raises:
      MeshError: names sizes and what to change.
    """
    heads = {"num_heads": model.num_heads, "num_kv_heads": model.num_kv_heads}
    p, slots, processes = config.ppo, config.rollout.slots, jax.process_count()
    rows = p.micro_sequences or p.minibatch_sequences
    meshes.check_mesh(mesh, **heads, rows=rows, what="sequences of ppo.micro_sequences")
    if slots % processes:
        raise MeshError(
            f"rollout.slots is {slots}; expected a multiple of the {processes} processes"
        )
    own = meshes.local_mesh(mesh) if isinstance(mesh, Mesh) else mesh
    what = "rollout.slots of each process"
    meshes.check_mesh(own, **heads, rows=slots // processes, what=what)
    meshes.shardings(abstract_params(model), mesh)


def check_checkpoint(folder: pathlib.Path, model: TransformerConfig) -> None:
    """Refuse weights that are not this architecture's, from their headers alone."""
    check_tensors(find_tensors(folder), base_config(model), str(folder))


def build_agent(config: RunConfig, folder: pathlib.Path | None = None) -> Agent:
    """Everything a run needs but its parameters; `folder` is an existing run's, if any."""
    check_weights(config)
    suite = make_suite(config.env.suite, **suite_options(config))
    tokenizer = build_tokenizer(config, suite, folder)
    p, r = config.prompt, config.rollout
    _check_milestones(config, suite)
    prompter = Prompter(
        make_run_renderer(config, suite), tokenizer, p.prompt_length, trims=p.overlong == "trim"
    )
    placement = make_placement(config.mesh)
    shape = model_shape(config, len(tokenizer), folder)
    model = dataclasses.replace(shape, row_axes=placement.row_axes)
    check_vocabulary(tokenizer, model.vocab_size)
    if placement.mesh is not None:
        check_placement(config, model, placement.mesh)
    if config.model.folder is not None and folder is None:
        check_checkpoint(config.model.folder, model)
    workers = make_workers(suite, backend=config.env.backend, num_workers=config.env.num_workers)
    max_turns = config.env.max_turns or suite.max_turns
    rollout = Rollout(
        config=model,
        prompter=prompter,
        workers=workers,
        suite=suite,
        slots=r.slots // jax.process_count(),
        prompt_length=p.prompt_length,
        reply_length=p.reply_length,
        max_turns=max_turns,
        decode_chunk=r.decode_chunk,
        refill=r.refill,
        prefill_rows=r.prefill_rows,
        lanes=r.lanes,
        row_multiple=placement.sampler_ways,
        strict_format=p.strict_format,
        rewrite_on_keep=p.rewrite_on_keep,
    )
    learner = make_learner(config, model)
    if placement.mesh is not None or model.dtype != "float32":
        rollout = SharedRollout(rollout, placement)
    return Agent(config, suite, prompter, model, workers, rollout, learner, max_turns, placement)


def make_learner(config: RunConfig, model: TransformerConfig) -> Learner:
    """The learner of a run."""
    return Learner(
        model,
        credit=config.credit,
        critic=config.critic,
        ppo=config.ppo,
        group_size=config.rollout.group_size,
        temperature=config.rollout.temperature,
        iterations=config.iterations,
    )


def _check_milestones(config: RunConfig, suite: Suite) -> None:
    estimator = ESTIMATORS.get(config.credit.estimator)
    if estimator and "milestone" in estimator.needs and not suite.reports_milestones:
        raise ConfigError(
            f"credit.estimator {estimator.name} needs milestones, which the suite {suite.name} "
            "does not report; choose a household, alfworld or webshop suite"
        )


def restore_run(
    folder: pathlib.Path, which: Which = "best", mesh: MeshConfig | None = None
) -> tuple[Agent, TrainState]:
    """The agent of a run folder and one of its saved states, whatever mesh it was trained on.

    Args:
      folder: of the run.
      which: state.
      mesh: default: the run's own where it divides the devices at hand, else one device.

    Raises:
      FileNotFoundError: not a run folder.
      CheckpointError: no such checkpoint, or one that cannot be read.
    """
    config = load_config(folder)
    if mesh is None:
        m, devices = config.mesh, jax.device_count()
        divides = min(m.fsdp, m.tensor) > 0 and devices % (m.fsdp * m.tensor) == 0
        meshed = divides and devices > 1 and m != MeshConfig()
        mesh = dataclasses.replace(m, data=-1) if meshed else MeshConfig()
    agent = build_agent(dataclasses.replace(config, mesh=mesh), folder)
    return agent, Checkpoints(folder / CHECKPOINTS).restore(agent.describe_state(), which)[1]


# -- run folders -----------------------------------------------------------------------------------


def save_run(agent: Agent, folder: pathlib.Path) -> None:
    """Write what a run folder needs beside its checkpoints: settings, tokenizer, architecture."""
    save_config(agent.config, folder)
    agent.prompter.tokenizer.save_pretrained(folder / TOKENIZER)
    if agent.config.model.folder is not None:
        (folder / ARCHITECTURE).write_text(json.dumps(agent.model.to_hf(), indent=1) + "\n")


def save_config(config: RunConfig, folder: pathlib.Path) -> None:
    """Write `config.json`; who this process is among others is no setting of the run."""
    folder.mkdir(parents=True, exist_ok=True)
    m = config.mesh
    mesh = MeshConfig(data=m.data, fsdp=m.fsdp, tensor=m.tensor)
    config = dataclasses.replace(config, mesh=mesh)
    text = json.dumps(dataclasses.asdict(config), indent=1, default=str)
    (folder / CONFIG).write_text(text + "\n")


def load_config(folder: pathlib.Path) -> RunConfig:
    """Read a run folder's configuration.

    Raises:
      FileNotFoundError: not a run folder.
      ValueError: a field this version does not know.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder}: no {CONFIG}; expected a run folder, as `hiperjax train` makes one"
        )
    return _build(RunConfig, json.loads(path.read_text()), str(path))


def _build(kind: Any, raw: dict[str, Any], where: str) -> Any:
    hints = typing.get_type_hints(kind)
    unknown = set(raw) - set(hints)
    if unknown:
        raise ValueError(f"{where}: unknown fields {sorted(unknown)}; expected {sorted(hints)}")
    return kind(**{name: _convert(hints[name], value, where) for name, value in raw.items()})


def _convert(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, where)
    if isinstance(hint, types.UnionType):
        inner = next(a for a in typing.get_args(hint) if a is not type(None))
        return None if value is None else _convert(inner, value, where)
    if typing.get_origin(hint) is tuple:
        return tuple(value)
    return pathlib.Path(value) if hint is pathlib.Path else value


def fold(seed: int, *numbers: int) -> Key[Array, ""]:
    """The key of a run's seed folded with numbers."""
    key = jax.random.key(seed)
    for number in numbers:
        key = jax.random.fold_in(key, number)
    return key
