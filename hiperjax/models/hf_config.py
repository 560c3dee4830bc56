"""The `config.json` of a Hugging Face checkpoint, as our fields and back.

Every field that changes the function is honoured, or refused by name.
"""

import math
import pathlib
from collections.abc import Mapping
from typing import Any

from hiperjax.files import read_json
from hiperjax.models.errors import ModelError
from hiperjax.models.families import Family, family_named, family_of
from hiperjax.models.rope import RopeScaling

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
ROPE_REQUIRED = {
    "linear": ("factor",),
    "llama3": ("factor", *ROPE_FIELDS["llama3"]),
    "yarn": ("factor",),
}
ROPE_REFUSED = {"mscale": None, "mscale_all_dim": None, "attn_factor": 1, "truncate": True}
"""Fields of stretched rotary positions that we do not know, and the value that means nothing."""
LAYER_TYPES = ("full_attention", "sliding_attention")
SILU = ("silu", "swish")


def read_hf(source: str | pathlib.Path | Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `TransformerConfig` from a `config.json`: its content, path, or folder."""
    raw, where = _load(source)
    family = family_named(raw.get("model_type"), where)
    _refuse(raw, family, where)
    fields = _dimensions(raw, family, where) | _rope(raw, where) | _window(raw, family, where)
    return fields | {"qkv_bias": family.qkv_bias, "qk_norm": family.qk_norm}


def _refuse(raw: Mapping[str, Any], family: Family, where: str) -> None:
    """What would make another function of the same tensors."""
    if raw.get("hidden_act", "silu") not in SILU:
        raise ModelError(f"{where}: hidden_act {raw['hidden_act']!r}; expected 'silu'")
    for name in family.refused:
        if raw.get(name, False):
            raise ModelError(f"{where}: {name} is set; no {family.model_type} here has one")
    if raw.get("quantization_config"):
        raise ModelError(f"{where}: quantization_config is set; expected unquantized weights")


def _load(source: str | pathlib.Path | Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    if isinstance(source, Mapping):
        return source, "config"
    path = pathlib.Path(source)
    path = path / "config.json" if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; expected a Hugging Face checkpoint folder with a config.json"
        )
    return read_json(path, cure="not JSON: is the download complete?"), str(path)


def _dimensions(raw: Mapping[str, Any], family: Family, where: str) -> dict[str, Any]:
    missing = [name for name in DIMENSIONS.values() if not isinstance(raw.get(name), int)]
    if missing:
        raise ModelError(f"{where}: no whole number for {', '.join(missing)}")
    fields: dict[str, Any] = {ours: raw[theirs] for ours, theirs in DIMENSIONS.items()}
    fields["num_kv_heads"] = raw.get("num_key_value_heads") or fields["num_heads"]
    per_head = family.head_dim or fields["hidden_size"] // fields["num_heads"]
    fields["head_dim"] = raw.get("head_dim") or per_head
    fields["norm_eps"] = raw.get("rms_norm_eps", 1e-6)
    fields["tie_embeddings"] = bool(raw.get("tie_word_embeddings", False))
    fields["max_position"] = raw.get("max_position_embeddings", 32_768)
    fields["embedding_std"] = raw.get("initializer_range", 0.02)
    return fields


def _rope(raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Both spellings: `rope_theta` beside `rope_scaling`, and `rope_parameters` with all of it."""
    rope = dict(raw.get("rope_parameters") or raw.get("rope_scaling") or {})
    theta = rope.get("rope_theta", raw.get("rope_theta", 10_000.0))
    fraction = rope.get("partial_rotary_factor", raw.get("partial_rotary_factor"))
    if fraction not in (None, 1):
        raise ModelError(f"{where}: partial_rotary_factor {fraction}; expected 1 (whole heads)")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return {"rope_theta": float(theta)}
    if kind not in ROPE_FIELDS:
        raise ModelError(f"{where}: rope_type {kind!r}; expected default, {', '.join(ROPE_FIELDS)}")
    if lacking := [name for name in ROPE_REQUIRED[kind] if rope.get(name) is None]:
        raise ModelError(f"{where}: rope_scaling of type {kind} without {', '.join(lacking)}")
    for name, harmless in ROPE_REFUSED.items():
        if rope.get(name, harmless) != harmless:
            raise ModelError(f"{where}: rope_scaling with {name} {rope[name]} is not supported")
    scaling: dict[str, Any] = {"kind": kind, "factor": float(rope["factor"])}
    if kind != "linear":
        stated = (part.get("original_max_position_embeddings") for part in (raw, rope))
        length = raw.get("max_position_embeddings", 32_768)
        scaling["original_length"] = next((x for x in stated if x), length)
    present = [name for name in ROPE_FIELDS[kind] if rope.get(name) is not None]
    scaling |= {name: float(rope[name]) for name in present}
    return {"rope_theta": float(theta), "rope_scaling": RopeScaling(**scaling)}


def _window(raw: Mapping[str, Any], family: Family, where: str) -> dict[str, Any]:
    """`layer_types` names each layer; before it, layers from `max_window_layers` on were windowed.

    A window at least as long as the context binds nothing and is dropped.
    """
    window, layers = raw.get("sliding_window"), raw["num_hidden_layers"]
    types = raw.get("layer_types") or []
    if types and len(types) != layers:
        raise ModelError(f"{where}: {len(types)} layer_types for {layers} layers")
    if unknown := set(types) - set(LAYER_TYPES):
        raise ModelError(f"{where}: layer_types {sorted(unknown)}; expected some of {LAYER_TYPES}")
    in_use = raw.get("use_sliding_window", not family.windows) and bool(window)
    if in_use and not family.windows:
        raise ModelError(f"{where}: sliding_window {window}; no {family.model_type} here has one")
    if not in_use:
        if LAYER_TYPES[1] in types:
            raise ModelError(f"{where}: layer_types names a sliding window that is not in use")
        return {}
    if window >= raw.get("max_position_embeddings", math.inf):
        return {}
    first = raw.get("max_window_layers", 28)
    types = types or [LAYER_TYPES[i >= first] for i in range(layers)]
    windowed = tuple(i for i, kind in enumerate(types) if kind == LAYER_TYPES[1])
    return {"sliding_window": window, "windowed_layers": windowed} if windowed else {}


def write_hf(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Content of a `config.json` from the fields of a `TransformerConfig`."""
    family = family_of(fields)
    raw = {theirs: fields[ours] for ours, theirs in DIMENSIONS.items()}
    raw |= {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        "num_key_value_heads": fields["num_kv_heads"],
        "head_dim": fields["head_dim"],
        "hidden_act": "silu",
        "rms_norm_eps": fields["norm_eps"],
        "rope_theta": fields["rope_theta"],
        "tie_word_embeddings": fields["tie_embeddings"],
        "max_position_embeddings": fields["max_position"],
        "initializer_range": fields["embedding_std"],
        "attention_dropout": 0.0,
    }
    raw |= dict.fromkeys(family.refused, False)
    if family.windows:
        raw["use_sliding_window"] = bool(fields["windowed_layers"])
    if fields["windowed_layers"]:
        windowed = [i in fields["windowed_layers"] for i in range(fields["num_layers"])]
        raw["sliding_window"] = fields["sliding_window"]
        raw["layer_types"] = [LAYER_TYPES[is_windowed] for is_windowed in windowed]
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
