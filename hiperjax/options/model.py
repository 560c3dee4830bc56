"""Settings of the policy network and of the devices it lies on."""

import dataclasses
import pathlib
from typing import Literal

Projection = Literal["q", "k", "v", "o", "gate", "up", "down"]


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The policy network: a folder with weights, or a small one from random weights."""

    folder: pathlib.Path | None = None
    """Hugging Face checkpoint folder; its config and tokenizer then replace the sizes below."""
    shape: str | None = None
    """Published architecture by name (qwen2.5-1.5b, qwen3-4b, ...), for plans, and with
    random_weights for speed tests; replaces the sizes below."""
    random_weights: bool = False
    """Run a published shape with random weights, which learn nothing useful."""
    tokenizer: pathlib.Path | None = None
    """Tokenizer folder for random weights; none trains one on the suite's words."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of activations and matrix products."""
    remat: Literal["none", "dots", "full", "auto"] = "none"
    """What the backward pass computes again instead of keeping it: nothing, all but products with
    weights, each layer; auto: dots where a device has 80 GB and more, elsewhere full."""
    attention: Literal["auto", "xla", "cudnn", "splash"] = "auto"
    """Attention of whole rows. auto: cudnn on an NVIDIA GPU in bfloat16, splash on a TPU, elsewhere
    xla, the only one that keeps scores. Decoding stays with xla."""
    decode_unroll: int = 1
    """Layers unrolled per step of the decode loop over layers."""
    lora_rank: int = 0
    """Rank of low-rank adapters: only they are trained, beside a frozen base that is kept in
    `dtype`; 0 trains everything."""
    lora_alpha: float = 32.0
    """Adapters act with weight lora_alpha / lora_rank."""
    lora_targets: tuple[Projection, ...] = ("q", "k", "v", "o", "gate", "up", "down")
    """Projections that carry an adapter."""
    hidden_size: int = 64
    """Width."""
    intermediate_size: int = 176
    """Width of the SwiGLU layer."""
    num_layers: int = 3
    """Blocks."""
    num_heads: int = 4
    """Query heads."""
    num_kv_heads: int = 2
    """Key-value heads."""
    embedding_std: float = 0.06
    """Spread of the initial embedding, which is then scaled by the square root of the width."""


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """The devices of a run. As it stands: one process, its first device."""

    data: int = 1
    """Copies of the model; -1: as many as the devices allow."""
    fsdp: int = 1
    """Ways that parameters, gradients and optimizer state are split."""
    tensor: int = 1
    """Ways that heads and hidden units are split."""
    distributed: bool = False
    """Join the run's other processes, found by themselves: TPU pods, Slurm, Open MPI."""
    coordinator: str | None = None
    """Elsewhere: HOST:PORT of process 0; with it goes mesh.num-processes, mesh.process-id."""
    num_processes: int | None = None
    """Processes of the run."""
    process_id: int | None = None
    """Number of this process, from 0."""
