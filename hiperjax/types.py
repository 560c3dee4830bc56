"""The nouns of the project: an importable glossary, no behavior beyond tiny properties.

Axes: `B` trajectories, `T` turn slots per trajectory; `S` sequences of `C` tokens, at most `K`
turns in each; `N = S * K` rows (one row = one turn), `R` reply tokens per row. Tokens live in
sequences, replies in rows, credit in a grid `[B, T]` of scalars; `TurnGrid.row` is the only bridge
between grid and rows. A window is a run of consecutive turns that share one growing
context.

This module never imports jax: environment workers import it before XLA wakes.
"""

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

PyTree = Any
"""Nested containers with arrays at the leaves."""
Span = tuple[int, int]
"""Half-open range of token positions inside a reply; `(0, 0)` where a block is absent."""


STREAMS = ("low", "high", "term")
"""Action, subgoal, decision to switch: each has credit and a value head of its own, in this order
everywhere."""


class Ending(enum.Enum):
    """Why an episode ended."""

    TERMINATED = "terminated"
    """The environment reached a terminal state: nothing is left to be valued."""
    TRUNCATED = "truncated"
    """The turn limit cut the episode: the state after the last turn still has a value."""


ActionMode = Literal["listed", "free", "tools"]
"""What an action is: one of the commands listed; any text that the world understands; a call of one
of the world's tools."""


@dataclasses.dataclass(frozen=True, slots=True)
class Tool:
    """Something that an agent may call, in the terms of the Model Context Protocol."""

    name: str
    description: str
    schema: Mapping[str, Any]
    """JSON schema of its arguments, an object; their order is that of `properties`"""


@dataclasses.dataclass(frozen=True, slots=True)
class Observation:
    """What the agent may see at one turn."""

    text: str
    """What the environment says now."""
    task: str
    """The instruction of the whole episode."""
    admissible: tuple[str, ...]
    """The commands the environment accepts now, in its own order."""
    pinned: str = ""
    """The opening of `text` that stays whole when an overlong prompt is cut."""
    tried: frozenset[str] = frozenset()
    """Commands of the episode so far, where the prompt is to mark them; no world sets it."""
    request: int = 0
    """Which of the task's requests is open, where a task makes several, from 0."""
    tools: tuple[Tool, ...] = ()
    """What may be called now, where actions are calls."""


@dataclasses.dataclass(frozen=True, slots=True)
class Criterion:
    """One fact about an episode, which holds or does not: one, so that a judge can tell."""

    name: str
    question: str
    """what a judge is asked, to be answered by yes or no"""
    weight: float
    """share of its request's reward; the weights of a request sum to 1"""
    depends: tuple[str, ...] = ()
    """criteria that must have held before it pays"""
    request: int = 0
    """which of the task's requests it belongs to, from 0"""
    strict: bool = False
    """the next request is made only once it holds"""
    gate: bool = False
    """an episode that ends without it scores 0"""


@dataclasses.dataclass(frozen=True, slots=True)
class Checklist:
    """What is to hold in the course of an episode. No prompt ever shows it."""

    items: tuple[Criterion, ...]

    @property
    def num_requests(self) -> int:
        return 1 + max(item.request for item in self.items)


@dataclasses.dataclass(frozen=True, slots=True)
class CommandGroup:
    """Commands that differ in their inside only; a brief prompt writes what they share once."""

    opening: str
    closing: str = ""
    separator: str = " "
    """what stands between their insides"""


@dataclasses.dataclass(frozen=True, slots=True)
class ExampleTurn:
    """A turn as a prompt may show it, before any episode."""

    observation: Observation
    switch: bool
    subgoal: str
    action: str


@dataclasses.dataclass(frozen=True, slots=True)
class PromptHints:
    """What a suite says of its world's language to prompt formats. By default all is shown.

    A command meant here is one that equals, or begins with all the words of, what is named.
    """

    unlisted: tuple[str, ...] = ()
    """Commands that no prompt lists, though the environment accepts them."""
    minor: tuple[str, ...] = ()
    """Commands that rarely matter: brief prompts do not list them either."""
    groups: tuple[CommandGroup, ...] = ()
    """Commands that brief prompts list together."""
    banner: str = ""
    """Regular expression (the dot matches line breaks) of what brief prompts leave out of texts."""
    unstarred: tuple[str, ...] = ()
    """Words of tasks that name nothing worth pointing out in observations and commands."""
    actions: ActionMode = "listed"
    """What an action is in this world."""
    phrases: tuple[str, ...] = ("go to", "arrive at", "pick up", "nothing happens")
    """Runs of words that a tokenizer trained on the world makes one token."""
    words: tuple[str, ...] = ()
    """Words that such a tokenizer knows in any case, met in its episodes or not."""
    example: tuple[ExampleTurn, ...] = ()
    """Turns that prompts show after the rules: the suite's own, where a run asks for them."""


