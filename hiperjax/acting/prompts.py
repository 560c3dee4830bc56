"""Observation, history and current subgoal -> the tokens of a prompt, within a limit.

What a prompt says is up to the renderer (renderers.py); here it is tokenized, through the
tokenizer's chat template where it has one, and cut where it is too long.
"""

import bisect
import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

from hiperjax.acting.renderers import PastTurn, Renderer
from hiperjax.types import Observation

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
