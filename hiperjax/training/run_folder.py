"""What a run folder holds beside its checkpoints: settings, tokenizer, architecture."""

import dataclasses
import json
import pathlib
import shutil
import types
import typing
from typing import Any

from hiperjax.config import MeshConfig, RunConfig
from hiperjax.files import new_folder, write_json
from hiperjax.models.transformer import TransformerConfig

CONFIG, TOKENIZER, CHECKPOINTS = "config.json", "tokenizer", "checkpoints"


ARCHITECTURE = "architecture.json"
"""The config.json of the checkpoint folder that a run started from."""


def save_run(
    folder: pathlib.Path, config: RunConfig, tokenizer: Any, model: TransformerConfig
) -> None:
    """Write what a run folder needs beside its checkpoints; its configuration last, so that a
    folder that holds one is complete."""
    shutil.rmtree(folder / TOKENIZER, ignore_errors=True)  # of a start that was cut short
    with new_folder(folder / TOKENIZER) as partial:
        tokenizer.save_pretrained(partial)
    if config.model.folder is not None:
        write_json(folder / ARCHITECTURE, model.to_hf())
    save_config(config, folder)


def save_config(config: RunConfig, folder: pathlib.Path) -> None:
    """Write `config.json`; who this process is among others is no setting of the run."""
    folder.mkdir(parents=True, exist_ok=True)
    m = config.mesh
    mesh = MeshConfig(data=m.data, fsdp=m.fsdp, tensor=m.tensor)
    write_json(folder / CONFIG, dataclasses.asdict(dataclasses.replace(config, mesh=mesh)))


def load_config(folder: pathlib.Path) -> RunConfig:
    """Read a run folder's configuration.

    Raises:
      FileNotFoundError: not a run folder.
      ValueError: a field this version does not know.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder}: no {CONFIG}; expected a run folder, as `hiperjax train` makes one"
        )
    return _build(RunConfig, json.loads(path.read_text()), str(path))


def _build(kind: Any, raw: dict[str, Any], where: str) -> Any:
    hints = typing.get_type_hints(kind)
    unknown = set(raw) - set(hints)
    if unknown:
        raise ValueError(f"{where}: unknown fields {sorted(unknown)}; expected {sorted(hints)}")
    return kind(**{name: _convert(hints[name], value, where) for name, value in raw.items()})


def _convert(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, where)
    if isinstance(hint, types.UnionType):
        inner = next(a for a in typing.get_args(hint) if a is not type(None))
        return None if value is None else _convert(inner, value, where)
    if typing.get_origin(hint) is tuple:
        return tuple(value)
    return pathlib.Path(value) if hint is pathlib.Path else value
