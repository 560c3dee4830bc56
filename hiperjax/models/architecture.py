"""What shape a transformer has: one frozen, hashable description, also read from `config.json`."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, Literal

from hiperjax_kernels.causal import Implementation

from hiperjax.models.errors import ModelError
from hiperjax.models.hf_config import read_hf, write_hf
from hiperjax.models.rope import RopeScaling

Remat = Literal["none", "full", "dots"]
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
    """Bias on the query, key and value projections (Qwen2)."""
    qk_norm: bool = False
    """RMSNorm on each head's query and key (Qwen3)."""
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
    """Attention kernel of right-padded rows, and of packed sequences that are given as rows:
    `cudnn` wants an NVIDIA GPU and a 16-bit dtype, `splash` a TPU."""
    attention_block: int = 0
    """Queries at a time in attention of whole rows by `xla`; 0: all. For long rows on a CPU."""
    row_axes: tuple[str, ...] = ()
    """Axes of the mesh in force (`jax.set_mesh`) that rows are split over; empty without a mesh."""
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
            raise ModelError(
                f"{self.num_heads} query heads over {self.num_kv_heads} key-value heads; expected "
                "a multiple"
            )
        if self.head_dim % 2:
            raise ModelError(f"head_dim {self.head_dim}; rotary positions need an even one")
        unknown = set(self.lora_targets) - set(LORA_TARGETS)
        if unknown:
            raise ModelError(f"lora_targets {sorted(unknown)}; expected some of {LORA_TARGETS}")
        if self.windowed_layers and self.sliding_window < 1:
            raise ModelError("windowed_layers given without a sliding_window of at least 1")

    @classmethod
    def from_hf(cls, source: str | pathlib.Path | Mapping[str, Any], **changes: Any):
        """Read a Hugging Face `config.json`: its content, its path, or the folder that holds it.

        `changes` set fields the file does not speak of (`dtype`, `remat`, `lora_rank`, ...).
        """
        return cls(**(read_hf(source) | changes))

    def to_hf(self) -> dict[str, Any]:
        """Content of a `config.json`; the inverse of `from_hf`.

        Raises:
          ModelError: no published family has a word for this architecture.
        """
        if self.embedding_scale:
            raise ModelError("to_hf: no published family has embedding_scale; spell it out first")
        return write_hf(dataclasses.asdict(self))
