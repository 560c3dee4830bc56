"""One episode as it grows: the only maker of turns and trajectories, whoever acts.

A rollout and a demonstration differ in where a reply comes from; what a turn records of the world,
and how an episode ends, is the same.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from hiperjax.acting.renderers import PastTurn
from hiperjax.envs.base import Outcome, Step, Suite
from hiperjax.types import Blocks, Ending, Observation, Trajectory, Turn


@dataclasses.dataclass
class EpisodeRecorder:
    """An episode under way: what the agent sees now, and the turns behind it."""

    suite: Suite
    task_id: str
    observation: Observation
    """what the next turn is taken at"""
    subgoal: str = ""
    """the subgoal in force, empty before the first turn"""
    past: list[PastTurn] = dataclasses.field(default_factory=list)
    turns: list[Turn] = dataclasses.field(default_factory=list)
    last: Step | None = None
    """what the last action led to"""

    def record(
        self,
        prompt_ids: Sequence[int],
        reply_ids: np.ndarray,
        logprobs: np.ndarray,
        blocks: Blocks,
        step: Step,
        *,
        opens: bool = True,
        counts: bool = True,
        given: int = 0,
    ) -> None:
        """Add a turn: a prompt, its reply and what the environment answered.

        `opens`: the prompt is a whole one, of a new window; else what its window grew by. `counts`:
        the reply is to be learned from, but for its first `given` tokens, which nobody sampled.
        """
        seen = self.observation
        self.turns.append(
            Turn(
                prompt_ids=np.asarray(prompt_ids, np.int32),
                reply_ids=reply_ids,
                behavior_logprobs=logprobs,
                blocks=blocks,
                reward=float(step.reward),
                observation=seen.text,
                admissible=self.suite.is_admissible(blocks.action, seen),
                milestone=bool(step.milestone),
                opens=opens,
                counts=counts,
                given=given,
                satisfied=step.satisfied,
                request=seen.request,
                delegation=step.delegation,
            )
        )
        self.past.append(
            PastTurn(
                len(self.turns), seen.text, blocks.action, refused=not self.turns[-1].admissible
            )
        )
        self.subgoal, self.observation, self.last = blocks.subgoal, step.observation, step

    def is_over(self, max_turns: int) -> bool:
        """Whether the environment ended the episode, or the turn limit does."""
        last = self.last
        if last is None:
            return False
        return last.terminated or last.truncated or len(self.turns) >= max_turns

    @property
    def terminated(self) -> bool:
        """Whether the last state is terminal: no value is read there, so no prompt is needed."""
        return self.last is not None and self.last.terminated

    @property
    def ending(self) -> Ending:
        """Why it ended, now that it is over."""
        return Ending.TERMINATED if self.terminated else Ending.TRUNCATED

    def note_outcome(self, outcome: Outcome | None) -> None:
        """Take in what the world says of the episode, now that it is over."""
        if outcome is None or self.last is None:
            return
        last, turn = self.last, self.turns[-1]
        satisfied = last.satisfied if outcome.satisfied is None else outcome.satisfied
        reward = turn.reward + float(outcome.reward)
        self.turns[-1] = dataclasses.replace(turn, reward=reward, satisfied=satisfied)
        self.last = last._replace(
            score=last.score if outcome.score is None else outcome.score,
            success=last.success if outcome.success is None else outcome.success,
        )

    def finish(
        self, final_prompt_ids: Sequence[int] | None, *, final_opens: bool = True
    ) -> Trajectory:
        """The episode as it ended.

        Args:
          final_prompt_ids: the prompt after the last turn; None exactly where it terminated.
          final_opens: whether that prompt is a whole one, of a new window.
        """
        if self.last is None or (final_prompt_ids is None) != self.terminated:
            raise ValueError(
                f"episode of task {self.task_id} after {len(self.turns)} turns: found "
                f"{'no' if final_prompt_ids is None else 'a'} final prompt; expected a turn, and a "
                "final prompt exactly where the episode did not terminate"
            )
        final = None if final_prompt_ids is None else np.asarray(final_prompt_ids, np.int32)
        return Trajectory(
            task_id=self.task_id,
            task=self.last.observation.task,
            turns=tuple(self.turns),
            ending=self.ending,
            success=bool(self.last.success),
            score=(self.last.score or 0.0) if self.suite.reports_scores else None,
            final_prompt_ids=final,
            final_opens=final_opens,
            final_observation=self.last.observation.text,
        )
