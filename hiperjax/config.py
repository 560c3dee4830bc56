"""The run's configuration: frozen dataclasses, one doc line per field (tyro shows it as --help).

Defaults are the paper's (HiPER, arXiv 2602.16165) where it has one; presets name what they change.
Everything is checked once, by `validation.validate`, before anything is compiled.
"""

import dataclasses
import pathlib
from typing import Literal

from hiperjax.estimator_options import EstimatorOptions
from hiperjax.judging_options import JudgeConfig, RubricConfig
from hiperjax.planning_options import PlanConfig

Projection = Literal["q", "k", "v", "o", "gate", "up", "down"]


@dataclasses.dataclass(frozen=True)
class EnvConfig:
    """Which world, and how its environments run."""

    suite: str = "household"
    """Name of the suite: household, alfworld, webshop, ladder/..., or an installed entry point."""
    options: tuple[str, ...] = ()
    """The suite's own options, each KEY=VALUE (see docs/environments.md). The next six fields are
    options that several suites share; one that the suite does not have is refused."""
    size: Literal["tiny", "small", "full"] = "tiny"
    """Size of generated games."""
    task_types: tuple[str, ...] = ()
    """Only these task types; empty means all."""
    games: pathlib.Path | None = None
    """Folder of official game.tw-pddl files."""
    data: pathlib.Path | None = None
    """Folder of official WebShop files (suite webshop); none means the shipped catalogue."""
    goals: Literal["synthetic", "human"] = "synthetic"
    """WebShop goals: written by a template, or by people."""
    profile: Literal["strict", "hiper"] = "strict"
    """WebShop profile: ours, or the original's quirks."""
    max_turns: int | None = None
    """Turn limit of an episode; none means the suite's usual one."""
    backend: Literal["inline", "threads", "process", "ray"] = "inline"
    """Where environments run: in this process, in its threads (for worlds that wait), in worker
    processes, or in Ray actors."""
    num_workers: int = 2
    """Threads, worker processes or actors, for the backends that have them."""
    step_timeout: float = 60.0
    """Seconds that one step or reset of an environment may take; past it the worker is replaced and
    its episodes are lost. 0: no limit. backend inline has none: it cannot stop what runs in it."""
    max_failure_rate: float = 0.05
    """Stop the run when a larger share of an iteration's or an evaluation's episodes is lost in the
    environment."""


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The policy network: a folder with weights, or a small one from random weights."""

    folder: pathlib.Path | None = None
    """Hugging Face checkpoint folder; its config and tokenizer then replace the sizes below."""
    shape: str | None = None
    """Published architecture by name (qwen2.5-1.5b, qwen3-4b, ...), for plans, and with
    random_weights for speed tests; replaces the sizes below."""
    random_weights: bool = False
    """Run a published shape with random weights, which learn nothing useful."""
    tokenizer: pathlib.Path | None = None
    """Tokenizer folder for random weights; none trains one on the suite's words."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of activations and matrix products."""
    remat: Literal["none", "dots", "full", "auto"] = "none"
    """What the backward pass computes again instead of keeping it: nothing, all but products with
    weights, each layer; auto: dots where a device has 80 GB and more, elsewhere full."""
    attention: Literal["auto", "xla", "cudnn", "splash"] = "auto"
    """Attention of whole rows. auto: cudnn on an NVIDIA GPU in bfloat16, splash on a TPU, elsewhere
    xla, the only one that keeps scores. Decoding stays with xla."""
    decode_unroll: int = 1
    """Layers unrolled per step of the decode loop over layers."""
    lora_rank: int = 0
    """Rank of low-rank adapters: only they are trained, beside a frozen base that is kept in
    `dtype`; 0 trains everything."""
    lora_alpha: float = 32.0
    """Adapters act with weight lora_alpha / lora_rank."""
    lora_targets: tuple[Projection, ...] = ("q", "k", "v", "o", "gate", "up", "down")
    """Projections that carry an adapter."""
    hidden_size: int = 64
    """Width."""
    intermediate_size: int = 176
    """Width of the SwiGLU layer."""
    num_layers: int = 3
    """Blocks."""
    num_heads: int = 4
    """Query heads."""
    num_kv_heads: int = 2
    """Key-value heads."""
    embedding_std: float = 0.06
    """Spread of the initial embedding, which is then scaled by the square root of the width."""


