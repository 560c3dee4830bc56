"""GGUF files of the Llama and Qwen2 families as Hugging Face folders."""

import pathlib
from typing import Any

import numpy as np

from hiperjax.files import new_folder, write_json
from hiperjax.models.architecture import TransformerConfig
from hiperjax.models.errors import ModelError
from hiperjax.models.families import FAMILIES, Family
from hiperjax.models.gguf_file import GgufFile, read_gguf
from hiperjax.models.gguf_tokenizer import build_tokenizer, generation_config
from hiperjax.models.rope import RopeScaling, frequencies
from hiperjax.models.tensor_files import TensorSpec, write_tensors
from hiperjax.models.tokenizers import check_vocabulary, load_tokenizer
from hiperjax.models.weights import MAX_SHARD_BYTES, published_shapes

ARCHITECTURES = ("llama", "qwen2")
DIMENSIONS = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_layers": "block_count",
    "num_heads": "attention.head_count",
}
REFUSED = (
    "expert_count",
    "attention.sliding_window",
    "attention.scale",
    "embedding_scale",
    "residual_scale",
    "logit_scale",
)
"""Fields that make another function of the same tensors."""
ROPE_FACTORS = "rope_freqs.weight"
OUTER = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
INNER = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def convert_gguf_to_hf(
    source: str | pathlib.Path, target: str | pathlib.Path, *, dtype: Any = "float32"
) -> None:
    """Read a GGUF file, write a folder that `transformers` loads: all of it or nothing.

    Args:
      source: the file.
      target: a new or empty folder.
      dtype: of the tensors written; float32 holds exactly what quantized blocks stand for.

    Raises:
      ModelError: another architecture, storage or tokenizer, or a damaged file.
    """
    file = read_gguf(source)
    config, family = read_architecture(file)
    tokenizer = build_tokenizer(file)
    check_vocabulary(tokenizer, config.vocab_size)
    specs = [
        TensorSpec(name, np.dtype(dtype), shape) for name, shape in published_shapes(config).items()
    ]
    _check_tensors(file, specs)
    generation = generation_config(file)
    description = config.to_hf() | generation | {"dtype": np.dtype(dtype).name}

    def read(spec: TensorSpec) -> np.ndarray:
        tensor = file.tensors[gguf_name(spec.name)].read()
        if family.interleaved_gguf and (heads := _rotated_heads(spec.name, config)):
            tensor = split_pairs(tensor, heads)
        return tensor.astype(spec.dtype)

    with new_folder(target) as partial:
        tokenizer.save_pretrained(partial)
        check_vocabulary(load_tokenizer(partial), config.vocab_size)
        write_tensors(partial, specs, read, max_bytes=MAX_SHARD_BYTES)
        write_json(partial / "config.json", description)
        write_json(partial / "generation_config.json", generation)


def read_architecture(file: GgufFile) -> tuple[TransformerConfig, Family]:
    """What the file's fields say of the model's shape."""
    name = file.need("general.architecture", str)
    if name not in ARCHITECTURES:
        raise ModelError(
            f"{file.path}: architecture {name!r}; expected one of {', '.join(ARCHITECTURES)}"
        )
    for key in REFUSED:
        if value := file.fields.get(f"{name}.{key}"):
            raise ModelError(f"{file.path}: {name}.{key} is {value}; expected none")
    sizes = {ours: file.need(f"{name}.{theirs}", int) for ours, theirs in DIMENSIONS.items()}
    sizes["num_kv_heads"] = file.get(f"{name}.attention.head_count_kv", int, sizes["num_heads"])
    if wrong := [key for key, size in sizes.items() if size < 1]:
        raise ModelError(f"{file.path}: {wrong[0]} is {sizes[wrong[0]]}; expected at least 1")
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        raise ModelError(f"{file.path}: no tensor token_embd.weight; is it a language model?")
    per_head = sizes["hidden_size"] // sizes["num_heads"]
    per_head = file.get(f"{name}.attention.key_length", int, per_head)
    for key in ("attention.value_length", "rope.dimension_count"):
        if (found := file.get(f"{name}.{key}", int, per_head)) != per_head:
            raise ModelError(f"{file.path}: {name}.{key} is {found}; expected {per_head}")
    family = FAMILIES[name]
    theta = float(file.get(f"{name}.rope.freq_base", float, 10_000.0))
    config = TransformerConfig(
        **sizes,
        vocab_size=embedding.shape[0],
        head_dim=per_head,
        rope_theta=theta,
        rope_scaling=_rope_scaling(file, name, per_head, theta),
        norm_eps=_shortest(file.need(f"{name}.attention.layer_norm_rms_epsilon", float)),
        tie_embeddings="output.weight" not in file.tensors,
        qkv_bias=family.qkv_bias,
        qk_norm=family.qk_norm,
        max_position=file.need(f"{name}.context_length", int),
    )
    return config, family


