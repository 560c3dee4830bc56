"""Do subgoals mean anything to whoever acts under them? A trained policy is deceived, and watched.

The planner plays as ever; the action is drawn from a context in which its subgoals are others:

  swapped   those of another episode, turn by turn
  shuffled  the same task's own, in random order
  blank     none
  expert    those of the suite's scripted expert, which sees what the policy sees

What success loses under them, and how far the distribution of actions moves (KL, in nats per
action, on the episodes of the policy as it is), says what they are worth; at 0 they are decoration.
With the expert's subgoals a policy may also gain: what better planning would bring it.

    python -m experiments.studies.subgoals agent:household
"""

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from hiperjax.acting.collector import Collector
from hiperjax.acting.demonstrations import CheckedExpert
from hiperjax.acting.played import PlayedEpisode
from hiperjax.acting.prompts import Prompter
from hiperjax.acting.renderers import NO_SUBGOAL, PastTurn
from hiperjax.acting.rollout import Rollout
from hiperjax.acting.two_stage import Context, Executor, go_on
from hiperjax.config import ConfigError
from hiperjax.envs.base import Decision, Suite
from hiperjax.models.transformer import Params, TransformerConfig, forward, logits
from hiperjax.random_keys import Stream, derive_key
from hiperjax.training.build import restore_run
from hiperjax.training.evaluation import Evaluation, evaluate
from hiperjax.types import Observation

ROWS = 32
"""Contexts of one forward pass."""
At = tuple[int, int]
"""Number of an episode, and of its turn."""


class Note(NamedTuple):
    """What a planner was at, when it handed over."""

    observation: Observation
    past: tuple[PastTurn, ...]
    subgoal: str
    """the one in force before the turn"""


class Seen(NamedTuple):
    """What an action was taken at."""

    at: Note
    subgoal: str
    """the one in force"""
    prompt: tuple[int, ...]
    reply: tuple[int, ...]
    action: tuple[int, ...]


def pretend(prompter: Prompter, subgoal_at: Callable[[PlayedEpisode], str]) -> Context:
    """A context in which the subgoal in force is another, as if it had been all along."""
    before: dict[int, str] = {}

    def context(episode: PlayedEpisode, plan: Sequence[int]) -> list[int]:
        old = before.get(episode.index, "") if episode.turns else ""
        before[episode.index] = new = subgoal_at(episode)
        return write_context(prompter, episode.observation, episode.past, old, new)

    return context


def write_context(
    prompter: Prompter, seen: Observation, past: Sequence[PastTurn], old: str, new: str
) -> list[int]:
    """Prompt and planner's part of the reply: SWITCH where the subgoal changes."""
    ids, blocks = prompter.spell(new != old, new, "go")
    return [*prompter.encode(seen, past, old)[0], *ids[: blocks.action_span[0]]]


def choose_subgoals(own: list[list[str]], arm: str, seed: int) -> list[list[str]]:
    """Subgoals of each episode by turn, given those each had: another's, or its own shuffled."""
    rng = np.random.default_rng(seed)
    if arm == "blank":
        return [[NO_SUBGOAL] * len(each) for each in own]
    if arm == "shuffled":
        return [[each[i] for i in rng.permutation(len(each))] for each in own]
    ring = rng.permutation(len(own))
    donor = dict(zip(ring.tolist(), np.roll(ring, 1).tolist(), strict=True))
    return [list(own[donor[i]]) for i in range(len(own))]


def at_turn(subgoals: Sequence[str], turn: int) -> str:
    """The subgoal of a turn; past the end, the last one."""
    return subgoals[min(turn, len(subgoals) - 1)]


def read_from(subgoals: Sequence[Sequence[str]]) -> Callable[[PlayedEpisode], str]:
    """The subgoals of each episode, turn by turn."""
    return lambda episode: at_turn(subgoals[episode.index], len(episode.turns))


