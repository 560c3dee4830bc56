"""A scripted expert's episodes, written as the trajectories a model would have made."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from hiperjax.acting.blocks import parse_reply, render_reply
from hiperjax.acting.pieces import build_pieces
from hiperjax.acting.prompts import PastTurn, Prompter, Renderer
from hiperjax.envs.base import Decision, Step, Suite
from hiperjax.types import Ending, Observation, Trajectory, Turn


@dataclasses.dataclass(frozen=True)
class Demonstration:
    """One expert episode in the world's own words."""

    task_id: str
    observations: tuple[Observation, ...]
    """one more than decisions: the last is what the last action led to"""
    decisions: tuple[Decision, ...]
    last: Step
    rewards: tuple[float, ...]
    admissible: tuple[bool, ...]
    """whether each action was"""


def demonstrate(
    suite: Suite, task_ids: Sequence[str], *, max_turns: int, seed: int, noise: float
) -> Iterator[Demonstration]:
    """Play the suite's expert; `noise` is its share of random actions."""
    env = suite.make_env()
    for number, task_id in enumerate(task_ids):
        expert = suite.make_expert(seed=seed + number, noise=noise)
        observation = env.reset(task_id)
        expert.reset(observation)
        observations, decisions, rewards, admissible = [observation], [], [], []
        while True:
            decision = expert.decide(observations[-1])
            admissible.append(suite.is_admissible(decision.action, observations[-1]))
            step = env.step(decision.action)
            decisions.append(decision)
            observations.append(step.observation)
            rewards.append(float(step.reward))
            if step.terminated or step.truncated or len(decisions) >= max_turns:
                break
        yield Demonstration(
            task_id, tuple(observations), tuple(decisions), step, tuple(rewards), tuple(admissible)
        )
    env.close()


def _past(demo: Demonstration, turn: int) -> list[PastTurn]:
    return [
        PastTurn(t + 1, demo.observations[t].text, demo.decisions[t].action) for t in range(turn)
    ]


def _reply_text(renderer: Renderer, decision: Decision) -> str:
    action = renderer.render_action(decision.action)
    subgoal = renderer.render_subgoal(decision.subgoal)
    return render_reply(decision.switch, subgoal, action, separator=renderer.separator)


def list_texts(renderer: Renderer, demo: Demonstration) -> Iterator[str]:
    """Every prompt and reply of an episode, as text: what a tokenizer is trained on."""
    for t, decision in enumerate(demo.decisions):
        subgoal = renderer.render_subgoal(demo.decisions[t - 1].subgoal) if t else ""
        past = _past(demo, t)[-max(1, renderer.history_length) :]
        yield renderer.prefix + renderer.render(demo.observations[t], past, subgoal)
        yield _reply_text(renderer, decision)


def transcribe(prompter: Prompter, demos: Sequence[Demonstration]) -> list[Trajectory]:
    """Tokenize episodes into trajectories (log-probs zero: no model sampled them).

    Raises:
      ValueError: a reply of the expert does not parse back to what it says.
    """
    pieces = build_pieces(prompter.tokenizer)
    return [_transcribe_one(prompter, pieces, demo) for demo in demos]


def _transcribe_one(prompter: Prompter, pieces: Sequence[bytes], demo: Demonstration) -> Trajectory:
    turns, subgoal = [], ""
    for t, decision in enumerate(demo.decisions):
        prompt, _ = prompter.encode(demo.observations[t], _past(demo, t), subgoal)
        text = _reply_text(prompter.renderer, decision)
        reply = prompter.tokenize(text)
        blocks = parse_reply(pieces, reply, current_subgoal=subgoal, first_turn=t == 0)
        if not blocks.well_formed or blocks.switch != decision.switch:
            raise ValueError(
                f"expert on task {demo.task_id}, turn {t}: reply {text!r} parses to {blocks}; "
                "expected the decision it was written from"
            )
        subgoal = blocks.subgoal
        action = prompter.renderer.restore_action(blocks.action, demo.observations[t].admissible)
        turns.append(
            Turn(
                prompt_ids=np.asarray(prompt, np.int32),
                response_ids=np.asarray(reply, np.int32),
                behavior_logprobs=np.zeros(len(reply), np.float32),
                blocks=dataclasses.replace(blocks, action=action),
                reward=demo.rewards[t],
                observation=demo.observations[t].text,
                admissible=demo.admissible[t],
            )
        )
    final = None
    if not demo.last.terminated:
        past = _past(demo, len(demo.decisions))
        final = np.asarray(prompter.encode(demo.observations[-1], past, subgoal)[0], np.int32)
    return Trajectory(
        task_id=demo.task_id,
        turns=tuple(turns),
        ending=Ending.TERMINATED if demo.last.terminated else Ending.TRUNCATED,
        success=demo.last.success,
        final_prompt_ids=final,
        final_observation=demo.observations[-1].text,
    )