def _shortest(value: float) -> float:
    """A float32 as people wrote it: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def _rope_scaling(file: GgufFile, name: str, head_dim: int, theta: float) -> RopeScaling | None:
    """Stretched rotary positions: by fields, or (Llama 3) by a factor for each frequency."""
    kind = file.get(f"{name}.rope.scaling.type", str, "none")
    factor = file.get(f"{name}.rope.scaling.factor", float)
    if ROPE_FACTORS in file.tensors and kind == "none":
        return _llama3_scaling(file, head_dim, theta)
    if kind == "none" or (kind == "linear" and factor == 1):
        return None
    if kind not in ("linear", "yarn") or ROPE_FACTORS in file.tensors:
        raise ModelError(f"{file.path}: rope.scaling.type {kind!r}; expected linear or yarn")
    if file.get(f"{name}.rope.scaling.attn_factor", float, 1.0) != 1:
        raise ModelError(f"{file.path}: rope.scaling.attn_factor is set; expected none")
    if factor is None:
        raise ModelError(f"{file.path}: rope.scaling.type {kind} without rope.scaling.factor")
    length = file.need(f"{name}.context_length", int)
    length = file.get(f"{name}.rope.scaling.original_context_length", int, length)
    return RopeScaling(kind, factor, length if kind == "yarn" else 0)


def _llama3_scaling(file: GgufFile, head_dim: int, theta: float) -> RopeScaling:
    factors = file.tensors[ROPE_FACTORS].read()
    scaling = RopeScaling("llama3", round(float(factors.max()), 3), 8192)
    plain, stretched = (frequencies(head_dim, theta, s)[0] for s in (None, scaling))
    if factors.shape == plain.shape and np.allclose(plain / factors, stretched, rtol=1e-4):
        return scaling
    raise ModelError(
        f"{file.path}: {ROPE_FACTORS} does not stretch as Llama 3 does (from 8,192 tokens, "
        "frequency factors 1 and 4)"
    )


def gguf_name(published: str) -> str:
    """Name in a GGUF file of a tensor's published name."""
    if published in OUTER:
        return OUTER[published]
    layer, _, rest = published.removeprefix("model.layers.").partition(".")
    module, _, kind = rest.rpartition(".")
    return f"blk.{layer}.{INNER[module]}.{kind}"


def _check_tensors(file: GgufFile, specs: list[TensorSpec]) -> None:
    expected = {gguf_name(spec.name): spec.shape for spec in specs}
    found = file.tensors.keys() - {ROPE_FACTORS}
    for kind, names in (("no", expected.keys() - found), ("unknown", found - expected.keys())):
        if names:
            raise ModelError(
                f"{file.path}: {kind} tensor {min(names)} (one of {len(names)}) in what its "
                "fields describe; damaged, or another kind of model?"
            )
    for name, shape in expected.items():
        if file.tensors[name].shape != shape:
            raise ModelError(
                f"{file.path}: tensor {name} has shape {file.tensors[name].shape}; the fields "
                f"make it {shape}"
            )


def _rotated_heads(published: str, config: TransformerConfig) -> int:
    """Heads of a projection whose output is rotated, else 0."""
    heads = {"q_proj.weight": config.num_heads, "k_proj.weight": config.num_kv_heads}
    return next((n for name, n in heads.items() if published.endswith(f"self_attn.{name}")), 0)


def split_pairs(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows from interleaved rotary pairs `(0, 1), (2, 3), ...` of each head to `(i, i + d / 2)`."""
    out, features = weight.shape
    pairs = weight.reshape(heads, out // heads // 2, 2, features)
    return pairs.swapaxes(1, 2).reshape(out, features)
