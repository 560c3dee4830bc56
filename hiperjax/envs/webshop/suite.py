"""WebShop as a suite of tasks: what the rest of the program sees of it."""

import dataclasses
import random
import re
from collections.abc import Sequence

from hiperjax.envs.base import Expert, Step, Suite, TextEnv
from hiperjax.envs.webshop.criteria import PASSED, list_satisfied, write_checklist
from hiperjax.envs.webshop.expert import Grain, WebShopExpert
from hiperjax.envs.webshop.goals import Goal, GoalKind
from hiperjax.envs.webshop.nouns import make_tagger
from hiperjax.envs.webshop.pages import (
    SEPARATOR,
    Page,
    Session,
    act,
    list_clickables,
    list_segments,
    list_shown,
    render_receipt,
)
from hiperjax.envs.webshop.profiles import Profile, list_tasks, read_task_id
from hiperjax.envs.webshop.reward import Reward, score_purchase
from hiperjax.envs.webshop.shop import Shop
from hiperjax.types import Checklist, CommandGroup, ExampleTurn, Observation, PromptHints

SEARCH_TEMPLATE = "search[<your query>]"
"""How the admissible list writes that any words may be searched for."""
SELECTED_LABEL = "Selected options: "
_TASK = "Find me a plain mug, and price lower than 20.00 dollars"
_RESULTS = ("click[back to search]", "click[next >]", "click[b01mug]", "click[b02cup]")
EXAMPLE = (
    ExampleTurn(
        Observation("'Search'", _TASK, (SEARCH_TEMPLATE,)),
        True,
        "find a plain mug",
        "search[plain mug]",
    ),
    ExampleTurn(
        Observation(
            "'Back to Search' [SEP] 'B01MUG' [SEP] 'plain mug' [SEP] '$9.0' [SEP] 'B02CUP' [SEP] "
            "'glass cup' [SEP] '$5.0'",
            _TASK,
            _RESULTS,
        ),
        False,
        "find a plain mug",
        "click[b01mug]",
    ),
)


class WebShopSuite(Suite):
    """Tasks over one shop under one profile."""

    name = "webshop"
    reports_milestones = True
    reports_scores = True
    reports_criteria = True
    role = "You are an autonomous shopper in the WebShop online store."
    hints = PromptHints(
        groups=(CommandGroup("click[", "]", " , "),),
        banner=re.escape(SEPARATOR.strip()),
        unstarred=("put",),
    )
    example = EXAMPLE

    def __init__(
        self,
        shop: Shop,
        profile: Profile,
        *,
        kind: GoalKind,
        seed: int,
        max_turns: int,
        workers: int,
        show_selected: bool,
        tagger: str,
        grain: Grain,
    ) -> None:
        self.shop = shop
        self.profile = profile
        self.kind: GoalKind = kind
        self.seed = seed
        self.max_turns = max_turns
        self.workers = workers
        self.show_selected = show_selected
        self.tagger = tagger
        self.grain: Grain = grain
        self.splits = profile.splits

    def tasks(self, split: str) -> Sequence[str]:
        return list_tasks(self.shop, self.profile, self.kind, split, self.seed, self.workers)

    def get_goal(self, task_id: str) -> Goal:
        """The goal of a task. Raises `KeyError` where the suite has none such."""
        seed, number = read_task_id(task_id)
        if self.profile.name == "strict" and seed != self.seed:
            raise KeyError(f"task {task_id!r}: this suite has one goal order, of seed {self.seed}")
        goals = self.shop.list_goals(self.kind, seed)
        if number >= len(goals):
            raise KeyError(f"task {task_id!r}: seed {seed} has goals 0 to {len(goals) - 1}")
        return goals[number]

    def score(self, task_id: str, asin: str, chosen: dict[str, str]) -> Reward:
        """What buying a product with chosen options is worth for a task."""
        goal = self.get_goal(task_id)
        goals = self.shop.list_goals(self.kind, read_task_id(task_id)[0])
        return score_purchase(
            self.shop.get(asin),
            float(goals.prices[self.shop.places[asin]]),
            chosen,
            goal,
            self.shop.get(goal.asin),
            make_tagger(self.tagger),
            self.profile.option_rule,
        )

    def checklist(self, task_id: str) -> Checklist | None:
        """What is to be searched, found, opened, chosen and bought."""
        return write_checklist(self.get_goal(task_id))

    def task_type(self, task_id: str) -> str:
        """The category of the wanted product."""
        return self.get_goal(task_id).category

    def report_baselines(self, split: str, *, max_turns: int, episodes: int) -> str | None:
        """The ceiling and two scripts on a split, and what the splits share."""
        from hiperjax.envs.webshop.report import evaluate_scripts  # it imports this module

        return evaluate_scripts(self, split, episodes, max_turns)

    def is_admissible(self, action: str, observation: Observation) -> bool:
        """Whether an action is one the page invites to; any search counts where one is invited."""
        words = action.removeprefix("search[").removesuffix("]")
        search = action == f"search[{words}]" and bool(words)
        admissible = observation.admissible
        return action in admissible or (search and SEARCH_TEMPLATE in admissible)

    def make_env(self) -> "WebShopEnv":
        return WebShopEnv(self)

    def make_expert(self, seed: int, noise: float = 0.0) -> Expert:
        return WebShopExpert(seed, noise, self.grain)


