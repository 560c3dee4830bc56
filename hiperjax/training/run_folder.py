"""What a run folder holds beside its checkpoints: settings, tokenizer, architecture."""

import dataclasses
import difflib
import pathlib
import shutil
import types
import typing
from typing import Any

from hiperjax import __version__
from hiperjax.config import MeshConfig, ModelConfig, RunConfig
from hiperjax.files import DamagedFile, is_unicode, new_folder, read_json, write_json
from hiperjax.models.generation import GENERATION, describe_generation, read_token_ids
from hiperjax.models.transformer import TransformerConfig
from hiperjax.options.planning import BASE
from hiperjax.training.record_files import CONFIG, CURE

TOKENIZER, CHECKPOINTS = "tokenizer", "checkpoints"
IMITATION = "imitation"
"""Checkpoints of imitation under way; gone once the run has a state of its own."""
ARCHITECTURE = "architecture.json"
"""The config.json of the checkpoint folder that a run started from."""
AGENT = "run.json"
"""The configuration of the run an agent comes from; its folder's config.json is its architecture,
as in any Hugging Face folder."""
AGENTS = pathlib.Path(__file__).parents[1] / "agents"
AGENT_PREFIX = "agent:"


def save_run(
    folder: pathlib.Path, config: RunConfig, tokenizer: Any, model: TransformerConfig
) -> None:
    """Write what a run folder needs beside its checkpoints; its configuration last, so that a
    folder that holds one is complete."""
    shutil.rmtree(folder / TOKENIZER, ignore_errors=True)  # of a start that was cut short
    with new_folder(folder / TOKENIZER) as partial:
        tokenizer.save_pretrained(partial)
        write_json(partial / GENERATION, describe_generation(tokenizer, config.model.folder))
    if config.model.folder is not None:
        write_json(folder / ARCHITECTURE, model.to_hf() | read_token_ids(config.model.folder))
    save_config(config, folder)


def save_config(config: RunConfig, folder: pathlib.Path) -> None:
    """Write `config.json`; who this process is among others is no setting of the run."""
    folder.mkdir(parents=True, exist_ok=True)
    m = config.mesh
    mesh = MeshConfig(data=m.data, fsdp=m.fsdp, tensor=m.tensor)
    write_json(folder / CONFIG, dataclasses.asdict(dataclasses.replace(config, mesh=mesh)))


def resolve_paths(config: RunConfig) -> RunConfig:
    """The same run from whichever directory it is looked at; its own folder may move."""

    def resolve(part: Any) -> Any:
        changes = {}
        for field in dataclasses.fields(part):
            value = getattr(part, field.name)
            named = str(value).startswith(AGENT_PREFIX) or value == BASE
            if isinstance(value, pathlib.Path) and field.name != "out" and not named:
                changes[field.name] = value.expanduser().absolute()
            elif dataclasses.is_dataclass(value):
                changes[field.name] = resolve(value)
        return dataclasses.replace(part, **changes)

    return resolve(config)


def find_run(run: pathlib.Path | str) -> pathlib.Path:
    """The folder of a run: as it is given, or a shipped agent's by the name `agent:NAME`.

    Raises:
      FileNotFoundError: no agent of that name is shipped; names those that are.
    """
    name = str(run)
    if not name.startswith(AGENT_PREFIX):
        return pathlib.Path(run)
    folder = AGENTS / name.removeprefix(AGENT_PREFIX)
    if not (folder / AGENT).is_file():
        raise FileNotFoundError(
            f"{name}: no such agent; expected one of {', '.join(list_agents())}"
        )
    return folder


def list_agents() -> tuple[str, ...]:
    """The names of the agents that are shipped, as `agent:NAME`."""
    return tuple(f"{AGENT_PREFIX}{path.parent.name}" for path in sorted(AGENTS.glob(f"*/{AGENT}")))


def find_tokenizer(folder: pathlib.Path) -> pathlib.Path:
    """Where a run folder, or an agent's, holds its tokenizer."""
    return folder if (folder / AGENT).is_file() else folder / TOKENIZER


def load_config(folder: pathlib.Path) -> RunConfig:
    """Read the configuration of a run folder, or of an agent's.

    Raises:
      FileNotFoundError: not a run folder.
      DamagedFile: cut, a field this version does not know, or one of another type.
    """
    if (folder / AGENT).is_file():
        config = read_config(folder / AGENT)
        return dataclasses.replace(config, model=ModelConfig(folder=folder))
    path = folder / CONFIG
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder}: no {CONFIG}; expected a run folder, as `hiperjax train` makes one"
        )
    return read_config(path)


def read_config(path: pathlib.Path) -> RunConfig:
    """Read a configuration from a JSON file; what it does not name has its default.

    Raises:
      DamagedFile: names the file, the field, what is expected.
    """
    return _build(RunConfig, read_json(path, cure=CURE), path, "")


def _build(kind: Any, raw: Any, path: pathlib.Path, prefix: str) -> Any:
    hints = typing.get_type_hints(kind)
    if not isinstance(raw, dict):
        raise _damage(path, prefix.rstrip("."), raw, "an object")
    for name in raw:
        if name not in hints:
            near = difflib.get_close_matches(name, hints, 1)
            raise DamagedFile(
                f"{path}: field {prefix}{name} is unknown to version {__version__}"
                f"{f' (perhaps {prefix}{near[0]})' if near else ''}; if another version wrote it, "
                "use that one, or rename or remove the field"
            )
    return kind(**{n: _convert(hints[n], value, path, prefix + n) for n, value in raw.items()})


def _damage(path: pathlib.Path, name: str, value: Any, expected: str) -> DamagedFile:
    return DamagedFile(f"{path}: field {name} is {_show(value)}; expected {expected}; {CURE}")


def _show(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python prints
        text = "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:77]}..."


KINDS: dict[Any, tuple[tuple[type, ...], str]] = {
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    str: ((str,), "text"),
    bool: ((bool,), "true or false"),
    pathlib.Path: ((str,), "a path"),
}


def _is_text(value: str) -> bool:
    """Whether others can be given it: as a file's name, as UTF-8."""
    return is_unicode(value) and "\0" not in value


def _convert(hint: Any, value: Any, path: pathlib.Path, name: str) -> Any:
    """A JSON value as what a field holds."""
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, path, f"{name}.")
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(hint, types.UnionType) or origin is typing.Union:
        if value is None and type(None) in inner:
            return None
        return _convert(next(a for a in inner if a is not type(None)), value, path, name)
    if origin is typing.Literal:
        if value not in inner:
            raise _damage(path, name, value, f"one of {', '.join(map(repr, inner))}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise _damage(path, name, value, "a list")
        return tuple(_convert(inner[0], v, path, f"{name}[{i}]") for i, v in enumerate(value))
    if hint in KINDS:
        kinds, expected = KINDS[hint]
        if not isinstance(value, kinds) or (isinstance(value, bool) and hint is not bool):
            raise _damage(path, name, value, expected)
        if isinstance(value, str) and not _is_text(value):
            raise _damage(path, name, value, f"{expected} without NUL and lone surrogates")
        try:
            return float(value) if hint is float else hint(value)
        except OverflowError:
            raise _damage(path, name, value, "a number that a float can hold") from None
    return value
