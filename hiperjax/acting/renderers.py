"""Prompt formats: what stands in a prompt, as text.

Three formats. `chat` is for language models: one user message whose rules stand first and are the
same at every turn of a world (the shared prefix). `compact` is for tiny models trained from random
weights on a word-level tokenizer: the same fields, boiled down to a few dozen words. `brief` is for
small language models: rules, then compact fields. Field order follows HiPER (arXiv 2602.16165) but
for the rules, which moved to the front.

A renderer knows fields, and no world: what a world wants left out, listed together or stripped, it
says through its suite's `PromptHints`. Another package adds a format by an entry point of the group
`hiperjax.renderers`: a callable like `RendererFactory`.
"""

import dataclasses
import functools
import itertools
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol, runtime_checkable

from hiperjax.acting.blocks import KEEP_WORD, SWITCH_WORD, render_reply
from hiperjax.entry_points import list_names, load_all
from hiperjax.envs.calls import describe_tools
from hiperjax.types import NO_HINTS, ActionMode, Observation, PromptHints

ENTRY_POINT_GROUP = "hiperjax.renderers"
NO_SUBGOAL = "None"


@dataclasses.dataclass(frozen=True, slots=True)
class PastTurn:
    """One line of history."""

    number: int
    """1-based turn number"""
    observation: str
    action: str
    brief: bool = False
    """older than the history that is shown in full: only what matters of it is recalled"""
    refused: bool = False
    """its command was none that the suite knows to be admissible"""


