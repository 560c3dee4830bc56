"""What settings may be: a range for every number, and the combinations that are refused.

All of it is checked at once, before anything slow. A comparison with NaN is false, so a range
refuses it; infinity lies outside of every one.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

from hiperjax.config import ConfigError, ModelConfig, PromptConfig, RunConfig
from hiperjax.judging_options import JudgeConfig
from hiperjax.planning_options import BASE


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers a setting may have, its ends included unless said."""

    low: int | float
    high: int | float
    open_low: bool = False
    open_high: bool = False
    whole: bool = False
    why: str = ""

    def holds(self, value: object) -> bool:
        """Whether this is such a number; True and False are none."""
        kinds = (int,) if self.whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds):
            return False
        above = value > self.low if self.open_low else value >= self.low
        return above and (value < self.high if self.open_high else value <= self.high)

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        low = f"{'above' if self.open_low else 'from'} {self.low:g}"
        high = f"{'below' if self.open_high else 'to'} {self.high:.10g}"
        return f"{kind} {low} {high}{f': {self.why}' if self.why else ''}"


LARGEST = 2**31 - 1


def _count(low: int, high: int = LARGEST) -> Range:
    return Range(low, high, whole=True)


SHARE, COUNT, COUNT_OR_NONE = Range(0, 1), _count(1), _count(0)
RATE, WEIGHT, POSITIVE = Range(0, 10), Range(0, 1e6), Range(0, 1e6, open_low=True)
AT_ONCE = _count(1, 1_000_000)  # what memory is taken for at the start: far above any machine's
DEVICES = Range(-1, LARGEST, whole=True, why="-1 is as many as the devices allow")

