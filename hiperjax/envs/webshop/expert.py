"""A scripted shopper that sees only what an agent sees, and says why it does what it does.

It finds candidates, opens one, checks the features, chooses the options, buys. A candidate is left
again when it lacks a wanted option or a wanted feature; when time runs short or nothing is left to
open, the best candidate so far is bought.

Its subgoals come in two grains. `fine` ones are these five phases, and last little more than a turn
each; `coarse` ones join them into two errands that last several turns and say what is wanted: to
find the product, features checked, and to buy it with its options.
"""

import dataclasses
import enum
import random
import re
from typing import Literal

from hiperjax.envs.base import Decision, Expert
from hiperjax.types import Observation

_OPTIONS = re.compile(r" with (?=(?:(?! with )[^:,]){1,40}: )")
_NEXT_OPTION = re.compile(r", and (?=[^:,]{1,40}: )")
_CAP = re.compile(r",? and price lower than ([\d.]+) dollars\s*$")
_OPENING = re.compile(r"^\s*find me ", re.IGNORECASE)
_ADDITION = re.compile(r" (?:with|for) ")
_PRICE = re.compile(r"\$(\d+(?:\.\d+)?)(?: to \$[\d.]+)?$")
_WORD = re.compile(r"[a-z0-9]+(?:[-'][a-z0-9]+)*")
_FILLER = frozenset(("find", "me", "with", "for", "a", "an", "the", "and", "i", "of", "to", "in"))
_PATIENCE = 9
"""turns after which no further candidate is tried"""
_ENOUGH = 0.75
"""share of the wanted words a candidate must show"""


Grain = Literal["coarse", "fine"]


class Phase(enum.Enum):
    """What the expert is about; the value is the fine subgoal."""

    SEARCH = "find candidates"
    OPEN = "open a candidate"
    CHOOSE = "choose the options"
    CHECK = "check the features"
    BUY = "buy the product"


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """An instruction taken apart."""

    what: str
    options: tuple[str, ...]
    """wanted values; empty where the instruction names none in the synthetic form"""
    cap: float

    named: str
    """what is wanted, in a few words"""

    @property
    def words(self) -> frozenset[str]:
        return frozenset(_WORD.findall(self.what.lower())) - _FILLER


def read_request(instruction: str) -> Request:
    """Take an instruction apart: product, options, price cap."""
    cap = _CAP.search(instruction)
    what, *named = _OPTIONS.split(instruction[: cap.start()] if cap else instruction, maxsplit=1)
    pairs = _NEXT_OPTION.split(named[0]) if named else []
    asked = _OPENING.sub("", what)
    return Request(
        what=asked,
        named=_ADDITION.split(asked)[0].strip() if asked != what else "the product",
        options=tuple(pair.split(": ", 1)[1] for pair in pairs),
        cap=float(cap[1]) if cap else float("inf"),
    )


def list_candidates(observation: Observation) -> dict[str, float]:
    """Products on a results page, as they are clicked, with their lowest prices."""
    segments = observation.text.removeprefix("'").removesuffix("'").split("' [SEP] '")
    found: dict[str, float] = {}
    for place, segment in enumerate(segments):
        if f"click[{segment.lower()}]" in observation.admissible:
            prices = map(_PRICE.match, segments[place + 1 : place + 3])
            found |= {segment.lower(): float(price[1]) for price in prices if price}
    return found