def ask_expert(suite: Suite, prompter: Prompter) -> Callable[[PlayedEpisode], str]:
    """What the scripted expert would be after, at each turn of the policy's own episodes."""
    experts: dict[int, CheckedExpert] = {}

    def subgoal_at(episode: PlayedEpisode) -> str:
        if not episode.turns:
            experts[episode.index] = CheckedExpert(suite, episode.task_id, seed=0)
        decision = experts[episode.index].decide(episode.observation)
        if not isinstance(decision, Decision):
            return NO_SUBGOAL
        return prompter.renderer.render_subgoal(decision.subgoal)

    return subgoal_at


def act_under(collector: Collector, context: Context) -> Collector:
    """The same policy, its actions drawn from another context."""
    if isinstance(collector, Rollout):
        executor = Executor(lambda policy: policy, collector.config, context, frozen=False)
        return dataclasses.replace(collector, executor=executor)
    return dataclasses.replace(collector, rollout=act_under(collector.rollout, context))  # type: ignore


@partial(jax.jit, static_argnames="config")
def score_actions(
    params: Params,
    tokens: Int[Array, "n L"],
    lengths: Int[Array, " n"],
    at: Int[Array, " n"],
    count: Int[Array, " n"],
    slots: Int[Array, " R"],
    *,
    config: TransformerConfig,
) -> Float[Array, "n R V"]:
    """Log-probs of all tokens at each place of an action of `count` tokens that begins at `at`."""
    hidden = forward(params, config, tokens, lengths=lengths)
    where = jnp.clip(at[:, None] + slots - 1, 0, tokens.shape[1] - 1)
    states = jnp.take_along_axis(hidden, where[..., None], axis=1)
    found = jax.nn.log_softmax(logits(params, config, states).astype(jnp.float32))
    return jnp.where((slots < count[:, None])[..., None], found, 0.0)


def score_all(
    params: Params, config: TransformerConfig, contexts: Sequence[Sequence[int]],
    actions: Sequence[Sequence[int]], *, length: int, longest: int,
) -> Float[Array, "n R V"]:  # fmt: skip
    """`score_actions` of actions after contexts, padded to `ROWS` of `length` tokens."""
    tokens = np.zeros((ROWS, length), np.int32)
    lengths, at, count = (np.ones(ROWS, np.int32) for _ in range(3))
    for i, (context, action) in enumerate(zip(contexts, actions, strict=True)):
        whole = [*context, *action]
        tokens[i, : len(whole)], lengths[i] = whole, len(whole)
        at[i], count[i] = len(context), len(action)
    slots = np.arange(longest)
    return score_actions(params, tokens, lengths, at, count, slots, config=config)


def measure_kl(
    params: Params,
    config: TransformerConfig,
    prompter: Prompter,
    seen: dict[At, Seen],
    subgoals: Sequence[Sequence[str]],
    *,
    length: int,
) -> float:
    """Mean KL, in nats per action, of actions under the subgoals in force from those under others.

    Along the actions taken, the divergences of their tokens' distributions add up.
    """
    items, total = list(seen.items()), 0.0
    longest = max(len(s.action) for s in seen.values())
    size = partial(score_all, params, config, length=length, longest=longest)
    for first in range(0, len(items), ROWS):
        part = items[first : first + ROWS]
        actions = [s.action for _, s in part]
        ours = [[*s.prompt, *s.reply] for _, s in part]
        theirs = []
        for (episode, turn), s in part:
            old = at_turn(subgoals[episode], turn - 1) if turn else ""
            new = at_turn(subgoals[episode], turn)
            theirs.append(write_context(prompter, s.at.observation, s.at.past, old, new))
        p, q = size(ours, actions), size(theirs, actions)
        total += float((jnp.exp(p) * (p - q) * (p != 0)).sum())
    return total / len(items)


def watch(notes: dict[At, Note]) -> Context:
    """The policy's own context; what it saw is kept."""

    def context(episode: PlayedEpisode, plan: Sequence[int]) -> list[int]:
        at = episode.index, len(episode.turns)
        notes[at] = Note(episode.observation, tuple(episode.past), episode.subgoal)
        return go_on(episode, plan)

    return context


