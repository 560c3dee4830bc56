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

from hiperjax.types import (
    NO_DELEGATION,
    NO_HINTS,
    Checklist,
    Delegation,
    Ending,
    ExampleTurn,
    Observation,
    PromptHints,
)


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
    """Whatever else the world says; this program reads only the other fields."""
    satisfied: frozenset[str] = frozenset()
    """Names of the criteria of the task's checklist that hold now, where the world verifies them.
    None of them holds when a task is opened."""
    delegation: Delegation = NO_DELEGATION
    """What the action handed to sub-agents, in a world that `delegates`."""


class Outcome(NamedTuple):
    """What a world says of an episode that is over."""

    score: float | None = None
    """The world's own score of the episode in [0, 1]; None: the last step's."""
    reward: float = 0.0
    """Added to the reward of the last turn."""
    satisfied: frozenset[str] | None = None
    """Criteria that hold at the end; None: as of the last step."""
    success: bool | None = None
    """Whether the task is done; None: as of the last step."""


class TextEnv(abc.ABC):
    """One episode at a time of a text world; deterministic given the task.

    `reset`, `step` and `score` may be coroutine functions: they run on an event loop that all
    environments of a process share.
    """

    @abc.abstractmethod
    def reset(self, task_id: str) -> Observation:
        """Open a task. Raises `KeyError` naming the task if the suite has none such."""

    @abc.abstractmethod
    def step(self, action: str) -> Step:
        """Act. Any string is a legal argument: what the world does not understand is a no-op."""

    def score(self, ending: Ending) -> Outcome | None:
        """What the episode comes to; asked once, whatever ended it, the turn limit included.

        By default nothing is added to what the last step said.
        """
        return None

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
    dialect: str = ""
    """The wording of commands and texts, where the same world comes in several."""
    reports_scores: bool = False
    """Whether the `score` of a last step is set; an episode cut short scores 0."""
    reports_milestones: bool = False
    """Whether the `milestone` of a step means anything."""
    reports_criteria: bool = False
    """Whether tasks have checklists whose criteria the `satisfied` of a step verifies."""
    delegates: bool = False
    """Whether actions may set sub-agents to work: the `delegation` of a step then says what it
    cost."""
    has_expert: bool = True
    """Whether `make_expert` makes one; without, a policy cannot start by imitation."""
    max_concurrency: int | None = None
    """Environments that may be busy at one time (backend threads); None: any number."""

    @abc.abstractmethod
    def tasks(self, split: str) -> Sequence[str]:
        """Task ids of a split, in a fixed order. May be a lazy sequence."""

    @abc.abstractmethod
    def task_type(self, task_id: str) -> str:
        """The kind of task, for tables per type."""

    def difficulty(self, task_id: str) -> str:
        """The stratum of tasks about as hard as this one, for a curriculum; the kind by default."""
        return self.task_type(task_id)

    def plan_length(self, task_id: str) -> int | None:
        """Turns of a plan that solves the task, as who knows the world would; None: nobody says."""
        return None

    def checklist(self, task_id: str) -> Checklist | None:
        """What is to hold in the course of a task, none of it at the start; None: nobody says."""
        return None

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

    def make_expert(self, seed: int, noise: float = 0.0) -> Expert:
        """A scripted expert; `noise` in [0, 1] is its share of random admissible actions.

        Raises:
          NotImplementedError: the suite has none, and says so by `has_expert`.
        """
        raise NotImplementedError(f"suite {self.name} has no scripted expert")