NO_HINTS = PromptHints()


@dataclasses.dataclass(frozen=True, slots=True)
class Blocks:
    """One parsed Plan-Execute reply: what is in force at this turn, and where it was written."""

    switch: bool
    """True where this turn opens a segment (always at turn 0)."""
    subgoal: str
    """The subgoal in force at this turn, after carrying."""
    action: str
    """The command sent to the environment."""
    switch_span: Span
    subgoal_span: Span
    action_span: Span
    """without a complete action block: all that follows the other blocks"""
    well_formed: bool
    """False where the reply broke the format; the subgoal in force is then kept."""
    keep_violation: bool = False
    """True where the reply said KEEP and wrote another subgoal."""


class Delegation(NamedTuple):
    """What one turn handed to sub-agents, which work at the same time, and what became of it."""

    agents: tuple[str, ...] = ()
    """who was sent, each to one task of its own"""
    turns: tuple[int, ...] = ()
    """that each of them took"""
    claimed: int = 0
    """of them, those that said they were done"""
    verified: int = 0
    """tasks that the world found done through them, each counted once in an episode"""
    refused: int = 0
    """calls of the turn that did nothing, for they were none or could not be"""

    @property
    def cost(self) -> int:
        """Critical steps: the turn itself, and the longest work of a sub-agent."""
        return 1 + max(self.turns, default=0)

    @property
    def total(self) -> int:
        """All steps: the turn itself, and the work of all sub-agents."""
        return 1 + sum(self.turns)


NO_DELEGATION = Delegation()


@dataclasses.dataclass(frozen=True, slots=True)
class Turn:
    """One prompt, one reply, one environment step."""

    prompt_ids: np.ndarray
    """int32 [prompt tokens]: the whole prompt where the turn opens a window, else what its context
    grew by since the reply of the turn before"""
    reply_ids: np.ndarray
    """int32 [reply tokens], the stop token included"""
    behavior_logprobs: np.ndarray
    """float32 [reply tokens]: log-prob of each token under the policy that sampled it"""
    blocks: Blocks
    reward: float
    """The environment's own reward, unshaped."""
    observation: str = ""
    """Raw observation the turn was taken at: the anchor of group estimators."""
    admissible: bool = True
    """Whether the action stood in the admissible list."""
    milestone: bool = False
    """Whether the action reached a part of the goal for the first time."""
    opens: bool = True
    """Whether the turn opens a window; else it goes on in the one of the turn before."""
    counts: bool = True
    """Whether its reply tokens count in losses; those of a mistake in a demonstration do not."""
    given: int = 0
    """Reply tokens, from the first, that were written for the policy: a switch block decided by a
    rule. They are in the context, have no log-prob and count in no loss."""
    satisfied: frozenset[str] = frozenset()
    """Criteria that hold after the turn, where somebody tells."""
    request: int = 0
    """Which of the task's requests the turn was taken at."""
    delegation: Delegation = NO_DELEGATION
    """What it handed to sub-agents, in worlds that have some."""


