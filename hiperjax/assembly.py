"""From a configuration to the objects of a run: suite, tokenizer, model, rollout, learner."""

import dataclasses
import json
import pathlib
import types
import typing
from typing import Any

import jax
from jaxtyping import Array, Key

from hiperjax.acting.blocks import TAGS
from hiperjax.acting.demonstrations import Demonstration, demonstrate, list_texts
from hiperjax.acting.prompts import Prompter, Renderer, make_renderer
from hiperjax.acting.rollout import Rollout
from hiperjax.checkpoint import Checkpoints, Which
from hiperjax.config import ConfigError, RunConfig
from hiperjax.envs.base import Suite
from hiperjax.envs.registry import make_suite
from hiperjax.envs.workers import EnvWorkers, make_workers
from hiperjax.learning.advantages import ESTIMATORS
from hiperjax.learning.learner import Learner
from hiperjax.learning.state import TrainState
from hiperjax.models.shapes import SHAPES
from hiperjax.models.tokenizers import check_vocabulary, load_tokenizer, train_tokenizer
from hiperjax.models.transformer import Params, TransformerConfig, init_params
from hiperjax.models.weights import load_params

CONFIG, TOKENIZER, CHECKPOINTS = "config.json", "tokenizer", "checkpoints"
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
    rollout: Rollout
    learner: Learner
    max_turns: int

    def init_policy(self, key: Key[Array, ""]) -> Params:
        """The checkpoint folder's parameters; without one, random ones."""
        if self.config.model.folder is not None:
            return load_params(self.config.model.folder, self.model)
        return init_params(self.model, key)


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
    if config.model.folder is not None:
        return load_tokenizer(config.model.folder)
    renderer = make_run_renderer(config, suite)
    demos = play_expert(config, suite, VOCABULARY_EPISODES, noise=0.2, seed=0)
    texts = (text for demo in demos for text in list_texts(renderer, demo))
    return train_tokenizer(texts, TAGS, phrases=renderer.phrases)


def model_shape(config: RunConfig, vocab_size: int) -> TransformerConfig:
    """The transformer the run trains."""
    m = config.model
    if m.folder is not None:
        return TransformerConfig.from_hf(m.folder, dtype=m.dtype, remat=m.remat)
    if m.shape is not None:
        return dataclasses.replace(SHAPES[m.shape], dtype=m.dtype, remat=m.remat)
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
        dtype=m.dtype,
        remat=m.remat,
    )


def build_agent(config: RunConfig, folder: pathlib.Path | None = None) -> Agent:
    """Everything a run needs but its parameters; `folder` is an existing run's, if any."""
    suite = make_suite(config.env.suite, **suite_options(config))
    tokenizer = build_tokenizer(config, suite, folder)
    p, r = config.prompt, config.rollout
    _check_milestones(config, suite)
    prompter = Prompter(
        make_run_renderer(config, suite), tokenizer, p.prompt_length, trims=p.overlong == "trim"
    )
    model = model_shape(config, len(tokenizer))
    check_vocabulary(tokenizer, model.vocab_size)
    workers = make_workers(suite, backend=config.env.backend, num_workers=config.env.num_workers)
    max_turns = config.env.max_turns or suite.max_turns
    rollout = Rollout(
        config=model,
        prompter=prompter,
        workers=workers,
        suite=suite,
        slots=r.slots,
        prompt_length=p.prompt_length,
        reply_length=p.reply_length,
        max_turns=max_turns,
        decode_chunk=r.decode_chunk,
        strict_format=p.strict_format,
        rewrite_on_keep=p.rewrite_on_keep,
    )
    learner = Learner(
        model,
        credit=config.credit,
        critic=config.critic,
        ppo=config.ppo,
        group_size=r.group_size,
        temperature=r.temperature,
    )
    return Agent(config, suite, prompter, model, workers, rollout, learner, max_turns)


def _check_milestones(config: RunConfig, suite: Suite) -> None:
    estimator = ESTIMATORS.get(config.credit.estimator)
    if estimator and "milestone" in estimator.needs and not suite.reports_milestones:
        raise ConfigError(
            f"credit.estimator {estimator.name} needs milestones, which the suite {suite.name} "
            "does not report; choose a household, alfworld or webshop suite"
        )


def restore_run(folder: pathlib.Path, which: Which = "best") -> tuple[Agent, TrainState]:
    """The agent of a run folder and one of its saved states.

    Raises:
      FileNotFoundError: not a run folder.
      CheckpointError: no such checkpoint, or one that cannot be read.
    """
    config = load_config(folder)
    agent = build_agent(config, folder)
    like = agent.learner.init(agent.init_policy(fold(config.seed, 0)), fold(config.seed, 1))
    return agent, Checkpoints(folder / CHECKPOINTS).restore(like, which)[1]


# -- run folders -----------------------------------------------------------------------------------


def save_config(config: RunConfig, folder: pathlib.Path) -> None:
    """Write `config.json`."""
    folder.mkdir(parents=True, exist_ok=True)
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
