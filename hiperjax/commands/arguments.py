"""The command line's arguments: presets and settings files, short help, mistakes in one line."""

import contextlib
import dataclasses
import functools
import io
import pathlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import tyro

from hiperjax.config import RunConfig
from hiperjax.files import try_to_write
from hiperjax.options.ranges import check_arguments, list_settings
from hiperjax.presets import DEFAULT, PRESETS
from hiperjax.validation import validate

Action = Callable[[], int | None]
"""A command that knows its arguments; calling it runs it and gives its exit code, None being 0."""


Positional = tyro.conf.Positional
Folder = Annotated[pathlib.Path, Positional]
Games = Annotated[pathlib.Path | None, tyro.conf.arg(name="env.games", aliases=["--games"])]
Data = Annotated[pathlib.Path | None, tyro.conf.arg(name="env.data", aliases=["--data"])]
"""Folders of official files, by the names that `train` has for them or short."""


class UsageError(ValueError):
    """The command line asks for something that does not exist."""


def split_preset(args: Sequence[str]) -> tuple[str, list[str]]:
    """The preset named first, if any, and the rest."""
    if not args or args[0].startswith("-"):
        return DEFAULT, list(args)
    if args[0] not in PRESETS:
        raise UsageError(f"preset {args[0]!r}; expected one of {', '.join(PRESETS)}")
    return args[0], list(args[1:])


def read_settings(command: str, args: Sequence[str]) -> RunConfig:
    """A preset's settings, or a file's (--config), and what the command line changes of them."""
    name, about, default, rest = _starting_point(args)
    prog = f"hiperjax {command} {name}".rstrip()
    if {"-h", "--help"} & set(rest):
        print(_short_help(prog, about, default))
        sys.exit(0)
    rest = ["--help" if arg == "--help-all" else arg for arg in rest]
    config = parse(RunConfig, default=default, args=rest, prog=prog, description=about)
    return validate(config)


def _starting_point(args: Sequence[str]) -> tuple[str, str, RunConfig, list[str]]:
    """Name, description and settings to start from, and the arguments left."""
    if "--config" not in args:
        name, rest = split_preset(args)
        about, default = PRESETS[name]
        return name, f"Preset {name}: {about}. Other presets: hiperjax presets.", default, rest
    at = list(args).index("--config")
    rest = [*args[:at], *args[at + 2 :]]
    if at + 1 == len(args) or (rest and at > 0 and not args[0].startswith("-")):
        raise UsageError("found --config without a file or beside a preset; expected one of both")
    from hiperjax.training.run_folder import CONFIG, read_config

    path = pathlib.Path(args[at + 1])
    path = path / CONFIG if path.is_dir() else path
    default = dataclasses.replace(read_config(path), out=None)
    return f"--config {path}", f"Settings of {path}.", default, rest


FIRST_SETTINGS = {
    "env.suite": "the world: household, alfworld, webshop, ladder/..., or an installed one",
    "model.folder": "Hugging Face checkpoint to start from; none: a tiny model",
    "iterations": "iterations (collect + update)",
    "seed": "seed of everything",
    "out": "run folder; none: runs/PRESET-seedS-DATE-TIME",
    "rollout.episodes": "episodes per iteration",
    "rollout.slots": "episodes that decode side by side",
    "ppo.learning_rate": "learning rate after the warm-up",
    "credit.estimator": "from rewards to advantages: hae, flat_gae, grpo, gigpo, ...",
    "eval.every": "iterations between evaluations",
}
"""What a first reader wants to set; `--help-all` shows the rest."""


def _short_help(prog: str, about: str, config: RunConfig) -> str:
    """Ten settings on one screen."""
    values = dict(list_settings(config))
    lines = [f"usage: {prog} [--SETTING VALUE ...]", "", about, ""]
    for name, text in FIRST_SETTINGS.items():
        flag = "--" + name.replace("_", "-")
        lines.append(f"  {flag:<22}{text} ({values[name]})")
    lines += [
        "",
        f"  {'--config FILE':<22}start from a config.json, or from a run folder's, not a preset",
        f"  {'--resume RUN':<22}go on with a run [--iterations N: to so many in all]",
        f"  {'--live':<22}serve a page of the run on this machine while it trains",
        f"  {'--help-all':<22}every setting",
    ]
    return "\n".join(lines)


def parse(kind: Any, **settings: Any) -> Any:
    """`tyro.cli`, whose complaint about a mistake becomes one line.

    Raises:
      UsageError: what was found and what is expected.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(kind, **settings)
    except SystemExit as stop:
        if not stop.code:
            raise
    raise UsageError(f"{_shorten(said.getvalue())}; see {settings['prog']} --help")


def _shorten(box: str) -> str:
    """The gist of a complaint that tyro frames: a title, what is wrong, then hints, with rules
    between (drawn with dashes where the terminal knows no better)."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", box)
    lines = [line.strip("│╭╮╰╯ ") for line in plain.splitlines()[1:]]
    parts: list[list[str]] = [[]]
    for line in lines:
        if line.strip("─-"):
            parts[-1].append(line)
        elif parts[-1]:
            parts.append([])
    found, *hints = parts
    meant = [line.split()[0] for hint in hints for line in hint if line.startswith("--")]
    unknown = meant and found[0].startswith("Unrecognized")
    hint = f"; perhaps {' or '.join(dict.fromkeys(meant))}" if unknown else ""
    return f"{' '.join(found).rstrip('.')}{hint}"


OUTPUTS = ("out", "save")
"""Arguments that name a file to write, which is done last."""


def _check_outputs(arguments: Mapping[str, object]) -> None:
    for name in OUTPUTS:
        path = arguments.get(name)
        if isinstance(path, pathlib.Path):
            try:
                try_to_write(path)
            except OSError as error:
                raise UsageError(
                    f"--{name} is {path}, {error.strerror}; expected a file that can be written"
                ) from error


def bind(function: Callable[..., int | None], **settings: Any) -> Action:
    """A function with what the command line says of its arguments, yet to be called.

    Raises:
      UsageError: what was found and what is expected; so of a file that cannot be written.
      ConfigError: a number is out of its range.
    """
    bound: list[Action] = []

    @functools.wraps(function)
    def note(*args: Any, **named: Any) -> None:
        check_arguments(named)
        _check_outputs(named)
        bound.append(functools.partial(function, *args, **named))

    parse(note, **settings)
    return bound[0]