def collect_seen(result: Evaluation, notes: dict[At, Note]) -> dict[At, Seen]:
    """What each well-formed action was taken at, by episode and turn."""
    found = {}
    for number, trajectory in enumerate(result.trajectories):
        for t, turn in enumerate(trajectory.turns):
            first, end = turn.blocks.action_span
            note = notes.get((number, t))
            if note is not None and turn.blocks.well_formed and end > first:
                ids = tuple(turn.reply_ids.tolist())
                found[number, t] = Seen(
                    note, turn.blocks.subgoal, tuple(turn.prompt_ids.tolist()),
                    ids[:first], ids[first:end],
                )  # fmt: skip
    return found


def parse_args(args: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, prog="experiments.studies.subgoals")
    parser.add_argument("run", help="a run folder, or a shipped agent (agent:NAME)")
    parser.add_argument("--split", help="of the run's suite; default: the first it evaluates on")
    parser.add_argument("--max-tasks", type=int, help="only the first so many tasks")
    parser.add_argument("--seed", type=int, default=0, help="of what is swapped and shuffled")
    parser.add_argument("--temperature", type=float, default=0.0, help="of sampling; 0 is greedy")
    return parser.parse_args(args)


def show(name: str, result: Evaluation, base: Evaluation | None, kl: float | None) -> str:
    """One line of the table."""
    low, high = result.overall.interval
    change = "" if base is None else f"{result.overall.rate - base.overall.rate:+.3f}"
    turns = np.mean([len(t.turns) for t in result.trajectories])
    moved = "-" if kl is None else f"{kl:.3f}"
    rate = f"{result.overall.rate:.3f} [{low:.3f}, {high:.3f}]"
    return f"{name:<10}{rate:>24}{change:>9}{turns:>8.1f}{moved:>8}"


def main(args: Sequence[str] | None = None) -> dict[str, tuple[Evaluation, float | None]]:
    """Play every arm and print the table."""
    asked = parse_args(args)
    components, state = restore_run(asked.run, "best")
    if components.prompter.windows.grow or components.executor is not None:
        raise ConfigError(
            f"{asked.run}: its contexts grow, or another acts for it; expected prompt.window turn "
            "and no plan.executor"
        )
    prompter, config, prompt = components.prompter, components.model, components.config.prompt
    play = partial(
        evaluate,
        params=state.policy,
        suite=components.suite,
        split=asked.split or components.config.eval.splits[0],
        key=derive_key(asked.seed, Stream.EVALUATION),
        temperature=asked.temperature,
        max_tasks=asked.max_tasks,
    )
    notes: dict[At, Note] = {}
    own = play(act_under(components.rollout, watch(notes)))
    if own.failures:
        raise ConfigError(f"{asked.run}: {own.describe_losses()}; expected none")
    seen = collect_seen(own, notes)
    said = [[turn.blocks.subgoal for turn in t.turns] for t in own.trajectories]
    print(f"{'subgoals':<10}{'solved':>24}{'change':>9}{'turns':>8}{'KL':>8}")
    print(show("own", own, None, None))
    found: dict[str, tuple[Evaluation, float | None]] = {"own": (own, None)}
    for arm in ("swapped", "shuffled", "blank", "expert"):
        kl, subgoal_at = None, ask_expert(components.suite, prompter)
        if arm != "expert":
            chosen = choose_subgoals(said, arm, asked.seed)
            length = prompt.prompt_length + 2 * prompt.reply_length
            kl = measure_kl(state.policy, config, prompter, seen, chosen, length=length)
            subgoal_at = read_from(chosen)

        result = play(act_under(components.rollout, pretend(prompter, subgoal_at)))
        found[arm] = result, kl
        print(show(arm, result, own, kl))
    return found


if __name__ == "__main__":
    main()
