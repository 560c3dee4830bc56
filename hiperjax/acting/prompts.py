"""Observation, history and current subgoal -> the tokens of a prompt, within a limit.

What a prompt says is up to the renderer (renderers.py); here it is tokenized, through the
tokenizer's chat template where it has one, and cut where it is too long.
"""

import bisect
import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from hiperjax.acting.blocks import parse_reply, render_reply
from hiperjax.acting.encoding import TextEncoder
from hiperjax.acting.pieces import build_pieces
from hiperjax.acting.renderers import PastTurn, Renderer
from hiperjax.types import Blocks, Observation

SHARED_FROM = 16
"""Tokens of a shared prefix below which storing it once saves less than it costs."""
ELLIPSIS = "..."
"""Where an observation was cut."""


class Cuts(NamedTuple):
    """What was left out of a prompt."""

    history: int
    """turns"""
    tokens: int
    """tokens cut from the observation, besides"""


NO_CUTS = Cuts(0, 0)


WindowMode = Literal["turn", "subgoal", "episode"]
"""How long windows are: a turn; until the turn after a reply that switched; a whole episode."""


@dataclasses.dataclass(frozen=True)
class WindowRules:
    """When a window ends."""

    mode: WindowMode = "turn"
    length: int = 0
    """tokens of a context at most, the shared prefix and the reply under way left out"""
    rewrite_on_keep: bool = False
    """a subgoal written on KEEP is the one in force"""

    @property
    def grow(self) -> bool:
        """Whether a window may have more than one turn."""
        return self.mode != "turn"


def merge_refused(past: Sequence[PastTurn]) -> list[PastTurn]:
    """A turn after a refused command is that turn with another command: it saw nothing new."""
    merged: list[PastTurn] = []
    for turn in past:
        if merged and merged[-1].refused:
            before = merged.pop()
            turn = dataclasses.replace(turn, number=before.number, observation=before.observation)
        merged.append(turn)
    return merged


class PromptTooLong(ValueError):
    """A prompt that does not fit after all cuts allowed; names the task and the limit."""


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
    windows: WindowRules = WindowRules()
    recall: int = 0
    """turns before those of the history of which a whole prompt shows what matters"""
    marks: bool = False
    """whether a whole prompt marks commands that the episode has sent before"""
    merges: bool = False
    """whether the history shows a run of refused commands as its last one, at the turn before it"""

    @functools.cached_property
    def encoder(self) -> TextEncoder:
        """Text to ids, ours and not ours."""
        return TextEncoder(self.tokenizer)

    @functools.cached_property
    def shared_prefix(self) -> tuple[int, ...]:
        """Tokens that every prompt begins with: template and rules; empty where they are few."""
        texts = (self.encoder.apply_template([self.renderer.prefix + x]) for x in "A1\n-")
        columns = zip(*map(self.tokenize, texts), strict=False)
        shared = [ids[0] for ids in itertools.takewhile(lambda ids: len(set(ids)) == 1, columns)]
        return tuple(shared) if len(shared) >= SHARED_FROM else ()

    def spell(self, switch: bool, subgoal: str, action: str) -> tuple[list[int], Blocks]:
        """A reply in canonical form as the tokenizer writes it, and what that says.

        What stands in a block changes no token of the blocks before it.
        """
        text = render_reply(switch, subgoal, action, separator=self.renderer.separator)
        ids = self.encoder.encode_reply(text)
        return ids, parse_reply(self.pieces, ids, current_subgoal="", first_turn=False)

    @functools.cached_property
    def pieces(self) -> tuple[bytes, ...]:
        """Bytes of each token id that the tokenizer knows."""
        return build_pieces(self.tokenizer)

    def encode(
        self, observation: Observation, past: Sequence[PastTurn], subgoal: str
    ) -> tuple[list[int], Cuts]:
        """Token ids of the prompt, and what was cut to make it fit, for the caller to count.

        Raises:
          PromptTooLong: it does not fit even so.
        """
        if self.marks:
            tried = frozenset(turn.action for turn in past)
            observation = dataclasses.replace(observation, tried=tried)
        if self.merges:
            past = merge_refused(past)
        length = self.renderer.history_length
        kept = list(past[-length:]) if length > 0 else []
        if self.recall:
            older = past[: len(past) - len(kept)][-self.recall :]
            kept = [*(dataclasses.replace(turn, brief=True) for turn in older), *kept]
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
            shortened = shorten(fits - 1)
            return shortened, Cuts(len(kept), len(ids) - len(shortened))
        without = "without any history" + (" or observation" if self.trims else "")
        raise PromptTooLong(
            f"task {observation.task[:80]!r}: the prompt has {len(least)} tokens {without}; "
            f"expected at most {self.limit}; raise prompt.prompt_length"
        )

    def extend(
        self,
        observation: Observation,
        opening: Observation,
        subgoal: str | None,
        reply: Sequence[int],
    ) -> list[int]:
        """Token ids a window grows by after a reply: its end, what has changed, the next opening.

        Args:
          observation: what the next turn is taken at.
          opening: what the window opened with.
          subgoal: the one in force, where the context does not say it already; else None.
          reply: the last reply, which may lack the token that ends a message.
        """
        changed = self.renderer.extend(observation, opening, subgoal)
        ask, answer = self._glue
        end = 1 if answer and reply and reply[-1] == answer[0] else 0
        return [*answer[end:], *self.encoder.encode_content(changed), *ask]

    @functools.cached_property
    def _glue(self) -> tuple[list[int], list[int]]:
        glue = self.encoder.glue
        return self.tokenize(glue.ask), self.tokenize(glue.answer)

    def _render(
        self, observation: Observation, past: Sequence[PastTurn], subgoal: str
    ) -> list[int]:
        rules, content = self.renderer.prefix, self.renderer.open(observation, past, subgoal)
        if not self.encoder.has_control(content):
            return self.tokenize(self.encoder.apply_template([rules + content]))
        head, tail = self.encoder.opening_glue
        inside = self.encoder.encode_content(content)
        return [*self.tokenize(head + rules), *inside, *self.tokenize(tail)]

    def tokenize(self, text: str) -> list[int]:
        """Token ids of our own text."""
        return self.encoder.encode(text)
