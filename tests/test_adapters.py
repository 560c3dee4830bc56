"""Other people's worlds: one episode through every door, and what they do wrong."""

import json
import re
import sys
import threading
import types

import pytest

from hiperjax.envs import adapt
from hiperjax.envs.adapters.gem import GemWorld
from hiperjax.envs.adapters.mcp import McpWorld, ServerGone
from hiperjax.envs.adapters.openenv import OpenEnvError, OpenEnvWorld, start_server
from hiperjax.envs.adapters.skyrl import SkyRLWorld
from hiperjax.envs.adapters.tau2 import TauWorld
from hiperjax.envs.adapters.trl import TrlWorld
from hiperjax.envs.adapters.world import AdaptedSuite
from hiperjax.envs.border import BorderError, CheckedEnv
from hiperjax.envs.checks import check_suite
from hiperjax.envs.desk.suite import DeskSuite
from hiperjax.envs.desk.world import DeskWorld
from hiperjax.envs.registry import SuiteError, make_suite
from hiperjax.envs.workers import EnvFailure, make_workers
from hiperjax.types import Ending

TASKS = ("desk-tiny/train/9", "desk-tiny/train/6", "desk-tiny/unseen/3")
SERVER = (sys.executable, "-m", "hiperjax.envs.desk.world")
DESK = DeskSuite()


def list_actions(task: str) -> list[str]:
    """What the expert does there, and a call that is none on the way."""
    env, expert = CheckedEnv(DESK), DESK.make_expert(0)
    seen = env.reset(task)
    expert.reset(seen)
    actions = []
    while True:
        actions.append(expert.decide(seen).action)
        step = env.step(actions[-1])
        seen = step.observation
        if step.terminated:
            return [actions[0], "get_order[]", *actions[1:]]


def transcribe(suite, task: str) -> str:
    """An episode's observations, requests, rewards and end, as JSON."""
    env = CheckedEnv(suite)
    seen = env.reset(task)
    lines = [[seen.text, seen.task, seen.request, [t.name for t in seen.tools]]]
    for action in list_actions(task):
        step = env.step(action)
        seen = step.observation
        lines.append(
            [action, seen.text, seen.task, seen.request, step.reward, step.terminated,
             step.success, sorted(step.satisfied), [t.name for t in seen.tools]]
        )  # fmt: skip
    env.close()
    return json.dumps(lines)


def adapt_desk(factory, **row) -> AdaptedSuite:
    """A suite of the desk's tasks through some door."""
    rows = [{"id": task} | {key: make(task) for key, make in row.items()} for task in TASKS]
    return adapt(
        factory, {"train": rows}, name="door", role=DESK.role, max_turns=16, actions="tools"
    )


@pytest.mark.parametrize("task", TASKS)
def test_one_episode_comes_out_the_same_through_four_doors(task):
    direct = transcribe(DESK, task)
    assert transcribe(adapt_desk(DeskWorld), task) == direct
    served = adapt_desk(
        lambda: McpWorld(SERVER), arguments=lambda task: ["--task", task],
        prompt=lambda task: DESK.get_task(task).requests[0].text,
        setup=lambda task: [],
    )  # fmt: skip
    opened = json.loads(transcribe(served, task))
    expected = json.loads(direct)
    expected[0][0] = expected[0][1]  # a server has no first observation: its task is the prompt
    assert opened == expected
    server = start_server(DeskWorld)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        port = server.socket.getsockname()[1]
        wired = adapt_desk(lambda: OpenEnvWorld(f"ws://127.0.0.1:{port}/ws"))
        assert transcribe(wired, task) == direct
    finally:
        server.shutdown()
        thread.join()


class Echo:
    """A world of text: says what it hears, pays at "yes"."""

    def reset(self, *, seed=None, options=None):
        return [{"role": "user", "content": f"seed {seed % 7}"}], {"admissible": ("yes", "no")}

    def step(self, action):
        return f"You say {action}.", float(action == "yes"), action == "yes", False, {}


class Scored(Echo):
    """Never pays by steps, and says at the end what it was worth."""

    def step(self, action):
        return "Go on.", 0, False, False, {"satisfied": {"heard": True, "done": False}}

    def score(self):
        return {"score": 0.75, "criteria": {"heard": True, "done": False}}


class Shifty(DeskWorld):
    """Its tools change in mid-episode, and one is named like a method."""

    def list_tools(self):
        rows = super().list_tools()
        count = len(self._session.log)
        return [rows, rows[1:3], [{"name": "close"}]][min(count, 2)]


