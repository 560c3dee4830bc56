"""The combinations of settings that are refused; ranges of single numbers: `options.ranges`.

All of it is checked at once, before anything slow.
"""

import math

from hiperjax.config import CurriculumConfig, ModelConfig, PpoConfig, PromptConfig, RunConfig
from hiperjax.options.judging import JudgeConfig
from hiperjax.options.planning import BASE
from hiperjax.options.ranges import check_ranges, require


def validate(config: RunConfig) -> RunConfig:
    """Refuse numbers out of their range and impossible combinations.

    Raises:
      ConfigError: names the fields, what was found, what is expected.
    """
    check_ranges(config)
    _check_model(config.model, config.critic.kind)
    _check_batches(config)
    _check_rounds(config)
    _check_windows(config.prompt)
    _check_curriculum(config.curriculum)
    _check_boundaries(config)
    _check_executor(config)
    _check_judge(config.judge)
    _check_rubric(config)
    _check_clip(config.ppo)
    require(bool(config.eval.splits), "eval.splits is empty; expected at least one split")
    m = config.mesh
    for name in ("data", "fsdp", "tensor"):
        require(getattr(m, name) != 0, f"mesh.{name} is 0; expected at least 1, or -1")
    return config


def _check_batches(config: RunConfig) -> None:
    """Counts that must divide one another, or leave something over."""
    r, p, i = config.rollout, config.ppo, config.imitation
    require(
        r.episodes % r.group_size == 0,
        f"rollout.episodes is {r.episodes}; expected a multiple of rollout.group_size "
        f"{r.group_size}",
    )
    slots = r.slots // (config.mesh.num_processes or 1)
    require(
        r.pipeline_groups <= slots,
        f"rollout.pipeline_groups is {r.pipeline_groups}; expected at most the {slots} slots "
        f"of a process (rollout.slots is {r.slots})",
    )
    require(
        p.micro_sequences == 0 or p.minibatch_sequences % p.micro_sequences == 0,
        f"ppo.minibatch_sequences is {p.minibatch_sequences}; expected a multiple of "
        f"ppo.micro_sequences {p.micro_sequences}",
    )
    require(
        i.rounds == 0 or (i.episodes == 0 and config.prompt.window == "turn"),
        f"imitation.rounds is {i.rounds} with imitation.episodes {i.episodes}, prompt.window "
        f"{config.prompt.window}; expected episodes 0 (streamed) and window turn",
    )
    held = max(1, round(i.holdout * i.episodes))
    require(
        i.steps == 0 or i.episodes == 0 or held < i.episodes,
        f"imitation.episodes is {i.episodes}, imitation.holdout {i.holdout}, which holds {held} "
        "out; expected some to be left to imitate",
    )


def _check_curriculum(c: CurriculumConfig) -> None:
    require(
        not c.weights or c.kind == "horizon",
        f"curriculum.weights is {c.weights} with curriculum.kind {c.kind}; expected horizon, whose "
        "strata they are of",
    )
    require(
        not c.weights or (min(c.weights) >= 0 and 0 < sum(c.weights) < math.inf),
        f"curriculum.weights is {c.weights}; expected numbers from 0, some above",
    )


def _check_rounds(config: RunConfig) -> None:
    """Groups are kept or dropped by the world's own reward, as soon as they are played."""
    r = config.rollout
    if r.rounds == 1:
        return
    require(
        r.group_size > 1,
        f"rollout.rounds is {r.rounds} with rollout.group_size {r.group_size}; expected at least 2 "
        "episodes of a task: a group of one always agrees",
    )
    for name, value, none in (
        ("credit.checklist_reward", config.credit.checklist_reward, "off"),
        ("rubric.reward", config.rubric.reward, "off"),
        ("parl.lambda_parallel", config.parl.lambda_parallel, 0.0),
        ("parl.lambda_finish", config.parl.lambda_finish, 0.0),
    ):
        require(
            value == none,
            f"{name} is {value} with rollout.rounds {r.rounds}; expected {none}: groups are kept "
            "or dropped by the world's own reward, before anything else is paid",
        )


def _check_boundaries(config: RunConfig) -> None:
    """What is paid for or pulled on where the planner decides means nothing where a rule does."""
    rule, c, p = config.plan.boundaries, config.credit, config.ppo
    for name, value in (
        ("credit.keep_penalty", c.keep_penalty),
        ("credit.switch_cost", c.switch_cost),
        ("ppo.switch_rate_coefficient", p.switch_rate_coefficient),
    ):
        require(
            rule == "learned" or value == 0,
            f"{name} is {value} with plan.boundaries {rule}; expected 0: the rule keeps and "
            "switches, not the planner",
        )
    require(
        c.train != "executor" or p.switch_rate_coefficient == 0,
        f"ppo.switch_rate_coefficient is {p.switch_rate_coefficient} with credit.train executor; "
        "expected 0: it pulls on switch blocks, which are the planner's",
    )


