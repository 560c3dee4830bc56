"""Adapters: born as nothing, trained alone, merged into the same function."""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hiperjax_kernels.logprobs import token_logprobs

from hiperjax.models.lora import (
    adapt,
    add_adapters,
    base_config,
    combine,
    init_adapters,
    merge_adapters,
    partition,
    split_trained,
)
from hiperjax.models.shapes import SHAPES
from hiperjax.models.transformer import (
    TransformerConfig,
    abstract_params,
    forward,
    init_params,
    logits,
)
from hiperjax.models.weights import load_params, save_params

CONFIG = TransformerConfig(
    vocab_size=23,
    hidden_size=16,
    intermediate_size=24,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=4,
    embedding_std=0.5,
    lora_rank=3,
    lora_alpha=6.0,
)
BASE = base_config(CONFIG)
TOKENS = jax.random.randint(jax.random.key(5), (3, 7), 0, 23)
LENGTHS = jnp.full(3, 7)


def _scores(params, config):
    return logits(params, config, forward(params, config, TOKENS, lengths=LENGTHS))


def _trained():
    """Adapters that do something."""
    params = add_adapters(init_params(BASE, jax.random.key(0)), CONFIG, jax.random.key(1))
    adapters, frozen = partition(params)
    noise = jax.random.key(2)
    moved = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(noise, x.shape), adapters)
    return combine(moved, frozen)


def test_fresh_adapters_change_nothing():
    base = init_params(BASE, jax.random.key(0))
    adapted = add_adapters(base, CONFIG, jax.random.key(1))
    np.testing.assert_array_equal(_scores(adapted, CONFIG), _scores(base, BASE))
    assert jax.tree.structure(adapted) == jax.tree.structure(abstract_params(CONFIG))


def test_merged_parameters_are_the_same_function():
    params = _trained()
    merged = merge_adapters(params, CONFIG)
    assert jax.tree.structure(merged) == jax.tree.structure(abstract_params(BASE))
    assert jnp.abs(_scores(params, CONFIG) - _scores(partition(params)[1], BASE)).max() > 0.1
    np.testing.assert_allclose(_scores(merged, BASE), _scores(params, CONFIG), atol=2e-4)


@pytest.mark.parametrize("source", [CONFIG, BASE], ids=["adapters", "plain"])
def test_a_policy_is_adapted_to_another_shape(source):
    """The function stays; the base takes the compute dtype, what is trained stays float32."""
    params = _trained() if source.lora_rank else init_params(BASE, jax.random.key(0))
    for wanted in (dataclasses.replace(CONFIG, lora_rank=2), BASE):
        adapted = adapt(params, source, wanted, jax.random.key(9))
        assert jax.tree.structure(adapted) == jax.tree.structure(abstract_params(wanted))
        np.testing.assert_allclose(_scores(adapted, wanted), _scores(params, source), atol=2e-4)
    half = dataclasses.replace(CONFIG, dtype="bfloat16")
    adapters, base = partition(adapt(params, source, half, jax.random.key(9)))
    assert {x.dtype for x in jax.tree.leaves(adapters)} == {jnp.dtype("float32")}
    assert {x.dtype for x in jax.tree.leaves(base)} == {jnp.dtype("bfloat16")}


def test_split_and_combine_are_inverse_with_and_without_adapters():
    for params, config in ((_trained(), CONFIG), (init_params(BASE, jax.random.key(0)), BASE)):
        trained, frozen = split_trained(params, config)
        jax.tree.map(np.testing.assert_array_equal, combine(trained, frozen), params)
        assert bool(frozen) == bool(config.lora_rank)


def test_merged_adapters_are_exported(tmp_path):
    params = _trained()
    with pytest.raises(ValueError, match="merge_adapters first"):
        save_params(params, CONFIG, tmp_path)
    save_params(merge_adapters(params, CONFIG), BASE, tmp_path)
    got = _scores(load_params(tmp_path, BASE), BASE)
    np.testing.assert_allclose(got, _scores(params, CONFIG), atol=2e-4)


