"""Between Hugging Face folders and Orbax folders of bare parameters.

An Orbax folder holds the same `config.json` and tokenizer files, and `params/` instead of
safetensors: sharded, parallel to read and write, and without the transposes.
"""

import pathlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from hiperjax.files import new_folder, read_json, write_json
from hiperjax.models.architecture import TransformerConfig
from hiperjax.models.generation import write_generation
from hiperjax.models.transformer import Params, abstract_params
from hiperjax.models.weights import copy_tokenizer, load_params, save_params

PARAMS = "params"


def convert_hf_to_orbax(
    source: str | pathlib.Path,
    target: str | pathlib.Path,
    *,
    dtype: Any = "float32",
    shardings: Any = None,
) -> None:
    """Read a Hugging Face folder, write an Orbax one; parameters in `dtype`."""
    config = TransformerConfig.from_hf(source)
    with new_folder(target) as partial:
        params = load_params(source, config, dtype=dtype, shardings=shardings)
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(partial / PARAMS, params)
        description = config.to_hf() | {"dtype": np.dtype(params["embedding"].dtype).name}
        write_json(partial / "config.json", description)
        copy_tokenizer(source, partial)
        write_generation(source, partial)


def convert_orbax_to_hf(
    source: str | pathlib.Path, target: str | pathlib.Path, *, dtype: Any = None
) -> None:
    """Read an Orbax folder, write one that `transformers` loads; default: the dtype it has."""
    with new_folder(target) as partial:
        config, params = load_checkpoint(source)
        save_params(params, config, partial, dtype=dtype, tokenizer=source)


def load_checkpoint(
    folder: str | pathlib.Path, *, dtype: Any = None, shardings: Any = None
) -> tuple[TransformerConfig, Params]:
    """Architecture and parameters of a folder of either kind.

    Args:
      folder: Hugging Face or Orbax.
      dtype: Dtype of the parameters; default: float32 from Hugging Face, else as stored.
      shardings: one `Sharding` a leaf; default: the first device.
    """
    folder = pathlib.Path(folder).absolute()
    config = TransformerConfig.from_hf(folder)
    if not (folder / PARAMS).is_dir():
        return config, load_params(folder, config, dtype=dtype or "float32", shardings=shardings)
    stored = dtype or read_json(folder / "config.json", cure="convert it again")["dtype"]
    if shardings is None:
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        shardings = jax.tree.map(lambda _: device, abstract_params(config))
    wanted = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, stored, sharding=sharding),
        abstract_params(config),
        shardings,
    )
    with ocp.StandardCheckpointer() as checkpointer:
        return config, checkpointer.restore(folder / PARAMS, wanted)
