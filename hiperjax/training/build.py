"""From a configuration to the objects of a run: suite, tokenizer, model, rollout, learner."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh

from hiperjax.acting.blocks import TAGS
from hiperjax.acting.boundaries import make_boundaries
from hiperjax.acting.collector import Collector
from hiperjax.acting.demonstrations import Demonstration, EpisodeLost, demonstrate, list_texts
from hiperjax.acting.engine import load_engine
from hiperjax.acting.prompts import Prompter
from hiperjax.acting.renderers import TRIED
from hiperjax.acting.rollout import Rollout
from hiperjax.acting.two_stage import Executor
from hiperjax.config import ConfigError, MeshConfig, RunConfig
from hiperjax.distributed import mesh as meshes
from hiperjax.distributed.mesh import MeshError, Placement
from hiperjax.distributed.processes import is_first
from hiperjax.distributed.rollout import DistributedRollout
from hiperjax.envs.base import Suite
from hiperjax.envs.workers import EnvFailure, EnvWorkers, make_workers
from hiperjax.learning.credit.registry import check_choice
from hiperjax.learning.layout import round_up
from hiperjax.learning.learner import Learner
from hiperjax.learning.state import TrainState
from hiperjax.models.lora import base_config
from hiperjax.models.tensor_files import find_tensors
from hiperjax.models.tokenizers import check_vocabulary, load_tokenizer, train_tokenizer
from hiperjax.models.transformer import TransformerConfig, abstract_params
from hiperjax.models.weights import check_tensors
from hiperjax.options.ranges import check_ranges
from hiperjax.streams import tell
from hiperjax.training.checkpoint import Checkpoints, Which
from hiperjax.training.components import RunComponents
from hiperjax.training.executor import check_executor, load_executor
from hiperjax.training.model import attention_columns, model_shape
from hiperjax.training.prompt_record import check_dialect, check_prompt
from hiperjax.training.prompting import check_style, make_prompter, make_run_renderer
from hiperjax.training.run_folder import (
    AGENT,
    CHECKPOINTS,
    TOKENIZER,
    find_run,
    find_tokenizer,
    load_config,
)
from hiperjax.training.suites import build_suite

ATTENTION_BLOCK = 64
"""Queries at a time where contexts grow and sequences are long."""
VOCABULARY_EPISODES = 400
"""Expert episodes whose words make up a trained tokenizer's vocabulary."""


def fit_sequences(config: RunConfig, *, prefix: int, ways: int = 1) -> RunConfig:
    """Packed sequences that hold a full window, and about as many tokens in each step as before.

    Args:
      config: of a run; comes back as it is where no context grows, or sequences suffice.
      prefix: tokens of the shared prefix.
      ways: rows of a forward pass are a multiple of this.
    """
    t, p, i = config.prompt, config.ppo, config.imitation
    length = round_up(prefix + t.window_length + t.reply_length, 8)
    if t.window == "turn" or length <= p.sequence_length:
        return config
    share = p.sequence_length / length
    micro = ways * max(1, round(p.micro_sequences * share / ways)) if p.micro_sequences else 0
    unit = micro or ways
    minibatch = unit * max(1, round(p.minibatch_sequences * share / unit))
    return dataclasses.replace(
        config,
        ppo=dataclasses.replace(
            p, sequence_length=length, micro_sequences=micro, minibatch_sequences=minibatch
        ),
        imitation=dataclasses.replace(i, sequences=max(1, round(i.sequences * share))),
    )


def play_expert(
    config: RunConfig,
    suite: Suite,
    episodes: int,
    *,
    noise: float,
    mistakes: float = 0.0,
    seed: int,
    failures: list[EnvFailure] | None = None,
) -> list[Demonstration]:
    """Expert episodes on the training tasks, from the end of the list backwards, and again.

    A task that comes again is played with other noise. Episodes that are lost are left out, and
    added to `failures`.

    Raises:
      EpisodeLost: the environment lost a larger share than `env.max_failure_rate`.
    """
    tasks = suite.tasks("train")
    ids = [tasks[len(tasks) - 1 - i % len(tasks)] for i in range(episodes)]
    turns = config.env.max_turns or suite.max_turns
    failures, env = [] if failures is None else failures, config.env
    played = demonstrate(
        suite, ids, max_turns=turns, seed=seed, noise=noise, mistakes=mistakes,
        failures=failures, backend=env.backend, step_timeout=env.step_timeout,
    )  # fmt: skip
    demos = list(played)
    if len(failures) > config.env.max_failure_rate * episodes or not demos:
        raise EpisodeLost(
            f"suite {suite.name}: {len(failures)} of {episodes} expert episodes were lost in the "
            f"environment; expected at most a share of env.max_failure_rate "
            f"{config.env.max_failure_rate}; the first: {failures[0].cause}"
        )
    return demos