def test_a_world_of_text_keeps_the_contract():
    suite = adapt(
        Echo, {"train": ["a", "b"], "unseen": ["c"]}, name="echo", role="You talk.",
        max_turns=4, actions="listed",
    )  # fmt: skip
    check_suite(suite, fresh_process=False)
    env = CheckedEnv(suite)
    first = env.reset("a")
    assert first.text.startswith("user: seed ") and first.admissible == ("yes", "no")
    assert first == CheckedEnv(suite).reset("a"), "the seed follows from the task"
    step = env.step("yes")
    assert step.success and step.terminated and step.reward == 1.0
    assert env.score(Ending.TERMINATED) is None
    with pytest.raises(ValueError, match="expected train among them"):
        adapt(Echo, {"test": ["a"]}, name="echo", role="You talk.", max_turns=4)
    with pytest.raises(NotImplementedError, match="no scripted expert"):
        suite.make_expert(0)


def test_a_score_at_the_end_is_paid_where_no_step_was():
    suite = adapt(Scored, {"train": ["a"]}, name="scored", role="You talk.", max_turns=2)
    env = CheckedEnv(suite)
    env.reset("a")
    assert env.step("x").satisfied == {"heard"}
    outcome = env.score(Ending.TRUNCATED)
    assert outcome is not None and (outcome.score, outcome.reward) == (0.75, 0.75)
    assert outcome.satisfied == {"heard"} and outcome.success is False


def test_tools_that_change_are_shown_as_they_are_and_reserved_names_refused():
    suite = adapt_desk(Shifty)
    env = CheckedEnv(suite)
    seen = env.reset(TASKS[0])
    assert len(seen.tools) == 11
    seen = env.step("get_order[1]").observation
    assert [tool.name for tool in seen.tools] == ["get_order", "search_products"]
    refused = env.step("check_stock[p1]").observation
    assert refused.text.startswith("Error: no tool 'check_stock'; expected one of get_order")
    with pytest.raises(BorderError, match="a tool is called 'close', which is a method"):
        env.step("get_order[2]")


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (("text", 1.0, True, False), "step is .*expected 5 values"),
        (("text", 1.0, True, False, None), "info is None"),
        ((3, 1.0, True, False, {}), "the observation is 3; expected a text"),
        (([{"role": "x"}], 1.0, True, False, {}), "expected a text, or messages"),
        (("text", 1.0, "yes", False, {}), "terminated is 'yes'"),
    ],
)
def test_what_breaks_the_contract_costs_its_episode(answer, complaint):
    class Bad(Echo):
        def step(self, action):
            return answer

    suite = adapt(Bad, {"train": ["a"]}, name="bad", role="You talk.", max_turns=2)
    workers = make_workers(suite)
    workers.reset([0], ["a"])
    (failed,) = workers.step([0], ["x"])
    assert isinstance(failed, EnvFailure)
    assert re.search(complaint, failed.error), failed.error


@pytest.mark.parametrize(
    ("program", "timeout", "complaint"),
    [
        ("import sys; sys.exit(3)", 60.0, "ended"),
        ("print('hello', flush=True); input(); input()", 60.0, "said b'hello\\n', no JSON"),
        ("import time; time.sleep(9)", 0.3, "no answer within 0.3 s"),
        ('print(\'{"id": 1, "error": {"message": "full"}}\')', 60.0, "initialize: full"),
    ],
)
def test_a_server_that_goes_away_is_an_error_of_one_line(program, timeout, complaint):
    world = McpWorld((sys.executable, "-c", program), timeout=timeout)
    with pytest.raises(ServerGone) as error:
        world.reset(options={"task": {"prompt": "Do."}})
    said = str(error.value)
    assert complaint in said
    world.close()


def test_an_address_where_nobody_listens_is_an_error():
    with pytest.raises(OpenEnvError, match=r"127\.0\.0\.1:9"):
        OpenEnvWorld("ws://127.0.0.1:9/ws", timeout=1.0).reset()


