"""The ladder is climbed by a Plan-Execute policy made of tables, with the project's own credit.

Each rung leaves to learning what it isolates and imitates the expert in the rest. The second half
breaks the credit on purpose and asks at which rung the climber falls: the one that names the fault.
"""

import collections
import dataclasses
import random
from collections.abc import Callable

import jax
import numpy as np
import pytest

from hiperjax.envs.base import Step
from hiperjax.envs.ladder import RUNGS, make_ladder_suite
from hiperjax.learning.credit.registry import estimate
from hiperjax.learning.credit.tokens import whiten
from hiperjax.learning.credit.types import Credit, CreditInputs

GAMMA = 0.9
EPISODES, TURNS = 36, 8  # one shape for all rungs: one compilation per estimator
ITERATIONS = 30
SURE = 20.0
PARTS = ("switch", "subgoal", "action")
LEARNED = {"action": ("action",), "subgoal": ("subgoal",), "switch": ("switch",)}
"""Parts a rung leaves to learning; the lower three reward nothing, so all may wander there."""

WHITEN = jax.jit(whiten)

Context = tuple[str, str]  # what is seen, and the subgoal: before the decision, or in force
Estimate = Callable[[CreditInputs], Credit]


@dataclasses.dataclass
class Decision:
    """One turn: for each part decided, its context and the index chosen there."""

    before: Context
    after: Context
    boundary: bool
    chosen: dict[str, tuple[Context, int]]
    reward: float

    def seen_by(self, head: str) -> Context:
        return self.after if head == "low" else self.before


class Tables:
    """Softmax tables of the three parts, and a table for each value head."""

    def __init__(self, suite, seed: int) -> None:
        self.random = random.Random(seed)
        self.logits: dict[str, dict[Context, np.ndarray]] = {part: {} for part in PARTS}
        self.values: dict[str, dict[Context, float]] = {"low": {}, "high": {}, "term": {}}
        self.subgoals: list[str] = []
        self.demonstrations: dict[str, dict[Context, tuple]] = {part: {} for part in PARTS}
        for task in suite.tasks("train"):
            self._watch(suite, task)

    def imitate(self, part: str) -> None:
        """Decide as the expert did, in the contexts it met."""
        for context, (options, wanted) in self.demonstrations[part].items():
            self._open(part, context, options)[options.index(wanted)] = SURE

    def choose(self, part: str, context: Context, options: tuple) -> int:
        weights = softmax(self._open(part, context, options))
        return self.random.choices(range(len(options)), weights)[0]

    def _open(self, part: str, context: Context, options: tuple) -> np.ndarray:
        return self.logits[part].setdefault(context, np.zeros(len(options)))

    def _watch(self, suite, task: str) -> None:
        env, expert = suite.make_env(), suite.make_expert(seed=0)
        observation, subgoal, ended = env.reset(task), "", False
        expert.reset(observation)
        while not ended:
            decision = expert.decide(observation)
            if decision.subgoal not in self.subgoals:
                self.subgoals.append(decision.subgoal)
            shown = self.demonstrations
            if subgoal:
                shown["switch"][observation.text, subgoal] = ((False, True), decision.switch)
            if decision.switch:
                shown["subgoal"][observation.text, subgoal] = (self.subgoals, decision.subgoal)
            subgoal = decision.subgoal
            shown["action"][observation.text, subgoal] = (observation.admissible, decision.action)
            observation, _, ended, *_ = env.step(decision.action)


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def play(env, task: str, tables: Tables) -> list[Decision]:
    """One episode; turn 0 is a switch whatever the table says."""
    observation, subgoal, ended, turns = env.reset(task), "", False, []
    while not ended:
        before = (observation.text, subgoal)
        chosen = {}
        switch = True
        if turns:
            chosen["switch"] = (before, tables.choose("switch", before, (False, True)))
            switch = bool(chosen["switch"][1])
        if switch:
            options = tuple(tables.subgoals)
            chosen["subgoal"] = (before, tables.choose("subgoal", before, options))
            subgoal = options[chosen["subgoal"][1]]
        after = (observation.text, subgoal)
        chosen["action"] = (after, tables.choose("action", after, observation.admissible))
        action = observation.admissible[chosen["action"][1]]
        observation, reward, ended, *_ = env.step(action)
        turns.append(Decision(before, after, switch, chosen, reward))
    return turns


