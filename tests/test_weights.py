"""Checkpoints in and out: equal bytes, bad folders refused, parity with transformers."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from hiperjax.models.heads import init_heads
from hiperjax.models.rope import RopeScaling
from hiperjax.models.shapes import SHAPES
from hiperjax.models.tensor_files import INDEX, SINGLE, find_tensors
from hiperjax.models.transformer import (
    TransformerConfig,
    decode,
    forward,
    init_cache,
    init_params,
    logits,
)
from hiperjax.models.weights import HEADS_FILE, load_heads, load_params, save_heads, save_params

QWEN2 = TransformerConfig(
    vocab_size=31,
    hidden_size=16,
    intermediate_size=24,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=4,
)
CONFIGS = {
    "tied": QWEN2,
    "untied": dataclasses.replace(QWEN2, tie_embeddings=False),
    "qwen3": dataclasses.replace(QWEN2, qkv_bias=False, qk_norm=True, head_dim=6),
    "llama": dataclasses.replace(QWEN2, qkv_bias=False, norm_eps=1e-5),
    "window": dataclasses.replace(QWEN2, sliding_window=3, windowed_layers=(1,)),
    "yarn": dataclasses.replace(QWEN2, rope_scaling=RopeScaling("yarn", 4.0, 64)),
}


def _assert_equal(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


@pytest.fixture
def saved(tmp_path):
    params = init_params(QWEN2, jax.random.key(0))
    save_params(params, QWEN2, tmp_path)
    return tmp_path, params


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_save_then_load_is_the_identity(config, tmp_path):
    params = init_params(config, jax.random.key(0))
    save_params(params, config, tmp_path)
    assert TransformerConfig.from_hf(tmp_path) == config
    _assert_equal(load_params(tmp_path, config), params)


def test_files_are_what_the_safetensors_library_reads(saved):
    folder, params = saved
    tensors = load_file(folder / SINGLE)
    assert set(tensors) == set(find_tensors(folder))
    kernel = params["layers"]["mlp"]["down"]["kernel"]
    np.testing.assert_array_equal(tensors["model.layers.1.mlp.down_proj.weight"], kernel[1].T)


def test_shards_hold_the_same_tensors(saved, tmp_path):
    folder, params = saved
    save_params(params, QWEN2, tmp_path / "shards", max_shard_bytes=4000)
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 3
    assert json.loads((tmp_path / "shards" / INDEX).read_text())["metadata"]["total_size"] > 0
    _assert_equal(load_params(tmp_path / "shards", QWEN2), load_params(folder, QWEN2))


def test_bfloat16_goes_out_and_comes_back(saved, tmp_path):
    _, params = saved
    save_params(params, QWEN2, tmp_path / "half", dtype=ml_dtypes.bfloat16)
    entries = find_tensors(tmp_path / "half")
    assert {entry.dtype for entry in entries.values()} == {np.dtype(ml_dtypes.bfloat16)}
    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), params)
    _assert_equal(load_params(tmp_path / "half", QWEN2), rounded)
    loaded = load_params(tmp_path / "half", QWEN2, dtype="bfloat16")
    save_params(loaded, QWEN2, tmp_path / "again")
    assert (tmp_path / "again" / SINGLE).read_bytes() == (tmp_path / "half" / SINGLE).read_bytes()


def _rewrite(folder, change):
    tensors = load_file(folder / SINGLE)
    change(tensors)
    save_file(tensors, folder / SINGLE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("model.norm.weight"), r"missing tensor model\.norm\.weight"),
        (lambda t: t.update(extra=np.zeros(2, np.float32)), "unknown tensor extra"),
        (
            lambda t: t.update({"model.norm.weight": np.zeros(3, np.float32)}),
            r"model\.norm\.weight has shape \(3,\).*\(16,\)",
        ),
        (
            lambda t: t.update({"model.norm.weight": np.zeros(16, np.int8)}),
            r"model\.norm\.weight has dtype I8",
        ),
    ],
)
def test_wrong_tensors_are_named(saved, change, message):
    folder, _ = saved
    _rewrite(folder, change)
    with pytest.raises(ValueError, match=message):
        load_params(folder, QWEN2)


def test_a_tied_model_may_carry_a_copy_of_its_embedding(saved):
    folder, params = saved
    _rewrite(folder, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"]}))
    _assert_equal(load_params(folder, QWEN2), params)


def test_truncated_and_foreign_files_are_refused(saved):
    folder, _ = saved
    whole = (folder / SINGLE).read_bytes()
    for kept in (0, 5, 200, len(whole) - 1):
        (folder / SINGLE).write_bytes(whole[:kept])
        with pytest.raises(ValueError, match=r"model\.safetensors.*truncated"):
            load_params(folder, QWEN2)
    (folder / SINGLE).write_bytes((20).to_bytes(8, "little") + b"x" * 40)
    with pytest.raises(ValueError, match="not JSON"):
        load_params(folder, QWEN2)


def test_folders_that_are_no_checkpoint_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        TransformerConfig.from_hf(tmp_path)
    with pytest.raises(FileNotFoundError, match="neither"):
        load_params(tmp_path, QWEN2)
    index = {"weight_map": {"model.norm.weight": "model-1.safetensors"}}
    (tmp_path / INDEX).write_text(json.dumps(index))
    with pytest.raises(FileNotFoundError, match=r"model-1\.safetensors, which is absent"):
        load_params(tmp_path, QWEN2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "model_type 'gpt2'; expected one of .'qwen2', 'qwen3', 'llama'"),
        ({"vocab_size": None}, "no whole number for vocab_size"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 2}}, "rope_type 'longrope'"),
        ({"num_key_value_heads": 3}, "multiple"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "type yarn without factor"),
        ({"rope_scaling": {"type": "linear"}}, "type linear without factor"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8}}, "without low_freq_factor, high"),
        ({"rope_scaling": {"type": "yarn", "factor": 4, "attn_factor": 2}}, "attn_factor 2"),
        ({"rope_scaling": {"type": "yarn", "factor": 4, "mscale": 1}}, "mscale 1"),
        ({"rope_scaling": {"type": "yarn", "factor": 4, "truncate": False}}, "truncate False"),
        ({"layer_types": ["full_attention"]}, "1 layer_types for 2 layers"),
        ({"layer_types": ["full_attention", "chunked_attention"]}, "chunked_attention"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "not in use"),
        ({"model_type": "qwen3", "attention_bias": True}, "attention_bias is set"),
        ({"model_type": "llama", "attention_bias": True}, "attention_bias is set; no llama"),
        ({"model_type": "llama", "mlp_bias": True}, "mlp_bias is set"),
        ({"model_type": "llama", "rope_interleaved": True}, "rope_interleaved is set"),
    ],
)
def test_configs_we_cannot_run_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        TransformerConfig.from_hf(QWEN2.to_hf() | change)


def test_a_window_that_a_family_lacks_is_refused():
    raw = dataclasses.replace(QWEN2, qkv_bias=False).to_hf()
    TransformerConfig.from_hf(raw | {"sliding_window": None})
    with pytest.raises(ValueError, match="sliding_window 4; no llama"):
        TransformerConfig.from_hf(raw | {"sliding_window": 4})
    with pytest.raises(ValueError, match="no published family"):
        dataclasses.replace(CONFIGS["window"], qkv_bias=False).to_hf()


def test_what_a_config_does_not_say_is_the_family_s():
    raw = QWEN2.to_hf()
    del raw["head_dim"]
    assert TransformerConfig.from_hf(raw).head_dim == 4
    assert TransformerConfig.from_hf(raw | {"model_type": "qwen3"}).head_dim == 128
    assert TransformerConfig.from_hf(raw | {"model_type": "llama"}).head_dim == 4
    assert TransformerConfig.from_hf(raw | {"hidden_act": "swish"}).head_dim == 4


@pytest.mark.parametrize("name", ["smollm2-135m", "llama-3.2-1b", "qwen2.5-0.5b", "qwen3-0.6b"])
def test_published_shapes_go_out_and_come_back(name):
    assert TransformerConfig.from_hf(SHAPES[name].to_hf()) == SHAPES[name]


def test_both_spellings_of_rope_are_read():
    raw = QWEN2.to_hf() | {"rope_theta": 1e6}
    yarn = {"factor": 4.0, "original_max_position_embeddings": 64}
    old = raw | {"rope_scaling": {"type": "yarn", **yarn}}
    new = raw | {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6, **yarn}}
    new.pop("rope_theta")
    assert TransformerConfig.from_hf(old) == TransformerConfig.from_hf(new)
    assert TransformerConfig.from_hf(old).rope_theta == 1e6


def test_an_unbinding_window_is_dropped():
    raw = QWEN2.to_hf() | {"use_sliding_window": True, "sliding_window": 40_000}
    assert TransformerConfig.from_hf(raw) == QWEN2
    bound = raw | {"sliding_window": 8, "max_window_layers": 1}
    assert TransformerConfig.from_hf(bound).windowed_layers == (1,)


def test_value_heads_lie_beside(tmp_path):
    _assert_equal(load_heads(tmp_path, 5), init_heads(5))
    heads = {"kernel": jnp.arange(15.0).reshape(5, 3), "bias": jnp.ones(3)}
    save_heads(heads, tmp_path)
    assert (tmp_path / HEADS_FILE).is_file()
    _assert_equal(load_heads(tmp_path, 5), heads)
    with pytest.raises(ValueError, match="expected"):
        load_heads(tmp_path, 6)


SIZES = {
    "vocab_size": 131,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.15,
    "attn_implementation": "eager",
    "tie_word_embeddings": False,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
ORACLES = {
    "qwen2": ("Qwen2", {}),
    "qwen2.5-tied": ("Qwen2", {"tie_word_embeddings": True, "rope_theta": 1e6}),
    "qwen2.5-untied": ("Qwen2", {"rope_theta": 1e6}),
    "qwen2-window": (
        "Qwen2",
        {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    ),
    "qwen2-yarn": ("Qwen2", {"rope_scaling": YARN}),
    "qwen2-yarn-attention": ("Qwen2", {"rope_scaling": YARN | {"attention_factor": 0.7}}),
    "qwen2-linear": ("Qwen2", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
    "qwen2-llama3": ("Qwen2", {"rope_scaling": LLAMA3}),
    "qwen3-tied": ("Qwen3", {"head_dim": 16, "tie_word_embeddings": True, "rope_theta": 1e6}),
    "qwen3-untied": ("Qwen3", {"head_dim": 16, "rope_theta": 1e6}),
    "smollm2": ("Llama", {"tie_word_embeddings": True, "rope_theta": 1e5, "rms_norm_eps": 1e-5}),
    "llama2": ("Llama", {"num_key_value_heads": 6}),
    "llama3": ("Llama", {"head_dim": 12, "rope_theta": 5e5, "rope_scaling": LLAMA3}),
}


def _reference(name, folder):
    """A random tiny checkpoint written by transformers; returns the torch model."""
    torch = pytest.importorskip("torch", reason="compares with transformers on torch: absent")
    import transformers

    family, extra = ORACLES[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**SIZES | extra)
    model = getattr(transformers, f"{family}ForCausalLM")(config)
    with torch.no_grad():
        for parameter in model.parameters():  # zero biases and unit norms would hide faults
            parameter += 0.05 * torch.randn_like(parameter)
    model = model.eval()
    model.save_pretrained(folder, max_shard_size="60KB")
    return torch, model


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


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ORACLES)
def test_parity_with_transformers(name, tmp_path):
    torch, model = _reference(name, tmp_path / "theirs")
    config = TransformerConfig.from_hf(tmp_path / "theirs")
    params = load_params(tmp_path / "theirs", config)
    tokens = np.random.default_rng(0).integers(0, 131, (3, 24))
    with torch.no_grad():
        expected = model(torch.asarray(tokens)).logits.numpy()
    hidden = forward(params, config, jnp.asarray(tokens), lengths=jnp.full(3, 24))
    np.testing.assert_allclose(logits(params, config, hidden), expected, atol=2e-5, rtol=0)

    prompt = tokens[:, :5]
    continued = model.generate(
        torch.asarray(prompt), max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    np.testing.assert_array_equal(_greedy(params, config, prompt, 12), continued.numpy())

    save_params(params, config, tmp_path / "ours")
    theirs, ours = find_tensors(tmp_path / "theirs"), find_tensors(tmp_path / "ours")
    assert theirs.keys() == ours.keys()
    for key in theirs:
        assert theirs[key].open().tobytes() == ours[key].open().tobytes(), key
    again = type(model).from_pretrained(tmp_path / "ours", attn_implementation="eager").eval()
    with torch.no_grad():
        np.testing.assert_array_equal(again(torch.asarray(tokens)).logits.numpy(), expected)