def test_tasks_of_servers_come_from_a_file(tmp_path):
    path = tmp_path / "tasks.jsonl"
    criterion = {"name": "told", "question": "Was it told?", "weight": 1.0}
    rows = [{"id": "a", "prompt": "Do.", "criteria": [criterion]},
            {"id": "b", "prompt": "Go.", "split": "unseen"}]  # fmt: skip
    path.write_text("\n".join(map(json.dumps, rows)))
    suite = make_suite("mcp", command=f"{sys.executable} -m x", tasks=path)
    assert suite.splits == ("train", "unseen") and suite.checklist("b") is None
    checklist = suite.checklist("a")
    assert checklist is not None and checklist.items[0].name == "told"
    assert make_suite("openenv", url="ws://x/ws", tasks=path).tasks("unseen") == ("b",)
    path.write_text('{"id": "a"}')
    for options in (
        {"command": "x", "tasks": path}, {"command": "", "tasks": path}, {"command": "x"},
    ):  # fmt: skip
        with pytest.raises(SuiteError, match="suite mcp: "):
            make_suite("mcp", **options)
    with pytest.raises(SuiteError, match="option id is 'Nothing-v0'"):
        make_suite("gymnasium", id="Nothing-v0")
    with pytest.raises(SuiteError, match="No module named 'nowhere_at_all'"):
        make_suite("gymnasium", id="nowhere_at_all:Game-v0")


def test_a_gymnasium_environment_is_found_in_the_module_its_id_names():
    suite = make_suite("gymnasium", id="hiperjax.envs.gym:hiperjax/household-tiny-v0", tasks=2)
    assert suite.name == "gymnasium-household-tiny-v0"
    check_suite(suite, fresh_process=False)


class SkyRL:
    """Speaks SkyRL-Gym's methods."""

    def init(self, prompt):
        return prompt, {}

    def step(self, action):
        message = {"role": "user", "content": f"heard {action}"}
        return {"observations": [message], "reward": 1.0, "done": True, "metadata": {"n": 1}}

    def close(self):
        """Nothing."""


class Tau:
    """Speaks the methods of tau2-bench's AgentGymEnv."""

    def __init__(self, task):
        self.task = task

    def reset(self, seed=None):
        schema = {"type": "object", "properties": {"order": {"type": "string"}}}
        function = {"name": "get_order", "description": "Show.", "parameters": schema}
        return "hello", {
            "tools": [{"type": "function", "function": function}],
            "policy": "Be kind.",
        }

    def step(self, action):
        call = json.loads(action)
        return call["name"], 1.0, True, False, {}

    def close(self):
        """Nothing."""


class Trl:
    """Speaks TRL's: typed methods are tools."""

    def reset(self, prompt="", **columns):
        self.total = 0
        return None

    def add(self, number: int, times: int = 1) -> str:
        """Add a number.

        Args: number.
        """
        self.total += number * times
        return str(self.total)

    def get_reward(self) -> float:
        return float(self.total == 5)


class Gem:
    """Speaks GEM's."""

    def reset(self, seed=None):
        return f"seed {seed}", {}

    def step(self, action):
        return "done", 1, True, False, {}


def test_shims_speak_other_forms(monkeypatch):
    skyrl = adapt(
        lambda: SkyRLWorld(lambda task: SkyRL()),
        {"train": [{"prompt": [{"role": "user", "content": "Hi."}]}]},
        name="skyrl", role="You talk.", max_turns=3,
    )  # fmt: skip
    env = CheckedEnv(skyrl)
    assert env.reset("train/0").text == "user: Hi."
    assert env.step("x").observation.text == "user: heard x"
    tau = adapt(
        lambda: TauWorld(Tau), {"train": [{"task_id": "7"}]}, name="tau", role="You help.",
        max_turns=3, actions="tools",
    )  # fmt: skip
    env = CheckedEnv(tau)
    seen = env.reset("train/0")
    assert seen.task == "Be kind." and seen.tools[0].name == "get_order"
    assert env.step('{"name": "get_order", "arguments": {"order": "1"}}').success
    trl = adapt(
        lambda: TrlWorld(Trl), {"train": [{"prompt": "Make 5."}]}, name="trl", role="You add.",
        max_turns=5, actions="tools",
    )  # fmt: skip
    env = CheckedEnv(trl)
    seen = env.reset("train/0")
    assert seen.text == "Make 5." and [t.name for t in seen.tools] == ["add", "answer"]
    assert seen.tools[0].schema["required"] == ["number"]
    assert env.step("add[5]").observation.text == "5"
    assert env.step("add[x]").observation.text.startswith("Error: add, number: 'x' is not")
    assert env.step("answer[five]").reward == 1.0
    module = types.SimpleNamespace(make=lambda name, **kwargs: Gem())
    monkeypatch.setitem(sys.modules, "gem", module)
    gem = adapt(
        lambda: GemWorld("game:X"), {"train": ["a"]}, name="gem", role="You play.", max_turns=3
    )
    env = CheckedEnv(gem)
    assert env.reset("a").text.startswith("seed ") and env.step("x").terminated
