"""Settings of imitation, credit, critic and the policy update."""

import dataclasses
from typing import Literal

from hiperjax.options.estimators import EstimatorOptions


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
    ratio: Literal["token", "block", "reply"] = "token"
    """What has one importance ratio: each token (PPO), each block of a reply, or the whole reply
    (GSPO, GAGPO); the last two are the geometric mean over its tokens."""
    average: Literal["ratio", "token", "reply", "constant"] = "ratio"
    """What counts alike in the policy loss: every ratio (per token: every token), every token
    (DAPO), every reply (GRPO), or a token however many there are (Dr. GRPO): their sum is divided
    by replies times prompt.reply_length."""
    clip: float = 0.2
    """Clip range of the importance ratio."""
    clip_high: float | None = None
    """Clip range above 1, where it is to be another (DAPO's clip-higher: 0.28); none: clip."""
    dual_clip: float = 3.0
    """Bound on the loss of negative advantages, in advantages."""
    clip_mode: Literal["ratio", "log_band"] = "ratio"
    """What bounds a move of the policy: clip, clip_high and dual_clip; or that what has a log ratio
    outside `band` has no gradient, whatever the advantage's sign (PARL)."""
    band: tuple[float, float] = (-0.2, 0.2)
    """log_band: from where to where; no values are published."""
    square_penalty: float = 0.0
    """log_band: weight of the squared log ratio, at every token."""
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