@dataclasses.dataclass(frozen=True, slots=True)
class Trajectory:
    """One episode, at least one turn long."""

    task_id: str
    turns: tuple[Turn, ...]
    ending: Ending
    success: bool
    final_prompt_ids: np.ndarray | None = None
    """int32: the prompt after the last turn of a truncated episode, where its value is read"""
    final_opens: bool = True
    """Whether that prompt is a whole one, as in `Turn.opens`."""
    final_observation: str = ""
    """Raw observation after the last action."""
    score: float | None = None
    """The suite's own score in [0, 1], where it has one; an episode cut short scores 0, unless the
    world scores it."""
    task: str = ""
    """The instruction."""
    checklist: Checklist | None = None
    """What was to hold, where the run rewards that."""
    judged: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Numbers that a judge gave the whole episode, by name."""

    def __post_init__(self) -> None:
        if not self.turns:
            raise ValueError(f"trajectory of task {self.task_id}: no turns; expected at least one")
        if not self.turns[0].opens:
            raise ValueError(
                f"trajectory of task {self.task_id}: turn 0 goes on in a window; expected it to "
                "open one"
            )


class Sequences(NamedTuple):
    """The tokens a model reads: `S` sequences of `C` tokens, several windows packed into each."""

    tokens: Int[Any, "S C"]
    token_mask: Bool[Any, "S C"]
    """prompts and replies, not padding"""
    segment: Int[Any, "S C"]
    """which window of its sequence a token belongs to, from 1; a token sees only its own window's
    and those of segment 0, the prefix that all windows share"""
    position: Int[Any, "S C"]
    """position within the window, prefix included, as if it stood alone"""
    reply_index: Int[Any, "S Q"]
    """index `k * R + r` of each reply token among those of its sequence's rows; `K * R` where there
    is none. `Q` is a bucket that holds the replies of the sequence with most reply tokens"""
    attention_rows: Int[Any, "S W A"] | None = None
    """where attention runs on rows of one window each, the prefix in front: token of its sequence
    that each of a row's `A` columns reads; `W` and `A` are buckets that hold the most windows of a
    sequence and the longest row"""


class TurnRows(NamedTuple):
    """One row per turn: its reply, and where it stands.

    There are `N = S * K` rows, `K` for each sequence: row n lies in sequence `n // K`, in the order
    of its tokens. Rows of no turn have `row_mask` False and weigh nothing; one that stands for the
    state after a truncated episode has no reply, and a position where its value is read.
    """

    reply: Int[Any, "N R"]
    reply_mask: Bool[Any, "N R"]
    switch_mask: Bool[Any, "N R"]
    subgoal_mask: Bool[Any, "N R"]
    action_mask: Bool[Any, "N R"]
    behavior_logprobs: Float[Any, "N R"]
    """zero where there is no reply token"""
    reply_at: Int[Any, " N"]
    """position in its sequence of the first reply token"""
    value_at: Int[Any, "N 3"]
    """positions in its sequence whose hidden states the heads read: low, high, term"""
    row_mask: Bool[Any, " N"]


class TurnGrid(NamedTuple):
    """Scalars of a batch: `B` trajectories of at most `T` turns."""

    row: Int[Any, "B T"]
    """row of each turn; 0 where masked"""
    mask: Bool[Any, "B T"]
    boundary: Bool[Any, "B T"]
    reward: Float[Any, "B T"]
    """the environment's own, unshaped"""
    well_formed: Bool[Any, "B T"]
    keep_violation: Bool[Any, "B T"]
    admissible: Bool[Any, "B T"]
    """turns whose action stood in the admissible list"""
    terminated: Bool[Any, " B"]
    """False for a truncated episode and for a padding trajectory"""
    success: Bool[Any, " B"]
    group_id: Int[Any, " B"]
    """equal for episodes of one task"""
    state_id: Int[Any, "B T"]
    """identity of the raw observation a turn was taken at, within the batch"""
    final_state_id: Int[Any, " B"]
    """identity of the observation after the last action"""
    reply_tokens: Int[Any, "B T"]
    milestone: Bool[Any, "B T"]
    """turns whose action reached a part of the goal for the first time"""
    final_row: Int[Any, " B"]
    """row of the state after a truncated episode, where rows hold such states; else 0"""
    satisfied: Bool[Any, "B T C"] | None = None
    """criteria that hold after each turn; this and the next four where tasks have checklists"""
    item_weight: Float[Any, "B C"] | None = None
    """of each criterion; 0 where there is none"""
    item_depends: Bool[Any, "B C C"] | None = None
    """the first of two criteria depends on the second"""
    item_request: Int[Any, "B C"] | None = None
    """request that each criterion belongs to"""
    request: Int[Any, "B T"] | None = None
    """request that each turn was taken at"""
    cost: Float[Any, "B T"] | None = None
    """critical steps of each turn, where turns may set sub-agents to work; None: 1 each"""


class FinalPrompts(NamedTuple):
    """Prompts after the last turn of truncated episodes, where their values are read."""

    tokens: Int[Any, "B L"]
    lengths: Int[Any, " B"]
    row: Int[Any, " B"]
    """which prompt is each trajectory's; of no meaning where an episode terminated"""
    count: int
    """prompts in use: the first ones"""


class PackedBatch(NamedTuple):
    """`count` is the number of sequences in use; the others are padding."""

    sequences: Sequences
    rows: TurnRows
    grid: TurnGrid
    count: int
