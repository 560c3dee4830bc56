"""Observation + history + current subgoal -> prompt, rules first.

Two styles. `chat` is for language models: one user message through the tokenizer's chat template,
whose rules stand first and are the same at every turn of a world (the shared prefix). `compact` is
for tiny models trained from random weights on a word-level tokenizer: the same fields, boiled down
to a few dozen words. Field order follows HiPER (arXiv 2602.16165) but for the rules, which moved
to the front.
"""

import bisect
import dataclasses
import functools
import itertools
import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from hiperjax.acting.blocks import KEEP_WORD, SWITCH_WORD, render_reply
from hiperjax.types import Observation

PromptStyle = Literal["chat", "compact"]
NO_SUBGOAL = "None"
SHARED_FROM = 16
"""Tokens of a shared prefix below which storing it once saves less than it costs."""
ELLIPSIS = "..."
"""Where an observation was cut."""


class Cuts(NamedTuple):
    """What was left out of a prompt."""

    history: int
    """turns"""
    tokens: int
    """of the observation, besides"""


class PromptTooLong(ValueError):
    """A prompt that does not fit after all cuts allowed; names the task and the limit."""


@dataclasses.dataclass(frozen=True, slots=True)
class PastTurn:
    """One line of history."""

    number: int
    """1-based turn number"""
    observation: str
    action: str


@runtime_checkable
class Renderer(Protocol):
    """What a prompt style must do; `prefix` is constant, `render` gives everything after it.

    `phrases` are runs of words that a trained tokenizer makes one token; `separator` stands between
    the blocks of a reply.
    """

    @property
    def history_length(self) -> int: ...
    @property
    def separator(self) -> str: ...
    @property
    def phrases(self) -> tuple[str, ...]: ...
    @property
    def prefix(self) -> str: ...
    def render(self, observation: Observation, past: Sequence[PastTurn], subgoal: str) -> str: ...
    def render_action(self, action: str) -> str: ...
    def render_subgoal(self, subgoal: str) -> str: ...
    def restore_action(self, action: str, admissible: Sequence[str]) -> str: ...


@dataclasses.dataclass(frozen=True)
class ChatRenderer:
    """The prompt for language models. `role` says who the agent is in this world."""

    role: str
    history_length: int = 2
    separator: str = "\n"
    phrases: tuple[str, ...] = ()

    @property
    def prefix(self) -> str:
        skeleton = render_reply(True, "a short-term subgoal", "one admissible action")
        return (
            f"{self.role}\n\n"
            "You work towards the overall task through short-term subgoals. A subgoal is a small "
            "objective that a few actions can reach: smaller than the whole task, larger than one "
            "action. At every step reconsider it: keep it while it is unfinished and useful, "
            "switch to another when it is done or does not help.\n\n"
            "Answer with exactly three blocks in this order and no other text:\n"
            f"1. {SWITCH_WORD} or {KEEP_WORD}. With no current subgoal, {SWITCH_WORD}.\n"
            f"2. The subgoal in force: on {KEEP_WORD} the current subgoal copied word for word, "
            f"on {SWITCH_WORD} a new one.\n"
            "3. One action, copied word for word from the admissible actions.\n"
            f"The form is:\n{skeleton}\n\n"
        )

    def render(self, observation: Observation, past: Sequence[PastTurn], subgoal: str) -> str:
        parts = [f"Overall task: {observation.task}"]
        if past:
            lines = "\n".join(
                f"[Observation {p.number}: '{p.observation}', Action {p.number}: '{p.action}']"
                for p in past
            )
            parts.append(f"Steps taken so far: {past[-1].number}. The last {len(past)}:\n{lines}")
        parts.append(f"Current observation: {observation.text}")
        parts.append(f"Current subgoal: {subgoal or NO_SUBGOAL}")
        actions = "\n ".join(f"'{a}'" for a in observation.admissible if a != "help")
        parts.append(f"Admissible actions: [{actions}]")
        return "\n\n".join(parts)

    def render_action(self, action: str) -> str:
        return action

    def render_subgoal(self, subgoal: str) -> str:
        return subgoal

    def restore_action(self, action: str, admissible: Sequence[str]) -> str:
        return action


_BANNER = re.compile(
    r"-=.*?=-|Your task is to:.*|Looking quickly around you, you see .*|\[SEP\]", re.S
)
_DROPPED = re.compile(r"\b(?:a|an|the|you|and|it|is|are|of|in|on|to|from|with|see|i)\b|[^\w\s|]")
_IDENTIFIER = re.compile(r"\b([a-z]+)(\d+)([a-z]+)\b")
"""Words around a number: shown apart, so that a new identifier is made of familiar tokens."""
_COMMON = {"at", "put", "two", "some", "them"}
_HIDDEN = ("look", "inventory", "help", "examine ", "close ")
_GROUPS = (("go to ", "", " "), ("click[", "]", " , "))
"""Opening and closing of commands listed under one heading, and what separates their insides."""


@functools.lru_cache(maxsize=8192)
def _squeeze(text: str) -> str:
    """Lower-case, drop articles, prepositions and punctuation, take identifiers apart."""
    kept = _DROPPED.sub(" ", _BANNER.sub(" ", text).lower())
    return " ".join(_IDENTIFIER.sub(r"\1 \2 \3", kept).split())


@functools.lru_cache(maxsize=8192)
def _take_apart(action: str) -> str:
    """Set brackets apart as words, take identifiers apart."""
    apart = re.sub(r"([\[\]])", r" \1 ", action).lower()
    return " ".join(_IDENTIFIER.sub(r"\1 \2 \3", apart).split())