@dataclasses.dataclass(slots=True)
class WebShopEnv(TextEnv):
    """One visit of the shop at a time."""

    suite: WebShopSuite
    task_id: str = ""
    session: Session | None = None
    reached: frozenset[str] = frozenset()
    """milestones so far"""
    passed: frozenset[str] = frozenset()
    """criteria so far that cannot be undone"""

    def reset(self, task_id: str) -> Observation:
        self.session = Session(
            self.suite.shop,
            self.suite.get_goal(task_id),
            self.suite.profile.quirks,
            random.Random(task_id),
        )
        self.task_id, self.reached, self.passed = task_id, frozenset(), frozenset()
        return self._observe(self.session)

    def step(self, action: str) -> Step:
        session = self.session
        if session is None or session.page is Page.DONE:
            state = "no task is open" if session is None else "the purchase ended the episode"
            raise RuntimeError(f"step({action!r}): {state}; call reset(task_id) first")
        known = act(session, action)
        if session.page is Page.DONE:
            return self._settle(session)
        before, self.reached = self.reached, self.reached | list_reached(session)
        milestone = self.reached != before
        info = {"known_action": known, "selected": dict(session.chosen)}
        return Step(
            self._observe(session), 0.0, False, False,
            milestone=milestone, info=info, satisfied=self._verify(session),
        )  # fmt: skip

    def _verify(self, session: Session, price_kept: bool = False) -> frozenset[str]:
        now = list_satisfied(session, price_kept)
        self.passed |= now & PASSED
        return now | self.passed

    def _settle(self, session: Session) -> Step:
        """Score the purchase and close the episode."""
        asin = session.product.asin if session.product else ""
        result = self.suite.score(self.task_id, asin, session.chosen)
        success = result.score == 1.0
        reward = result.score
        if self.suite.profile.success_reward is not None:
            reward = self.suite.profile.success_reward * success
        info = {
            "known_action": True,
            "selected": dict(session.chosen),
            "bought": asin,
            "parts": result.to_info(),
        }
        receipt = render_receipt(session, result.score)
        observation = Observation(receipt, session.goal.instruction, ())
        satisfied = self._verify(session, result.price_match)
        return Step(
            observation, reward, True, False, success, success, result.score, info, satisfied
        )

    def _observe(self, session: Session) -> Observation:
        """The page as the prompt shows it: what follows the task, each segment quoted."""
        segments = list_segments(session)
        after_task = segments.index("Instruction:") + 2
        page = SEPARATOR.join(f"'{segment}'" for segment in segments[after_task:])
        selected = ""
        if self.suite.show_selected and session.chosen:
            chosen = ", ".join(f"{name}: {value}" for name, value in session.chosen.items())
            selected = f"{SELECTED_LABEL}{chosen}\n"
        return Observation(
            selected + page, session.goal.instruction, list_actions(session), pinned=selected
        )


def list_reached(session: Session) -> frozenset[str]:
    """Milestones of BEACON's WebShop that hold on this page, from the goal's own data.

    "found" where the wanted product is listed, "opened" on its page, "chosen" with all its options
    chosen; the fourth, the purchase, is the episode's success.
    """
    goal, reached = session.goal, set()
    if session.page is Page.RESULTS and any(p.asin == goal.asin for p in list_shown(session)):
        reached.add("found")
    if session.product is not None and session.product.asin == goal.asin:
        reached.add("opened")
        if {v.lower() for v in goal.option_values} <= {v.lower() for v in session.chosen.values()}:
            reached.add("chosen")
    return frozenset(reached)


def list_actions(session: Session) -> tuple[str, ...]:
    """What the page invites to, in the order of HiPER's prompt: the search first, never cut."""
    if session.has_search_bar and not session.quirks:  # where a click on "search" does nothing
        return (SEARCH_TEMPLATE,)
    search = (SEARCH_TEMPLATE,) if session.has_search_bar else ()
    return search + tuple(f"click[{target}]" for target in list_clickables(session))
