"""Named starting points: each differs from the defaults only in what it names."""

import dataclasses
from typing import Any

from hiperjax.config import (
    CreditConfig,
    CriticConfig,
    EnvConfig,
    EvalConfig,
    ImitationConfig,
    ModelConfig,
    ParlConfig,
    PpoConfig,
    PromptConfig,
    RolloutConfig,
    RubricConfig,
    RunConfig,
)

DEFAULT = "household-tiny"

_TINY_CREDIT = CreditConfig(
    gamma=0.97,
    lambda_turn=0.9,
    lambda_segment=0.95,
    lambda_boundary=0.95,
    reward_scale=1.0,
    weight_term=0.3,
)
_FIVE_TYPES = (
    "pick_and_place_simple",
    "look_at_obj_in_light",
    "pick_clean_then_place_in_recep",
    "pick_heat_then_place_in_recep",
    "pick_cool_then_place_in_recep",
)
_TINY_PPO = PpoConfig(
    learning_rate=2e-4,
    learning_rate_end=0.1,
    warmup_steps=2,
    beta2=0.99,
    weight_decay=0.0,
    sequence_length=136,
    sequence_turns=3,
    minibatch_sequences=56,
    micro_sequences=4,
    kl_coefficient=0.0,
    entropy_coefficient=0.0,
)

_HOUSEHOLD_TINY = RunConfig(
    iterations=70,
    target=0.85,
    env=EnvConfig(task_types=_FIVE_TYPES),
    # Where contexts are to grow: on a CPU attention costs as much as sequences are long.
    prompt=PromptConfig(
        style="compact", history_length=1, prompt_length=112, reply_length=24, window_length=320
    ),
    rollout=RolloutConfig(
        episodes=48, slots=24, pipeline_groups=2, decode_chunk=24, temperature=0.6
    ),
    imitation=ImitationConfig(steps=400, episodes=2400, check_every=25, stop_loss=0.1),
    credit=_TINY_CREDIT,
    critic=CriticConfig(kind="features"),
    ppo=_TINY_PPO,
)

_HOUSEHOLD_TINY_SIX = dataclasses.replace(
    _HOUSEHOLD_TINY,
    target=0.95,
    env=EnvConfig(),
    prompt=dataclasses.replace(_HOUSEHOLD_TINY.prompt, history_length=2, prompt_length=136),
    imitation=dataclasses.replace(_HOUSEHOLD_TINY.imitation, stop_loss=0.07),
    ppo=dataclasses.replace(_TINY_PPO, sequence_length=160),
)

_WEBSHOP_TINY = dataclasses.replace(
    _HOUSEHOLD_TINY,
    iterations=50,
    env=EnvConfig(suite="webshop"),
    prompt=PromptConfig(
        style="compact", history_length=0, prompt_length=184, reply_length=32, window_length=448
    ),
    ppo=dataclasses.replace(_TINY_PPO, sequence_length=208),
    imitation=ImitationConfig(steps=400, episodes=2000, check_every=10, stop_loss=0.27),
    eval=EvalConfig(splits=("test",)),
)

_DESK_TINY = dataclasses.replace(
    _HOUSEHOLD_TINY,
    iterations=30,
    target=None,
    # One request at a time; `--env.options` without kinds has pairs too, and costs turns.
    env=EnvConfig(
        suite="desk",
        max_turns=10,
        options=("kinds=status,stock,fits,fix,cheapest,discount,refund",),
    ),
    prompt=PromptConfig(
        style="compact", history_length=2, prompt_length=136, reply_length=32, window_length=320
    ),
    ppo=dataclasses.replace(_TINY_PPO, sequence_length=168),
    imitation=ImitationConfig(steps=400, episodes=1000, check_every=10, stop_loss=0.14),
    eval=EvalConfig(splits=("unseen",)),
)

_ERRANDS_TINY = dataclasses.replace(
    _HOUSEHOLD_TINY,
    iterations=30,
    target=None,
    # The expert does half of the errands by itself, nearly all by sub-agents, which it sends in one
    # episode of ten: a start from which either way can be learned.
    env=EnvConfig(
        suite="errands",
        options=("budget=20", "spawn=0.1"),
        task_types=("pick_and_place_simple",),
    ),
    prompt=PromptConfig(
        style="compact", history_length=1, prompt_length=192, reply_length=72, window_length=448
    ),
    rollout=dataclasses.replace(_HOUSEHOLD_TINY.rollout, group_size=8),
    imitation=ImitationConfig(steps=300, episodes=500, check_every=25, stop_loss=0.05, noise=0.0),
    credit=dataclasses.replace(
        _TINY_CREDIT, estimator="parl", whitening="none", inadmissible_penalty=0.05
    ),
    parl=ParlConfig(lambda_parallel=0.3, lambda_finish=0.2),
    ppo=dataclasses.replace(_TINY_PPO, sequence_length=264, micro_sequences=2),
    eval=EvalConfig(splits=("unseen", "single"), max_tasks=60),
)

