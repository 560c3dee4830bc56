"""Errands: what sub-agents do is a function of episode, stage and name; it costs what it should."""

import pickle

import pytest

from hiperjax.envs.base import Step
from hiperjax.envs.checks import check_suite
from hiperjax.envs.errands.calls import read_calls, read_errand
from hiperjax.envs.errands.env import ErrandsEnv
from hiperjax.envs.errands.suite import ErrandsSuite
from hiperjax.envs.registry import SuiteError, make_suite
from hiperjax.types import NO_DELEGATION, Delegation, Ending

SUITE = ErrandsSuite(budget=60)
SEND_ALL = " ".join(
    f"create[{name} | helper] assign[{name} | {room}]"
    for room, name in enumerate(("ann", "bob", "cid", "dan"), start=1)
)


def find_task(kind: str, suite: ErrandsSuite = SUITE) -> str:
    return next(t for t in suite.tasks("train") if suite.task_type(t) == kind)


def play(task: str, actions: list[str], suite: ErrandsSuite = SUITE) -> tuple[ErrandsEnv, Step]:
    """An episode so far, and the last of its steps."""
    env = ErrandsEnv(suite.options, suite.household, suite.get_task)
    env.reset(task)
    return env, [env.step(action) for action in actions][-1]


def play_expert(task: str, suite: ErrandsSuite) -> list[Step]:
    env, expert, steps = suite.make_env(), suite.make_expert(seed=0), []
    seen = env.reset(task)
    expert.reset(seen)
    while not steps or not (steps[-1].terminated or steps[-1].truncated):
        decision = expert.decide(seen)
        assert suite.is_admissible(decision.action, seen)
        steps.append(env.step(decision.action))
        seen = steps[-1].observation
    return steps


def test_errands_keep_the_contract():
    suite = make_suite("errands")
    check_suite(suite, tasks=1, fresh_process=False)
    assert pickle.loads(pickle.dumps(suite)).tasks("train")[7] == "errands/train/7"


def test_critical_steps_are_the_stages_and_the_longest_work_in_each():
    """The example of SEEDS: three stages, with sub-agents of 3, 5, 2 turns, none, and 4, 4."""
    stages = [Delegation(("a", "b", "c"), (3, 5, 2)), NO_DELEGATION, Delegation(("a", "b"), (4, 4))]
    assert sum(stage.cost for stage in stages) == 12
    assert sum(stage.total for stage in stages) == 21


def test_sub_agents_do_all_at_once_what_one_does_in_turn():
    task = find_task("free")
    sent, alone = (play_expert(task, ErrandsSuite(budget=200, spawn=spawn)) for spawn in (1.0, 0.0))
    assert sent[-1].success and alone[-1].success
    assert sum(s.reward for s in sent) == sum(s.reward for s in alone) == 1.0
    stage = sent[0].delegation
    assert stage.claimed == stage.verified == len(stage.agents) == 4
    assert len(sent) == 2 and sent[-1].terminated
    assert sum(s.delegation.cost for s in sent) < sum(s.delegation.cost for s in alone) / 2


def test_the_order_of_the_calls_changes_nothing():
    """Noisy sub-agents too: what each draws follows from episode, stage and name."""
    suite, task = ErrandsSuite(budget=60, sub_noise=0.5), find_task("free")
    create = " ".join(f"create[{name} | helper]" for name in ("ann", "bob", "cid"))
    sends = ["assign[ann | 1]", "assign[bob | 2]", "assign[cid | 3]"]
    found = [play(task, [create, " ".join(order)], suite)[1] for order in (sends, sends[::-1])]
    assert found[0] == found[1] and max(found[0].delegation.turns) > 1
    others = play(task, [create.replace("ann", "eve"), "assign[eve | 1]"], suite)[1]
    assert others.delegation.turns != found[0].delegation.turns[:1], "another name, other noise"


def test_what_waits_for_an_errand_appears_when_that_is_done():
    task = find_task("ordered")
    second = next(e for e in SUITE.get_task(task).errands if e.after)
    first = second.after
    create = "create[ann | helper]"
    _, early = play(task, [create, f"assign[ann | {second.room}]"])
    assert early.delegation.claimed == early.delegation.verified == 0
    assert "ann gave up" in early.observation.text
    actions = [create, *(f"assign[ann | {room}]" for room in (first, second.room))]
    env, late = play(task, actions)
    assert late.delegation.verified == 1 and late.milestone and not late.success
    outcome = env.score(Ending.TRUNCATED)
    assert outcome is not None and outcome.score == 0.5


