"""What numbers may be: a range for each setting and each argument of a command.

A comparison with NaN is false, so a range refuses it; infinity lies outside of every one.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any


class ConfigError(ValueError):
    """A setting that cannot be, or an impossible combination of them."""


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
    "rollout.rounds": _count(1, 1000),
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
    "curriculum.decay": SHARE,
    "curriculum.exponent": Range(0, 10),
    "curriculum.floor": SHARE,
    "curriculum.open_at": SHARE,
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
    "parl.lambda_parallel": WEIGHT,
    "parl.lambda_finish": WEIGHT,
    "parl.anneal": Range(0, 1e6, open_low=True),
    "parl.width": COUNT,
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
    "ppo.clip_high": Range(0, 1e6, open_low=True),
    "ppo.dual_clip": Range(1, 1e6),
    "ppo.square_penalty": WEIGHT,
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
            require(ARGUMENTS[name].holds(value), f"{flag} is {value}; expected {ARGUMENTS[name]}")


def list_settings(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of a configuration."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from list_settings(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", value


def require(holds: bool, message: str) -> None:
    if not holds:
        raise ConfigError(message)


def check_ranges(config: Any) -> None:
    """Refuse numbers out of their range.

    Raises:
      ConfigError: names the field, what was found, what is expected.
    """
    for name, value in list_settings(config):
        if name in RANGES and value is not None:
            require(RANGES[name].holds(value), f"{name} is {value}; expected {RANGES[name]}")
        elif isinstance(value, float):  # a suite's own options may bring some
            require(math.isfinite(value), f"{name} is {value}; expected a finite number")