def build_tokenizer(config: RunConfig, suite: Suite, folder: pathlib.Path | None) -> Any:
    """The run folder's tokenizer, else the checkpoint's, else one trained on expert episodes."""
    if folder is not None and (folder / TOKENIZER).is_dir():
        return load_tokenizer(folder / TOKENIZER)
    if config.init is not None:
        return load_tokenizer(find_tokenizer(find_run(config.init)))
    brought = config.model.folder or config.model.tokenizer
    if brought is not None:
        return load_tokenizer(brought)
    renderer = make_run_renderer(config, suite)
    demos = play_expert(
        config, suite, VOCABULARY_EPISODES, noise=0.2, mistakes=config.imitation.mistakes, seed=0
    )
    grown = config.prompt.window != "turn"
    texts = (text for demo in demos for text in list_texts(renderer, demo, grown=grown))
    words = (*suite.hints.words, *((TRIED,) if config.prompt.mark_tried else ()))
    return train_tokenizer(texts, TAGS, phrases=renderer.phrases, words=words)


def check_estimator(config: RunConfig, suite: Suite) -> None:
    """Refuse an estimator that the run cannot train with, before the first episode is played.

    Raises:
      ConfigError: names the setting that does not go with it.
    """
    check_choice(
        config.credit.estimator,
        group_size=config.rollout.group_size,
        critic=config.critic.kind,
        switch_cost=config.credit.switch_cost,
        milestones_of=None if suite.reports_milestones else suite.name,
    )


