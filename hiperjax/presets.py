"""Named starting points: each differs from the defaults only in what it names."""

import dataclasses

from hiperjax.config import (
    CreditConfig,
    CriticConfig,
    EnvConfig,
    EvalConfig,
    ImitationConfig,
    ModelConfig,
    PpoConfig,
    PromptConfig,
    RolloutConfig,
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
    warmup_steps=2,
    beta2=0.99,
    weight_decay=0.0,
    sequence_length=136,
    sequence_turns=3,
    minibatch_sequences=56,
    kl_coefficient=0.0,
    entropy_coefficient=0.0,
)

_HOUSEHOLD_TINY = RunConfig(
    iterations=70,
    target=0.85,
    env=EnvConfig(task_types=_FIVE_TYPES),
    prompt=PromptConfig(style="compact", history_length=1, prompt_length=112, reply_length=24),
    rollout=RolloutConfig(episodes=48, slots=24, decode_chunk=24, temperature=0.6),
    imitation=ImitationConfig(steps=400, episodes=2400, check_every=25, stop_loss=0.1),
    credit=_TINY_CREDIT,
    critic=CriticConfig(kind="features"),
    ppo=_TINY_PPO,
)

_WEBSHOP_TINY = dataclasses.replace(
    _HOUSEHOLD_TINY,
    iterations=50,
    env=EnvConfig(suite="webshop"),
    prompt=PromptConfig(style="compact", history_length=0, prompt_length=184, reply_length=32),
    ppo=dataclasses.replace(_TINY_PPO, sequence_length=208, learning_rate=3e-4),
    imitation=ImitationConfig(steps=400, episodes=2000, check_every=10, stop_loss=0.27),
    eval=EvalConfig(splits=("test",)),
)

_ALFWORLD_SMALL = dataclasses.replace(
    _HOUSEHOLD_TINY,
    env=EnvConfig(suite="alfworld"),
    model=ModelConfig(hidden_size=128, intermediate_size=352, num_layers=4),
    prompt=PromptConfig(style="compact", history_length=2, prompt_length=768, reply_length=24),
    ppo=dataclasses.replace(_TINY_PPO, sequence_length=512),
    imitation=ImitationConfig(steps=1500),
    eval=EvalConfig(every=10, splits=("valid_seen",)),
    target=None,
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
            "the same with the sixth task type, pick two and place: about twice as long",
            dataclasses.replace(_HOUSEHOLD_TINY, env=EnvConfig(), iterations=140, target=0.95),
        ),
        (
            "webshop-tiny",
            "the generated WebShop catalogue, made small, and a tiny transformer",
            _WEBSHOP_TINY,
        ),
        (
            "alfworld-small",
            "official ALFWorld games (--env.games DIR), a small transformer from random weights",
            _ALFWORLD_SMALL,
        ),
    )
}
"""What each preset is for, and its configuration."""
