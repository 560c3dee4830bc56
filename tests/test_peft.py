"""Adapters alone: read back by PEFT's names and formula, and by PEFT where it is installed."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from hiperjax.models.lora import add_adapters, base_config, combine, merge_adapters, partition
from hiperjax.models.peft import CONFIG as DESCRIPTION
from hiperjax.models.peft import WEIGHTS, save_adapters
from hiperjax.models.tensor_files import find_tensors
from hiperjax.models.transformer import TransformerConfig, decode, init_cache, init_params, logits
from hiperjax.models.weights import save_params

CONFIG = TransformerConfig(
    vocab_size=97,
    hidden_size=32,
    intermediate_size=48,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    embedding_std=0.3,
    qkv_bias=False,
    lora_rank=3,
    lora_alpha=6.0,
    lora_targets=("q", "v", "o", "down"),
)
BASE = base_config(CONFIG)


@pytest.fixture(scope="module")
def trained():
    """A Llama-shaped model whose adapters do something."""
    params = add_adapters(init_params(BASE, jax.random.key(0)), CONFIG, jax.random.key(1))
    adapters, frozen = partition(params)
    noise = jax.random.key(2)
    moved = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(noise, x.shape), adapters)
    return combine(moved, frozen)


@pytest.fixture(scope="module")
def folders(trained, tmp_path_factory):
    """The base, its adapters, and both merged, as folders."""
    root = tmp_path_factory.mktemp("peft")
    save_params(partition(trained)[1], BASE, root / "base")
    save_params(merge_adapters(trained, CONFIG), BASE, root / "merged")
    (root / "adapters").mkdir()
    save_adapters(trained, CONFIG, root / "adapters", base=str(root / "base"))
    return root


def test_read_by_name_and_merged_the_adapters_are_the_model(folders):
    base, merged = find_tensors(folders / "base"), find_tensors(folders / "merged")
    adapters = load_file(folders / "adapters" / WEIGHTS)
    described = json.loads((folders / "adapters" / DESCRIPTION).read_text())
    assert described["target_modules"] == ["q_proj", "v_proj", "o_proj", "down_proj"]
    assert described["base_model_name_or_path"] == str(folders / "base")
    changed = 0
    for name, entry in base.items():
        weight = np.array(entry.open())
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{stem}.lora_A.weight" in adapters:
            a, b = adapters.pop(f"{stem}.lora_A.weight"), adapters.pop(f"{stem}.lora_B.weight")
            assert a.shape == (3, weight.shape[1]) and b.shape == (weight.shape[0], 3)
            weight, changed = weight + described["lora_alpha"] / described["r"] * b @ a, changed + 1
        np.testing.assert_allclose(weight, merged[name].open(), atol=1e-5)
    assert changed == 2 * 4 and not adapters


def test_a_model_without_adapters_has_none_to_save(trained, tmp_path):
    with pytest.raises(ValueError, match="lora_rank is 0"):
        save_adapters(partition(trained)[1], BASE, tmp_path, base="")


def _greedy(params, config, prompt, count):
    step = jax.jit(decode, static_argnums=1)
    cache = init_cache(config, len(prompt), prompt.shape[1] + count)
    tokens = list(prompt.T)
    for i in range(prompt.shape[1] + count - 1):
        at = jnp.full(len(prompt), i)
        hidden, cache = step(params, config, jnp.asarray(tokens[i]), at, cache)
        if i + 1 == len(tokens):
            tokens.append(logits(params, config, hidden).argmax(axis=-1))
    return np.stack(tokens, axis=1)


PROMPT = np.random.default_rng(0).integers(0, 97, (2, 5))


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_merged_adapters_reply_alike_in_transformers(trained, folders):
    torch = pytest.importorskip("torch", reason="compares with transformers on torch: absent")
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folders / "merged").eval()
    theirs = model.generate(
        torch.asarray(PROMPT), max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    np.testing.assert_array_equal(_greedy(trained, CONFIG, PROMPT, 12), theirs.numpy())


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_peft_reads_the_adapters(trained, folders):
    torch = pytest.importorskip("torch", reason="compares with PEFT on torch: absent")
    peft = pytest.importorskip("peft", reason="compares with PEFT: absent")
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(folders / "base")
    model = peft.PeftModel.from_pretrained(base, folders / "adapters").eval()
    theirs = model.generate(
        input_ids=torch.asarray(PROMPT),
        max_new_tokens=12,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    np.testing.assert_array_equal(_greedy(trained, CONFIG, PROMPT, 12), theirs.numpy())
