"""Families of published models: one row each, what sets it apart and what of it is refused.

All are decoder-only with RMSNorm, rotary positions, grouped-query attention and SwiGLU, and name
their tensors alike; `TransformerConfig` describes any of them.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from hiperjax.models.errors import ModelError


@dataclasses.dataclass(frozen=True)
class Family:
    """One `model_type` of Hugging Face's `config.json`."""

    model_type: str
    architecture: str
    """Its class in transformers."""
    models: str
    """What is published under it."""
    qkv_bias: bool
    """Bias on the query, key and value projections."""
    qk_norm: bool
    """RMSNorm on each head's query and key."""
    windows: bool
    """Whether some of its layers may see a sliding window only."""
    refused: tuple[str, ...]
    """Switches of `config.json` that no published checkpoint turns on, and that we cannot run."""
    head_dim: int | None = None
    """Where `config.json` does not say; `None` is hidden size over heads."""
    interleaved_gguf: bool = False
    """GGUF files keep the rows of q and k in the order of interleaved rotary pairs."""


FAMILIES = {
    row.model_type: row
    for row in (
        Family(
            "qwen2",
            "Qwen2ForCausalLM",
            "Qwen2, Qwen2.5",
            qkv_bias=True,
            qk_norm=False,
            windows=True,
            refused=(),
        ),
        Family(
            "qwen3",
            "Qwen3ForCausalLM",
            "Qwen3",
            qkv_bias=False,
            qk_norm=True,
            windows=True,
            refused=("attention_bias",),
            head_dim=128,
        ),
        Family(
            "llama",
            "LlamaForCausalLM",
            "Llama 2 and 3, SmolLM, SmolLM2",
            qkv_bias=False,
            qk_norm=False,
            windows=False,
            refused=("attention_bias", "mlp_bias", "rope_interleaved"),
            interleaved_gguf=True,
        ),
    )
}


def family_named(model_type: Any, where: str) -> Family:
    """The row of a `model_type`, or an error that names those there are."""
    if model_type not in FAMILIES:
        raise ModelError(f"{where}: model_type {model_type!r}; expected one of {tuple(FAMILIES)}")
    return FAMILIES[model_type]


def family_of(fields: Mapping[str, Any]) -> Family:
    """The family that has a word for all of these fields of a `TransformerConfig`."""
    for family in FAMILIES.values():
        alike = all(getattr(family, name) == fields[name] for name in ("qkv_bias", "qk_norm"))
        if alike and (family.windows or not fields["windowed_layers"]):
            return family
    found = {name: fields[name] for name in ("qkv_bias", "qk_norm", "windowed_layers")}
    raise ModelError(f"no published family ({', '.join(FAMILIES)}) has {found}")