@dataclasses.dataclass(frozen=True)
class PromptConfig:
    """What the model is shown."""

    style: str = "chat"
    """chat (for language models), brief (half the tokens, for small ones), compact (few words, for
    tiny models from random weights), or an installed format."""
    example: bool = False
    """Show the suite's worked example after the rules: small models need one to hold the format."""
    history_length: int = 2
    """Past turns shown."""
    recall_length: int = 0
    """Older turns still searched: compact shows the commands that met a thing of the task, chat all
    of them without their observations."""
    mark_tried: bool = False
    """Mark the commands in the list that the episode has sent before (style compact)."""
    prompt_length: int = 2048
    """Tokens a prompt may have; beyond, its oldest history is dropped, and counted."""
    overlong: Literal["discard", "trim"] = "trim"
    """A prompt too long even without history: cut the end of the observation's text, or discard the
    episode. Both are counted; task, subgoal, actions and chosen options are never cut."""
    reply_length: int = 512
    """Tokens a reply may have; beyond, it is cut and counts as malformed."""
    window: Literal["turn", "subgoal", "episode"] = "turn"
    """Turns that share one growing context: each by itself (the paper's), all until the turn after
    a switch, or the whole episode. Later turns of a window append what has changed."""
    window_length: int = 4096
    """Tokens a growing context may have before a reply, the prefix that all share left out; beyond,
    the next turn opens a new one, which is counted. Packed sequences are made as long as that
    takes, and fewer in each optimizer step."""
    strict_format: bool = True
    """Refuse text outside the three blocks."""
    rewrite_on_keep: bool = False
    """The official code's behavior: text written on KEEP replaces the subgoal in force."""


@dataclasses.dataclass(frozen=True)
class RolloutConfig:
    """How episodes are collected."""

    episodes: int = 128
    """Episodes per iteration."""
    group_size: int = 1
    """Episodes of one task, for estimators that compare within a group."""
    slots: int = 64
    """Episodes that decode side by side."""
    decode_chunk: int = 16
    """Tokens decoded under one dispatch at most."""
    refill: int = 0
    """A dispatch ends as soon as so many slots have finished their reply; 0: an eighth of them, at
    least 4 and at most 8."""
    prefill_rows: int = 4
    """Prompts of a prefill, of similar length; on a CPU 4 stay in the cache."""
    pipeline_groups: int = 1
    """Slot groups: the device decodes one while the host steps another's environments. 2 pays where
    the device is fast, and on a CPU of two cores and more."""
    engine: str = "native"
    """What decodes replies: native, or MODULE:NAME of what makes engines (docs/extending.md)."""
    temperature: float = 1.0
    """Sampling temperature in training; the policy that learns is the tempered one."""
    top_p: float = 1.0
    """Nucleus mass kept in training; 1 keeps everything."""


@dataclasses.dataclass(frozen=True)
class ImitationConfig:
    """Behavior cloning of the scripted expert, before reinforcement learning."""

    steps: int = 0
    """Optimizer steps at most; 0 skips imitation."""
    episodes: int = 3000
    """Expert episodes to imitate, over and over; 0 streams them instead: each is played, learned
    from once and forgotten."""
    workers: int = 0
    """Processes that play what is streamed while the optimizer runs; 0: this one plays too."""
    noise: float = 0.1
    """Share of random actions in the expert's episodes (their labels included)."""
    mistakes: float = 0.0
    """Share of turns at which the world is given a plausible mistake instead of what is imitated,
    so that what follows shows the way out."""
    sequences: int = 14
    """Packed sequences per step (see ppo.sequence_length)."""
    learning_rate: float = 3e-3
    """Peak learning rate (cosine to zero)."""
    holdout: float = 0.03
    """Share of episodes held out to measure the loss."""
    check_every: int = 100
    """Steps between measurements of the held-out loss."""
    stop_loss: float = 0.0
    """Stop as soon as the held-out loss is this low: a mediocre start, left to be improved on."""
    rounds: int = 0
    """After `steps`, rounds on the policy's own episodes, labelled by the expert turn by turn
    (DAgger), at rollout.temperature and greedily in turn; for streamed imitation, prompt.window
    turn."""
    round_episodes: int = 120
    """Own episodes per round."""
    round_steps: int = 80
    """Optimizer steps per round: its own episodes' turns, filled up with the expert's."""
    patience: int = 3
    """Measurements without a new best held-out loss before imitation stops early."""


