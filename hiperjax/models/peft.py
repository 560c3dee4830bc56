"""Adapters alone, as a folder of the PEFT library: what people exchange beside a base model."""

import pathlib
from typing import Any

import jax

from hiperjax.files import write_json
from hiperjax.models.architecture import TransformerConfig
from hiperjax.models.errors import ModelError
from hiperjax.models.lora import partition
from hiperjax.models.tensor_files import write_tensors
from hiperjax.models.transformer import Params
from hiperjax.models.weights import MAX_SHARD_BYTES, name_tensors

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PREFIX = "base_model.model."


def describe_adapters(config: TransformerConfig, base: str) -> dict[str, Any]:
    """Content of an `adapter_config.json`."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": config.lora_rank,
        "lora_alpha": config.lora_alpha,
        "target_modules": [f"{name}_proj" for name in config.lora_targets],
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "inference_mode": True,
    }


def save_adapters(
    params: Params,
    config: TransformerConfig,
    folder: str | pathlib.Path,
    *,
    base: str,
    dtype: Any = None,
) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors`.

    Args:
      params: with adapters.
      config: their architecture.
      folder: exists.
      base: name or folder of the model that the adapters belong to.
      dtype: of the tensors written; default: the adapters' own.
    """
    if not config.lora_rank:
        raise ModelError("save_adapters: no adapters (lora_rank is 0)")
    if config.embedding_scale:
        raise ModelError("save_adapters: no published base has embedding_scale")
    folder = pathlib.Path(folder)
    specs, read = name_tensors(partition(params)[0], config, dtype=dtype, prefix=PREFIX)
    if jax.process_index() == 0:
        write_tensors(folder, specs, read, max_bytes=MAX_SHARD_BYTES, single=WEIGHTS)
        write_json(folder / CONFIG, describe_adapters(config, base))
    else:
        for spec in specs:
            read(spec)
