"""The desk: an expert that scores 1, an idle agent that does not, every criterion broken once."""

import json

import pytest

from hiperjax.envs.base import Step
from hiperjax.envs.calls import Call, CallError, read_call, write_call
from hiperjax.envs.checks import check_suite
from hiperjax.envs.desk.records import PROMOTIONS, RETURNS, generate_records
from hiperjax.envs.desk.suite import DeskEnv, DeskSuite, Session
from hiperjax.envs.desk.tasks import HELD_OUT, SPLITS
from hiperjax.envs.desk.tools import REPLY, TOOLS
from hiperjax.envs.registry import SuiteError, make_suite
from hiperjax.types import Ending, Tool

SUITE = DeskSuite()


def find_task(kind: str, wanted: str | None = None, split: str = "train") -> str:
    """A task of a kind, of that answer if one is named."""
    for task in SUITE.tasks(split):
        if SUITE.task_type(task) == kind:
            answers = [request.answer for request in SUITE.get_task(task).requests]
            if wanted is None or wanted in answers:
                return task
    raise LookupError(kind)


def solve(session: Session) -> list[Call]:
    """The calls that a task wants, in order."""
    return [
        call
        for request in session.task.requests
        for call in (*request.reads, *request.writes, Call(REPLY, {"text": request.answer}))
    ]


def play(task: str, calls: list[Call]) -> Session:
    session = Session(SUITE.get_task(task))
    for call in calls:
        session.call(call)
    return session


@pytest.mark.parametrize("size", ["tiny", "full"])
def test_the_desk_keeps_the_contract(size):
    check_suite(make_suite("desk", size=size), fresh_process=size == "tiny")


@pytest.mark.parametrize("split", SPLITS)
def test_the_expert_scores_one_and_an_idle_agent_less_than_half(split):
    suite = make_suite("desk", form="json")
    kinds = SPLITS[split][0]
    for task in suite.tasks(split)[: len(kinds)]:
        env, expert = suite.make_env(), suite.make_expert(seed=0)
        seen = env.reset(task)
        expert.reset(seen)
        step: Step | None = None
        while step is None or not step.terminated:
            action = expert.decide(seen).action
            assert action.startswith("{") and suite.is_admissible(action, seen)
            step = env.step(action)
            seen = step.observation
        assert step.success and step.score == step.reward == 1.0, task
        assert env.score(Ending.TERMINATED) is None
        idle = play(task, [Call(REPLY, {"text": "hello"})])
        assert idle.score < 0.5 and not idle.is_done


def break_criterion(session: Session, name: str) -> list[Call]:
    """The calls that a task wants, but for one criterion of its first request."""
    calls, request = solve(session), session.task.requests[0]
    reply = next(i for i, call in enumerate(calls) if call.name == REPLY)
    if name == "answered":
        wrong = " ".join((request.answer, sorted(request.wrong)[0]))
        calls[reply] = Call(REPLY, {"text": wrong})
    elif name == "nothing else":
        calls.insert(reply, Call("update_ticket", {"ticket": "3", "status": "lost"}))
    elif name == "no repeats":
        calls.insert(0, calls[0])
    elif name == "done":
        calls = [call for call in calls if call not in request.writes]
    else:
        calls = [call for call in calls if call.name != name]
    return calls


def test_every_criterion_can_be_broken_by_itself():
    """Of each kind of task, each criterion of the first request; what depends on it pays not."""
    for task in SUITE.tasks("train")[:8]:
        session = Session(SUITE.get_task(task))
        names = {item.name for item in session.task.checklist.items}
        assert play(task, solve(session)).satisfied == names
        for name in names:
            broken = play(task, break_criterion(session, name.partition(" ")[2]))
            assert names - broken.satisfied == {name}, (task, name)
            gate = name.endswith("nothing else")
            assert broken.score == 0 if gate else 0 < broken.score < 1


def test_a_forbidden_change_costs_all_and_a_wrong_return_is_one():
    task = find_task("refund", "refused")
    order = SUITE.get_task(task).requests[0].reads[0].arguments["order"]
    calls = solve(Session(SUITE.get_task(task)))
    rash = [*calls[:-1], Call("process_return", {"order": order}), calls[-1]]
    assert play(task, rash).score == 0.0
    plain = DeskSuite(pay="criteria")
    assert plain.pay(play(task, rash)) > 0.5 and SUITE.pay(play(task, rash)) == 0.0
    assert DeskSuite(pay="success").pay(play(task, calls)) == 1.0


def test_the_next_request_comes_only_after_a_good_reply():
    task = find_task("status+stock")
    session = Session(SUITE.get_task(task))
    calls = solve(session)
    assert session.call(calls[0]).startswith("Order")
    assert session.call(calls[1]).startswith("The customer asks: Do you have product")
    assert session.request == 1 and not session.over
    failed = play(task, [calls[0], Call(REPLY, {"text": "I do not know"})])
    assert failed.over and failed.request == 0
    assert {name.partition(" ")[0] for name in failed.satisfied} == {"1"}