@dataclasses.dataclass(frozen=True)
class CreditConfig(EstimatorOptions):
    """From rewards to advantages."""

    estimator: str = "hae"
    """Name in the estimator registry: hae, hae_paper, flat_gae, flat_token_gae, grpo, gigpo, ..."""
    compare_every: int = 0
    """Iterations between comparisons of all estimators on the batch at hand, logged under compare/;
    0 is never."""
    bootstrap: Literal["proper", "last_turn", "none"] = "proper"
    """After a truncated episode: the critic's value of the state after its last turn; the official
    approximation by values of turns already acted; or zero, as if the cut were an end."""
    reward_scale: float = 10.0
    """The environment's reward is multiplied by this."""
    malformed_penalty: float = 0.1
    """Subtracted at a turn whose reply is malformed."""
    inadmissible_penalty: float = 0.0
    """Subtracted at a well-formed turn whose action is not in the admissible list."""
    keep_penalty: float = 0.0
    """Subtracted on KEEP turns (the official recipe: 0.3)."""
    keep_penalty_mode: Literal["fixed", "normalized"] = "normalized"
    """fixed: at every KEEP turn; normalized: divided by the episode's turns."""
    consistency_penalty: float = 0.0
    """Subtracted where a KEEP turn rewrites the subgoal in force."""
    switch_cost: float = 0.0
    """Taken off the switch stream's advantage where the planner switched (deliberation cost): the
    price of that decision alone, in shaped reward. Hierarchical estimators."""
    train: Literal["all", "planner", "executor"] = "all"
    """Whose tokens are in the loss: switch and subgoal blocks (planner), action blocks (executor),
    all. Both are one network: what is not in the loss still moves with it."""
    checklist_reward: Literal["off", "replace", "add", "potential"] = "off"
    """What the task's checklist pays, of at most 1 per episode (times reward_scale): nothing; its
    criteria, in place of the environment's reward or beside it; or beside it as a potential."""
    whitening: Literal["standard", "scale", "none"] = "standard"
    """Each stream over its own turns: to mean 0 and spread 1, spread only, or not at all."""
    weight_low: float = 1.0
    """Weight of the action stream."""
    weight_high: float = 1.0
    """Weight of the subgoal stream."""
    weight_term: float = 1.0
    """Weight of the switch stream."""


@dataclasses.dataclass(frozen=True)
class CriticConfig:
    """The three value heads: low, high, term."""

    kind: Literal["features", "shared", "separate", "lora"] = "separate"
    """features: least squares on the policy's frozen features; shared: heads on the policy's trunk,
    value gradients included; separate: heads on a network of their own, 12 bytes per parameter of
    the policy and 4 more while it learns; lora: heads on adapters of their own beside the policy's
    frozen base, 12 bytes per adapter parameter. features and shared cost next to nothing."""
    ridge: float = 30.0
    """features: strength of the ridge penalty, in rows' worth of evidence."""
    random_features: int = 192
    """features: fixed random ReLU features added to the hidden state."""
    memory: int = 6
    """features: batches the fit remembers."""
    first_fits: int = 6
    """features: refits on the first batch, before the first policy step."""
    fits: int = 2
    """features: refits on each later batch."""
    learning_rate: float = 1e-5
    """shared, separate, lora: learning rate of the heads (and of the critic's own network)."""
    warmup_epochs: int = 4
    """shared, separate, lora: passes over the first batch before the first policy step."""
    value_clip: float | None = None
    """shared, separate, lora: largest rewarded move of a value (official: 0.5); none: free."""
    coefficient: float = 1.0
    """shared: weight of the value loss beside the policy's."""


