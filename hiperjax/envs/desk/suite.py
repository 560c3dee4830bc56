"""The desk as a suite of tasks: a session over the records, behind text actions."""

import dataclasses
import random
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from hiperjax.envs.base import Decision, Expert, Outcome, Step, Suite, TextEnv
from hiperjax.envs.calls import Call, CallError, CallForm, read_call, write_call
from hiperjax.envs.criteria import grade, weigh
from hiperjax.envs.desk.procedures import find_next
from hiperjax.envs.desk.records import Copy, Key
from hiperjax.envs.desk.tasks import SPLITS, Task, make_task, verify
from hiperjax.envs.desk.tools import REPLY, TOOLS, Entry, digest, run_tool
from hiperjax.types import Checklist, Ending, Observation, PromptHints

ROLE = "You work at the support desk of a shop for computer parts and serve one customer."
Pay = Literal["success", "criteria", "gated"]
"""What an episode pays at its end: 1 for success; the weight of its criteria; the same, and nothing
where a gate fails."""


class Session:
    """One episode at the desk, whoever calls its tools."""

    def __init__(self, task: Task) -> None:
        self.task, self.copy = task, Copy(task.records)
        self.log: list[Entry] = []
        self.request = 0
        self.over = False
        self._settled: frozenset[str] = frozenset()
        """criteria of the requests that are closed"""

    def call(self, call: Call) -> str:
        """Call a tool; what it answers."""
        before = dict(self.copy.changes)
        said = "" if call.name == REPLY else run_tool(self.copy, call)
        changed = self.copy.changes != before
        entry = Entry(call.name, dict(call.arguments), digest(said), changed, self.request)
        self.log.append(entry)
        return self._close_request() if call.name == REPLY else said

    @property
    def satisfied(self) -> frozenset[str]:
        """Criteria that hold now."""
        return self._settled if self.over else self._settled | self._verify()

    @property
    def score(self) -> float:
        """As it stands: the weight of its criteria, and 0 where a gate fails."""
        return grade(self.task.checklist, self.satisfied)

    @property
    def is_done(self) -> bool:
        return self.satisfied >= {item.name for item in self.task.checklist.items}

    def state(self) -> dict[str, Any]:
        """All that happened, as JSON: changes, audit log, criteria."""
        changes = {"/".join(key): value for key, value in sorted(self.copy.changes.items())}
        log = [dataclasses.asdict(entry) for entry in self.log]
        return {
            "request": self.request, "over": self.over, "changes": changes, "log": log,
            "satisfied": sorted(self.satisfied),
        }  # fmt: skip

    def _verify(self) -> frozenset[str]:
        requests = self.task.requests
        allowed: dict[Key, Any] = {}
        for request in requests[: self.request + 1]:
            allowed |= request.wanted
        current = requests[self.request]
        return verify(current, self.request, self.log, self.copy.changes, allowed)

    def _close_request(self) -> str:
        self._settled |= self._verify()
        items = self.task.checklist.items
        strict = {i.name for i in items if i.strict and i.request == self.request}
        last = self.request + 1 == len(self.task.requests)
        if last or not strict <= self._settled:
            self.over = True
            return "The customer leaves."
        self.request += 1
        return f"The customer asks: {self.task.requests[self.request].text}"


@dataclasses.dataclass(frozen=True, slots=True)
class DeskOptions:
    """Which shops, which requests, what they pay."""

    size: Literal["tiny", "full"] = "tiny"
    """about 50 records, or 190"""
    kinds: tuple[str, ...] = ()
    """only tasks of these kinds; none means all that a split has"""
    pay: Pay = "gated"
    """1 for success; the weight of the criteria; or that, and 0 where a gate fails"""
    form: CallForm = "compact"
    """what the expert writes: name[argument | argument], or JSON; both are understood"""
    seed: int = 0
    """another one draws other shops and requests"""


