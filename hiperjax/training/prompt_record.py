"""The prompt a run was trained on, as fingerprints in its folder: a policy reads no other.

A prompt format is code, so a run folder cannot hold it. It holds what the format makes of fixed
observations instead, hashed, one fingerprint per part; the observations' commands are made from the
suite's hints, so that a change of these shows as well.
"""

import hashlib
import itertools
import pathlib
from collections.abc import Callable, Iterator

from hiperjax.acting.blocks import render_reply
from hiperjax.acting.renderers import PastTurn, Renderer
from hiperjax.config import ConfigError
from hiperjax.files import DamagedFile, dump_json, read_json, write_json
from hiperjax.types import Observation, PromptHints

PROMPT = "prompt.json"
OVERRIDE = "--accept-changed-prompt"
_PLAIN = ("go to shelf 1", "take the Mug 2 from shelf 1", "click[blue, 8 oz]", "look")
_CURE = "restore it from a copy, or delete it to go on unchecked"
_SUBGOALS = ("", "Find the mug on shelf 1")


def _name_commands(hints: PromptHints) -> tuple[str, ...]:
    """Commands of no world, and of each kind that the hints tell apart."""
    hinted = (*hints.unlisted, *hints.minor)
    longer = (f"{command} probe 1" for command in hinted)
    grouped = (f"{g.opening}{x}{g.closing}" for g in hints.groups for x in ("one 1", "b02x"))
    return tuple(dict.fromkeys((*_PLAIN, *hinted, *longer, *grouped)))


def _make_probes(hints: PromptHints) -> tuple[Observation, Observation]:
    """Two observations in a row: the second has lost commands of the first, and has new ones."""
    commands, words = _name_commands(hints), " ".join(hints.unstarred)
    task = f"Put a mug on the shelf, {words}."
    text = f"You are in a room [SEP] and see a Mug 2, a shelf 1 and B02X7Y: {words}."
    first = Observation(text, task, commands[::2] + commands[:1])
    return first, Observation("You arrive at shelf 1.", task, commands[1::2])


def _render_parts(renderer: Renderer, hints: PromptHints) -> Iterator[tuple[str, object]]:
    """Every part of prompt and reply that the format decides, by name."""
    first, second = _make_probes(hints)
    commands, length = _name_commands(hints), renderer.history_length
    turns = [PastTurn(1, first.text, commands[0]), PastTurn(2, second.text, commands[-1])]
    past = turns[-length:] if length > 0 else []
    openings = itertools.product((first, second), ([], past), _SUBGOALS)
    written = [_attempt(renderer.render_action, command) for command in commands]
    yield "prefix", renderer.prefix
    yield "banner", hints.banner  # an expression: no observation is sure to match it
    yield "history_length", length
    yield "open", [_attempt(renderer.open, *opening) for opening in openings]
    yield "extend", [_attempt(renderer.extend, second, first, x) for x in (None, *_SUBGOALS)]
    yield "actions", written
    yield "read_actions", [_attempt(renderer.restore_action, x, commands) for x in written]
    yield "subgoals", [_attempt(renderer.render_subgoal, x) for x in _SUBGOALS]
    yield "reply", render_reply(True, "subgoal", "action", separator=renderer.separator)


def _attempt(function: Callable[..., str], *args: object) -> str:
    """What a format says; one made for a single world may raise at what is not of it."""
    try:
        return function(*args)
    except Exception as error:
        return type(error).__name__


def fingerprint_prompt(renderer: Renderer, hints: PromptHints) -> dict[str, str]:
    """SHA-256 of what a format makes of fixed observations, by part; the same in every process.

    Args:
      renderer: the format, made for a suite.
      hints: the suite's.
    """
    parts = _render_parts(renderer, hints)
    return {name: hashlib.sha256(dump_json(x).encode()).hexdigest() for name, x in parts}


def write_prompt(
    folder: pathlib.Path, renderer: Renderer, hints: PromptHints, dialect: str = ""
) -> None:
    """Record the prompt of a run in its folder, and the dialect of its world, if that has some."""
    record: dict[str, object] = {"sha256": fingerprint_prompt(renderer, hints)}
    write_json(folder / PROMPT, record | ({"dialect": dialect} if dialect else {}))


def check_dialect(folder: pathlib.Path, dialect: str, *, accept: bool = False) -> None:
    """Hold the dialect of today's world against the one a run was trained in; older runs tell none.

    Raises:
      ConfigError: it is another one, and that is not accepted.
    """
    path = folder / PROMPT
    trained = read_json(path, cure=_CURE).get("dialect") if path.exists() else None
    if trained not in (None, dialect) and not accept:
        raise ConfigError(
            f"the games at hand speak the {dialect} dialect; expected {trained}, in which {folder} "
            f"was trained: give games of that release, or go on with these by {OVERRIDE}"
        )


def read_prompt(folder: pathlib.Path) -> dict[str, str] | None:
    """What the run's folder holds; None where it is older than this record.

    Raises:
      DamagedFile: it cannot be read.
    """
    path = folder / PROMPT
    if not path.exists():
        return None
    found = read_json(path, cure=_CURE).get("sha256")
    if not isinstance(found, dict) or not all(isinstance(x, str) for x in found.values()):
        raise DamagedFile(f"{path}: sha256 is {found!r}; expected an object of strings; {_CURE}")
    return found


def check_prompt(
    folder: pathlib.Path,
    renderer: Renderer,
    hints: PromptHints,
    *,
    grows: bool = False,
    accept: bool = False,
) -> str | None:
    """Hold the prompt of today against the one a run was trained on.

    Args:
      folder: of the run.
      renderer: the format of today, made for the run's suite.
      hints: the suite's.
      grows: whether contexts grow; otherwise nothing is ever made by `extend`.
      accept: another prompt is what is wanted.

    Returns:
      What is to be said of it, if anything.

    Raises:
      ConfigError: it is another one.
      DamagedFile: the record cannot be read.
    """
    recorded = read_prompt(folder)
    if recorded is None:
        return f"{folder}: no {PROMPT}, older than this version: its prompt is taken as it is today"
    today = fingerprint_prompt(renderer, hints)
    changed = [
        f"{name} {today.get(name, 'absent')[:12]}, expected {recorded.get(name, 'absent')[:12]}"
        for name in dict.fromkeys((*today, *recorded))
        if today.get(name) != recorded.get(name) and (grows or name != "extend")
    ]
    if not changed:
        return None
    found = f"{folder / PROMPT}: found another prompt than the run was trained on: " + ", ".join(
        changed
    )
    if accept:
        return f"{found}; accepted"
    raise ConfigError(
        f"{found}; go back to the version of prompt format and suite it was trained with, or go on "
        f"with this one by {OVERRIDE}"
    )