@runtime_checkable
class Renderer(Protocol):
    """What a prompt style must do; `prefix` is constant, `open` gives everything after it.

    `extend` is what a later turn of the same window adds: what is to be seen now; how its commands
    differ from those the window opened with, new ones and gone ones; and the subgoal in force, if
    the context does not say it already (else None). What has not changed is left out.

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
    def open(self, observation: Observation, past: Sequence[PastTurn], subgoal: str) -> str: ...
    def extend(
        self, observation: Observation, opening: Observation, subgoal: str | None
    ) -> str: ...
    def render_action(self, action: str) -> str: ...
    def render_subgoal(self, subgoal: str) -> str: ...
    def restore_action(self, action: str, admissible: Sequence[str]) -> str: ...


_ACTION_RULES: Mapping[ActionMode, tuple[str, str]] = {
    "listed": (
        "one admissible action",
        "One action, copied word for word from the admissible actions.",
    ),
    "free": ("one action", "One action, in words that the environment understands."),
    "tools": (
        "one call of a tool",
        'One call of a tool, as JSON: {"name": NAME, "arguments": {NAME: VALUE, ...}}.',
    ),
}
"""What stands for the action in the form of a reply, and the rule about it."""


@dataclasses.dataclass(frozen=True)
class ChatRenderer:
    """The prompt for language models. `role` says who the agent is in this world."""

    role: str
    history_length: int = 2
    hints: PromptHints = NO_HINTS
    separator: str = "\n"
    phrases: tuple[str, ...] = ()

    @property
    def prefix(self) -> str:
        example, rule = _ACTION_RULES[self.hints.actions]
        skeleton = render_reply(True, "a short-term subgoal", example)
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
            f"3. {rule}\n"
            f"The form is:\n{skeleton}\n\n"
        ) + write_example(self)

    def open(self, observation: Observation, past: Sequence[PastTurn], subgoal: str) -> str:
        parts = [f"Overall task: {observation.task}"]
        if past:
            lines = "\n".join(map(self._write_past, past))
            parts.append(f"Steps taken so far: {past[-1].number}. The last {len(past)}:\n{lines}")
        parts.append(f"Current observation: {observation.text}")
        parts.append(f"Current subgoal: {subgoal or NO_SUBGOAL}")
        if self.hints.actions == "listed":
            parts.append(f"Admissible actions: {self._list(observation.admissible)}")
        elif observation.tools:
            parts.append(f"Tools:\n{describe_tools(observation.tools)}")
        return "\n\n".join(parts)

    def _write_past(self, turn: PastTurn) -> str:
        seen = "" if turn.brief else f"Observation {turn.number}: '{turn.observation}', "
        return f"[{seen}Action {turn.number}: '{turn.action}']"

    def extend(self, observation: Observation, opening: Observation, subgoal: str | None) -> str:
        parts = [f"Current observation: {observation.text}"]
        if subgoal is not None:
            parts.append(f"Current subgoal: {subgoal or NO_SUBGOAL}")
        if self.hints.actions != "listed":
            if observation.tools != opening.tools:
                parts.append(f"The tools have changed. Tools:\n{describe_tools(observation.tools)}")
            return "\n\n".join(parts)
        new, gone = (self._list(x) for x in list_changes(observation, opening))
        parts += [f"Now admissible too: {new}"] * (new != self._list(()))
        parts += [f"Not admissible now: {gone}"] * (gone != self._list(()))
        return "\n\n".join(parts)

    def _list(self, admissible: Sequence[str]) -> str:
        shown = list_shown(admissible, self.hints.unlisted)
        return "[" + "\n ".join(f"'{a}'" for a in shown) + "]"

    def render_action(self, action: str) -> str:
        return action

    def render_subgoal(self, subgoal: str) -> str:
        return subgoal

    def restore_action(self, action: str, admissible: Sequence[str]) -> str:
        return action


_DROPPED = re.compile(r"\b(?:a|an|the|you|and|it|is|are|of|in|on|to|from|with|see|i)\b|[^\w\s|]")
_IDENTIFIER = re.compile(r"\b([a-z]+)(\d+)([a-z]+)\b")
"""Words around a number: shown apart, so that a new identifier is made of familiar tokens."""
_COMMON = {"at", "two", "some", "them"}
"""Words of a task that are not starred in any world."""
_NAME = re.compile(r"\b([^\W\d]+) (\d+)\b")
"""A thing with a number: what a brief turn is searched for."""
TRIED = "~"
"""Stands before a command that the episode has sent before."""


@functools.lru_cache(maxsize=8192)
def _squeeze(text: str, banner: str) -> str:
    """Lower-case, drop banner, articles, prepositions and punctuation, take identifiers apart."""
    bare = re.sub(banner, " ", text, flags=re.DOTALL) if banner else text
    return " ".join(_IDENTIFIER.sub(r"\1 \2 \3", _DROPPED.sub(" ", bare.lower())).split())


def _mark(command: str, tried: bool) -> str:
    return f"{TRIED} {command}" if tried else command


@functools.lru_cache(maxsize=8192)
def _take_apart(action: str) -> str:
    """Set brackets apart as words, take identifiers apart."""
    apart = re.sub(r"([\[\]])", r" \1 ", action).lower()
    return " ".join(_IDENTIFIER.sub(r"\1 \2 \3", apart).split())


def _star(text: str, wanted: set[str]) -> str:
    """Put a star before the words that are wanted."""
    return " ".join(f"* {word}" if word in wanted else word for word in text.split())


def list_shown(admissible: Sequence[str], unlisted: Sequence[str]) -> list[str]:
    """All commands but those which equal, or begin with the words of, one that is `unlisted`."""
    openings = tuple(f"{command} " for command in unlisted)
    return [a for a in admissible if not f"{a} ".startswith(openings)]


def list_changes(observation: Observation, opening: Observation) -> tuple[list[str], list[str]]:
    """Commands admissible now and not at the opening; and the other way round."""
    now, then = observation.admissible, opening.admissible
    before, after = set(then), set(now)
    return [a for a in now if a not in before], [a for a in then if a not in after]


@dataclasses.dataclass(frozen=True)
class CompactRenderer:
    """The prompt for tiny models: the same fields in few words.

    Commands that share a long-winded opening are listed under it once, and those that rarely matter
    not at all, where the suite's hints say so. Words of the task are starred in the observation and
    among the actions: a tiny transformer takes longest to learn to match a word with itself.
    """

    history_length: int = 1
    hints: PromptHints = NO_HINTS
    separator: str = ""

    @property
    def prefix(self) -> str:
        return "task "

    @property
    def phrases(self) -> tuple[str, ...]:
        return self.hints.phrases

    def open(self, observation: Observation, past: Sequence[PastTurn], subgoal: str) -> str:
        task = self._shorten(observation.task)
        parts = [task, "goal", subgoal or NO_SUBGOAL]
        wanted = self._list_wanted(task)
        parts += self._recall(past, wanted)
        for turn in past:
            if not turn.brief:
                parts += ["then", self._shorten(turn.observation)]
                parts += ["act", self.render_action(turn.action)]
        tried = observation.tried
        now, can = self._shorten(observation.text), self._list(observation.admissible, tried)
        parts += ["now", _star(now, wanted)]
        parts += ["can", _star(can, wanted)] * (self.hints.actions == "listed")
        return " ".join(part for part in parts if part)

    def extend(self, observation: Observation, opening: Observation, subgoal: str | None) -> str:
        wanted = self._list_wanted(self._shorten(observation.task))
        new, gone = (self._list(x) for x in list_changes(observation, opening))
        parts = ["now", _star(self._shorten(observation.text), wanted)]
        parts += ["can", _star(new, wanted)] * bool(new)
        parts += ["not", _star(gone, wanted)] * bool(gone)
        parts += ["goal", subgoal or NO_SUBGOAL] * (subgoal is not None)
        return " ".join(part for part in parts if part)

    def _recall(self, past: Sequence[PastTurn], wanted: set[str]) -> list[str]:
        """Of brief turns, the commands that showed or moved a thing of the task.

        What a command names alone (`open cabinet 3`) it has not shown.
        """
        parts = []
        for before, turn in itertools.pairwise(past):
            if not turn.brief:
                break
            command = self.render_action(before.action)
            named = _NAME.findall(command)
            shown = dict.fromkeys(_NAME.findall(self._shorten(turn.observation)))
            found = [name for name in shown if name[0] in wanted]
            if len(named) == 1:
                found = [name for name in found if name not in named]
            if found:
                seen = [
                    f"* {word} {number}" for word, number in found if (word, number) not in named
                ]
                parts += ["then", command, *seen]
        return parts

    def _list_wanted(self, task: str) -> set[str]:
        return set(task.split()) - _COMMON - set(self.hints.unstarred)

    def _shorten(self, text: str) -> str:
        return _squeeze(text, self.hints.banner)

    def _list(self, admissible: Sequence[str], tried: Collection[str] = ()) -> str:
        shown = list_shown(admissible, (*self.hints.unlisted, *self.hints.minor))
        out: list[str] = []
        for group in self.hints.groups:
            opening, closing = group.opening, group.closing
            members = [a for a in shown if a.startswith(opening) and a.endswith(closing)]
            shown = [a for a in shown if a not in members]
            inner = (
                _mark(self.render_action(a[len(opening) : len(a) - len(closing)]), a in tried)
                for a in members
            )
            if members:
                out.append(opening.strip() + " " + group.separator.join(inner))
        return " | ".join([*out, *(_mark(self.render_action(a), a in tried) for a in shown)])

    def render_action(self, action: str) -> str:
        """Set brackets apart as words, take identifiers apart."""
        return _take_apart(action)

    def render_subgoal(self, subgoal: str) -> str:
        """Drop articles and prepositions."""
        return self._shorten(subgoal)

    def restore_action(self, action: str, admissible: Sequence[str]) -> str:
        """The admissible command whose rendering this is; else brackets are closed up again."""
        for command in admissible:
            if self.render_action(command) == action:
                return command
        return re.sub(r"\s*\[\s*(.*?)\s*\]", r"[\1]", action)


@dataclasses.dataclass(frozen=True)
class BriefRenderer(CompactRenderer):
    """The prompt for small language models: the rules in a few lines, then compact fields.

    About half the tokens of `chat`, which lists every place of a room twice.
    """

    role: str = ""

    @property
    def prefix(self) -> str:
        form = render_reply(True, "subgoal", "action", separator=self.separator)
        return (
            f"{self.role}\n"
            f"Answer in one line of this form and nothing else:\n{form}\n"
            f"{SWITCH_WORD} with a new short subgoal, at first and when the last one is done or "
            f"does not help; else {KEEP_WORD} with the same subgoal in the same words.\n"
            'The action is one of those after "can", in the same words.\n\n'
            f"{write_example(self, lead=super().prefix)}{super().prefix}"
        )


def write_example(renderer: ChatRenderer | CompactRenderer, *, lead: str = "") -> str:
    """The worked example among the hints, as prompts and replies; empty where there is none.

    `lead` stands before every prompt.
    """
    parts, past, subgoal = [], [], ""
    for turn in renderer.hints.example:
        shown = past[-renderer.history_length :] if renderer.history_length else []
        parts.append(lead + renderer.open(turn.observation, shown, subgoal))
        subgoal = renderer.render_subgoal(turn.subgoal)
        action = renderer.render_action(turn.action)
        parts.append(render_reply(turn.switch, subgoal, action, separator=renderer.separator))
        past.append(PastTurn(len(past) + 1, turn.observation.text, turn.action))
    return "\n".join(["For example:", *parts, "", "Now:\n"]) if parts else ""


class RendererFactory(Protocol):
    """Makes the renderer of a format for one world."""

    def __call__(self, *, role: str, history_length: int, hints: PromptHints) -> Renderer: ...


def _make_compact(*, role: str, history_length: int, hints: PromptHints) -> Renderer:
    return CompactRenderer(history_length=history_length, hints=hints)  # words are few: no role


RENDERERS: Mapping[str, RendererFactory] = {
    "chat": ChatRenderer,
    "brief": BriefRenderer,
    "compact": _make_compact,
}


def list_renderers() -> tuple[str, ...]:
    """Every style `make_renderer` takes: our own, and those of installed packages."""
    return tuple(dict.fromkeys((*RENDERERS, *list_names(ENTRY_POINT_GROUP))))


def make_renderer(
    style: str, *, role: str, history_length: int, hints: PromptHints = NO_HINTS
) -> Renderer:
    """The renderer of a style, for a world with this role and these hints.

    Raises:
      ValueError: no style of that name.
    """
    factory = RENDERERS.get(style)
    for _, installed in () if factory else load_all(ENTRY_POINT_GROUP, style):
        factory = factory or installed
    if factory is None:
        raise ValueError(f"prompt style {style!r}; expected one of {', '.join(list_renderers())}")
    return factory(role=role, history_length=history_length, hints=hints)
