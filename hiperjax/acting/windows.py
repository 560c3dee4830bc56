"""Windows: consecutive turns of an episode that share one growing context.

A window opens with a whole prompt. Each later turn appends the end of the reply, a message with
what has changed, and the opening of the next reply; nothing that was said before is encoded again.
A writer decides, turn by turn, whether the window goes on.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hiperjax.acting.prompts import NO_CUTS, Cuts, Prompter
from hiperjax.acting.renderers import PastTurn
from hiperjax.types import Blocks, Observation


class Prompt(NamedTuple):
    """What a turn adds to its context before the reply."""

    ids: list[int]
    opens: bool
    """a whole prompt, of a new window"""
    cuts: Cuts
    overflow: bool
    """the window before was full"""


class WindowWriter:
    """The contexts of one episode, as they grow: `write` and `note_reply` in turn."""

    def __init__(self, prompter: Prompter):
        self.prompter, self.rules = prompter, prompter.windows
        self._opening: Observation | None = None
        """what the window opened with; None: no window is open"""
        self._tokens = 0
        self._reply: Sequence[int] = ()
        self._says_subgoal = True

    def write(self, observation: Observation, past: Sequence[PastTurn], subgoal: str) -> Prompt:
        """The prompt of the next turn, or of the state after the last one.

        Raises:
          PromptTooLong: a whole prompt that does not fit.
        """
        overflow = False
        if self._opening is not None:
            stated = None if self._says_subgoal else subgoal
            ids = self.prompter.extend(observation, self._opening, stated, self._reply)
            overflow = self._tokens + len(ids) > self.rules.length
            if not overflow:
                self._tokens += len(ids)
                return Prompt(ids, False, NO_CUTS, False)
        ids, cuts = self.prompter.encode(observation, past, subgoal)
        self._opening = observation
        self._tokens = len(ids) - len(self.prompter.shared_prefix)
        return Prompt(ids, True, cuts, overflow)

    def note_reply(self, ids: np.ndarray | Sequence[int], blocks: Blocks) -> None:
        """Take in the reply to the prompt that was written last."""
        if not self.rules.grow or (self.rules.mode == "subgoal" and blocks.switch):
            self._opening = None
            return
        self._tokens += len(ids)
        self._reply = ids if isinstance(ids, list) else list(map(int, ids))
        kept = not blocks.keep_violation or self.rules.rewrite_on_keep
        self._says_subgoal = blocks.well_formed and kept