def test_partition_then_combine_is_the_identity():
    params = _trained()
    adapters, frozen = partition(params)
    jax.tree.map(np.testing.assert_array_equal, combine(adapters, frozen), params)
    names = {path[-1].key for path, _ in jax.tree_util.tree_leaves_with_path(adapters)}
    assert names == {"lora_a", "lora_b"}
    assert len(jax.tree.leaves(adapters)) == 2 * 7


def test_gradients_of_the_adapters_alone_lower_the_loss():
    adapters, frozen = partition(_trained())

    def loss(adapters):
        scores = jax.nn.log_softmax(_scores(combine(adapters, frozen), CONFIG))
        return -jnp.take_along_axis(scores[:, :-1], TOKENS[:, 1:, None], axis=-1).mean()

    gradient = jax.grad(loss)(adapters)
    assert all((jnp.abs(leaf).max() > 0) for leaf in jax.tree.leaves(gradient))
    stepped = jax.tree.map(lambda x, g: x - 0.05 * g, adapters, gradient)
    assert loss(stepped) < loss(adapters)


def test_the_base_is_not_differentiated():
    """No product of the compiled gradient has the shape of a base weight; trained whole, it has."""

    def products(config, params):
        trained, frozen = split_trained(params, config)

        def loss(trained):
            whole = combine(trained, frozen)
            hidden = forward(whole, config, TOKENS, lengths=LENGTHS).reshape(-1, 16)
            return token_logprobs(hidden, whole["embedding"], TOKENS.reshape(-1), 1.0, 8)[0].sum()

        text = jax.jit(jax.grad(loss)).lower(trained).compile().as_text()
        return set(re.findall(r"= f32\[([\d,]+)\]\S* dot\(", text))

    weights = {"16,24", "24,16", "8,16"}  # gate and up, down, a third of the padded vocabulary
    assert weights <= products(BASE, init_params(BASE, jax.random.key(0)))
    adapted = products(CONFIG, _trained())
    assert not weights & adapted and {"16,3", "3,24"} <= adapted


def test_adapters_that_fit_are_kept_and_others_merged():
    params, key = _trained(), jax.random.key(9)
    kept = adapt(params, CONFIG, dataclasses.replace(CONFIG, attention_block=64), key)
    jax.tree.map(np.testing.assert_array_equal, kept, params)
    for change in (dict(lora_alpha=3.0), dict(lora_targets=("q",))):
        other = dataclasses.replace(CONFIG, **change)
        adapters = partition(adapt(params, CONFIG, other, key))[0]
        assert not any(np.abs(x).max() for x in _down(adapters)), "fresh: every B is zero"


def _down(adapters):
    leaves = jax.tree_util.tree_leaves_with_path(adapters)
    return [x for path, x in leaves if path[-1].key == "lora_b"]


def test_targets_choose_the_projections():
    config = dataclasses.replace(CONFIG, lora_targets=("q", "v"))
    adapters = init_adapters(config, jax.random.key(0))
    assert set(adapters["layers"]) == {"attention"}
    assert set(adapters["layers"]["attention"]) == {"q", "v"}
    with pytest.raises(ValueError, match="lora_targets"):
        dataclasses.replace(CONFIG, lora_targets=("query",))
    with pytest.raises(ValueError, match="lora_rank is 0"):
        init_adapters(BASE, jax.random.key(0))


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("qwen2.5-0.5b", 0.494),
        ("qwen2.5-1.5b", 1.544),
        ("qwen2.5-3b", 3.086),
        ("qwen2.5-7b", 7.616),
        ("qwen3-0.6b", 0.596),
        ("qwen3-1.7b", 1.721),
        ("qwen3-4b", 4.022),
        ("qwen3-8b", 8.191),
        ("smollm2-135m", 0.1345),
        ("smollm2-360m", 0.3618),
        ("smollm2-1.7b", 1.711),
        ("llama-3.2-1b", 1.236),
    ],
)
def test_published_shapes_have_the_published_sizes(name, billions):
    leaves = jax.tree.leaves(abstract_params(SHAPES[name]))
    assert sum(math.prod(leaf.shape) for leaf in leaves) / 1e9 == pytest.approx(billions, abs=1e-3)
