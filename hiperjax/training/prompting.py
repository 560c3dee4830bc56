"""What writes a run's prompts: its format for its suite, and the rules of its windows."""

import dataclasses
from functools import partial
from typing import Any

from hiperjax.acting.prompts import Prompter, WindowRules
from hiperjax.acting.renderers import Renderer, list_renderers, make_renderer
from hiperjax.config import ConfigError, RunConfig
from hiperjax.envs.base import Suite


def make_run_renderer(config: RunConfig, suite: Suite) -> Renderer:
    """The renderer of the run's prompt style.

    Raises:
      ConfigError: an example is to be shown, and there is none.
    """
    prompt = config.prompt
    make = partial(
        make_renderer, prompt.style, role=suite.role, history_length=prompt.history_length
    )
    plain = make(hints=suite.hints)
    if not prompt.example:
        return plain
    shown = make(hints=dataclasses.replace(suite.hints, example=suite.example))
    if shown.prefix == plain.prefix:
        lack = f"the style {prompt.style} shows none" if suite.example else "it has none"
        raise ConfigError(
            f"prompt.example is on, suite {suite.name}: {lack}; expected a suite that has "
            "one and a style with rules: give --prompt.no-example"
        )
    return shown


def check_style(config: RunConfig) -> None:
    """Refuse a prompt format that is not there.

    Raises:
      ConfigError: names those that are.
    """
    style, known = config.prompt.style, list_renderers()
    if style not in known:
        raise ConfigError(f"prompt.style is {style!r}; expected one of {', '.join(known)}")


def make_prompter(config: RunConfig, suite: Suite, tokenizer: Any) -> Prompter:
    """What writes the run's prompts.

    Raises:
      ConfigError: contexts are to grow, and the tokenizer's chat template does not let them.
    """
    p = config.prompt
    windows = WindowRules(p.window, p.window_length, p.rewrite_on_keep)
    renderer = make_run_renderer(config, suite)
    prompter = Prompter(
        renderer,
        tokenizer,
        p.prompt_length,
        trims=p.overlong == "trim",
        windows=windows,
        recall=p.recall_length,
        marks=p.mark_tried,
        merges=p.merge_refused,
    )
    if windows.grow:
        try:
            prompter.encoder.glue  # noqa: B018 - found once, or refused
        except ValueError as error:
            raise ConfigError(f"prompt.window is {p.window}: {error}") from error
    return prompter
