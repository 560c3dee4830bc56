"""Plans: the published floors, memory against what the compiler says, and what cannot fit."""

import dataclasses
import os

import jax
import jax.numpy as jnp
import optax
import pytest

from hiperjax.capacity import (
    Workload,
    activation_bytes,
    cache_bytes_per_token,
    decode_step_seconds,
    forward_flops,
    matmul_parameters,
    plan,
    render,
)
from hiperjax.devices import (
    DEVICES,
    MEMORY_FRACTION,
    VARIABLE,
    claim_memory,
    parse_device,
)
from hiperjax.models.shapes import SHAPES
from hiperjax.models.transformer import TransformerConfig, abstract_params, forward, logits

LOAD = Workload(
    turns=2900,
    prompt_tokens=760,
    reply_tokens=40,
    prompt_limit=2048,
    reply_limit=512,
    slots=128,
    minibatch_rows=256,
    micro_rows=8,
)
FULL = {"dtype": "bfloat16", "remat": "full", "attention": "cudnn"}


def _shape(name, **changes):
    return dataclasses.replace(SHAPES[name], **(FULL | changes))


@pytest.mark.parametrize(
    ("name", "billions", "cache", "weights_ms", "step_ms", "tokens_per_second"),
    [
        ("qwen2.5-0.5b", 0.494, 12_288, 0.21, 0.47, 274e3),
        ("qwen2.5-1.5b", 1.544, 28_672, 0.64, 1.25, 102e3),
        ("qwen2.5-7b", 7.07, 57_344, 2.95, 4.17, 31e3),
    ],
)
def test_decode_floors_on_an_h200(name, billions, cache, weights_ms, step_ms, tokens_per_second):
    """Worked out by hand for 128 slots of 800 tokens."""
    config, device = _shape(name), DEVICES["h200"]
    assert matmul_parameters(config) / 1e9 == pytest.approx(billions, abs=2e-3)
    assert cache_bytes_per_token(config) == cache
    empty = decode_step_seconds(config, device, 128, 0)
    step = decode_step_seconds(config, device, 128, 800)
    assert 1e3 * empty == pytest.approx(weights_ms, abs=6e-3)
    assert 1e3 * step == pytest.approx(step_ms, abs=6e-3)
    assert 128 / step == pytest.approx(tokens_per_second, rel=0.01)


def test_forward_operations_are_what_the_matrix_products_count():
    """Against the compiler's count on one layer, where nothing hides in a scanned body."""
    config = TransformerConfig(
        vocab_size=64,
        hidden_size=128,
        intermediate_size=512,
        num_layers=1,
        num_heads=4,
        num_kv_heads=4,
        head_dim=32,
    )
    rows, length = 2, 64

    def run(params, tokens):
        hidden = forward(params, config, tokens, lengths=jnp.full(rows, length))
        return logits(params, config, hidden)

    tokens = jax.ShapeDtypeStruct((rows, length), jnp.int32)
    compiled = jax.jit(run).lower(abstract_params(config), tokens).compile()
    counted = compiled.cost_analysis()["flops"]
    # XLA multiplies the upper half of the scores too: twice the causal count.
    ours = forward_flops(config, rows * length, 2 * length, rows * length)
    assert counted == pytest.approx(ours, rel=0.1)


@pytest.mark.parametrize("remat", ["none", "full", "dots"])
def test_activations_are_near_what_the_compiler_allocates(remat):
    config = TransformerConfig(
        vocab_size=512,
        hidden_size=128,
        intermediate_size=352,
        num_layers=6,
        num_heads=4,
        num_kv_heads=2,
        head_dim=32,
        remat=remat,
    )
    rows, length, reply = 16, 128, 16
    optimizer = optax.adam(1e-3)

    def loss(params, tokens):
        hidden = forward(params, config, tokens, lengths=jnp.full(rows, length))
        scores = jax.nn.log_softmax(logits(params, config, hidden[:, -reply - 1 : -1]))
        return -jnp.take_along_axis(scores, tokens[:, -reply:, None], axis=-1).mean()

    def step(params, state, tokens):
        moves, state = optimizer.update(jax.grad(loss)(params, tokens), state, params)
        return optax.apply_updates(params, moves), state

    params = abstract_params(config)
    state = jax.eval_shape(optimizer.init, params)
    tokens = jax.ShapeDtypeStruct((rows, length), jnp.int32)
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, tokens).compile()
    memory = compiled.memory_analysis()
    load = dataclasses.replace(
        LOAD, prompt_limit=length - reply, reply_limit=reply, micro_rows=rows, minibatch_rows=rows
    )
    planned = {item.name: item.amount for item in plan(config, "h200", load).memory}
    held = planned["policy, float32"] + planned["Adam moments"]
    assert memory.argument_size_in_bytes == pytest.approx(held, rel=0.01)
    expected = activation_bytes(config, rows, length, reply) + planned["gradients"]
    assert 0.7 < expected / memory.temp_size_in_bytes < 1.4


