"""The contract of a world: text in, text out, one task at a time.

A `Suite` is a family of tasks with named splits; it makes environments and experts. A `TextEnv` is
one live episode. Turn limits are the rollout's affair: an environment says `terminated`, and never
`truncated`, unless its own rules cut an episode. Nothing here imports jax.
"""

import abc
import dataclasses
import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from hiperjax.types import NO_HINTS, ExampleTurn, Observation, PromptHints


class Step(NamedTuple):
    """Result of one action: the first four in Gymnasium's order."""

    observation: Observation
    reward: float
    terminated: bool
    truncated: bool
    success: bool = False
    """Whether the task is done, as of this step."""
    milestone: bool = False
    """Whether the action reached a part of the goal for the first time."""
    score: float | None = None
    """The world's own score of the episode in [0, 1], at its last step, where it has scores."""
    info: Mapping[str, Any] = {}
    """Whatever else the world says; this program reads only the fields above."""


class TextEnv(abc.ABC):
    """One episode at a time of a text world; deterministic given the task."""

    @abc.abstractmethod
    def reset(self, task_id: str) -> Observation:
        """Open a task. Raises `KeyError` naming the task if the suite has none such."""

    @abc.abstractmethod
    def step(self, action: str) -> Step:
        """Act. Any string is a legal argument: what the world does not understand is a no-op."""

    def close(self) -> None:  # noqa: B027 - most worlds hold nothing
        """Release what the environment holds."""


@dataclasses.dataclass(frozen=True, slots=True)
class Decision:
    """What an expert does at one turn: its decision in the three parts of a reply."""

    switch: bool
    subgoal: str
    """The subgoal in force (repeated where `switch` is False)."""
    action: str


class Expert(abc.ABC):
    """A scripted policy that speaks Plan-Execute and sees only observations."""

    @abc.abstractmethod
    def reset(self, observation: Observation) -> None:
        """Begin an episode."""

    @abc.abstractmethod
    def decide(self, observation: Observation) -> Decision:
        """Decide one turn. Called once per turn with the current observation."""


class Suite(abc.ABC):
    """A family of tasks: the one object through which the rest of the program sees a world."""

    name: str
    role: str
    """One sentence for the prompt: who the agent is in this world."""
    hints: PromptHints = NO_HINTS
    """What prompt formats should know of the world's language; by default they show everything."""
    example: tuple[ExampleTurn, ...] = ()
    """The first turns of some episode, as short as may be, for prompts that show an example."""
    splits: tuple[str, ...]
    max_turns: int
    """The usual turn limit, used where the run's config sets none."""
    min_prompt_tokens: int = 0
    """No prompt of this world fits in fewer tokens; a run with less is refused before it starts."""
    reports_scores: bool = False
    """Whether the `score` of a last step is set; an episode cut short scores 0."""
    reports_milestones: bool = False
    """Whether the `milestone` of a step means anything."""

    @abc.abstractmethod
    def tasks(self, split: str) -> Sequence[str]:
        """Task ids of a split, in a fixed order. May be a lazy sequence."""

    @abc.abstractmethod
    def task_type(self, task_id: str) -> str:
        """The kind of task, for tables per type."""

    def is_admissible(self, action: str, observation: Observation) -> bool:
        """Whether the world understands an action now; by default, whether it is listed.

        A world whose list holds a template (`search[<your query>]`) overrides it.
        """
        return action in observation.admissible

    def describe(self) -> str:
        """One line for reports: the name, and what else a result on this world depends on."""
        return self.name

    def report_baselines(self, split: str, *, max_turns: int, episodes: int) -> str | None:
        """What an agent's result on a split is to be read against, as text; None: nothing is.

        Args:
          split: one of `splits`.
          max_turns: the agent's turn limit.
          episodes: at most so many of the split's tasks are played.
        """
        return None

    def make_mistake(self, observation: Observation, rng: random.Random) -> str:
        """A plausible command that does not help now, for demonstrations of the way out.

        By default any admissible one; a world that knows what beginners try overrides it.
        """
        return rng.choice(observation.admissible or ("",))

    @abc.abstractmethod
    def make_env(self) -> TextEnv:
        """A new environment that can open any task of the suite."""

    @abc.abstractmethod
    def make_expert(self, seed: int, noise: float = 0.0) -> Expert:
        """A scripted expert; `noise` in [0, 1] is its share of random admissible actions."""
