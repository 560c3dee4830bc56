"""The run's configuration: frozen dataclasses, one doc line per field (tyro shows it as --help).

Defaults are the paper's (HiPER, arXiv 2602.16165) where it has one; presets name what they change.
Everything is checked once, by `validation.validate`, before anything is compiled. Groups of
settings stand in `hiperjax.options`; import them from here.
"""

import dataclasses
import pathlib
from typing import Literal

from hiperjax.options.acting import PromptConfig, RolloutConfig
from hiperjax.options.curriculum import CurriculumConfig
from hiperjax.options.environment import EnvConfig
from hiperjax.options.judging import JudgeConfig, RubricConfig
from hiperjax.options.learning import CreditConfig, CriticConfig, ImitationConfig, PpoConfig
from hiperjax.options.model import MeshConfig, ModelConfig
from hiperjax.options.parl import ParlConfig
from hiperjax.options.planning import PlanConfig
from hiperjax.options.ranges import ConfigError

__all__ = [
    "ConfigError", "CreditConfig", "CriticConfig", "CurriculumConfig", "EnvConfig", "EvalConfig",
    "ImitationConfig", "JudgeConfig", "MeshConfig", "ModelConfig", "ParlConfig", "PlanConfig",
    "PpoConfig",
    "PromptConfig", "RolloutConfig", "RubricConfig", "RunConfig", "TrackConfig",
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """Evaluation on full, fixed, held-out splits."""

    every: int = 5
    """Iterations between evaluations; the first and last iteration are always evaluated."""
    splits: tuple[str, ...] = ("unseen",)
    """Splits evaluated; the first one chooses the best checkpoint."""
    temperature: float = 0.0
    """0 is greedy (the official validation samples at 0.4)."""
    max_tasks: int | None = None
    """Only the first so many tasks of a split; none means all of it."""


@dataclasses.dataclass(frozen=True)
class TrackConfig:
    """Scalars to an experiment tracker, beside the run folder."""

    to: Literal["none", "wandb", "trackio"] = "none"
    """Which one: it must be installed (extras of the same names)."""
    project: str = "hiperjax"
    """Its project."""


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Everything a run needs."""

    preset: str = ""
    """Name of the preset this run started from; set by the command line."""
    seed: int = 1
    """Seed of everything: weights, games, sampling, minibatches."""
    init: pathlib.Path | None = None
    """Run folder whose policy to start from, instead of imitating again; with imitation.steps 0,
    imitation.rounds go on from it."""
    init_state: Literal["start", "best", "last"] = "start"
    """Which of its states: before its first iteration, the best evaluated, or the newest."""
    iterations: int = 150
    """Iterations (collect + update) after imitation."""
    target: float | None = None
    """Report the first evaluation at or above this success rate (the run goes on)."""
    checkpoint_every: int = 10
    """Iterations between checkpoints; the last one and the best one are always kept."""
    out: pathlib.Path | None = None
    """Run folder; none means runs/PRESET-seedS-DATE-TIME."""
    env: EnvConfig = dataclasses.field(default_factory=EnvConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    prompt: PromptConfig = dataclasses.field(default_factory=PromptConfig)
    plan: PlanConfig = dataclasses.field(default_factory=PlanConfig)
    rollout: RolloutConfig = dataclasses.field(default_factory=RolloutConfig)
    curriculum: CurriculumConfig = dataclasses.field(default_factory=CurriculumConfig)
    imitation: ImitationConfig = dataclasses.field(default_factory=ImitationConfig)
    credit: CreditConfig = dataclasses.field(default_factory=CreditConfig)
    critic: CriticConfig = dataclasses.field(default_factory=CriticConfig)
    judge: JudgeConfig = dataclasses.field(default_factory=JudgeConfig)
    rubric: RubricConfig = dataclasses.field(default_factory=RubricConfig)
    parl: ParlConfig = dataclasses.field(default_factory=ParlConfig)
    ppo: PpoConfig = dataclasses.field(default_factory=PpoConfig)
    eval: EvalConfig = dataclasses.field(default_factory=EvalConfig)
    track: TrackConfig = dataclasses.field(default_factory=TrackConfig)