def _check_executor(config: RunConfig) -> None:
    """A frozen executor is none of what the run trains, and decodes by itself."""
    plan, m = config.plan, config.mesh
    if plan.executor is None:
        require(
            plan.context == "same",
            f"plan.context is {plan.context} without plan.executor; expected an executor, which is "
            "shown the subgoal alone",
        )
        return
    where = f"with plan.executor {plan.executor}"
    require(
        config.credit.train == "planner",
        f"credit.train is {config.credit.train} {where}; expected planner: what a frozen executor "
        "writes is not learned from",
    )
    require(
        config.prompt.window == "turn",
        f"prompt.window is {config.prompt.window} {where}; expected turn: no context grows in two "
        "places",
    )
    require(
        plan.executor != BASE or config.model.lora_rank > 0,
        f"plan.executor is {BASE} with model.lora_rank 0; expected adapters, or a run folder or "
        "agent:NAME",
    )
    single = (m.data, m.fsdp, m.tensor) == (1, 1, 1) and not (m.distributed or m.coordinator)
    require(single, f"mesh is {m} {where}; expected one process and one device")


def _check_judge(j: JudgeConfig) -> None:
    require(
        (j.kind == "callable") == bool(j.function),
        f"judge.kind is {j.kind}, judge.function {j.function!r}; expected a function exactly where "
        "the judge is a callable",
    )


def _check_rubric(config: RunConfig) -> None:
    require(
        config.rubric.reward == "off" or config.rollout.group_size > 1,
        f"rubric.reward is {config.rubric.reward} with rollout.group_size "
        f"{config.rollout.group_size}; expected at least 2: episodes of one task are compared",
    )


def _check_clip(p: PpoConfig) -> None:
    low, high = p.band
    require(
        -1e6 <= low < 0 < high <= 1e6,
        f"ppo.band is {low} {high}; expected a log ratio below 0 and one above it",
    )
    require(
        p.clip_mode == "log_band" or p.square_penalty == 0,
        f"ppo.square_penalty is {p.square_penalty} with ppo.clip_mode {p.clip_mode}; expected 0, "
        "or clip_mode log_band, whose term it is",
    )
    require(
        p.clip_mode == "ratio" or p.clip_high is None,
        f"ppo.clip_high is {p.clip_high} with ppo.clip_mode {p.clip_mode}; expected none: the band "
        "has two ends of its own",
    )


def _check_windows(t: PromptConfig) -> None:
    require(
        t.window == "turn" or t.window_length >= t.prompt_length,
        f"prompt.window_length is {t.window_length}, and a prompt may have {t.prompt_length} "
        "tokens; expected a window that holds at least one prompt: raise it or lower "
        "prompt.prompt_length",
    )


def _check_model(m: ModelConfig, critic: str) -> None:
    require(
        m.attention != "cudnn" or m.dtype == "bfloat16",
        f"model.attention is {m.attention} with model.dtype {m.dtype}; cudnn wants bfloat16",
    )
    require(
        m.hidden_size % m.num_heads == 0,
        f"model.hidden_size is {m.hidden_size}; expected a multiple of "
        f"model.num_heads {m.num_heads}",
    )
    require(
        m.hidden_size // m.num_heads % 2 == 0,
        f"model.hidden_size is {m.hidden_size}, model.num_heads {m.num_heads}, so a head has "
        f"{m.hidden_size // m.num_heads} features; rotary positions need an even number",
    )
    require(
        m.num_heads % m.num_kv_heads == 0,
        f"model.num_heads is {m.num_heads}; expected a multiple of "
        f"model.num_kv_heads {m.num_kv_heads}",
    )
    require(
        critic != "lora" or m.lora_rank > 0,
        "critic.kind is lora, model.lora_rank 0; expected a rank: the critic's adapters stand on "
        "the frozen base of the policy's",
    )
    require(
        critic != "separate" or m.lora_rank == 0,
        f"critic.kind is separate, model.lora_rank {m.lora_rank}; a whole network beside adapters "
        "saves nothing: expected critic.kind lora, shared or features",
    )
    require(
        m.lora_rank == 0 or bool(m.lora_targets),
        f"model.lora_rank is {m.lora_rank}, model.lora_targets empty; expected some projections",
    )