def gather(episodes: list[list[Decision]], tables: Tables) -> CreditInputs:
    """Decisions to a padded grid; every ladder episode terminates."""

    def grid(read: Callable[[Decision], float | bool], dtype: type) -> np.ndarray:
        out = np.zeros((len(episodes), TURNS), dtype)
        for row, turns in zip(out, episodes, strict=True):
            row[: len(turns)] = [read(turn) for turn in turns]
        return out

    def value(head: str) -> np.ndarray:
        return grid(lambda turn: tables.values[head].get(turn.seen_by(head), 0.0), np.float32)

    zero = np.zeros(len(episodes), np.float32)
    return CreditInputs(
        reward=grid(lambda turn: turn.reward, np.float32),
        mask=grid(lambda turn: True, bool),
        boundary=grid(lambda turn: turn.boundary, bool),
        terminated=np.ones(len(episodes), bool),
        v_low=value("low"),
        v_high=value("high"),
        v_term=value("term"),
        bootstrap_low=zero,
        bootstrap_high=zero,
        bootstrap_term=zero,
    )


def fit_values(tables: Tables, episodes: list[list[Decision]], credit: Credit) -> None:
    """Each entry moves halfway to the mean of its targets."""
    for head in tables.values:
        target, fit = getattr(credit, f"ret_{head}"), getattr(credit, f"fit_{head}")
        found = collections.defaultdict(list)
        for b, turns in enumerate(episodes):
            for t, turn in enumerate(turns):
                if fit[b, t]:
                    found[turn.seen_by(head)].append(target[b, t])
        for context, targets in found.items():
            old = tables.values[head].get(context, 0.0)
            tables.values[head][context] = old + 0.5 * (float(np.mean(targets)) - old)


def improve(tables: Tables, episodes: list[list[Decision]], credit: Credit, part: str) -> None:
    """One policy-gradient step on the mean over each context's turns."""
    stream = {"switch": "term", "subgoal": "high", "action": "low"}[part]
    mask = getattr(credit, f"mask_{stream}")
    advantage = np.asarray(WHITEN(getattr(credit, f"adv_{stream}"), mask))
    steps = collections.defaultdict(list)
    for b, turns in enumerate(episodes):
        for t, turn in enumerate(turns):
            if part in turn.chosen and mask[b, t]:
                context, index = turn.chosen[part]
                p = softmax(tables.logits[part][context])
                steps[context].append(advantage[b, t] * (np.eye(len(p))[index] - p))
    for context, found in steps.items():
        tables.logits[part][context] += np.mean(found, axis=0)


def climb(
    rung: str, credit_of: Estimate, always_switch: bool = False
) -> tuple[Tables, list[list[Decision]]]:
    """Learn one rung; the tables, and the last batch they played."""
    suite = make_ladder_suite(rung)
    tables, env = Tables(suite, seed=0), suite.make_env()
    learned = LEARNED.get(rung, PARTS)
    for part in set(PARTS) - set(learned):
        tables.imitate(part)
    if always_switch:
        for logits in tables.logits["switch"].values():
            logits[:] = (0.0, SURE)
    tasks = suite.tasks("train")
    for _ in range(ITERATIONS):
        episodes = [play(env, tasks[n % len(tasks)], tables) for n in range(EPISODES)]
        credit = jax.tree.map(np.asarray, credit_of(gather(episodes, tables)))
        fit_values(tables, episodes, credit)
        for part in learned:
            improve(tables, episodes, credit, part)
    return tables, episodes


VALUES = {
    "constant": {"Nothing is here.": 1.0},
    "observation": {"The sun shines.": 1.0, "The rain falls.": -1.0},
    "discounting": {f"You pass milestone {n}.": GAMMA ** (3 - n) for n in range(4)},
}


def mean_return(episodes: list[list[Decision]]) -> float:
    return float(np.mean([sum(turn.reward for turn in turns) for turns in episodes]))


def find_fault(rung: str, credit_of: Estimate) -> str:
    """What was not learned on a rung; empty if all was."""
    tables, episodes = climb(rung, credit_of)
    if rung not in VALUES:
        paid = mean_return(episodes)
        return "" if paid > 0.9 else f"ladder/{rung}: mean return {paid:.2f} after learning"
    if not tables.values["term"]:
        return f"ladder/{rung}: no value was fitted"
    for head, values in tables.values.items():
        for (text, _), value in values.items():
            if abs(value - VALUES[rung][text]) > 0.02:
                return f"ladder/{rung}: V_{head}({text!r}) is {value:.3f}, not {VALUES[rung][text]}"
    return ""