_CHECKLIST_TINY = dataclasses.replace(
    _HOUSEHOLD_TINY,
    target=None,
    rollout=dataclasses.replace(_HOUSEHOLD_TINY.rollout, group_size=8),
    # A weak start, and no word of success: only criteria pay.
    imitation=dataclasses.replace(_HOUSEHOLD_TINY.imitation, stop_loss=0.2),
    credit=dataclasses.replace(
        _TINY_CREDIT,
        estimator="checklist_trajectory",
        checklist_reward="replace",
        whitening="none",
    ),
)

_RUBRIC_TINY = dataclasses.replace(
    _CHECKLIST_TINY,
    # No reward of the world's: only comparisons of the episodes of a task pay.
    rubric=RubricConfig(reward="replace", max_malformed=0.5),
    credit=dataclasses.replace(_TINY_CREDIT, estimator="openrs", whitening="none"),
)

_ALFWORLD_SMALL_MEDIOCRE = dataclasses.replace(
    _HOUSEHOLD_TINY,
    env=EnvConfig(suite="alfworld"),
    # A wrong name for what it wants is what most of its lost episodes are stuck on.
    credit=dataclasses.replace(_TINY_CREDIT, inadmissible_penalty=0.05),
    model=ModelConfig(hidden_size=96, intermediate_size=264, num_heads=6),
    prompt=PromptConfig(
        style="compact", history_length=2, prompt_length=320, reply_length=24, window_length=488
    ),
    ppo=dataclasses.replace(_TINY_PPO, sequence_length=344, sequence_turns=4, micro_sequences=2),
    imitation=ImitationConfig(
        steps=400, episodes=1200, sequences=14, check_every=25, stop_loss=0.1
    ),
    # As the official validation: greedy, an agent that sees little of its past goes in circles.
    eval=EvalConfig(every=10, splits=("valid_seen",), temperature=0.4),
    target=None,
)

_ALFWORLD_SMALL = dataclasses.replace(
    _ALFWORLD_SMALL_MEDIOCRE,
    # One room of each kind is kept out of training: there checkpoints are chosen.
    env=EnvConfig(
        suite="alfworld",
        options=("rooms=30,217,307,427", "renumber=true", "generated=0.3", "search=tour"),
    ),
    prompt=dataclasses.replace(_ALFWORLD_SMALL_MEDIOCRE.prompt, mark_tried=True, recall_length=48),
    imitation=ImitationConfig(
        steps=1800,
        episodes=0,
        workers=1,
        noise=0.0,
        mistakes=0.25,
        sequences=14,
        rounds=16,
        round_episodes=60,
        round_steps=70,
    ),
    eval=EvalConfig(every=10, splits=("valid_rooms", "valid_seen"), temperature=0.4),
)

_ALFWORLD_SMOLLM2 = RunConfig(
    iterations=20,
    # The expert is done within 12 turns in nine of ten games; fewer tokens, since each costs 20 ms.
    env=EnvConfig(suite="alfworld", max_turns=12),
    model=ModelConfig(lora_rank=16, lora_alpha=32.0),
    prompt=PromptConfig(
        style="brief",
        example=True,
        history_length=1,
        prompt_length=768,
        reply_length=48,
        window="episode",
        window_length=1024,
    ),
    rollout=RolloutConfig(episodes=16, slots=20, decode_chunk=24, temperature=0.7),
    imitation=ImitationConfig(
        steps=60, episodes=240, noise=0.0, sequences=2, learning_rate=1e-3, check_every=12
    ),
    credit=dataclasses.replace(_TINY_CREDIT, inadmissible_penalty=0.05),
    critic=CriticConfig(kind="features"),
    ppo=PpoConfig(
        learning_rate=1e-4,
        weight_decay=0.0,
        minibatch_sequences=4,
        micro_sequences=1,
        sequence_length=1024,
        kl_coefficient=0.0,
        entropy_coefficient=0.0,
    ),
    eval=EvalConfig(every=10, splits=("valid_seen",), temperature=0.4, max_tasks=40),
    checkpoint_every=1,
)

_OFFICIAL_CREDIT = CreditConfig(estimator="hae_paper", keep_penalty=0.3, consistency_penalty=0.3)
_OFFICIAL_CRITIC = CriticConfig(warmup_epochs=1, value_clip=0.5)


