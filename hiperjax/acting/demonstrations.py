"""A scripted expert's episodes, written as the trajectories a model would have made."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from hiperjax.acting.blocks import parse_reply, render_reply
from hiperjax.acting.episode import EpisodeRecorder
from hiperjax.acting.pieces import build_pieces
from hiperjax.acting.prompts import Prompter
from hiperjax.acting.renderers import PastTurn, Renderer
from hiperjax.acting.windows import WindowWriter
from hiperjax.envs.base import Decision, Expert, Step, Suite
from hiperjax.envs.workers import EnvFailure, InlineWorkers
from hiperjax.stop import REQUEST
from hiperjax.types import Observation, Trajectory


@dataclasses.dataclass(frozen=True)
class Demonstration:
    """One expert episode in the world's own words."""

    suite: Suite
    task_id: str
    opening: Observation
    decisions: tuple[Decision, ...]
    steps: tuple[Step, ...]
    """what each decision led to"""

    @property
    def observations(self) -> tuple[Observation, ...]:
        """One more than decisions: the last is what the last action led to."""
        return (self.opening, *(step.observation for step in self.steps))


class ExpertError(ValueError):
    """An expert says what no reply can: a tag inside a subgoal, an empty action."""


class EpisodeLost(RuntimeError):
    """An environment failed where nobody keeps count of failures."""


def demonstrate(
    suite: Suite,
    task_ids: Sequence[str],
    *,
    max_turns: int,
    seed: int,
    noise: float,
    failures: list[EnvFailure] | None = None,
) -> Iterator[Demonstration]:
    """Play the suite's expert; `noise` is its share of random actions.

    Episodes that the environment loses are left out and added to `failures`.

    Raises:
      EpisodeLost: an episode was lost, and there is no list of failures to add it to.
      StopAsked: looked at before every step.
    """
    workers = InlineWorkers(suite)
    for number, task_id in enumerate(task_ids):
        expert = suite.make_expert(seed=seed + number, noise=noise)
        played = _demonstrate_one(workers, suite, task_id, expert, max_turns)
        if isinstance(played, Demonstration):
            yield played
        elif failures is None:
            raise EpisodeLost(f"task {played.task_id}: {played.error}")
        else:
            failures.append(played)
    workers.close()


def _demonstrate_one(
    workers: InlineWorkers, suite: Suite, task_id: str, expert: Expert, max_turns: int
) -> Demonstration | EnvFailure:
    (opening,) = workers.reset([0], [task_id])
    if isinstance(opening, EnvFailure):
        return opening
    expert.reset(opening)
    observation, decisions, steps = opening, [], []
    while True:
        REQUEST.check()
        decisions.append(expert.decide(observation))
        (step,) = workers.step([0], [decisions[-1].action])
        if isinstance(step, EnvFailure):
            return step
        steps.append(step)
        observation = step.observation
        if step.terminated or step.truncated or len(steps) >= max_turns:
            return Demonstration(suite, task_id, opening, tuple(decisions), tuple(steps))


def _past(demo: Demonstration, turn: int) -> list[PastTurn]:
    return [
        PastTurn(t + 1, demo.observations[t].text, demo.decisions[t].action) for t in range(turn)
    ]


def _reply_text(renderer: Renderer, decision: Decision) -> str:
    action = renderer.render_action(decision.action)
    subgoal = renderer.render_subgoal(decision.subgoal)
    return render_reply(decision.switch, subgoal, action, separator=renderer.separator)


def list_texts(renderer: Renderer, demo: Demonstration, *, grown: bool = False) -> Iterator[str]:
    """Every prompt and reply of an episode, as text: what a tokenizer is trained on.

    `grown`: and what the context of a window would grow by.
    """
    for t, decision in enumerate(demo.decisions):
        subgoal = renderer.render_subgoal(demo.decisions[t - 1].subgoal) if t else ""
        past = _past(demo, t)[-max(1, renderer.history_length) :]
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


def _transcribe_one(prompter: Prompter, pieces: Sequence[bytes], demo: Demonstration) -> Trajectory:
    REQUEST.check()
    episode = EpisodeRecorder(demo.suite, demo.task_id, demo.opening)
    writer = WindowWriter(prompter)
    for decision, step in zip(demo.decisions, demo.steps, strict=True):
        seen, first = episode.observation, not episode.turns
        prompt = writer.write(seen, episode.past, episode.subgoal)
        text = _reply_text(prompter.renderer, decision)
        reply = prompter.encoder.encode_reply(text)
        blocks = parse_reply(pieces, reply, current_subgoal=episode.subgoal, first_turn=first)
        if not blocks.well_formed or blocks.switch != decision.switch:
            raise ExpertError(
                f"expert on task {demo.task_id}, turn {len(episode.turns)}: reply {text!r} parses "
                f"to {blocks}; expected the decision it was written from"
            )
        action = prompter.renderer.restore_action(blocks.action, seen.admissible)
        blocks = dataclasses.replace(blocks, action=action)
        unsampled = np.zeros(len(reply), np.float32)
        ids = np.asarray(reply, np.int32)
        episode.record(prompt.ids, ids, unsampled, blocks, step, opens=prompt.opens)
        writer.note_reply(reply, blocks)
    if episode.terminated:
        return episode.finish(None)
    final = writer.write(episode.observation, episode.past, episode.subgoal)
    return episode.finish(final.ids, final_opens=final.opens)