RANGES: dict[str, Range] = {
    "seed": COUNT_OR_NONE,
    "iterations": COUNT_OR_NONE,
    "target": SHARE,
    "checkpoint_every": COUNT,
    "env.max_turns": COUNT,
    "env.num_workers": _count(1, 10_000),
    "env.step_timeout": Range(0, 1e6),
    "env.max_failure_rate": SHARE,
    "model.decode_unroll": COUNT,
    "model.lora_rank": _count(0, 1_000_000),
    "model.lora_alpha": POSITIVE,
    "model.hidden_size": AT_ONCE,
    "model.intermediate_size": AT_ONCE,
    "model.num_layers": _count(1, 10_000),
    "model.num_heads": _count(1, 10_000),
    "model.num_kv_heads": _count(1, 10_000),
    "model.embedding_std": POSITIVE,
    "mesh.data": DEVICES,
    "mesh.fsdp": DEVICES,
    "mesh.tensor": DEVICES,
    "mesh.num_processes": COUNT,
    "mesh.process_id": COUNT_OR_NONE,
    "prompt.history_length": COUNT_OR_NONE,
    "prompt.recall_length": COUNT_OR_NONE,
    "prompt.prompt_length": COUNT,
    "prompt.reply_length": COUNT,
    "prompt.window_length": COUNT,
    "plan.every": COUNT,
    "plan.switch_rate": SHARE,
    "rollout.episodes": AT_ONCE,
    "rollout.group_size": AT_ONCE,
    "rollout.slots": AT_ONCE,
    "rollout.decode_chunk": COUNT,
    "rollout.refill": COUNT_OR_NONE,
    "rollout.prefill_rows": AT_ONCE,
    "rollout.pipeline_groups": AT_ONCE,
    "rollout.temperature": Range(0.001, 100, why="training must sample (greedy has no ratio)"),
    "rollout.top_p": Range(0, 1, open_low=True),
    "imitation.steps": COUNT_OR_NONE,
    "imitation.episodes": COUNT_OR_NONE,
    "imitation.workers": COUNT_OR_NONE,
    "imitation.rounds": COUNT_OR_NONE,
    "imitation.round_episodes": COUNT,
    "imitation.round_steps": COUNT,
    "imitation.noise": SHARE,
    "imitation.mistakes": SHARE,
    "imitation.sequences": AT_ONCE,
    "imitation.learning_rate": RATE,
    "imitation.holdout": Range(0, 1, open_high=True),
    "imitation.check_every": COUNT,
    "imitation.stop_loss": WEIGHT,
    "imitation.patience": COUNT,
    "credit.compare_every": COUNT_OR_NONE,
    "credit.gamma": SHARE,
    "credit.lambda_turn": SHARE,
    "credit.lambda_segment": SHARE,
    "credit.lambda_boundary": SHARE,
    "credit.lambda_token": SHARE,
    "credit.reward_scale": WEIGHT,
    "credit.malformed_penalty": WEIGHT,
    "credit.inadmissible_penalty": WEIGHT,
    "credit.keep_penalty": WEIGHT,
    "credit.consistency_penalty": WEIGHT,
    "credit.switch_cost": WEIGHT,
    "credit.row_penalty": WEIGHT,
    "credit.step_weight": WEIGHT,
    "credit.history": COUNT_OR_NONE,
    "credit.history_exponent": Range(-100, 100),
    "credit.distance_decay": SHARE,
    "credit.drop_one_sided": Range(0, 2),
    "credit.success_reward": WEIGHT,
    "credit.weight_low": WEIGHT,
    "credit.weight_high": WEIGHT,
    "credit.weight_term": WEIGHT,
    "critic.ridge": Range(1e-30, 1e9),
    "critic.random_features": _count(0, 1_000_000),
    "critic.memory": COUNT,
    "critic.first_fits": COUNT_OR_NONE,
    "critic.fits": COUNT_OR_NONE,
    "critic.learning_rate": RATE,
    "critic.warmup_epochs": COUNT_OR_NONE,
    "critic.value_clip": POSITIVE,
    "critic.coefficient": WEIGHT,
    "judge.concurrency": COUNT,
    "judge.timeout": POSITIVE,
    "judge.retries": COUNT_OR_NONE,
    "judge.attempts": COUNT,
    "judge.max_tokens": COUNT,
    "judge.transcript_length": COUNT,
    "judge.flip": SHARE,
    "judge.max_failure_rate": SHARE,
    "rubric.margin": WEIGHT,
    "rubric.max_malformed": SHARE,
    "rubric.max_inadmissible": SHARE,
    "ppo.learning_rate": RATE,
    "ppo.learning_rate_end": SHARE,
    "ppo.warmup_steps": COUNT_OR_NONE,
    "ppo.beta2": Range(0, 1, open_high=True),
    "ppo.weight_decay": RATE,
    "ppo.grad_clip": Range(0, 1e9, open_low=True),
    "ppo.epochs": COUNT,
    "ppo.sequence_length": COUNT,
    "ppo.sequence_turns": COUNT,
    "ppo.minibatch_sequences": AT_ONCE,
    "ppo.micro_sequences": COUNT_OR_NONE,
    "ppo.mismatch_bound": WEIGHT,
    "ppo.clip": Range(0, 10, open_low=True),
    "ppo.dual_clip": Range(1, 1e6),
    "ppo.kl_coefficient": WEIGHT,
    "ppo.entropy_coefficient": WEIGHT,
    "ppo.switch_rate_coefficient": WEIGHT,
    "ppo.switch_rate_target": SHARE,
    "ppo.max_skipped_steps": COUNT,
    "eval.every": COUNT,
    "eval.temperature": Range(0, 100),
    "eval.max_tasks": COUNT,
}
"""Dotted name of every number of `RunConfig` -> what it may be; where None is allowed, it is."""


ARGUMENTS: dict[str, Range] = {
    "count": AT_ONCE,
    "delay": Range(0, 3600),
    "dpi": _count(1, 10_000),
    "every": COUNT,
    "height": Range(0, 1000, open_low=True),
    "iteration": COUNT_OR_NONE,
    "iterations": COUNT,
    "live": COUNT_OR_NONE,
    "max_tasks": COUNT,
    "number": COUNT_OR_NONE,
    "port": _count(0, 65_535),
    "seed": COUNT_OR_NONE,
    "skip": COUNT_OR_NONE,
    "switch_rate": SHARE,
    "temperature": Range(0, 100),
    "tolerance": Range(0, 1e6),
    "turns": Range(0, 1e6, open_low=True),
    "width": Range(0, 1000, open_low=True),
}
"""Every number that a command takes besides settings -> what it may be."""