@dataclasses.dataclass(frozen=True)
class PpoConfig:
    """The policy update."""

    learning_rate: float = 1e-6
    """Learning rate after the warm-up."""
    learning_rate_end: float = 1.0
    """Share of it left at the run's last iteration, to which it falls in a straight line."""
    warmup_steps: int = 0
    """Optimizer steps over which the learning rate rises."""
    beta2: float = 0.999
    """Adam's second decay."""
    weight_decay: float = 0.01
    """Decoupled weight decay."""
    grad_clip: float = 1.0
    """Largest global gradient norm."""
    epochs: int = 1
    """Passes over a batch."""
    sequence_length: int = 2560
    """Tokens of a packed sequence; grows where a single turn is longer."""
    sequence_turns: int = 8
    """Turns packed into one sequence at most."""
    minibatch_sequences: int = 48
    """Packed sequences per optimizer step: with five to six turns in each, the paper's 256."""
    micro_sequences: int = 0
    """Sequences a forward pass; gradients add up to the minibatch's. 0: the whole minibatch. On a
    CPU about 500 tokens stay in the cache; on an accelerator, what its memory holds."""
    mismatch_bound: float = 0.02
    """Largest mean difference between sampler's and learner's log-probs at which the sampler's
    serve as old ones; beyond, they are computed anew, and `rescored` says so."""
    clip: float = 0.2
    """Clip range of the importance ratio."""
    dual_clip: float = 3.0
    """Bound on the loss of negative advantages, in advantages."""
    kl_coefficient: float = 0.01
    """Weight of the k3 KL to the reference policy (the one training started from)."""
    entropy_coefficient: float = 0.001
    """Weight of the entropy bonus."""
    switch_rate_coefficient: float = 0.0
    """Weight of the squared distance between mean switch probability and its target; 0 is off."""
    switch_rate_target: float = 0.2
    """Target of that regularizer (turn 0 does not count)."""
    max_skipped_steps: int = 10
    """Stop after this many consecutive optimizer steps with a non-finite gradient."""


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
class MeshConfig:
    """The devices of a run. As it stands: one process, its first device."""

    data: int = 1
    """Copies of the model; -1: as many as the devices allow."""
    fsdp: int = 1
    """Ways that parameters, gradients and optimizer state are split."""
    tensor: int = 1
    """Ways that heads and hidden units are split."""
    distributed: bool = False
    """Join the run's other processes, found by themselves: TPU pods, Slurm, Open MPI."""
    coordinator: str | None = None
    """Elsewhere: HOST:PORT of process 0; with it goes mesh.num-processes, mesh.process-id."""
    num_processes: int | None = None
    """Processes of the run."""
    process_id: int | None = None
    """Number of this process, from 0."""


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
    env: EnvConfig = EnvConfig()
    model: ModelConfig = ModelConfig()
    mesh: MeshConfig = MeshConfig()
    prompt: PromptConfig = PromptConfig()
    plan: PlanConfig = dataclasses.field(default_factory=PlanConfig)
    rollout: RolloutConfig = RolloutConfig()
    imitation: ImitationConfig = ImitationConfig()
    credit: CreditConfig = CreditConfig()
    critic: CriticConfig = CriticConfig()
    judge: JudgeConfig = dataclasses.field(default_factory=JudgeConfig)
    rubric: RubricConfig = dataclasses.field(default_factory=RubricConfig)
    ppo: PpoConfig = PpoConfig()
    eval: EvalConfig = EvalConfig()
    track: TrackConfig = TrackConfig()


class ConfigError(ValueError):
    """A setting that cannot be, or an impossible combination of them."""
