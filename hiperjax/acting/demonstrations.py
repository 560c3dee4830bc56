"""A scripted expert's episodes, written as the trajectories a model would have made."""

import contextlib
import dataclasses
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from hiperjax.acting.blocks import normalize_subgoal, parse_reply, render_reply
from hiperjax.acting.episode import EpisodeRecorder
from hiperjax.acting.pieces import build_pieces
from hiperjax.acting.prompts import Prompter
from hiperjax.acting.renderers import PastTurn, Renderer
from hiperjax.acting.windows import WindowWriter
from hiperjax.envs.base import Decision, Expert, Outcome, Step, Suite
from hiperjax.envs.border import describe_error
from hiperjax.envs.workers import EnvFailure, EnvWorkers, InlineWorkers, make_workers
from hiperjax.stop import REQUEST
from hiperjax.types import Blocks, Ending, Observation, Trajectory


@dataclasses.dataclass(frozen=True)
class Demonstration:
    """One expert episode in the world's own words."""

    suite: Suite
    task_id: str
    opening: Observation
    decisions: tuple[Decision, ...]
    """what the expert would do at each turn"""
    actions: tuple[str, ...]
    """what was done: its action, or a mistake"""
    steps: tuple[Step, ...]
    """what each action led to"""
    outcome: Outcome | None = None
    """what the world said of the episode when it was over"""

    @property
    def observations(self) -> tuple[Observation, ...]:
        """One more than decisions: the last is what the last action led to."""
        return (self.opening, *(step.observation for step in self.steps))


class ExpertError(ValueError):
    """An expert says what no reply can: a tag inside a subgoal, an empty action."""


class EpisodeLost(RuntimeError):
    """An environment failed where nobody keeps count of failures."""


AGAIN, SAME = 0.45, 0.5
"""After a mistake: how likely another is, and that it is the same."""


class Blunderer:
    """Puts mistakes in place of an expert's actions, in one episode."""

    def __init__(self, suite: Suite, share: float, seed: int) -> None:
        self._suite, self._share = suite, share
        self._random = random.Random(f"mistakes/{seed}")
        self._last: str | None = None

    def choose(self, observation: Observation, action: str) -> str:
        """What is done instead of `action`, or `action` itself."""
        rng, last = self._random, self._last
        self._last = None
        if rng.random() >= (self._share if last is None else max(self._share, AGAIN)):
            return action
        again = last is not None and rng.random() < SAME
        self._last = last if again else self._suite.make_mistake(observation, rng)
        return self._last or action


def demonstrate(
    suite: Suite,
    task_ids: Sequence[str],
    *,
    max_turns: int,
    seed: int,
    noise: float,
    mistakes: float = 0.0,
    failures: list[EnvFailure] | None = None,
    backend: str = "inline",
    step_timeout: float | None = None,
) -> Iterator[Demonstration]:
    """Play the suite's expert; `noise` is its share of random actions.

    `mistakes` is the share of turns at which something else is done than the expert decides; after
    a mistake another one is likelier (`AGAIN`), and may be the same once more. Episodes that the
    environment or the expert loses are left out and added to `failures`. `backend` and
    `step_timeout` say where the environment lives, and how long it may take; see `make_workers`.

    Raises:
      EpisodeLost: an episode was lost, and there is no list of failures to add it to.
      StopAsked: looked at before every step.
    """
    with contextlib.closing(make_workers(suite, backend, 1, step_timeout)) as workers:
        for number, task_id in enumerate(task_ids):
            expert = CheckedExpert(suite, task_id, seed + number, noise)
            blunderer = Blunderer(suite, mistakes, seed + number) if mistakes else None
            played = _demonstrate_one(workers, suite, task_id, expert, max_turns, blunderer)
            if isinstance(played, Demonstration):
                yield played
            elif failures is None:
                raise EpisodeLost(f"task {played.task_id}: {played.error}")
            else:
                failures.append(played)


