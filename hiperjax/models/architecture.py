"""What shape a transformer has: one frozen, hashable description, also read from `config.json`."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any, Literal

from hiperjax.models.attention import Implementation
from hiperjax.models.rope import RopeScaling

Remat = Literal["none", "full", "dots"]
MODEL_TYPES = ("qwen2", "qwen3")
LORA_TARGETS = ("q", "k", "v", "o", "gate", "up", "down")


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """A decoder-only transformer: RMSNorm, rotary positions, grouped-query attention, SwiGLU."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    norm_eps: float = 1e-6
    tie_embeddings: bool = True
    """The output projection is the embedding, transposed."""
    qkv_bias: bool = True
    """Qwen2: bias on the query, key and value projections."""
    qk_norm: bool = False
    """Qwen3: RMSNorm on each head's query and key."""
    sliding_window: int = 0
    """Keys a windowed layer sees, its own position included; 0 for no window."""
    windowed_layers: tuple[int, ...] = ()
    """Layers that the window binds."""
    max_position: int = 32_768
    """Longest context the checkpoint was made for."""
    embedding_std: float = 0.02
    """Standard deviation of a fresh embedding."""
    embedding_scale: bool = False
    """Multiply embedded tokens by sqrt(hidden_size): lets a small, tied embedding start well."""
    dtype: str = "float32"
    """Dtype of activations and matrix products; parameters are cast to it where they are used."""
    remat: Remat = "none"
    """What the backward pass recomputes: nothing, each layer, or all but its matrix products."""
    attention: Implementation = "xla"
    """Attention kernel of whole rows; `cudnn` wants an NVIDIA GPU and a 16-bit dtype."""
    decode_unroll: int = 1
    """Layers unrolled per step of the decode loop over layers."""
    lora_rank: int = 0
    """Rank of the adapters; 0 for none."""
    lora_alpha: float = 16.0
    """Adapters act with weight `lora_alpha / lora_rank`."""
    lora_targets: tuple[str, ...] = LORA_TARGETS
    """Projections that carry an adapter."""

    def __post_init__(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"{self.num_heads} query heads over {self.num_kv_heads} key-value heads; expected "
                "a multiple"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim}; rotary positions need an even one")
        unknown = set(self.lora_targets) - set(LORA_TARGETS)
        if unknown:
            raise ValueError(f"lora_targets {sorted(unknown)}; expected some of {LORA_TARGETS}")
        if self.windowed_layers and self.sliding_window < 1:
            raise ValueError("windowed_layers given without a sliding_window of at least 1")

    @classmethod
    def from_hf(cls, source: str | pathlib.Path | Mapping[str, Any], **changes: Any):
        """Read a Hugging Face `config.json`: its content, its path, or the folder that holds it.

        `changes` set fields the file does not speak of (`dtype`, `remat`, `lora_rank`, ...).
        """
        raw, where = _load(source)
        kind = raw.get("model_type")
        if kind not in MODEL_TYPES:
            raise ValueError(f"{where}: model_type {kind!r}; expected one of {MODEL_TYPES}")
        if raw.get("hidden_act", "silu") != "silu":
            raise ValueError(f"{where}: hidden_act {raw['hidden_act']!r}; expected 'silu'")
        fields = _dimensions(raw, where) | _rope(raw, where) | _window(raw)
        fields["qkv_bias"] = kind == "qwen2" or bool(raw.get("attention_bias", False))
        fields["qk_norm"] = kind == "qwen3"
        if kind == "qwen3" and fields["qkv_bias"]:
            raise ValueError(f"{where}: attention_bias is set; no Qwen3 checkpoint has one")
        return cls(**(fields | changes))


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
        raise ValueError(f"{path}: not JSON ({error}); is the download complete?") from error
    if not isinstance(raw, dict):
        raise ValueError(f"{path}: a JSON {type(raw).__name__}; expected an object")
    return raw, str(path)


def _dimensions(raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    names = {
        "vocab_size": "vocab_size",
        "hidden_size": "hidden_size",
        "intermediate_size": "intermediate_size",
        "num_layers": "num_hidden_layers",
        "num_heads": "num_attention_heads",
    }
    missing = [name for name in names.values() if not isinstance(raw.get(name), int)]
    if missing:
        raise ValueError(f"{where}: no whole number for {', '.join(missing)}")
    fields: dict[str, Any] = {ours: raw[theirs] for ours, theirs in names.items()}
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
    if kind not in ("linear", "llama3", "yarn"):
        raise ValueError(f"{where}: rope_type {kind!r}; expected default, linear, llama3 or yarn")
    context = rope.get("original_max_position_embeddings") or raw.get("max_position_embeddings")
    scaling = {"kind": kind, "factor": float(rope["factor"]), "original_length": int(context or 0)}
    for name in ("low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow"):
        if rope.get(name) is not None:
            scaling[name] = float(rope[name])
    if rope.get("attention_factor") is not None:
        scaling["attention_factor"] = float(rope["attention_factor"])
    if {"mscale", "mscale_all_dim"} & rope.keys() or rope.get("truncate") is False:
        raise ValueError(f"{where}: yarn with mscale or truncate=false is not supported")
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