def test_sharding_divides_what_a_device_holds():
    one = plan(_shape("qwen2.5-1.5b"), "h200", LOAD)
    eight = plan(_shape("qwen2.5-1.5b"), "h200-8", LOAD, fsdp=4, tensor=2)
    for name in ("policy, float32", "Adam moments", "gradients", "reference"):
        whole, part = (
            next(item.amount for item in p.memory if item.name == name) for p in (one, eight)
        )
        assert part == pytest.approx(whole / 8, rel=1e-3)  # norms are not split
    assert eight.total < one.total / 4
    assert eight.seconds < one.seconds / 4


def test_full_fine_tuning_of_7b_wants_what_was_worked_out():
    """Actor and critic with Adam and gradients, bf16 reference: 244 GB for 7.6 B parameters."""
    found = plan(_shape("qwen2.5-7b"), "h200", LOAD, reference_dtype="bfloat16")
    states = [
        item.amount
        for item in found.memory
        if item.name in ("policy, float32", "Adam moments", "critic: separate", "gradients")
    ]
    assert sum(states) / 7.616e9 == pytest.approx(12 + 12 + 8, rel=1e-3)
    assert not found.fits and "DOES NOT FIT" in render(found)


def test_adapters_make_7b_fit_one_h200():
    config = _shape("qwen2.5-7b", lora_rank=32)
    found = plan(config, "h200", LOAD, critic="lora")
    assert found.fits and "frozen weights" in render(found)
    assert found.total < plan(_shape("qwen2.5-7b"), "h200", LOAD).total / 5


def test_1p5b_fits_one_h200_and_not_one_v5e():
    assert plan(_shape("qwen2.5-1.5b"), "h200", LOAD).fits
    assert not plan(_shape("qwen2.5-1.5b"), "v5e", LOAD).fits


def test_a_rollout_and_an_update_are_not_held_together():
    """Slots cost nothing until their cache is larger than what the update takes."""
    few, more, many = (
        plan(_shape("qwen2.5-1.5b"), "h200", dataclasses.replace(LOAD, slots=slots))
        for slots in (8, 64, 2048)
    )
    assert few.total == more.total < many.total
    cache = many.rollout[0].amount
    assert many.total == pytest.approx(sum(x.amount for x in many.held) + cache)
    assert render(few).index("gradients") > render(few).index("cache")


def test_the_command_line_takes_what_plans_count_with(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    claim_memory()
    assert float(os.environ[VARIABLE]) == MEMORY_FRACTION
    found = plan(_shape("qwen2.5-1.5b"), "h100", LOAD)
    assert found.available == MEMORY_FRACTION * DEVICES["h100"].memory
    monkeypatch.setenv(VARIABLE, "0.5")
    claim_memory()
    assert os.environ[VARIABLE] == "0.5"


def test_devices_are_parsed_or_refused():
    assert parse_device("v5e-8") == (DEVICES["v5e"], 8)
    assert parse_device("h200") == (DEVICES["h200"], 1)
    for name in ("tpu", "h200-0", "h200-", "H200", ""):
        with pytest.raises(ValueError, match="expected one of"):
            parse_device(name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fsdp": 3}, "does not divide 8 devices"),
        ({"tensor": 8}, "tensor=8 does not divide the model's 12 query heads"),
        ({"critic": "lora"}, "set lora_rank"),
        ({"load": dataclasses.replace(LOAD, micro_rows=9)}, "does not divide 9 sequences"),
    ],
)
def test_impossible_plans_are_refused(changes, message):
    settings = {"load": LOAD} | changes
    with pytest.raises(ValueError, match=message):
        plan(_shape("qwen2.5-1.5b"), "h200-8", **settings)