class CheckedExpert:
    """An expert of a suite in one episode; what it raises or decides wrongly is an `EnvFailure`."""

    def __init__(self, suite: Suite, task_id: str, seed: int, noise: float = 0.0) -> None:
        self._suite, self._task_id, self._seed, self._noise = suite, task_id, seed, noise
        self._expert: Expert | None = None

    def decide(self, observation: Observation) -> Decision | EnvFailure:
        """Its next decision; the first observation opens the episode."""
        try:  # other people's code runs here
            if self._expert is None:
                self._expert = self._suite.make_expert(seed=self._seed, noise=self._noise)
                self._expert.reset(observation)
            found: Any = self._expert.decide(observation)
        except Exception as error:
            return EnvFailure(self._task_id, f"expert: {describe_error(error)}")
        fits = isinstance(found, Decision) and isinstance(found.switch, bool | np.bool_)
        if fits and isinstance(found.subgoal, str) and isinstance(found.action, str):
            return found
        where = f"expert of suite {self._suite.name}, task {self._task_id}"
        return EnvFailure(self._task_id, f"{where}: decided {found!r:.80}; expected a Decision")


def _demonstrate_one(
    workers: EnvWorkers,
    suite: Suite,
    task_id: str,
    expert: CheckedExpert,
    max_turns: int,
    blunderer: Blunderer | None,
) -> Demonstration | EnvFailure:
    (opening,) = workers.reset([0], [task_id])
    if isinstance(opening, EnvFailure):
        return opening
    observation, decisions, actions, steps = opening, [], [], []
    while True:
        REQUEST.check()
        decision = expert.decide(observation)
        if isinstance(decision, EnvFailure):
            return decision
        decisions.append(decision)
        action = decision.action
        actions.append(blunderer.choose(observation, action) if blunderer else action)
        (step,) = workers.step([0], [actions[-1]])
        if isinstance(step, EnvFailure):
            return step
        steps.append(step)
        observation = step.observation
        if step.terminated or step.truncated or len(steps) >= max_turns:
            ending = Ending.TERMINATED if step.terminated else Ending.TRUNCATED
            (outcome,) = workers.score([0], [ending])
            if isinstance(outcome, EnvFailure):
                return outcome
            played = tuple(decisions), tuple(actions), tuple(steps)
            return Demonstration(suite, task_id, opening, *played, outcome)


def _list_past(demo: Demonstration) -> list[PastTurn]:
    past = zip(demo.observations, demo.actions, strict=False)  # the last was answered by nothing
    return [
        PastTurn(t, seen.text, action, refused=not demo.suite.is_admissible(action, seen))
        for t, (seen, action) in enumerate(past, start=1)
    ]


def _reply_text(renderer: Renderer, decision: Decision) -> str:
    action = renderer.render_action(decision.action)
    subgoal = renderer.render_subgoal(decision.subgoal)
    return render_reply(decision.switch, subgoal, action, separator=renderer.separator)


def list_texts(renderer: Renderer, demo: Demonstration, *, grown: bool = False) -> Iterator[str]:
    """Every prompt and reply of an episode, as text: what a tokenizer is trained on.

    `grown`: and what the context of a window would grow by.
    """
    turns, shown = _list_past(demo), max(1, renderer.history_length)
    for t, decision in enumerate(demo.decisions):
        subgoal = renderer.render_subgoal(demo.decisions[t - 1].subgoal) if t else ""
        past = turns[max(0, t - shown) : t]
        yield renderer.prefix + renderer.open(demo.observations[t], past, subgoal)
        if grown and t:
            yield renderer.extend(demo.observations[t], demo.observations[t - 1], subgoal)
        yield _reply_text(renderer, decision)


def transcribe(prompter: Prompter, demos: Sequence[Demonstration]) -> list[Trajectory]:
    """Tokenize episodes into trajectories (log-probs zero: no model sampled them).

    Raises:
      ExpertError: a reply of the expert does not parse back to what it says.
    """
    pieces = build_pieces(prompter.tokenizer)
    return [_transcribe_one(prompter, pieces, demo) for demo in demos]


def _encode_reply(
    prompter: Prompter,
    pieces: Sequence[bytes],
    decision: Decision,
    *,
    subgoal: str,
    first: bool,
    where: str,
) -> tuple[np.ndarray, Blocks]:
    """A decision as a reply, and what that parses to; `subgoal` is the one in force before."""
    text = _reply_text(prompter.renderer, decision)
    reply = prompter.encoder.encode_reply(text)
    blocks = parse_reply(pieces, reply, current_subgoal=subgoal, first_turn=first)
    if not blocks.well_formed or blocks.switch != decision.switch:
        raise ExpertError(
            f"{where}: reply {text!r} parses to {blocks}; expected the decision it was written from"
        )
    return np.asarray(reply, np.int32), blocks


