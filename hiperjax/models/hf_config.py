"""The `config.json` of Hugging Face Qwen2 and Qwen3 checkpoints, as our fields and back."""

import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

from hiperjax.models.errors import ModelError
from hiperjax.models.rope import RopeScaling

MODEL_TYPES = ("qwen2", "qwen3")
DIMENSIONS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
}
ROPE_FIELDS = {
    "linear": (),
    "llama3": ("low_freq_factor", "high_freq_factor"),
    "yarn": ("beta_fast", "beta_slow", "attention_factor"),
}


def read_hf(source: str | pathlib.Path | Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `TransformerConfig` from a `config.json`: its content, path, or folder."""
    raw, where = _load(source)
    kind = raw.get("model_type")
    if kind not in MODEL_TYPES:
        raise ModelError(f"{where}: model_type {kind!r}; expected one of {MODEL_TYPES}")
    if raw.get("hidden_act", "silu") != "silu":
        raise ModelError(f"{where}: hidden_act {raw['hidden_act']!r}; expected 'silu'")
    if kind == "qwen3" and raw.get("attention_bias", False):
        raise ModelError(f"{where}: attention_bias is set; no Qwen3 checkpoint has one")
    fields = _dimensions(raw, where) | _rope(raw, where) | _window(raw)
    return fields | {"qkv_bias": kind == "qwen2", "qk_norm": kind == "qwen3"}


def _load(source: str | pathlib.Path | Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    if isinstance(source, Mapping):
        return source, "config"
    path = pathlib.Path(source)
    path = path / "config.json" if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; expected a Hugging Face checkpoint folder with a config.json"
        )
    try:
        raw = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ModelError(f"{path}: not JSON ({error}); is the download complete?") from error
    if not isinstance(raw, dict):
        raise ModelError(f"{path}: a JSON {type(raw).__name__}; expected an object")
    return raw, str(path)


def _dimensions(raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    missing = [name for name in DIMENSIONS.values() if not isinstance(raw.get(name), int)]
    if missing:
        raise ModelError(f"{where}: no whole number for {', '.join(missing)}")
    fields: dict[str, Any] = {ours: raw[theirs] for ours, theirs in DIMENSIONS.items()}
    fields["num_kv_heads"] = raw.get("num_key_value_heads") or fields["num_heads"]
    fields["head_dim"] = raw.get("head_dim") or fields["hidden_size"] // fields["num_heads"]
    fields["norm_eps"] = raw.get("rms_norm_eps", 1e-6)
    fields["tie_embeddings"] = bool(raw.get("tie_word_embeddings", False))
    fields["max_position"] = raw.get("max_position_embeddings", 32_768)
    fields["embedding_std"] = raw.get("initializer_range", 0.02)
    return fields


def _rope(raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Both spellings: `rope_theta` beside `rope_scaling`, and `rope_parameters` with all of it."""
    rope = dict(raw.get("rope_parameters") or raw.get("rope_scaling") or {})
    theta = rope.get("rope_theta", raw.get("rope_theta", 10_000.0))
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return {"rope_theta": float(theta)}
    if kind not in ROPE_FIELDS:
        raise ModelError(f"{where}: rope_type {kind!r}; expected default, {', '.join(ROPE_FIELDS)}")
    scaling: dict[str, Any] = {"kind": kind, "factor": float(rope["factor"])}
    if kind != "linear":
        length = raw.get("max_position_embeddings", 32_768)
        scaling["original_length"] = rope.get("original_max_position_embeddings") or length
    present = [name for name in ROPE_FIELDS[kind] if rope.get(name) is not None]
    scaling |= {name: float(rope[name]) for name in present}
    if {"mscale", "mscale_all_dim"} & rope.keys() or rope.get("truncate") is False:
        raise ModelError(f"{where}: yarn with mscale or truncate=false is not supported")
    return {"rope_theta": float(theta), "rope_scaling": RopeScaling(**scaling)}


def _window(raw: Mapping[str, Any]) -> dict[str, Any]:
    """`layer_types` names each layer; before it, layers from `max_window_layers` on were windowed.

    A window at least as long as the context binds nothing and is dropped.
    """
    window = raw.get("sliding_window")
    if not raw.get("use_sliding_window", False) or not window:
        return {}
    if window >= raw.get("max_position_embeddings", math.inf):
        return {}
    layers = raw["num_hidden_layers"]
    types = raw.get("layer_types")
    if types is None:
        first = raw.get("max_window_layers", 28)
        types = ["sliding_attention" if i >= first else "full_attention" for i in range(layers)]
    windowed = tuple(i for i, kind in enumerate(types) if kind == "sliding_attention")
    return {"sliding_window": window, "windowed_layers": windowed} if windowed else {}


def write_hf(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Content of a `config.json` from the fields of a `TransformerConfig`."""
    kind = "qwen3" if fields["qk_norm"] else "qwen2"
    raw = {theirs: fields[ours] for ours, theirs in DIMENSIONS.items()}
    raw |= {
        "architectures": [f"{kind.capitalize()}ForCausalLM"],
        "model_type": kind,
        "num_key_value_heads": fields["num_kv_heads"],
        "head_dim": fields["head_dim"],
        "hidden_act": "silu",
        "rms_norm_eps": fields["norm_eps"],
        "rope_theta": fields["rope_theta"],
        "tie_word_embeddings": fields["tie_embeddings"],
        "max_position_embeddings": fields["max_position"],
        "initializer_range": fields["embedding_std"],
        "attention_dropout": 0.0,
        "use_sliding_window": bool(fields["windowed_layers"]),
    }
    if fields["windowed_layers"]:
        kinds = ("full_attention", "sliding_attention")
        windowed = [i in fields["windowed_layers"] for i in range(fields["num_layers"])]
        raw["sliding_window"] = fields["sliding_window"]
        raw["layer_types"] = [kinds[is_windowed] for is_windowed in windowed]
        raw["max_window_layers"] = min(fields["windowed_layers"])
    if fields["rope_scaling"] is not None:
        scaling = fields["rope_scaling"]
        names = ("factor", *ROPE_FIELDS[scaling["kind"]])
        rope = {name: scaling[name] for name in names if scaling[name] is not None}
        rope |= {"rope_type": scaling["kind"], "rope_theta": fields["rope_theta"]}
        if scaling["original_length"]:
            rope["original_max_position_embeddings"] = scaling["original_length"]
        raw["rope_scaling"] = rope
    return raw
