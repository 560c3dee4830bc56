"""A frozen executor: whose it is, what it is shown, and that it stays what it was."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from hiperjax.acting.blocks import read_subgoal
from hiperjax.acting.played import PlayedEpisode
from hiperjax.acting.prompts import Prompter
from hiperjax.acting.two_stage import Context, Executor, go_on
from hiperjax.config import ConfigError, MeshConfig, RunConfig
from hiperjax.envs.base import Suite
from hiperjax.files import read_json, write_json
from hiperjax.learning.state import TrainState
from hiperjax.models.lora import base_config, split_trained
from hiperjax.models.transformer import Params, TransformerConfig, cast_params
from hiperjax.options.planning import BASE
from hiperjax.training.components import RunComponents
from hiperjax.training.run_folder import find_run, load_config

EXECUTOR = "executor.json"
SHOWN = ("style", "history_length", "recall_length", "mark_tried", "merge_refused")
"""Settings of `prompt` that decide what an executor is shown."""


def show_subgoal(prompter: Prompter) -> Context:
    """A context that holds the subgoal in place of the task, and no history: what the planner does
    not say, the executor does not know."""

    def context(episode: PlayedEpisode, plan: Any) -> list[int]:
        subgoal = read_subgoal(prompter.pieces, plan) or ""
        alone = dataclasses.replace(episode.observation, task=subgoal)
        reply, blocks = prompter.spell(False, subgoal, "go")
        return [*prompter.encode(alone, [], subgoal)[0], *reply[: blocks.subgoal_span[1]]]

    return context


def load_executor(
    config: RunConfig,
    suite: Suite,
    prompter: Prompter,
    model: TransformerConfig,
    restore: Callable[..., tuple[RunComponents, TrainState]],
) -> Executor | None:
    """The executor of a run, if it is not the policy itself.

    Args:
      config: of the run.
      suite: its world.
      prompter: of its prompts.
      model: the policy's shape.
      restore: `build.restore_run`.

    Raises:
      ConfigError: one of another world, vocabulary or prompt.
    """
    plan = config.plan
    if plan.executor is None:
        return None
    context = show_subgoal(prompter) if plan.context == "subgoal" else go_on
    if plan.executor == BASE:
        return Executor(lambda policy: split_trained(policy, model)[1], base_config(model), context)
    source, state = restore(
        plan.executor, "best", MeshConfig(), accept_changed_prompt=True, plan={"executor": None}
    )
    source.workers.close()
    _check_source(plan.executor, suite, prompter, source)
    params = cast_params(state.policy, model.dtype)
    return Executor(lambda policy: params, source.model, context)


def check_executor(config: RunConfig) -> None:
    """Refuse an executor that is not there, or was trained on other prompts, before anything slow.

    Raises:
      FileNotFoundError: no such run or agent.
      ConfigError: names what differs.
    """
    name = config.plan.executor
    if name is None or name == BASE:
        return
    theirs = load_config(find_run(name))
    pairs = [("env.suite", theirs.env.suite, config.env.suite)]
    pairs += [(f"prompt.{x}", getattr(theirs.prompt, x), getattr(config.prompt, x)) for x in SHOWN]
    for what, found, expected in pairs:
        if found != expected:
            raise ConfigError(
                f"plan.executor is {name}, trained with {what} {found}; expected {expected}, as "
                "this run has it"
            )


def _check_source(
    name: pathlib.Path, suite: Suite, prompter: Prompter, source: RunComponents
) -> None:
    """Refuse an executor that would not know where it is, or what its tokens mean.

    Raises:
      ConfigError: names what differs.
    """
    if source.suite.name != suite.name:
        raise ConfigError(
            f"plan.executor is {name}, trained on the suite {source.suite.name}; expected "
            f"{suite.name}, as this run has it"
        )
    if source.prompter.tokenizer.get_vocab() != prompter.tokenizer.get_vocab():
        raise ConfigError(
            f"plan.executor is {name}, whose vocabulary is not this run's; expected the same: "
            f"start from it by --init {name}"
        )


def hash_params(params: Params) -> str:
    """SHA-256 of all parameters, in the order of the tree."""
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(params):
        found.update(np.asarray(jax.device_get(leaf)).tobytes())
    return found.hexdigest()


def hold_executor(
    folder: pathlib.Path, source: object, executor: Executor | None, policy: Params, *, writes: bool
) -> None:
    """Record the executor's weights, or hold them against the record: they are never to move.

    Args:
      folder: of the run.
      source: whose weights they are.
      executor: None: the policy, and there is nothing to hold.
      policy: its parameters.
      writes: whether this process writes the record, where there is none.

    Raises:
      ConfigError: they are others.
    """
    if executor is None:
        return
    path, found = folder / EXECUTOR, hash_params(executor.find_params(policy))
    if not path.exists():
        if writes:
            write_json(path, {"source": str(source), "sha256": found})
        return
    recorded = read_json(path, cure="restore it from a copy").get("sha256")
    if recorded != found:
        raise ConfigError(
            f"{path}: the executor's weights ({source}) have the hash {found[:12]}; expected "
            f"{str(recorded)[:12]}, those that the run began with"
        )
