"""Boundaries by a rule: the switch block of a reply is given, and the policy draws the rest.

What is given is no decision of the policy: its tokens have no log-prob and are in no loss, and the
turn has no switch decision to be judged. The segments that credit sees are those of the rule.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from hiperjax.acting.blocks import KEEP_WORD, SWITCH_WORD
from hiperjax.acting.episode import EpisodeRecorder
from hiperjax.acting.prompts import Prompter
from hiperjax.options.planning import BoundaryRule


class BoundaryError(ValueError):
    """A switch block that cannot be written for the policy."""


class Given(NamedTuple):
    """What of the reply to come is decided already."""

    switch: bool | None
    """whether the turn opens a segment; None: the reply says so itself"""
    ids: tuple[int, ...]
    """the switch block"""


NOTHING = Given(None, ())


@dataclasses.dataclass(frozen=True)
class Boundaries:
    """Where segments begin."""

    rule: BoundaryRule = "learned"
    every: int = 1
    """every_k: turns of a segment"""
    rate: float = 0.0
    """random: chance of a boundary at each turn after the first"""
    keep_ids: tuple[int, ...] = ()
    switch_ids: tuple[int, ...] = ()

    @property
    def longest(self) -> int:
        """Tokens of a reply that are given, at most."""
        return max(len(self.keep_ids), len(self.switch_ids))

    def decide(self, episode: EpisodeRecorder, *, seed: tuple[int, ...], number: int) -> Given:
        """What is given of an episode's next reply; turn 0 opens a segment whatever the rule.

        Args:
          episode: as it stands before the turn.
          seed: of the rollout; what is random follows from it, the episode and the turn.
          number: of the episode.
        """
        if self.rule == "learned":
            return NOTHING
        turn, last = len(episode.turns), episode.last
        switch = (
            turn == 0
            or {
                "every_k": turn % self.every == 0,
                "milestone": last is not None and bool(last.milestone),
                "always": True,
                "never": False,
                "random": self.rule == "random" and _draw(seed, number, turn) < self.rate,
            }[self.rule]
        )
        return Given(switch, self.switch_ids if switch else self.keep_ids)


LEARNED = Boundaries()


def _draw(seed: tuple[int, ...], number: int, turn: int) -> float:
    """Uniform in [0, 1): the same whatever is played beside it."""
    return float(np.random.default_rng((*seed, number, turn)).random())


def make_boundaries(
    rule: BoundaryRule, prompter: Prompter, *, every: int, rate: float, reply_length: int
) -> Boundaries:
    """The rule, with the switch blocks it writes as the prompts' tokenizer spells them.

    Raises:
      BoundaryError: the tokenizer cannot spell one of them, or it leaves no room in a reply.
    """
    if rule == "learned":
        return LEARNED
    keep_ids, switch_ids = (_spell(prompter, switch) for switch in (False, True))
    made = Boundaries(rule, every, rate, keep_ids, switch_ids)
    if made.longest >= reply_length:
        raise BoundaryError(
            f"plan.boundaries {rule}: a switch block takes {made.longest} tokens, and "
            f"prompt.reply_length is {reply_length}; raise it"
        )
    return made


def _spell(prompter: Prompter, switch: bool) -> tuple[int, ...]:
    """The switch block as the first tokens of a whole reply."""
    ids, blocks = prompter.spell(switch, "go", "go")
    if not blocks.well_formed or blocks.switch != switch:
        raise BoundaryError(
            f"plan.boundaries: the tokenizer writes {SWITCH_WORD if switch else KEEP_WORD} as "
            f"{prompter.tokenizer.decode(ids)!r}; expected one that knows both words"
        )
    return tuple(ids[: blocks.switch_span[1]])