class DeskSuite(Suite):
    """Requests at the desk. Arguments are the fields of `DeskOptions`."""

    Options = DeskOptions
    role = ROLE
    hints = PromptHints(actions="tools", unstarred=("order", "product", "customer"), phrases=())
    splits = tuple(SPLITS)
    max_turns = 16
    reports_milestones = True
    reports_scores = True
    reports_criteria = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.options = DeskOptions(*args, **kwargs)
        self.name = f"desk-{self.options.size}"
        known = {kind for kinds, _, _ in SPLITS.values() for kind in kinds}
        unknown = [kind for kind in self.options.kinds if kind not in known]
        if unknown:
            raise ValueError(f"kinds {unknown}; expected some of {', '.join(sorted(known))}")

    def _kinds(self, split: str) -> tuple[str, ...]:
        kinds = SPLITS[split][0]
        return tuple(kind for kind in kinds if kind in self.options.kinds) or kinds

    def tasks(self, split: str) -> Sequence[str]:
        if split not in SPLITS:
            raise KeyError(f"split {split!r} of {self.name}: expected one of {self.splits}")
        return tuple(f"{self.name}/{split}/{n}" for n in range(SPLITS[split][1]))

    def task_type(self, task_id: str) -> str:
        split, index = self._parse(task_id)
        kinds = self._kinds(split)
        return kinds[index % len(kinds)]

    def get_task(self, task_id: str) -> Task:
        """The task of an id; `KeyError` naming it if there is none."""
        split, index = self._parse(task_id)
        o = self.options
        return make_task(split, index, o.seed, o.size, self.task_type(task_id))

    def checklist(self, task_id: str) -> Checklist:
        return self.get_task(task_id).checklist

    def is_admissible(self, action: str, observation: Observation) -> bool:
        """Whether it is a call of a tool that the tool's schema accepts."""
        try:
            read_call(action, observation.tools)
        except CallError:
            return False
        return True

    def make_env(self) -> TextEnv:
        return DeskEnv(self)

    def make_expert(self, seed: int, noise: float = 0.0) -> Expert:
        return DeskExpert(seed, noise, self.options.form)

    def pay(self, session: Session) -> float:
        """What an episode that is over pays."""
        if self.options.pay == "success":
            return float(session.is_done)
        if self.options.pay == "gated":
            return session.score
        return weigh(session.task.checklist, session.satisfied)

    def _parse(self, task_id: str) -> tuple[str, int]:
        name, split, index = (*task_id.split("/"), "", "")[:3]
        if name != self.name or split not in SPLITS or not index.isdigit():
            raise KeyError(f"task {task_id!r}: expected {self.name}/SPLIT/NUMBER")
        if int(index) >= SPLITS[split][1]:
            raise KeyError(f"task {task_id!r}: {split} has {SPLITS[split][1]} tasks")
        return split, int(index)


class DeskEnv(TextEnv):
    """One customer at a time."""

    def __init__(self, suite: DeskSuite) -> None:
        self._suite = suite
        self.session: Session | None = None

    def reset(self, task_id: str) -> Observation:
        self.session = Session(self._suite.get_task(task_id))
        self._reached: frozenset[str] = frozenset()
        return self._observe(self.session, "A customer comes to your desk.")

    def step(self, action: str) -> Step:
        session = self.session
        if session is None or session.over:
            raise RuntimeError(f"step({action!r}): no customer is here; call reset(task_id) first")
        try:
            said = session.call(read_call(action, TOOLS))
        except CallError as error:
            said = f"Error: {error}"
        now = session.satisfied
        before, self._reached = self._reached, self._reached | now
        reward = self._suite.pay(session) if session.over else 0.0
        return Step(
            self._observe(session, said), reward, session.over, False,
            success=session.over and session.is_done, milestone=self._reached != before,
            score=session.score if session.over else None, satisfied=now,
        )  # fmt: skip

    def score(self, ending: Ending) -> Outcome | None:
        """A customer who is left waiting pays for what was done as well."""
        session = self.session
        if session is None or session.over:
            return None
        return Outcome(score=session.score, reward=self._suite.pay(session))

    def _observe(self, session: Session, text: str) -> Observation:
        asked = session.task.requests[session.request].text
        return Observation(text, asked, (), request=session.request, tools=TOOLS)


SUBGOALS: Mapping[str, str] = {
    "get_policy": "check rules",
    "update_ticket": "change records",
    "process_return": "change records",
    "apply_promotion": "change records",
    REPLY: "answer customer",
}
LOOK_UP = "look up facts"


class DeskExpert(Expert):
    """Deals with each request by its procedure, from what it was told."""

    def __init__(self, seed: int, noise: float = 0.0, form: CallForm = "compact") -> None:
        self._rng, self._noise = random.Random(seed), noise
        self._form: CallForm = form

    def reset(self, observation: Observation) -> None:
        self._known: dict[tuple[str, tuple[tuple[str, Any], ...]], str] = {}
        self._asked: Call | None = None
        self._request, self._subgoal = observation.request, ""

    def decide(self, observation: Observation) -> Decision:
        if observation.request != self._request:  # what was known may have changed since
            self._request, self._asked, self._known = observation.request, None, {}
        if self._asked is not None:
            key = self._asked.name, tuple(self._asked.arguments.items())
            self._known[key] = observation.text
        needed = find_next(observation.task, self._known)
        call = needed if isinstance(needed, Call) else Call(REPLY, {"text": needed})
        if self._rng.random() < self._noise:
            call = self._wander(observation)
        self._asked = call
        subgoal = SUBGOALS.get(call.name, LOOK_UP)
        switch, self._subgoal = subgoal != self._subgoal, subgoal
        return Decision(switch, subgoal, write_call(call, self._form))

    def _wander(self, observation: Observation) -> Call:
        """A look at something that nobody asked for; it changes nothing."""
        number = self._rng.randrange(1, 7)
        return self._rng.choice(
            (
                Call("get_order", {"order": str(number)}),
                Call("check_stock", {"product": f"p{number}"}),
                Call("get_policy", {"topic": "returns"}),
            )
        )
