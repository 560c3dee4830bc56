"""Weights in and out: Hugging Face, Orbax, and a run's policy."""

import dataclasses
import math
import pathlib
from typing import Annotated, Literal

import tyro

from hiperjax.files import new_folder
from hiperjax.models.lora import base_config, merge_adapters
from hiperjax.models.transformer import Params, TransformerConfig, cast_params
from hiperjax.models.weights import save_heads, save_params
from hiperjax.training.build import restore_run
from hiperjax.training.checkpoint import Which
from hiperjax.training.run_folder import TOKENIZER

Positional = tyro.conf.Positional
Folder = Annotated[pathlib.Path, Positional]


def convert(
    direction: Annotated[Literal["hf-to-orbax", "orbax-to-hf", "run-to-hf"], Positional],
    source: Folder,
    target: Folder,
    /,
    *,
    which: Which = "best",
) -> int:
    """Convert a checkpoint folder; what is exported loads in transformers.

    Args:
      direction: Formats from and to; a run's policy is exported with its adapters merged.
      source: folder to read.
      target: folder to write; must be new or empty.
      which: Which of a run's states.
    """
    from hiperjax.models.convert import convert_hf_to_orbax, convert_orbax_to_hf

    if direction == "run-to-hf":
        export_run(source, target, which=which)
        print(f"{source}, {which} state -> {target}")
        return 0
    run = convert_hf_to_orbax if direction == "hf-to-orbax" else convert_orbax_to_hf
    run(source, target)
    print(f"{source} -> {target}")
    return 0


def export_run(run: pathlib.Path, target: pathlib.Path, *, which: Which = "best") -> None:
    """Write the policy of a run so that `transformers` loads it, in the run's compute dtype.

    Value heads that read the policy's own trunk (critic.kind shared) are stored beside.

    Raises:
      FileExistsError: the target holds something.
    """
    with new_folder(target) as partial:
        _write_policy(run, partial, which)


def _write_policy(run: pathlib.Path, target: pathlib.Path, which: Which) -> None:
    components, state = restore_run(run, which)
    wide = cast_params(state.policy, "float32")
    merged = merge_adapters(wide, components.model)
    params, published = spell_out(merged, base_config(components.model))
    save_params(params, published, target, dtype=components.model.dtype, tokenizer=run / TOKENIZER)
    if components.config.critic.kind == "shared":
        save_heads(state.critic.heads, target)


def spell_out(params: Params, config: TransformerConfig) -> tuple[Params, TransformerConfig]:
    """The same function without `embedding_scale`, for which Qwen2 has no word.

    The scale goes into the embedding, and the output projection keeps the embedding as it was.
    """
    if not config.embedding_scale:
        return params, config
    embedding = params["embedding"]
    spelled = params | {"embedding": embedding * math.sqrt(config.hidden_size)}
    if config.tie_embeddings:
        spelled |= {"unembedding": {"kernel": embedding.T}}
    return spelled, dataclasses.replace(config, embedding_scale=False, tie_embeddings=False)
