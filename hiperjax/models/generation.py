"""What other programs need to stop generating: the ids of the special tokens, and the settings
that a checkpoint was published with."""

import pathlib
from typing import Any

from hiperjax.files import read_json, write_json

GENERATION, CONFIG = "generation_config.json", "config.json"
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
CURE = "copy it from the checkpoint again"


def _ids(described: dict[str, Any]) -> dict[str, Any]:
    return {name: described[name] for name in TOKEN_IDS if described.get(name) is not None}


def read_generation(folder: str | pathlib.Path) -> dict[str, Any]:
    """A checkpoint folder's generation settings; the ids of its config.json where it has none."""
    folder = pathlib.Path(folder)
    if (folder / GENERATION).is_file():
        return read_json(folder / GENERATION, cure=CURE)
    return read_token_ids(folder)


def read_token_ids(folder: str | pathlib.Path) -> dict[str, Any]:
    """The ids of special tokens that a folder's config.json names, else its generation settings."""
    for name in (CONFIG, GENERATION):
        path = pathlib.Path(folder) / name
        found = _ids(read_json(path, cure=CURE)) if path.is_file() else {}
        if found:
            return found
    return {}


def describe_generation(tokenizer: Any, source: pathlib.Path | None) -> dict[str, Any]:
    """What the source folder says, and what the tokenizer knows where it says nothing."""
    known = {name: getattr(tokenizer, name, None) for name in TOKEN_IDS}
    return _ids(known) | ({} if source is None else read_generation(source))


def write_generation(source: str | pathlib.Path | None, target: pathlib.Path) -> None:
    """Complete an exported folder: ids in its config.json, and generation_config.json."""
    if source is None:
        return
    config = read_json(target / CONFIG, cure=CURE)
    write_json(target / CONFIG, config | read_token_ids(source))
    settings = read_generation(source)
    if settings:
        write_json(target / GENERATION, settings)