def test_a_customer_left_waiting_is_scored():
    env = DeskEnv(SUITE)
    task = find_task("fix+stock")
    env.reset(task)
    calls = solve(Session(SUITE.get_task(task)))
    for call in calls[:3]:
        env.step(write_call(call, "compact"))
    outcome = env.score(Ending.TRUNCATED)
    assert outcome is not None and outcome.score == 0.0, "a gate is open until the last reply"
    assert DeskSuite(pay="criteria").pay(play(task, calls[:3])) == pytest.approx(0.5)


def test_episodes_leave_the_records_alone():
    task = find_task("discount")
    first = play(task, solve(Session(SUITE.get_task(task))))
    assert first.copy.changes
    assert Session(SUITE.get_task(task)).copy.changes == {}
    assert Session(SUITE.get_task(task)).task.records is first.task.records
    entry = [entry for entry in first.log if entry.changed]
    assert [e.tool for e in entry] == ["apply_promotion"]
    assert json.loads(json.dumps(first.state()))["satisfied"] == sorted(first.satisfied)


def test_answers_follow_from_the_records():
    """The procedures against the tables, read independently."""
    for task in SUITE.tasks("unseen")[:60]:
        made = SUITE.get_task(task)
        tables = made.records.tables
        for request in made.requests:
            if request.kind in ("status", "refund"):
                order = tables["orders"][request.reads[0].arguments["order"]]
                if request.kind == "status":
                    assert request.answer == order["status"]
                    continue
                tier = tables["customers"][order["customer"]]["tier"]
                kept = order["days"] <= tables["policies"][RETURNS][tier]
                accepted = kept and order["status"] == "delivered"
                assert request.answer == ("accepted" if accepted else "refused")
                assert bool(request.wanted) == accepted
            elif request.kind == "cheapest":
                left = {n: r for n, r in tables["products"].items() if r["stock"]}
                kind = tables["products"][request.answer]["kind"]
                own = [r["price"] for r in left.values() if r["kind"] == kind]
                assert tables["products"][request.answer]["price"] == min(own)
            elif request.kind == "discount":
                assert request.answer in tables["policies"][PROMOTIONS].values()


def test_shops_and_kinds_of_tasks_are_held_out():
    sizes = {s: sum(map(len, generate_records(1, s).tables.values())) for s in ("tiny", "full")}
    assert 25 <= sizes["tiny"] <= 60 and 120 <= sizes["full"] <= 220
    seen = {SUITE.task_type(task) for task in SUITE.tasks("train")[:200]}
    assert not seen & set(HELD_OUT) and len(seen) == len(SPLITS["train"][0])
    shops = [{id(SUITE.get_task(t).records) for t in SUITE.tasks(s)[:50]} for s in SPLITS]
    assert not shops[0] & shops[1] and not shops[1] & shops[2]
    with pytest.raises(SuiteError, match="kinds"):
        make_suite("desk", kinds=("status", "coffee"))


@pytest.mark.parametrize(
    ("action", "complaint"),
    [
        ("hello", "no call: 'hello'"),
        ("fly[moon]", "no tool 'fly'; expected one of search_customers"),
        ("get_order[]", "'order' is a required property"),
        ("get_order[1 | 2]", "get_order takes 1 arguments; found 2"),
        ('{"name": "get_order"', "no JSON"),
        ('{"name": 3}', "expected"),
        ('{"name": "get_order", "arguments": {"order": 4}}', "order: 4 is not of type 'string'"),
        ('{"name": "get_order", "arguments": {"order": "4", "x": "y"}}', "Additional properties"),
    ],
)
def test_a_bad_call_is_answered_by_a_text(action, complaint):
    with pytest.raises(CallError) as error:
        read_call(action, TOOLS)
    assert complaint in str(error.value)
    env = DeskEnv(SUITE)
    seen = env.reset(find_task("status"))
    assert not SUITE.is_admissible(action, seen)
    step = env.step(action)
    assert step.observation.text == f"Error: {error.value}" and not step.satisfied
    assert env.session is not None and env.session.log == []


def test_calls_are_read_as_they_are_written():
    call = Call("update_ticket", {"ticket": "2", "status": "solved"})
    assert write_call(call, "compact") == "update_ticket[2 | solved]"
    for form in ("compact", "json"):
        assert read_call(write_call(call, form), TOOLS) == call
    counter = Tool("count", "", {"type": "object", "properties": {"n": {"type": "integer"}}})
    assert read_call("count[3]", [counter]).arguments == {"n": 3}
    with pytest.raises(CallError, match="'x' is not of type 'integer'"):
        read_call("count[x]", [counter])
    with pytest.raises(CallError, match="has no valid schema"):
        read_call("odd[]", [Tool("odd", "", {"type": "banana"})])
