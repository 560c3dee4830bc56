"""The transformer a run trains: its shape from the configuration, its kernels from the device."""

import dataclasses
import pathlib
from typing import Any, Literal, cast

import jax
from hiperjax_kernels.causal import COLUMNS, Implementation
from jax.extend.backend import get_backend

from hiperjax.config import ConfigError, RunConfig
from hiperjax.models.architecture import Remat
from hiperjax.models.shapes import SHAPES
from hiperjax.models.transformer import TransformerConfig
from hiperjax.training.run_folder import ARCHITECTURE

Platform = Literal["cpu", "cuda", "rocm", "tpu"]
NATIVE: dict[str, Platform] = {"cudnn": "cuda", "splash": "tpu"}
"""Where each attention kernel but `xla` runs."""
MEMORY_FOR_DOTS = 70e9
"""Bytes a run may take of a device of 80 GB."""
ROW_COLUMNS = max(COLUMNS.values())
"""Columns of attention rows are a multiple of this, which suits every kernel."""


def find_platform() -> Platform:
    """What this process computes on."""
    name = jax.default_backend()
    if name == "gpu":
        name = "rocm" if "rocm" in get_backend().platform_version else "cuda"
    return cast(Platform, name)


def choose_attention(asked: str, dtype: str, platform: Platform) -> Implementation:
    """The attention kernel of whole rows.

    Raises:
      ConfigError: one that the platform does not have.
    """
    if asked == "auto":
        if platform == "cuda":
            return "cudnn" if dtype == "bfloat16" else "xla"
        return "splash" if platform == "tpu" else "xla"
    wanted = NATIVE.get(asked, platform)
    if wanted != platform:
        raise ConfigError(
            f"model.attention is {asked} on {platform}; it runs on {wanted} alone: expected auto, "
            "which chooses by the device, or xla"
        )
    return cast(Implementation, asked)


def find_memory() -> float:
    """Bytes that this process may take of a device; 0 where the backend does not say."""
    return float((jax.local_devices()[0].memory_stats() or {}).get("bytes_limit", 0))


def choose_remat(asked: str, memory: float) -> Remat:
    """What the backward pass computes again, by the bytes of a device.

    To keep the products of the layers is faster than to keep all, which is bound by bandwidth.
    """
    if asked == "auto":
        return "dots" if memory >= MEMORY_FOR_DOTS else "full"
    return cast(Remat, asked)


def attention_columns(platform: Platform | None = None) -> int:
    """What the columns of attention rows are a multiple of; 0 where a mask is as fast: on a CPU."""
    return 0 if (platform or find_platform()) == "cpu" else ROW_COLUMNS


def model_shape(
    config: RunConfig,
    vocab_size: int,
    folder: pathlib.Path | None = None,
    *,
    platform: Platform | None = None,
    memory: float | None = None,
) -> TransformerConfig:
    """The transformer the run trains.

    Args:
      config: the run.
      vocab_size: of its tokenizer; a published shape has its own.
      folder: the run's, if it has one.
      platform: where it is to run; None: here.
      memory: bytes of a device there that it may take; None: of one here.

    Raises:
      ConfigError: no published architecture of that name, or no such attention there.
    """
    m = config.model
    options: dict[str, Any] = dict(
        dtype=m.dtype,
        remat=choose_remat(m.remat, find_memory() if memory is None else memory),
        attention=choose_attention(m.attention, m.dtype, platform or find_platform()),
        decode_unroll=m.decode_unroll,
        lora_rank=m.lora_rank,
        lora_alpha=m.lora_alpha,
        lora_targets=m.lora_targets,
    )
    if m.folder is not None:
        kept = folder is not None and (folder / ARCHITECTURE).is_file()
        source = folder / ARCHITECTURE if folder is not None and kept else m.folder
        return TransformerConfig.from_hf(source, **options)
    if m.shape is not None:
        if m.shape not in SHAPES:
            raise ConfigError(f"model.shape is {m.shape!r}; expected one of {', '.join(SHAPES)}")
        return dataclasses.replace(SHAPES[m.shape], **options)
    return TransformerConfig(
        vocab_size=vocab_size,
        hidden_size=m.hidden_size,
        intermediate_size=m.intermediate_size,
        num_layers=m.num_layers,
        num_heads=m.num_heads,
        num_kv_heads=m.num_kv_heads,
        head_dim=m.hidden_size // m.num_heads,
        embedding_std=m.embedding_std,
        embedding_scale=True,
        **options,
    )
