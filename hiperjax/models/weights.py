"""Hugging Face checkpoints in and out, one tensor at a time.

Names and shapes are checked from the files' headers, before a byte of weights is read. Each leaf is
then built straight onto its sharding: a host reads the slices its devices hold, so a large model
never needs more host memory than one leaf's shard.
"""

import functools
import pathlib
import shutil
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Sharding, SingleDeviceSharding

from hiperjax.files import write_json
from hiperjax.models.architecture import TransformerConfig
from hiperjax.models.errors import ModelError
from hiperjax.models.generation import write_generation
from hiperjax.models.heads import NUM_HEADS, Heads, init_heads
from hiperjax.models.tensor_files import (
    TensorEntry,
    TensorSpec,
    find_tensors,
    read_entries,
    write_tensors,
)
from hiperjax.models.transformer import Params, abstract_params

HEADS_FILE = "value_heads.safetensors"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
MAX_SHARD_BYTES = 5_000_000_000

_OUTER = {
    ("embedding",): "model.embed_tokens.weight",
    ("final_norm", "scale"): "model.norm.weight",
    ("unembedding", "kernel"): "lm_head.weight",
}
_LAYER = {
    "attention_norm.scale": "input_layernorm.weight",
    "mlp_norm.scale": "post_attention_layernorm.weight",
    "attention.q_norm.scale": "self_attn.q_norm.weight",
    "attention.k_norm.scale": "self_attn.k_norm.weight",
}


_KINDS = {"kernel": "weight", "lora_a": "lora_A.weight", "lora_b": "lora_B.weight"}
"""Matrices: published as what maps a column to a column, transposed."""


class _Source(NamedTuple):
    """The published tensors that make up one leaf: one, or one per layer to be stacked."""

    names: tuple[str, ...]
    stacked: bool
    transposed: bool


def _layer_name(path: tuple[str, ...]) -> str:
    """Published name, within its layer, of a leaf below `layers`."""
    name = ".".join(path)
    if name in _LAYER:
        return _LAYER[name]
    module, projection, kind = path
    owner = {"attention": "self_attn", "mlp": "mlp"}[module]
    return f"{owner}.{projection}_proj.{_KINDS.get(kind, kind)}"


def _source(path: tuple[str, ...], num_layers: int) -> _Source:
    transposed = path[-1] in _KINDS
    if path[0] != "layers":
        return _Source((_OUTER[path],), False, transposed)
    name = _layer_name(path[1:])
    names = tuple(f"model.layers.{i}.{name}" for i in range(num_layers))
    return _Source(names, True, transposed)


def _leaves(tree: Any) -> list[tuple[tuple[str, ...], Any]]:
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [(tuple(key.key for key in path), leaf) for path, leaf in flat]


def _published_shape(leaf: Any, source: _Source) -> tuple[int, ...]:
    shape = tuple(leaf.shape[1:] if source.stacked else leaf.shape)
    return shape[::-1] if source.transposed else shape