def _star(text: str, wanted: set[str]) -> str:
    """Put a star before the words that are wanted."""
    return " ".join(f"* {word}" if word in wanted else word for word in text.split())


@dataclasses.dataclass(frozen=True)
class CompactRenderer:
    """The prompt for tiny models: the same fields in few words.

    Commands that share a long-winded opening (`go to`, `click[`) are listed under it once; those
    that rarely matter (look, inventory, help, examine, close) are not shown, though the
    environment still accepts them. Words of the task are starred in the observation and among the
    actions: to match a word with itself is what a tiny transformer takes longest to learn.
    """

    history_length: int = 1
    separator: str = ""
    prefix: str = "task "
    phrases: tuple[str, ...] = ("go to", "arrive at", "pick up", "nothing happens")

    def render(self, observation: Observation, past: Sequence[PastTurn], subgoal: str) -> str:
        parts = [_squeeze(observation.task), "goal", subgoal or NO_SUBGOAL]
        for turn in past:
            parts += ["then", _squeeze(turn.observation), "act", self.render_action(turn.action)]
        wanted = set(_squeeze(observation.task).split()) - _COMMON
        now, can = _squeeze(observation.text), self._list(observation.admissible)
        parts += ["now", _star(now, wanted), "can", _star(can, wanted)]
        return " ".join(part for part in parts if part)

    def _list(self, admissible: Sequence[str]) -> str:
        shown = [a for a in admissible if not a.startswith(_HIDDEN)]
        out: list[str] = []
        for opening, closing, between in _GROUPS:
            members = [a for a in shown if a.startswith(opening) and a.endswith(closing)]
            shown = [a for a in shown if a not in members]
            inner = (self.render_action(a[len(opening) : len(a) - len(closing)]) for a in members)
            if members:
                out.append(opening.strip() + " " + between.join(inner))
        return " | ".join([*out, *map(self.render_action, shown)])

    def render_action(self, action: str) -> str:
        """Set brackets apart as words, take identifiers apart."""
        return _take_apart(action)

    def render_subgoal(self, subgoal: str) -> str:
        """Drop articles and prepositions."""
        return _squeeze(subgoal)

    def restore_action(self, action: str, admissible: Sequence[str]) -> str:
        """The admissible command whose rendering this is; else brackets are closed up again."""
        for command in admissible:
            if self.render_action(command) == action:
                return command
        return re.sub(r"\s*\[\s*(.*?)\s*\]", r"[\1]", action)


def make_renderer(style: PromptStyle, *, role: str, history_length: int) -> Renderer:
    """The renderer of a style."""
    if style == "chat":
        return ChatRenderer(role=role, history_length=history_length)
    return CompactRenderer(history_length=history_length)


@dataclasses.dataclass(frozen=True)
class Prompter:
    """Renders and tokenizes prompts, within a token limit.

    An overlong prompt loses its oldest history first; then, where `trims` allows it, the end of
    the observation's text, marked by an ellipsis (which the compact style drops, as it does all
    punctuation). Task, subgoal, actions and the observation's pinned opening are never cut.
    """

    renderer: Renderer
    tokenizer: Any
    limit: int
    trims: bool = False

    @functools.cached_property
    def shared_prefix(self) -> tuple[int, ...]:
        """Tokens that every prompt begins with: template and rules; empty where they are few."""
        probes = [self.tokenize(self._apply_template(self.renderer.prefix + x)) for x in "A1\n-"]
        columns = zip(*probes, strict=False)
        shared = [ids[0] for ids in itertools.takewhile(lambda ids: len(set(ids)) == 1, columns)]
        return tuple(shared) if len(shared) >= SHARED_FROM else ()

    def encode(
        self, observation: Observation, past: Sequence[PastTurn], subgoal: str
    ) -> tuple[list[int], Cuts]:
        """Token ids of the prompt, and what was cut to make it fit, for the caller to count.

        Raises:
          PromptTooLong: it does not fit even so.
        """
        length = self.renderer.history_length
        kept = list(past[-length:]) if length > 0 else []
        for dropped in range(len(kept) + 1):
            ids = self._render(observation, kept[dropped:], subgoal)
            if len(ids) <= self.limit:
                return ids, Cuts(dropped, 0)
        pinned = observation.pinned
        words = observation.text.removeprefix(pinned).split(" ")

        def shorten(count: int) -> list[int]:
            text = pinned + " ".join([*words[:count], ELLIPSIS])
            return self._render(dataclasses.replace(observation, text=text), [], subgoal)

        least = shorten(0) if self.trims else ids
        if len(least) <= self.limit:
            fits = bisect.bisect_right(range(len(words)), self.limit, key=lambda n: len(shorten(n)))
            found = shorten(fits - 1)
            return found, Cuts(len(kept), len(ids) - len(found))
        without = "without any history" + (" or observation" if self.trims else "")
        raise PromptTooLong(
            f"task '{observation.task}': the prompt has {len(least)} tokens {without}; "
            f"expected at most {self.limit}; raise prompt.prompt_length"
        )

    def _render(
        self, observation: Observation, past: Sequence[PastTurn], subgoal: str
    ) -> list[int]:
        text = self.renderer.prefix + self.renderer.render(observation, past, subgoal)
        return self.tokenize(self._apply_template(text))

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a text, past the slow front of `transformers`."""
        return self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids

    def _apply_template(self, text: str) -> str:
        if getattr(self.tokenizer, "chat_template", None) is None:
            return text
        return self.tokenizer.apply_chat_template(
            [{"role": "user", "content": text}],
            add_generation_prompt=True,
            tokenize=False,
            enable_thinking=False,  # Qwen3: the reply is the three blocks and nothing before
        )