def make_estimate(name: str, **options) -> Estimate:
    return jax.jit(lambda inputs: estimate(name, inputs, **options))


HAE = {"lambda_boundary": 1.0, "lambda_segment": 1.0, "v_high_targets": "all"}
ESTIMATES = {
    "hae": make_estimate("hae", gamma=GAMMA, **HAE),
    "paper": make_estimate("hae_paper", gamma=GAMMA),
    "flat_gae": make_estimate("flat_gae", gamma=GAMMA),
}


@pytest.mark.parametrize("rung", RUNGS)
@pytest.mark.parametrize("name", ESTIMATES)
def test_the_rung_is_climbed(name: str, rung: str) -> None:
    assert not find_fault(rung, ESTIMATES[name])


def unpaid(inputs: CreditInputs) -> Credit:
    return ESTIMATES["hae"](inputs._replace(reward=0 * inputs.reward))


def another_episodes(inputs: CreditInputs) -> Credit:
    return jax.tree.map(lambda x: np.roll(x, 1, axis=0), ESTIMATES["hae"](inputs))


def without(stream: str) -> Estimate:
    field = f"adv_{stream}"

    def broken(inputs: CreditInputs) -> Credit:
        credit = ESTIMATES["hae"](inputs)
        return credit._replace(**{field: 0 * getattr(credit, field)})

    return broken


FAULTS = {
    "constant": unpaid,
    "observation": another_episodes,
    "discounting": make_estimate("hae", gamma=1.0, **HAE),
    "action": without("low"),
    "subgoal": without("high"),
    "switch": without("term"),
}


@pytest.mark.parametrize("named", RUNGS)
def test_the_first_rung_that_fails_names_the_fault(named: str) -> None:
    fallen_at = next((rung for rung in RUNGS if find_fault(rung, FAULTS[named])), None)
    assert fallen_at == named


def test_credit_crosses_a_boundary_by_lambda_boundary_alone() -> None:
    """Where every turn opens a segment, what comes after the press tells nothing of it: V_high
    there cannot either, and the paper's estimator, which stops at the boundary, learns nothing."""
    _, paper = climb("action", ESTIMATES["paper"], always_switch=True)
    _, ours = climb("action", ESTIMATES["hae"], always_switch=True)
    assert mean_return(paper) < 0.75 < 0.9 < mean_return(ours)


@pytest.mark.parametrize("rung", RUNGS)
def test_the_expert_never_errs_and_observations_keep_the_secret(rung: str) -> None:
    suite = make_ladder_suite(rung)
    late = collections.defaultdict(set)
    for task in suite.tasks("train"):
        env, expert = suite.make_env(), suite.make_expert(seed=1)
        observation, step, turns = env.reset(task), None, 0
        expert.reset(observation)
        while step is None or not step.terminated:
            late[turns].add((observation.text, observation.admissible))
            step = env.step(expert.decide(observation).action)
            observation, turns = step.observation, turns + 1
        assert turns <= suite.max_turns and suite.task_type(task) == rung
        assert step.success == (step.reward == 1.0) == (task != "foul")
    if rung in ("action", "subgoal", "switch"):
        assert len(late[max(late)]) == 1, "the last page gives the color away"


def test_what_a_world_does_not_understand_is_a_no_op() -> None:
    env = make_ladder_suite("action").make_env()
    seen = env.reset("red")
    assert env.step("dance") == Step(seen, 0.0, False, False)
    env.step("press red")
    assert env.step("wait")[1:3] == (1.0, True)
    with pytest.raises(RuntimeError, match="call reset"):
        env.step("wait")
    with pytest.raises(KeyError, match=r"green.*red, blue"):
        env.reset("green")
    with pytest.raises(KeyError, match="no rung 'top'"):
        make_ladder_suite("top")


def test_a_noisy_expert_errs() -> None:
    suite = make_ladder_suite("action")
    expert, observation = suite.make_expert(seed=0, noise=1.0), suite.make_env().reset("red")
    expert.reset(observation)
    assert {expert.decide(observation).action for _ in range(20)} == set(observation.admissible)