def published_shapes(config: TransformerConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor that a checkpoint of this architecture holds, by its published name."""
    expected: dict[str, tuple[int, ...]] = {}
    for path, leaf in _leaves(abstract_params(config)):
        source = _source(path, config.num_layers)
        expected |= dict.fromkeys(source.names, _published_shape(leaf, source))
    return expected


def check_tensors(entries: dict[str, TensorEntry], config: TransformerConfig, where: str) -> None:
    """Refuse a checkpoint whose tensors are not exactly those of the config.

    A tied model may carry a copy of its embedding as `lm_head.weight`; old files carry rotary
    tables. Both are ignored.
    """
    expected = published_shapes(config)
    ignored = {"lm_head.weight"} if config.tie_embeddings else set()
    found = {n for n in entries if n not in ignored and not n.endswith("rotary_emb.inv_freq")}
    for kind, names in (("missing", expected.keys() - found), ("unknown", found - expected.keys())):
        if names:
            raise ModelError(
                f"{where}: {kind} tensor {min(names)} (one of {len(names)}); do config.json and "
                "weights belong to the same checkpoint?"
            )
    for name, shape in expected.items():
        if entries[name].shape != shape:
            raise ModelError(
                f"{where}: tensor {name} has shape {entries[name].shape}; config.json makes it "
                f"{shape}"
            )


def _read_slice(
    entries: list[TensorEntry],
    source: _Source,
    dtype: np.dtype,
    index: tuple[slice, ...] | None,
) -> np.ndarray:
    """The part of a leaf that one device holds (`None`: all of it), read from disk."""
    index = index or (slice(None),) * (len(entries[0].shape) + source.stacked)
    layers = index[0] if source.stacked else slice(None)
    inner = index[1:] if source.stacked else index
    on_disk = inner[::-1] if source.transposed else inner
    parts = []
    for entry in entries[layers]:
        part = entry.open()[on_disk]
        parts.append(np.asarray(part.T if source.transposed else part, dtype))
    return np.stack(parts) if source.stacked else parts[0]


def load_params(
    folder: str | pathlib.Path,
    config: TransformerConfig,
    *,
    dtype: Any = "float32",
    shardings: Any = None,
) -> Params:
    """Parameters of a Hugging Face checkpoint folder.

    Args:
      folder: holds `model.safetensors`, or an index and its shards.
      config: its architecture (`TransformerConfig.from_hf`), without adapters.
      dtype: what the parameters are kept in; float32 masters for training.
      shardings: one `Sharding` a leaf, in the tree of the parameters; default: the first device.
    """
    if config.lora_rank:
        raise ModelError("load_params: config has adapters; load without, then add_adapters")
    folder = pathlib.Path(folder)
    entries = find_tensors(folder)
    check_tensors(entries, config, str(folder))
    dtype = np.dtype(jax.dtypes.canonicalize_dtype(dtype))
    abstract = abstract_params(config)
    if shardings is None:
        device = SingleDeviceSharding(jax.local_devices()[0])
        shardings = jax.tree.map(lambda _: device, abstract)

    def load(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct, sharding: Sharding) -> jax.Array:
        source = _source(tuple(key.key for key in path), config.num_layers)
        read = functools.partial(_read_slice, [entries[n] for n in source.names], source, dtype)
        return jax.make_array_from_callback(leaf.shape, sharding, read)

    return jax.tree_util.tree_map_with_path(load, abstract, shardings)


def _to_host(leaf: jax.Array) -> np.ndarray:
    """The whole leaf; where other processes hold parts of it, all of them must call this."""
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
    return np.asarray(leaf)


def save_params(
    params: Params,
    config: TransformerConfig,
    folder: str | pathlib.Path,
    *,
    dtype: Any = None,
    tokenizer: str | pathlib.Path | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write a folder that `transformers` loads: `config.json`, weights, and a tokenizer's files.

    Every process of a run must call it; the first one writes. Merge adapters before.

    Args:
      dtype: Dtype of the tensors written; default: the parameters' own.
      tokenizer: folder whose tokenizer files are copied beside.
    """
    if config.lora_rank:
        raise ModelError("save_params: config has adapters; merge_adapters first")
    folder = pathlib.Path(folder)
    description = config.to_hf() | {"dtype": np.dtype(dtype or params["embedding"].dtype).name}
    folder.mkdir(parents=True, exist_ok=True)
    specs, read = name_tensors(params, config, dtype=dtype)
    if jax.process_index() == 0:
        write_tensors(folder, specs, read, max_bytes=max_shard_bytes)
        write_json(folder / "config.json", description)
        copy_tokenizer(tokenizer, folder)
        write_generation(tokenizer, folder)
    else:
        for spec in specs:
            read(spec)


def name_tensors(
    params: Params, config: TransformerConfig, *, dtype: Any = None, prefix: str = ""
) -> tuple[list[TensorSpec], Callable[[TensorSpec], np.ndarray]]:
    """The published tensors of a tree (or of part of one), and a function that makes each.

    Every process must call that function for every tensor, in this order.
    """
    leaves = _leaves(params)
    specs: list[TensorSpec] = []
    place: dict[str, tuple[int, int | None, bool]] = {}
    for i, (path, leaf) in enumerate(leaves):
        source = _source(path, config.num_layers)
        shape = _published_shape(leaf, source)
        for layer, name in enumerate(source.names):
            specs.append(TensorSpec(prefix + name, np.dtype(dtype or leaf.dtype), shape))
            place[prefix + name] = (i, layer if source.stacked else None, source.transposed)

    @functools.lru_cache(maxsize=1)
    def host(i: int) -> np.ndarray:
        return _to_host(leaves[i][1])

    def read(spec: TensorSpec) -> np.ndarray:
        i, layer, transposed = place[spec.name]
        part = host(i) if layer is None else host(i)[layer]
        return (part.T if transposed else part).astype(spec.dtype)

    return specs, read


def copy_tokenizer(source: str | pathlib.Path | None, folder: pathlib.Path) -> None:
    """Copy what makes up a tokenizer from one checkpoint folder to another."""
    if source is None:
        return
    for name in TOKENIZER_FILES:
        if (pathlib.Path(source) / name).is_file():
            shutil.copy(pathlib.Path(source) / name, folder / name)


def save_heads(heads: Heads, folder: str | pathlib.Path) -> None:
    """Store value heads beside a checkpoint."""
    values = {name: np.asarray(_to_host(leaf), np.float32) for name, leaf in heads.items()}
    specs = [TensorSpec(name, value.dtype, value.shape) for name, value in values.items()]
    write_tensors(
        pathlib.Path(folder),
        specs,
        lambda spec: values[spec.name],
        max_bytes=MAX_SHARD_BYTES,
        single=HEADS_FILE,
    )


def load_heads(folder: str | pathlib.Path, num_features: int) -> Heads:
    """The value heads stored beside a checkpoint, or zeros where there are none."""
    path = pathlib.Path(folder) / HEADS_FILE
    if not path.is_file():
        return init_heads(num_features)
    entries = read_entries(path)
    expected = {"kernel": (num_features, NUM_HEADS), "bias": (NUM_HEADS,)}
    found = {name: entry.shape for name, entry in entries.items()}
    if found != expected:
        raise ModelError(f"{path}: tensors {found}; expected {expected}")
    return {name: jax.numpy.asarray(np.array(entry.open())) for name, entry in entries.items()}
