"""Weights in and out: Hugging Face, Orbax, and a run's policy."""

import dataclasses
import math
import pathlib
import shutil
from typing import Annotated, Literal

import jax
import jax.numpy as jnp

from hiperjax.commands.arguments import Folder, Positional
from hiperjax.config import MeshConfig, ModelConfig, RunConfig
from hiperjax.files import new_folder, write_json
from hiperjax.models.errors import ModelError
from hiperjax.models.lora import base_config, merge_adapters, partition
from hiperjax.models.peft import save_adapters
from hiperjax.models.transformer import Params, TransformerConfig, cast_params
from hiperjax.models.weights import load_params, save_heads, save_params
from hiperjax.training.build import restore_run
from hiperjax.training.checkpoint import Which
from hiperjax.training.prompt_record import PROMPT
from hiperjax.training.run_folder import AGENT, find_run, find_tokenizer

Direction = Literal[
    "hf-to-orbax", "orbax-to-hf", "gguf-to-hf", "run-to-hf", "run-to-peft", "run-to-agent"
]


def convert(
    direction: Annotated[Direction, Positional],
    source: Folder,
    target: Folder,
    /,
    *,
    which: Which = "best",
) -> int:
    """Convert a checkpoint; what is exported loads in transformers (or PEFT).

    Args:
      direction: Formats from and to; run-to-hf merges a run's adapters, run-to-peft exports them;
        run-to-agent adds what `--run` takes: settings and prompt, weights in bfloat16.
      source: Folder, or GGUF file, to read.
      target: Folder to write; must be new or empty.
      which: Which of a run's states.
    """
    if direction.startswith("run-to-"):
        exports = {"run-to-hf": export_run, "run-to-peft": export_adapters}
        exports.get(direction, export_agent)(find_run(source), target, which=which)
        print(f"{source}, {which} state -> {target}")
        return 0
    if direction == "gguf-to-hf":
        from hiperjax.models.gguf import convert_gguf_to_hf as run
    elif direction == "hf-to-orbax":
        from hiperjax.models.convert import convert_hf_to_orbax as run
    else:
        from hiperjax.models.convert import convert_orbax_to_hf as run
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


def export_agent(run: pathlib.Path, target: pathlib.Path, *, which: Which = "best") -> None:
    """Write a run's policy as `--run` takes it: a Hugging Face folder in bfloat16, with the run's
    settings (no folder of its machine among them) and the record of its prompt.

    Raises:
      FileExistsError: the target holds something.
    """
    with new_folder(target) as partial:
        config = _write_policy(run, partial, which, dtype="bfloat16")
        env = dataclasses.replace(config.env, games=None, data=None)
        bare = dataclasses.replace(
            config, env=env, init=None, out=None, model=ModelConfig(), mesh=MeshConfig()
        )
        write_json(partial / AGENT, dataclasses.asdict(bare))
        shutil.copy(run / PROMPT, partial / PROMPT)


def _write_policy(
    run: pathlib.Path, target: pathlib.Path, which: Which, dtype: str | None = None
) -> RunConfig:
    components, state = restore_run(run, which, accept_changed_prompt=True)
    wide = cast_params(state.policy, "float32")
    merged = merge_adapters(wide, components.model)
    params, published = spell_out(merged, base_config(components.model))
    dtype, tokenizer = dtype or components.model.dtype, find_tokenizer(run)
    save_params(params, published, target, dtype=dtype, tokenizer=tokenizer)
    if components.config.critic.kind == "shared":
        save_heads(state.critic.heads, target)
    return components.config


def export_adapters(run: pathlib.Path, target: pathlib.Path, *, which: Which = "best") -> None:
    """Write a run's adapters alone, as a folder of the PEFT library, beside the base they are of.

    Raises:
      FileExistsError: the target holds something.
      ModelError: the run has no adapters, or their base lies in no folder.
    """
    with new_folder(target) as partial:
        components, state = restore_run(run, which, accept_changed_prompt=True)
        base = components.config.model.folder
        if not components.model.lora_rank or base is None:
            lack = "base in a folder" if components.model.lora_rank else "adapters"
            raise ModelError(f"{run}: its policy has no {lack}; export it whole: run-to-hf")
        frozen = partition(state.policy)[1]
        published = load_params(base, base_config(components.model), dtype=components.model.dtype)
        if not all(jax.tree.leaves(jax.tree.map(jnp.array_equal, frozen, published))):
            raise ModelError(
                f"{run}: the base of its adapters is no longer {base}: what imitation or another "
                "run had learned was merged into it; export it whole: run-to-hf"
            )
        save_adapters(state.policy, components.model, partial, base=str(base))


def spell_out(params: Params, config: TransformerConfig) -> tuple[Params, TransformerConfig]:
    """The same function without `embedding_scale`, which no published config can express.

    The scale goes into the embedding, and the output projection keeps the embedding as it was.
    """
    if not config.embedding_scale:
        return params, config
    embedding = params["embedding"]
    spelled = params | {"embedding": embedding * math.sqrt(config.hidden_size)}
    if config.tie_embeddings:
        spelled |= {"unembedding": {"kernel": embedding.T}}
    return spelled, dataclasses.replace(config, embedding_scale=False, tie_embeddings=False)
