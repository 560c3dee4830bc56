"""Text -> token ids, with a wall between what is ours and what is not.

A tokenizer's added tokens (ends of turns, roles, tags) are control tokens only where this program
or the chat template writes them. In text of the world, and in what a model wrote, they are plain
text: a world that prints an end of turn forges none.
"""

import dataclasses
import functools
import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from hiperjax.acting.blocks import TAGS
from hiperjax.models.errors import ModelError
from hiperjax.models.tokenizers import name_of


class Glue(NamedTuple):
    """What a chat template writes around contents; empty where there is no template."""

    head: str
    """before the first message of the user"""
    ask: str
    """after a message of the user, up to the reply"""
    answer: str
    """after a reply, up to the next message of the user"""


@dataclasses.dataclass(frozen=True)
class TextEncoder:
    """A tokenizer seen two ways: with its control tokens and without."""

    tokenizer: Any

    def encode(self, text: str) -> list[int]:
        """Ids of our own text, control tokens included; past the slow front of `transformers`."""
        return self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids

    def encode_content(self, text: str) -> list[int]:
        """Ids of text that is not ours: every added token in it is plain text."""
        if not self.has_control(text):
            return self.encode(text)
        return self._plain.encode(text, add_special_tokens=False).ids

    def encode_reply(self, text: str) -> list[int]:
        """Ids of a reply in canonical form: its tags are ours, what stands between them is not."""
        parts = _TAGS.split(text)
        if not any(part not in TAGS and self.has_control(part) for part in parts):
            return self.encode(text)
        encode = {True: self.encode, False: self.encode_content}
        return [i for part in parts if part for i in encode[part in TAGS](part)]

    def has_control(self, text: str) -> bool:
        """Whether the text spells out an added token."""
        return self._spelled is not None and self._spelled.search(text) is not None

    @functools.cached_property
    def _added(self) -> dict[str, int]:
        unknown = self.tokenizer.unk_token
        found = self.tokenizer.get_added_vocab()
        return {token: index for token, index in found.items() if token != unknown}

    @functools.cached_property
    def control_ids(self) -> frozenset[int]:
        """Added tokens that are no tag of a reply: none of them belongs inside a block."""
        return frozenset(index for token, index in self._added.items() if token not in TAGS)

    @functools.cached_property
    def _spelled(self) -> re.Pattern[str] | None:
        longest_first = sorted(self._added, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    @functools.cached_property
    def _plain(self) -> Tokenizer:
        """The same tokenizer without its added tokens.

        Raises:
          ValueError: it finds one even so.
        """
        described = json.loads(self.tokenizer.backend_tokenizer.to_str())
        described |= {"added_tokens": [], "post_processor": None}
        model = described["model"]
        if model["type"] == "WordLevel":  # its added tokens are words too
            words = model["vocab"].items()
            model["vocab"] = {word: i for word, i in words if word not in self._added}
        plain = Tokenizer.from_str(json.dumps(described))
        for token, index in self._added.items():
            if index in plain.encode(token, add_special_tokens=False).ids:
                raise ValueError(
                    f"tokenizer {name_of(self.tokenizer)}: {token!r} in plain text becomes the "
                    f"control token {index}; expected a tokenizer that can spell it out"
                )
        return plain

    # -- chat template -------------------------------------------------------------------------

    @property
    def has_template(self) -> bool:
        """Whether contents stand in a chat template."""
        return getattr(self.tokenizer, "chat_template", None) is not None

    def apply_template(self, contents: Sequence[str]) -> str:
        """Messages of user and assistant in turn, the last one the user's, up to the next reply.

        Raises:
          ModelError: the chat template fails.
        """
        if not self.has_template:
            return "".join(contents)
        roles = ("user", "assistant")
        try:  # a program of whoever made the checkpoint
            return self.tokenizer.apply_chat_template(
                [{"role": roles[i % 2], "content": text} for i, text in enumerate(contents)],
                add_generation_prompt=True,
                tokenize=False,
                enable_thinking=False,  # Qwen3: the reply is the three blocks and nothing before
            )
        except Exception as error:
            said = " ".join(f"{type(error).__name__}: {error}".split())
            raise ModelError(
                f"chat template of tokenizer {name_of(self.tokenizer)}: {said}; copy the tokenizer "
                "from the checkpoint again, or choose prompt.style compact"
            ) from error

    @functools.cached_property
    def opening_glue(self) -> tuple[str, str]:
        """What stands around a lone message of the user.

        Raises:
          ValueError: the template does not copy it.
        """
        head, tail = self._cut(_MARKERS[:1])
        return head, tail

    @functools.cached_property
    def glue(self) -> Glue:
        """What a conversation that grows by appending has between its contents.

        Raises:
          ValueError: the template renders earlier messages differently once later ones follow.
        """
        if not self.has_template:
            return Glue("", "", "")
        head, ask, answer, again = self._cut(_MARKERS[:3])
        whole = [head, ask, answer, ask, answer, ask]
        if again != ask or self._cut(_MARKERS[:1]) != [head, ask] or self._cut(_MARKERS) != whole:
            alone = self._cut(_MARKERS[:1])[1]
            raise ValueError(
                f"chat template of tokenizer {name_of(self.tokenizer)}: before a reply it writes "
                f"{alone!r}, and {ask!r} there once a later message follows; expected one that "
                "leaves earlier messages as they are: prompt.window turn"
            )
        return Glue(head, ask, answer)

    def _cut(self, markers: Sequence[str]) -> list[str]:
        """A rendered conversation, cut at its contents."""
        left, parts = self.apply_template(markers), []
        for marker in markers:
            if left.count(marker) != 1:
                raise ValueError(
                    f"chat template of tokenizer {name_of(self.tokenizer)}: a message of the user "
                    f"occurs {left.count(marker)} times in what it renders; expected once"
                )
            before, left = left.split(marker)
            parts.append(before)
        return [*parts, left]


_TAGS = re.compile("(" + "|".join(map(re.escape, TAGS)) + ")")
_MARKERS = tuple(f"(content number {i})" for i in range(1, 6))