def test_a_claim_is_not_what_the_world_finds():
    """A sub-agent that was told something else does that, and says it is done."""
    task = find_task("free")
    errand = SUITE.get_task(task).errands[0]
    thing = "mug" if "mug" not in errand.sentence else "plate"
    wrong = f"create[ann | helper] assign[ann | room 1: put a {thing} in fridge.]"
    _, step = play(task, [wrong])
    assert step.delegation.claimed == 1 and step.delegation.verified == 0 and step.reward == 0
    _, again = play(task, [SEND_ALL, "assign[ann | 1]"])
    assert again.delegation.verified == 0 and again.reward == 0, "done before: nothing is paid"
    for words in ("fly to the moon.", "put a mug in lighthouse."):
        _, step = play(task, [f"create[ann | helper] assign[ann | room 1: {words}]"])
        assert step.delegation.claimed == 0 and "ann gave up errand 1" in step.observation.text


@pytest.mark.parametrize(
    ("action", "refused"),
    [
        ("", 1), ("no call at all", 1), ("assign[ann | 1]", 1), ("act[9 | look]", 1),
        ("act[x | look]", 1), ("create[ann | helper] create[ann | helper]", 1),
        ("create[ann | helper] assign[ann | 1] assign[ann | 2]", 1),
        ("create[a b | helper] and more", 2), ("act[1 | look] act[2 | look]", 2),
        ("create[ann | h] create[bob | h] assign[ann | 1] assign[bob | 1]", 1),
        ("create[ann | helper]; assign[ann | seven]", 1), ("[1, 2", 1), ("[1]", 1),
        ('{"name": "create", "arguments": {"name": "ann"}}', 1),
        ('[{"name": "create", "arguments": {"name": "ann", "role": "helper"}}]', 0),
        ("create[ann | helper]; finish[done]", 0),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_and_counted(action, refused):
    task = find_task("free")
    _, step = play(task, [action])
    assert step.delegation.refused == refused
    assert step.delegation.cost >= 1 and step.terminated == ("finish" in action)
    assert len(read_calls(action)[1]) <= refused


def test_an_errand_is_a_number_or_words_for_a_room():
    assert read_errand(" 2 ") == (2, None)
    assert read_errand("Room 3: put a mug in shelf.") == (3, "put a mug in shelf.")
    assert read_errand("the kitchen") is None


def test_the_budget_cuts_and_nobody_works_beyond_it():
    suite, task = ErrandsSuite(budget=10, sub_noise=1.0), find_task("free")
    _, step = play(task, [SEND_ALL], suite)
    assert step.truncated and not step.terminated and step.delegation.cost == 10
    assert set(step.delegation.turns) == {9} and step.delegation.claimed == 0
    assert step.score == 0.0 and "Left: 0." in step.observation.text
    patient = ErrandsSuite(budget=200, sub_noise=1.0, sub_turns=3)
    assert set(play(task, [SEND_ALL], patient)[1].delegation.turns) == {3}, "one that never ends"


def test_a_sub_agent_goes_on_from_what_was_left_in_the_room():
    """What the one before held is in hand: the next one puts it where it belongs."""
    suite = ErrandsSuite(budget=200, sub_turns=1, task_types=("pick_and_place_simple",))
    task = find_task("free", suite)
    step = play(task, ["create[ann | helper]", *["assign[ann | 1]"] * 30], suite)[1]
    assert "1" not in step.observation.text.split("Undone: ")[1].split(". Left")[0]


def test_a_single_errand_is_done_without_sub_agents():
    steps = play_expert("errands/single/0", SUITE)
    assert steps[-1].success and all(step.delegation.cost == 1 for step in steps)


def test_a_budget_that_no_plan_can_meet_is_refused():
    with pytest.raises(SuiteError, match=r"budget is 3 critical steps; expected at least \d+"):
        make_suite("errands", budget=3)
    with pytest.raises(SuiteError, match="errands is 0; expected 1 to 8"):
        make_suite("errands", errands=0)


def test_the_baselines_say_what_plans_come_to():
    lines = (SUITE.report_baselines("seen", max_turns=60, episodes=2) or "").splitlines()
    assert lines[1].startswith("alone") and "success 100.0%" in lines[2]
    assert lines[3].endswith(
        "budget of 60 critical steps some plan does all errands in 2 of these 2 tasks"
    )