def check_arguments(arguments: Mapping[str, object]) -> None:
    """Refuse numbers out of their range; what is no number passes.

    Raises:
      ConfigError: names the argument, what was found, what is expected.
    """
    for name, value in arguments.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            flag = f"--{name.replace('_', '-')}"
            _require(ARGUMENTS[name].holds(value), f"{flag} is {value}; expected {ARGUMENTS[name]}")


def list_settings(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of a configuration."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from list_settings(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", value


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ConfigError(message)


def validate(config: RunConfig) -> RunConfig:
    """Refuse numbers out of their range and impossible combinations.

    Raises:
      ConfigError: names the fields, what was found, what is expected.
    """
    check_ranges(config)
    _check_model(config.model, config.critic.kind)
    _check_batches(config)
    _check_windows(config.prompt)
    _check_boundaries(config)
    _check_executor(config)
    _check_judge(config.judge)
    _check_rubric(config)
    _require(bool(config.eval.splits), "eval.splits is empty; expected at least one split")
    m = config.mesh
    for name in ("data", "fsdp", "tensor"):
        _require(getattr(m, name) != 0, f"mesh.{name} is 0; expected at least 1, or -1")
    return config


def check_ranges(config: RunConfig) -> None:
    """Refuse numbers out of their range.

    Raises:
      ConfigError: names the field, what was found, what is expected.
    """
    for name, value in list_settings(config):
        if name in RANGES and value is not None:
            _require(RANGES[name].holds(value), f"{name} is {value}; expected {RANGES[name]}")
        elif isinstance(value, float):  # a suite's own options may bring some
            _require(math.isfinite(value), f"{name} is {value}; expected a finite number")


def _check_batches(config: RunConfig) -> None:
    """Counts that must divide one another, or leave something over."""
    r, p, i = config.rollout, config.ppo, config.imitation
    _require(
        r.episodes % r.group_size == 0,
        f"rollout.episodes is {r.episodes}; expected a multiple of rollout.group_size "
        f"{r.group_size}",
    )
    slots = r.slots // (config.mesh.num_processes or 1)
    _require(
        r.pipeline_groups <= slots,
        f"rollout.pipeline_groups is {r.pipeline_groups}; expected at most the {slots} slots "
        f"of a process (rollout.slots is {r.slots})",
    )
    _require(
        p.micro_sequences == 0 or p.minibatch_sequences % p.micro_sequences == 0,
        f"ppo.minibatch_sequences is {p.minibatch_sequences}; expected a multiple of "
        f"ppo.micro_sequences {p.micro_sequences}",
    )
    _require(
        i.rounds == 0 or (i.episodes == 0 and config.prompt.window == "turn"),
        f"imitation.rounds is {i.rounds} with imitation.episodes {i.episodes}, prompt.window "
        f"{config.prompt.window}; expected episodes 0 (streamed) and window turn",
    )
    held = max(1, round(i.holdout * i.episodes))
    _require(
        i.steps == 0 or i.episodes == 0 or held < i.episodes,
        f"imitation.episodes is {i.episodes}, imitation.holdout {i.holdout}, which holds {held} "
        "out; expected some to be left to imitate",
    )


def _check_boundaries(config: RunConfig) -> None:
    """What is paid for or pulled on where the planner decides means nothing where a rule does."""
    rule, c, p = config.plan.boundaries, config.credit, config.ppo
    for name, value in (
        ("credit.keep_penalty", c.keep_penalty),
        ("credit.switch_cost", c.switch_cost),
        ("ppo.switch_rate_coefficient", p.switch_rate_coefficient),
    ):
        _require(
            rule == "learned" or value == 0,
            f"{name} is {value} with plan.boundaries {rule}; expected 0: the rule keeps and "
            "switches, not the planner",
        )
    _require(
        c.train != "executor" or p.switch_rate_coefficient == 0,
        f"ppo.switch_rate_coefficient is {p.switch_rate_coefficient} with credit.train executor; "
        "expected 0: it pulls on switch blocks, which are the planner's",
    )


def _check_executor(config: RunConfig) -> None:
    """A frozen executor is none of what the run trains, and decodes by itself."""
    plan, m = config.plan, config.mesh
    if plan.executor is None:
        _require(
            plan.context == "same",
            f"plan.context is {plan.context} without plan.executor; expected an executor, which is "
            "shown the subgoal alone",
        )
        return
    where = f"with plan.executor {plan.executor}"
    _require(
        config.credit.train == "planner",
        f"credit.train is {config.credit.train} {where}; expected planner: what a frozen executor "
        "writes is not learned from",
    )
    _require(
        config.prompt.window == "turn",
        f"prompt.window is {config.prompt.window} {where}; expected turn: no context grows in two "
        "places",
    )
    _require(
        plan.executor != BASE or config.model.lora_rank > 0,
        f"plan.executor is {BASE} with model.lora_rank 0; expected adapters, or a run folder or "
        "agent:NAME",
    )
    single = (m.data, m.fsdp, m.tensor) == (1, 1, 1) and not (m.distributed or m.coordinator)
    _require(single, f"mesh is {m} {where}; expected one process and one device")


def _check_judge(j: JudgeConfig) -> None:
    _require(
        (j.kind == "callable") == bool(j.function),
        f"judge.kind is {j.kind}, judge.function {j.function!r}; expected a function exactly where "
        "the judge is a callable",
    )


def _check_rubric(config: RunConfig) -> None:
    _require(
        config.rubric.reward == "off" or config.rollout.group_size > 1,
        f"rubric.reward is {config.rubric.reward} with rollout.group_size "
        f"{config.rollout.group_size}; expected at least 2: episodes of one task are compared",
    )


def _check_windows(t: PromptConfig) -> None:
    _require(
        t.window == "turn" or t.window_length >= t.prompt_length,
        f"prompt.window_length is {t.window_length}, and a prompt may have {t.prompt_length} "
        "tokens; expected a window that holds at least one prompt: raise it or lower "
        "prompt.prompt_length",
    )


def _check_model(m: ModelConfig, critic: str) -> None:
    _require(
        m.attention != "cudnn" or m.dtype == "bfloat16",
        f"model.attention is {m.attention} with model.dtype {m.dtype}; cudnn wants bfloat16",
    )
    _require(
        m.hidden_size % m.num_heads == 0,
        f"model.hidden_size is {m.hidden_size}; expected a multiple of "
        f"model.num_heads {m.num_heads}",
    )
    _require(
        m.hidden_size // m.num_heads % 2 == 0,
        f"model.hidden_size is {m.hidden_size}, model.num_heads {m.num_heads}, so a head has "
        f"{m.hidden_size // m.num_heads} features; rotary positions need an even number",
    )
    _require(
        m.num_heads % m.num_kv_heads == 0,
        f"model.num_heads is {m.num_heads}; expected a multiple of "
        f"model.num_kv_heads {m.num_kv_heads}",
    )
    _require(
        critic != "lora" or m.lora_rank > 0,
        "critic.kind is lora, model.lora_rank 0; expected a rank: the critic's adapters stand on "
        "the frozen base of the policy's",
    )
    _require(
        critic != "separate" or m.lora_rank == 0,
        f"critic.kind is separate, model.lora_rank {m.lora_rank}; a whole network beside adapters "
        "saves nothing: expected critic.kind lora, shared or features",
    )
    _require(
        m.lora_rank == 0 or bool(m.lora_targets),
        f"model.lora_rank is {m.lora_rank}, model.lora_targets empty; expected some projections",
    )