class WebShopExpert(Expert):
    """Plans from observations alone; a share `noise` of its actions is drawn at random."""

    def __init__(self, seed: int, noise: float = 0.0, grain: Grain = "coarse") -> None:
        self.rng = random.Random(seed)
        self.noise = noise
        self.grain: Grain = grain

    def reset(self, observation: Observation) -> None:
        self.request = read_request(observation.task)
        self.turn = 0
        self.subgoal = ""
        self.listed: dict[str, float] = {}
        """products of the results page at hand; empty on other pages"""
        self.candidate = ""
        """the product last opened"""
        self.rated: dict[str, float] = {}
        """how well each candidate fits, once that is known"""
        self.chosen: set[str] = set()
        self.seen = ""
        """what the open candidate's own page says"""

    def decide(self, observation: Observation) -> Decision:
        self.listed = list_candidates(observation) if is_results(observation) else {}
        phase, action = self._choose(observation)
        subgoal = phase.value if self.grain == "fine" else self._name_errand(phase)
        if self.rng.random() < self.noise:
            subgoal, action = self.subgoal or subgoal, self._draw(observation)
        switch = subgoal != self.subgoal
        self.subgoal = subgoal
        self.turn += 1
        self._remember(action)
        return Decision(switch, subgoal, action)

    def _name_errand(self, phase: Phase) -> str:
        """The coarse subgoal of a phase."""
        if phase in (Phase.SEARCH, Phase.OPEN, Phase.CHECK):
            return f"find {self.request.named}"
        options = " and ".join(self.request.options)
        return f"buy it with {options}" if options else "buy it"

    def _draw(self, observation: Observation) -> str:
        action = self.rng.choice(observation.admissible)
        words = sorted(self.request.words) or ["na"]
        return action.replace("<your query>", self.rng.choice(words))

    def _remember(self, action: str) -> None:
        """Keep track of what an action, planned or drawn, changes beyond the page."""
        target = action.removeprefix("click[").removesuffix("]")
        if target in self.listed:
            self.candidate, self.chosen = target, set()
        else:
            self.chosen.add(target)

    def _choose(self, observation: Observation) -> tuple[Phase, str]:
        if is_results(observation) and self.listed:
            return Phase.OPEN, f"click[{self._pick()}]"
        if "click[buy now]" in observation.admissible:
            self.seen = observation.text
            return self._handle(observation)
        if "click[< prev]" in observation.admissible and not is_results(observation):
            return self._check(observation)
        words = (self.request.what, *self.request.options)
        return Phase.SEARCH, f"search[{' '.join(words)}]"

    def _pick(self) -> str:
        """The next affordable candidate, else the best of those tried, else the first listed."""
        fresh = [
            asin
            for asin, price in self.listed.items()
            if price <= self.request.cap and asin not in self.rated
        ]
        if fresh and self._may_go_on():
            return fresh[0]
        tried = [asin for asin in self.listed if asin in self.rated]
        return max(tried or fresh or self.listed, key=lambda asin: self.rated.get(asin, 0.0))

    def _handle(self, observation: Observation) -> tuple[Phase, str]:
        """On a product's page: check it, leave it, choose, or buy."""
        options = self.request.options or self._find_named(observation)
        offered = [option for option in options if f"click[{option}]" in observation.admissible]
        if self.candidate not in self.rated and len(offered) < len(options):
            self.rated[self.candidate] = _ENOUGH * len(offered) / len(options)
            if self._may_go_on():
                return Phase.OPEN, "click[< prev]"
        if self.candidate not in self.rated:
            if self._share(observation.text) < _ENOUGH:
                return Phase.CHECK, "click[features]"
            self.rated[self.candidate] = 1.0
        best = max(self.rated.values())
        if self.rated[self.candidate] < min(best, _ENOUGH) and self._may_go_on():
            return Phase.OPEN, "click[< prev]"
        wanted = [option for option in offered if option not in self.chosen]
        if wanted:
            return Phase.CHOOSE, f"click[{wanted[0]}]"
        return Phase.BUY, "click[buy now]"

    def _check(self, observation: Observation) -> tuple[Phase, str]:
        """On a page about the product: rate it by the wanted words both pages show; return."""
        self.rated.setdefault(self.candidate, self._share(self.seen + observation.text))
        return Phase.CHECK, "click[< prev]"

    def _find_named(self, observation: Observation) -> tuple[str, ...]:
        """Option values on a product's page that a freely worded instruction mentions."""
        task = f" {' '.join(_WORD.findall(observation.task.lower()))} "
        after_buttons = observation.admissible.index("click[buy now]") + 1
        values = [offer[len("click[") : -1] for offer in observation.admissible[after_buttons:]]
        words = [" ".join(_WORD.findall(value)) for value in values]
        return tuple(v for v, w in zip(values, words, strict=True) if w and f" {w} " in task)

    def _may_go_on(self) -> bool:
        return self.turn < _PATIENCE

    def _share(self, text: str) -> float:
        """Share of the wanted words that a text contains."""
        words = self.request.words
        found = set(_WORD.findall(text.lower()))
        return len(words & found) / len(words) if words else 1.0


def is_results(observation: Observation) -> bool:
    return "click[next >]" in observation.admissible and "click[buy now]" not in (
        observation.admissible
    )