def _published(shape: str, **model: Any) -> ModelConfig:
    settings: dict[str, Any] = {"shape": shape, "dtype": "bfloat16", "remat": "auto"}
    return ModelConfig(**(settings | model))


_ALFWORLD_QWEN = RunConfig(
    env=EnvConfig(suite="alfworld", max_turns=50),
    model=_published("qwen2.5-1.5b"),
    rollout=RolloutConfig(slots=128, prefill_rows=8, pipeline_groups=2),
    credit=_OFFICIAL_CREDIT,
    critic=_OFFICIAL_CRITIC,
    ppo=PpoConfig(micro_sequences=4),
    eval=EvalConfig(splits=("valid_seen",), temperature=0.4),
)

_ALFWORLD_QWEN_LORA = dataclasses.replace(
    _ALFWORLD_QWEN,
    model=_published("qwen2.5-7b", remat="full", lora_rank=32, lora_alpha=64.0),
    critic=dataclasses.replace(_OFFICIAL_CRITIC, kind="lora", learning_rate=1e-4),
    ppo=dataclasses.replace(_ALFWORLD_QWEN.ppo, learning_rate=1e-5),
)

_WEBSHOP_QWEN = dataclasses.replace(
    _ALFWORLD_QWEN,
    env=EnvConfig(suite="webshop", size="full", profile="hiper", max_turns=15),
    prompt=PromptConfig(prompt_length=4096, window_length=6144),
    credit=dataclasses.replace(
        _OFFICIAL_CREDIT,
        reward_scale=1.0,
        keep_penalty=3.0,
        consistency_penalty=0.1,
        bootstrap="none",
    ),
    ppo=PpoConfig(micro_sequences=2, sequence_length=4608),
    eval=EvalConfig(splits=("validation",), temperature=0.4, max_tasks=500),
)

PRESETS: dict[str, tuple[str, RunConfig]] = {
    name: (about, dataclasses.replace(config, preset=name))
    for name, about, config in (
        (
            "household-tiny",
            "generated household games of five task types, a tiny transformer: learns on a laptop",
            _HOUSEHOLD_TINY,
        ),
        (
            "household-tiny-six",
            "the same with the sixth task type, pick two and place, and two turns of history",
            _HOUSEHOLD_TINY_SIX,
        ),
        (
            "webshop-tiny",
            "the generated WebShop catalogue, made small, and a tiny transformer",
            _WEBSHOP_TINY,
        ),
        (
            "desk-tiny",
            "the support desk: tools, criteria checked by program, gates; a tiny transformer",
            _DESK_TINY,
        ),
        (
            "errands-tiny",
            "several errands by sub-agents at a time or in turn (PARL), paid for until it is not",
            _ERRANDS_TINY,
        ),
        (
            "checklist-tiny",
            "household games paid by the criteria of a checklist alone (CM2), from a weak start",
            _CHECKLIST_TINY,
        ),
        (
            "rubric-tiny",
            "household games paid by comparison with an episode of the same task (OpenRS)",
            _RUBRIC_TINY,
        ),
        (
            "alfworld-small",
            "official ALFWorld games (--env.games DIR), a small transformer from random weights:"
            " recovery from mistakes, rooms kept out; imitation for about an hour and a half on one"
            " core (estimated)",
            _ALFWORLD_SMALL,
        ),
        (
            "alfworld-small-mediocre",
            "the same from a brief imitation, to be improved on: solves .42 of valid_seen",
            _ALFWORLD_SMALL_MEDIOCRE,
        ),
        (
            "alfworld-smollm2-135m",
            "official games, a real small language model (hiperjax fetch smollm2) and adapters",
            _ALFWORLD_SMOLLM2,
        ),
        (
            "alfworld-qwen2.5-1.5b",
            "the paper's ALFWorld run: Qwen2.5-1.5B-Instruct (--model.folder DIR, --env.games DIR)",
            _ALFWORLD_QWEN,
        ),
        (
            "alfworld-qwen2.5-7b-lora",
            "the same with Qwen2.5-7B-Instruct by adapters, learning rates ten times the paper's",
            _ALFWORLD_QWEN_LORA,
        ),
        (
            "alfworld-qwen3-1.7b",
            "the same with Qwen3-1.7B, all of it trained",
            dataclasses.replace(_ALFWORLD_QWEN, model=_published("qwen3-1.7b")),
        ),
        (
            "webshop-qwen2.5-1.5b",
            "the paper's WebShop run as it was logged (--model.folder DIR; --env.data DIR)",
            _WEBSHOP_QWEN,
        ),
    )
}
"""What each preset is for, and its configuration."""
