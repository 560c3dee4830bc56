"""A trained run as a Hugging Face folder: adapters merged, and the tokenizer beside the weights."""

import dataclasses
import math
import pathlib

from hiperjax.assembly import TOKENIZER, restore_run
from hiperjax.checkpoint import Which
from hiperjax.models.lora import base_config, merge_adapters
from hiperjax.models.transformer import Params, TransformerConfig, cast_params
from hiperjax.models.weights import save_heads, save_params


def export_run(run: pathlib.Path, target: pathlib.Path, *, which: Which = "best") -> None:
    """Write the policy of a run so that `transformers` loads it, in the run's compute dtype.

    Value heads that read the policy's own trunk (critic.kind shared) are stored beside.

    Raises:
      FileExistsError: the target holds something.
    """
    if target.exists() and any(target.iterdir()):
        raise FileExistsError(f"{target}: not empty; give a new folder, or empty this one")
    agent, state = restore_run(run, which)
    wide = cast_params(state.policy, "float32")
    merged = merge_adapters(wide, agent.model)
    params, published = spell_out(merged, base_config(agent.model))
    save_params(params, published, target, dtype=agent.model.dtype, tokenizer=run / TOKENIZER)
    if agent.config.critic.kind == "shared":
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
