"""The world of a run: its options gathered, and what depends on the world checked."""

import dataclasses
from typing import Any

from hiperjax.config import ConfigError, EnvConfig, RunConfig
from hiperjax.envs.base import Suite
from hiperjax.envs.options import read_options
from hiperjax.envs.registry import make_suite, suite_options

SHARED_OPTIONS = ("size", "task_types", "games", "data", "goals", "profile")
"""Fields of `env` that are options of the suites which have one of that name."""


def read_suite_options(env: EnvConfig) -> dict[str, Any]:
    """The options of the run's suite.

    Raises:
      ConfigError: a field of `env` is set that the suite has no option for.
      SuiteError: no such suite; `env.options` names none of its options, or a value is wrong.
    """
    known = suite_options(env.suite)
    own = read_options(env.suite, known, env.options)
    found: dict[str, Any] = {}
    defaults = {field.name: field.default for field in dataclasses.fields(EnvConfig)}
    for name in SHARED_OPTIONS:
        value, default = getattr(env, name), defaults[name]
        if name in (known or {}):
            found[name] = value
        elif value != default:
            flag = name.replace("_", "-")
            undo = f"--env.{flag}" if default == () else f"--env.{flag} {default}"
            raise ConfigError(
                f"env.{name} is {value}; expected {default!r}, since the suite {env.suite} has no "
                f"such option: give {undo}"
            )
    return found | own


def build_suite(config: RunConfig, *, new: bool) -> Suite:
    """The run's suite, and whether the other settings suit it; before anything slow.

    Splits are checked for a `new` run only: an old one may be evaluated where others are at hand.

    Raises:
      ConfigError: a split the suite does not have, an empty one, or prompts too short for it.
      SuiteError: no such suite, or one that cannot be made as asked for.
    """
    suite = make_suite(config.env.suite, **read_suite_options(config.env))
    if new:
        check_split(suite, "train", "training")
        for split in config.eval.splits:
            check_split(suite, split, "eval.splits")
        check_expert(config, suite)
    length, least = config.prompt.prompt_length, suite.min_prompt_tokens
    if length < least:
        raise ConfigError(
            f"prompt.prompt_length is {length}; prompts of the suite {suite.name} need {least} "
            "tokens and more"
        )
    return suite


def check_expert(config: RunConfig, suite: Suite) -> None:
    """Refuse to imitate, or to learn words from, an expert that a suite does not have.

    Raises:
      ConfigError: says what to set.
    """
    m = config.model
    brought = config.init is not None or m.folder is not None or m.tokenizer is not None
    imitates = config.init is None and config.imitation.steps > 0
    if not suite.has_expert and (imitates or not brought):
        raise ConfigError(
            f"imitation.steps is {config.imitation.steps}, and the suite {suite.name} has no "
            "scripted expert to imitate or to learn words from; expected --imitation.steps 0 with "
            "--model.folder or --model.tokenizer, or --init RUN"
        )


def check_split(suite: Suite, split: str, name: str) -> None:
    """Refuse a split that a suite does not have, or that holds no tasks.

    Raises:
      ConfigError: says which there are.
    """
    try:
        tasks = len(suite.tasks(split))
    except (KeyError, ValueError):
        tasks = None
    if not tasks:
        held = "not there" if tasks is None else "empty"
        raise ConfigError(
            f"{name}: the split {split!r} of the suite {suite.name} is {held}; expected one of "
            f"{', '.join(suite.splits)}"
        )