def relabel(
    prompter: Prompter,
    suite: Suite,
    played: Sequence[Trajectory],
    *,
    workers: EnvWorkers | None = None,
    failures: list[EnvFailure] | None = None,
) -> list[Trajectory]:
    """A policy's episodes with each reply replaced by what the expert would have said there.

    Each turn is a window of its own: what was replied stands in no context. The expert's subgoal is
    held against the one in force: where it is the same, the label is KEEP. A turn whose prompt the
    episode had before is left out: one that ends in a loop would teach that loop's way out fifty
    times, and little else. An episode that the environment does not play again is left out too, and
    added to `failures`. `workers` hold the environment, in slot 0; None: this process does.
    """
    pieces, own = build_pieces(prompter.tokenizer), InlineWorkers(suite)
    found = []
    for episode in played:
        labelled = _relabel_one(prompter, pieces, workers or own, suite, episode)
        if isinstance(labelled, Trajectory):
            found.append(labelled)
        elif failures is not None:
            failures.append(labelled)
    own.close()
    return found


def _relabel_one(
    prompter: Prompter,
    pieces: Sequence[bytes],
    workers: EnvWorkers,
    suite: Suite,
    played: Trajectory,
) -> Trajectory | EnvFailure:
    REQUEST.check()
    (seen,) = workers.reset([0], [played.task_id])
    if isinstance(seen, EnvFailure):
        return seen
    expert, turns, subgoal, known = CheckedExpert(suite, played.task_id, 0), [], "", set()
    for turn in played.turns:
        decision = expert.decide(seen)
        if isinstance(decision, EnvFailure):
            return decision
        wanted = prompter.renderer.render_subgoal(decision.subgoal)
        switch = normalize_subgoal(wanted) != normalize_subgoal(subgoal)
        told = dataclasses.replace(decision, switch=switch)
        where = f"expert on task {played.task_id}, turn {len(turns)}"
        ids, blocks = _encode_reply(
            prompter, pieces, told, subgoal=subgoal, first=not turns, where=where
        )
        if (prompt := turn.prompt_ids.tobytes()) not in known:
            known.add(prompt)
            unsampled = np.zeros(len(ids), np.float32)
            label = dict(reply_ids=ids, behavior_logprobs=unsampled, blocks=blocks, given=0)
            turns.append(dataclasses.replace(turn, **label))
        subgoal = turn.blocks.subgoal
        (step,) = workers.step([0], [turn.blocks.action])
        if isinstance(step, EnvFailure):
            return step
        seen = step.observation
    return dataclasses.replace(played, turns=tuple(turns))


def _transcribe_one(prompter: Prompter, pieces: Sequence[bytes], demo: Demonstration) -> Trajectory:
    REQUEST.check()
    episode = EpisodeRecorder(demo.suite, demo.task_id, demo.opening)
    writer = WindowWriter(prompter)
    for decision, done, step in zip(demo.decisions, demo.actions, demo.steps, strict=True):
        seen, first = episode.observation, not episode.turns
        prompt = writer.write(seen, episode.past, episode.subgoal)
        # Where contexts grow, what was done stands in them, and a mistake is not to be learned.
        mistake = prompter.windows.grow and done != decision.action
        said = dataclasses.replace(decision, action=done) if mistake else decision
        where = f"expert on task {demo.task_id}, turn {len(episode.turns)}"
        ids, blocks = _encode_reply(
            prompter, pieces, said, subgoal=episode.subgoal, first=first, where=where
        )
        restored = prompter.renderer.restore_action(blocks.action, seen.admissible)
        action = restored if done == decision.action else done
        blocks = dataclasses.replace(blocks, action=action)
        unsampled = np.zeros(len(ids), np.float32)
        episode.record(
            prompt.ids, ids, unsampled, blocks, step, opens=prompt.opens, counts=not mistake
        )
        writer.note_reply(ids, blocks)
    episode.note_outcome(demo.outcome)
    if episode.terminated:
        return episode.finish(None)
    final = writer.write(episode.observation, episode.past, episode.subgoal)
    return episode.finish(final.ids, final_opens=final.opens)