def check_boundaries(config: RunConfig, suite: Suite) -> None:
    """Refuse boundaries that the world gives no occasion for, before the first episode is played.

    Raises:
      ConfigError: no milestones there.
    """
    if config.plan.boundaries == "milestone" and not suite.reports_milestones:
        raise ConfigError(
            f"plan.boundaries is milestone, and the suite {suite.name} reports no milestones; "
            "choose a suite that does (household, alfworld, webshop, desk, errands), or other "
            "boundaries"
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


def build_components(
    config: RunConfig, folder: pathlib.Path | None = None, *, accept_changed_prompt: bool = False
) -> RunComponents:
    """Everything a run needs but its parameters.

    Args:
      config: of the run.
      folder: of an existing run, if it is one.
      accept_changed_prompt: its prompt may be another than it was trained on.

    Raises:
      ConfigError: the prompt is another one; or one of many settings does not suit the others.
    """
    check_style(config)
    check_weights(config)
    suite = build_suite(config, new=folder is None)
    if folder is not None:
        check_dialect(folder, suite.dialect, accept=accept_changed_prompt)
        notice = check_prompt(
            folder,
            make_run_renderer(config, suite),
            suite.hints,
            grows=config.prompt.window != "turn",
            accept=accept_changed_prompt,
        )
        if notice and is_first():
            tell(notice)
    check_estimator(config, suite)
    check_boundaries(config, suite)
    check_executor(config)
    tokenizer = build_tokenizer(config, suite, folder)
    prompter = make_prompter(config, suite, tokenizer)
    placement = make_placement(config.mesh)
    config = fit_sequences(
        config,
        prefix=len(prompter.shared_prefix),
        ways=1 if placement.mesh is None else meshes.row_ways(placement.mesh),
    )
    shape = model_shape(config, len(tokenizer), folder)
    block = ATTENTION_BLOCK if prompter.windows.grow else 0
    model = dataclasses.replace(shape, row_axes=placement.row_axes, attention_block=block)
    check_vocabulary(tokenizer, model.vocab_size)
    if placement.mesh is not None:
        check_placement(config, model, placement.mesh)
    if config.model.folder is not None and folder is None:
        check_checkpoint(config.model.folder, model)
    executor = load_executor(config, suite, prompter, model, restore_run)
    env = config.env
    workers = make_workers(suite, env.backend, env.num_workers, env.step_timeout)
    return RunComponents(
        config=config,
        suite=suite,
        prompter=prompter,
        model=model,
        workers=workers,
        rollout=make_rollout(config, suite, prompter, model, workers, placement, executor),
        executor=executor,
        learner=make_learner(config, model),
        max_turns=env.max_turns or suite.max_turns,
        placement=placement,
        attention_columns=attention_columns(),
    )


def make_rollout(
    config: RunConfig,
    suite: Suite,
    prompter: Prompter,
    model: TransformerConfig,
    workers: EnvWorkers,
    placement: Placement,
    executor: Executor | None = None,
) -> Collector:
    """What collects the run's episodes."""
    p, r, plan = config.prompt, config.rollout, config.plan
    boundaries = make_boundaries(
        plan.boundaries,
        prompter,
        every=plan.every,
        rate=plan.switch_rate,
        reply_length=p.reply_length,
    )
    rollout = Rollout(
        config=model,
        prompter=prompter,
        workers=workers,
        suite=suite,
        slots=r.slots // jax.process_count(),
        prompt_length=p.prompt_length,
        reply_length=p.reply_length,
        max_turns=config.env.max_turns or suite.max_turns,
        decode_chunk=r.decode_chunk,
        refill=r.refill,
        prefill_rows=r.prefill_rows,
        pipeline_groups=r.pipeline_groups,
        row_multiple=placement.num_sampler_shards,
        strict_format=p.strict_format,
        rewrite_on_keep=p.rewrite_on_keep,
        lane_factory=load_engine(r.engine),
        boundaries=boundaries,
        executor=executor,
    )
    if placement.mesh is not None or model.dtype != "float32":
        return DistributedRollout(rollout, placement)
    return rollout


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
        reply_length=config.prompt.reply_length,
    )


def restore_run(
    run: pathlib.Path | str,
    which: Which = "best",
    mesh: MeshConfig | None = None,
    *,
    accept_changed_prompt: bool = False,
    games: pathlib.Path | None = None,
    data: pathlib.Path | None = None,
    plan: Mapping[str, Any] | None = None,
) -> tuple[RunComponents, TrainState]:
    """The agent of a run folder and one of its saved states, whatever mesh it was trained on.

    Args:
      run: the run's folder, or a shipped agent as `agent:NAME`, which has one state.
      which: state.
      mesh: default: the run's own where it divides the devices at hand, else one device.
      accept_changed_prompt: the prompt may be another than the run was trained on.
      games, data: folders of official files to play, if not the run's own.
      plan: Settings of `config.plan`, where they are to be others than the run's own.

    Raises:
      FileNotFoundError: not a run folder.
      ConfigError: the prompt is another one.
      CheckpointError: no such checkpoint, or one that cannot be read.
    """
    folder = find_run(run)
    config = load_config(folder)
    found = {"games": games, "data": data}
    given = {name: path for name, path in found.items() if path is not None}
    config = dataclasses.replace(
        config,
        env=dataclasses.replace(config.env, **given),
        plan=dataclasses.replace(config.plan, **(plan or {})),
    )
    check_ranges(config)
    if mesh is None:
        m, devices = config.mesh, jax.device_count()
        divides = min(m.fsdp, m.tensor) > 0 and devices % (m.fsdp * m.tensor) == 0
        meshed = divides and devices > 1 and m != MeshConfig()
        mesh = dataclasses.replace(m, data=-1) if meshed else MeshConfig()
    components = build_components(
        dataclasses.replace(config, mesh=mesh), folder, accept_changed_prompt=accept_changed_prompt
    )
    if (folder / AGENT).is_file():
        return components, components.fresh_state(components.init_policy())
    checkpoints = Checkpoints(folder / CHECKPOINTS)
    state = checkpoints.restore(components.describe_state(), which)[1]
    for notice in checkpoints.notices:
        tell(notice)
    return components, state
