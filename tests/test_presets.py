"""Presets for published models: they are built, traced and refused without weights."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from helpers.episodes import make_batch

from hiperjax.config import ConfigError
from hiperjax.learning.minibatches import make_order, split_into_minibatches
from hiperjax.learning.packing import pack, pack_final_prompts
from hiperjax.models.lora import adapt, base_config, partition
from hiperjax.models.transformer import decode, init_cache, init_params, prefill
from hiperjax.presets import PRESETS
from hiperjax.training.build import check_weights, make_learner
from hiperjax.training.model import attention_columns, choose_attention, choose_remat, model_shape
from hiperjax.validation import validate

PUBLISHED = [name for name, (_, config) in PRESETS.items() if config.model.shape is not None]
COUNTS = {
    "alfworld-qwen2.5-1.5b": 1.544e9,
    "alfworld-qwen2.5-7b-lora": 80.7e6,
    "alfworld-qwen3-1.7b": 1.721e9,
    "webshop-qwen2.5-1.5b": 1.544e9,
}
"""Parameters trained."""


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def describe_state(learner, model):
    plain, key = base_config(model), jax.random.key(0)

    def build():
        policy = adapt(init_params(plain, key), plain, model, key)
        return learner.init(policy, key)

    return jax.eval_shape(build)


def test_the_published_presets_are_these():
    assert set(PUBLISHED) == set(COUNTS)


@pytest.mark.parametrize("name", PUBLISHED)
def test_an_iteration_of_a_published_preset_traces(name):
    """Abstract shapes from scores to update, at the preset's own lengths; no weights are made."""
    config = validate(PRESETS[name][1])
    model = model_shape(config, vocab_size=1)
    learner = make_learner(config, model)
    state = describe_state(learner, model)
    trained = partition(state.policy)[0] if model.lora_rank else state.policy
    assert count(trained) == pytest.approx(COUNTS[name], rel=1e-3)
    assert {leaf.dtype for leaf in jax.tree.leaves(trained)} == {np.dtype("float32")}
    moments = [leaf for leaf in jax.tree.leaves(state.optimizer) if leaf.ndim]
    assert count(moments) == 2 * count(trained)
    p, episodes = config.ppo, make_batch(5, [3, 5, 1, 4])
    batch = pack(
        episodes, max_turns=config.env.max_turns, length=p.sequence_length,
        per_sequence=p.sequence_turns, multiple=p.minibatch_sequences,
        reply_length=config.prompt.reply_length,
    )  # fmt: skip
    final = pack_final_prompts(episodes, length=config.prompt.prompt_length)
    scores = jax.eval_shape(learner.score, state, batch, final, np.int32(0))
    after, prepared, _, _ = jax.eval_shape(learner.assign, state, batch, scores)
    order, steps = make_order(
        jax.random.key(0), room=p.minibatch_sequences, total=len(batch.sequences.tokens),
        sizes=split_into_minibatches(batch.count, p.minibatch_sequences, p.micro_sequences),
        epochs=p.epochs,
    )  # fmt: skip
    after, _ = jax.eval_shape(learner.fit_critic, after, prepared, order, steps)
    after, metrics = jax.eval_shape(learner.update, after, prepared, order, steps)
    described = functools.partial(jax.tree.map, lambda x: (x.shape, x.dtype))
    assert described(after) == described(state)
    assert "kl_reference" in metrics and "value_loss_high" not in metrics


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_sampler_of_a_published_preset_traces(name):
    config = PRESETS[name][1]
    model, slots = model_shape(config, vocab_size=1), 2
    params = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    ints = functools.partial(jax.ShapeDtypeStruct, dtype=np.int32)
    limit = config.prompt.prompt_length

    def prefill_rows(params, tokens, lengths):
        return prefill(params, model, tokens, lengths)

    hidden, kept = jax.eval_shape(prefill_rows, params, ints((slots, limit)), ints((slots,)))
    assert hidden.dtype == kept.k.dtype == np.dtype("bfloat16")
    cache = jax.eval_shape(lambda: init_cache(model, slots, limit + config.prompt.reply_length))
    one = ints((slots,))
    _, after = jax.eval_shape(lambda p, t, c: decode(p, model, t, t, c), params, one, cache)
    assert after == cache


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_presets_ask_for_their_weights(name):
    config = PRESETS[name][1]
    with pytest.raises(ConfigError, match=r"expected --model\.folder DIR"):
        check_weights(config)
    check_weights(
        dataclasses.replace(config, model=dataclasses.replace(config.model, random_weights=True))
    )


@pytest.mark.parametrize(
    ("asked", "dtype", "platform", "kernel"),
    [
        ("auto", "bfloat16", "cpu", "xla"),
        ("auto", "bfloat16", "cuda", "cudnn"),
        ("auto", "float32", "cuda", "xla"),
        ("auto", "bfloat16", "rocm", "xla"),
        ("auto", "float32", "tpu", "splash"),
        ("xla", "bfloat16", "tpu", "xla"),
    ],
)
def test_attention_is_chosen_by_the_device(asked, dtype, platform, kernel):
    assert choose_attention(asked, dtype, platform) == kernel
    assert (attention_columns(platform) > 0) == (platform != "cpu")


def test_layers_are_kept_where_memory_allows():
    kept = {memory: choose_remat("auto", memory) for memory in (0.0, 30e9, 73e9, 130e9)}
    assert list(kept.values()) == ["full", "full", "dots", "dots"]
    assert choose_remat("none", 0.0) == "none"


def test_attention_that_the_device_lacks_is_refused():
    config = PRESETS["alfworld-qwen2.5-1.5b"][1]
    for kernel, home in (("splash", "tpu"), ("cudnn", "cuda")):
        model = dataclasses.replace(config.model, attention=kernel)
        with pytest.raises(ConfigError, match=f"{kernel} on cpu; it runs on {home} alone"):
            model_shape(dataclasses.replace(config, model=model), vocab_size=1)


def test_published_presets_have_the_papers_numbers():
    """Settings of the released recipe that do not stand in the defaults already."""
    alfworld, webshop = (PRESETS[f"{world}-qwen2.5-1.5b"][1] for world in ("alfworld", "webshop"))
    for config in (alfworld, webshop):
        c, p = config.credit, config.ppo
        assert (c.gamma, c.lambda_turn, c.lambda_segment) == (1.0, 1.0, 0.95)
        assert (p.learning_rate, config.critic.learning_rate) == (1e-6, 1e-5)
        assert (p.clip, p.dual_clip, config.critic.value_clip) == (0.2, 3.0, 0.5)
        assert (p.kl_coefficient, p.entropy_coefficient, p.epochs) == (0.01, 0.001, 1)
        # 256 turns, at the 5.3 a sequence that ALFWorld's prompts leave room for
        assert 5.3 * p.minibatch_sequences == pytest.approx(256, rel=0.02)
        assert p.sequence_length >= config.prompt.prompt_length + config.prompt.reply_length
        assert (config.rollout.episodes, config.iterations, config.eval.every) == (128, 150, 5)
    assert (alfworld.env.max_turns, webshop.env.max_turns) == (50, 15)
    assert (alfworld.prompt.prompt_length, webshop.prompt.prompt_length) == (2048, 4096)
    assert (alfworld.credit.keep_penalty, webshop.credit.keep_penalty) == (0.3, 3.0)
