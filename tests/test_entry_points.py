"""A world, an estimator and a prompt format of somebody else's package: checked, trained, refused.

The package is made outside the repository and found as an installed one is, through its metadata.
One process does it all, since starting one is most of the time.
"""

import importlib.metadata
import json
import os
import pathlib
import subprocess
import sys

import pytest

from hiperjax.entry_points import EntryPointError, list_names, load_all

ROOT = pathlib.Path(__file__).parents[1]
WORLD = '''
import dataclasses

from hiperjax.envs.base import Decision, Expert, Step, Suite, TextEnv
from hiperjax.types import Observation

LAMPS = ("red", "green", "blue")


@dataclasses.dataclass(frozen=True)
class LampOptions:
    lit: int = 1
    """how often the lamp is to be pressed"""


class LampEnv(TextEnv):
    def __init__(self, lit):
        self.lit = lit

    def reset(self, task_id):
        if task_id not in LAMPS:
            raise KeyError(f"lamp {task_id!r}: expected one of {LAMPS}")
        self.lamp, self.pressed, self.ended = task_id, 0, False
        return self.look("Three lamps are dark.")

    def look(self, text):
        presses = tuple(f"press {lamp}" for lamp in LAMPS)
        return Observation(text, f"Press {self.lamp} {self.lit} times.", presses)

    def step(self, action):
        self.pressed += action == f"press {self.lamp}" and not self.ended
        won = self.pressed == self.lit
        self.ended = self.ended or won
        return Step(self.look(f"{self.pressed} so far."), float(won), won, False, success=won)


class LampExpert(Expert):
    def reset(self, observation):
        self.started = False

    def decide(self, observation):
        lamp = observation.task.split()[1]
        switch, self.started = not self.started, True
        return Decision(switch, f"light {lamp}", f"press {lamp}")


class LampSuite(Suite):
    Options = LampOptions
    name, role = "outside", "You light lamps."
    splits, max_turns = ("train",), 3

    def __init__(self, **options):
        self.options = LampOptions(**options)

    def tasks(self, split):
        if split not in self.splits:
            raise KeyError(f"split {split!r}: expected one of {self.splits}")
        return LAMPS

    def task_type(self, task_id):
        return "press"

    def make_env(self):
        return LampEnv(self.options.lit)

    def make_expert(self, seed, noise=0.0):
        return LampExpert()
'''
CREDIT = '''
import jax.numpy as jnp

from hiperjax.learning.credit.group import uniform_credit
from hiperjax.learning.credit.types import Estimator


def credit(inputs, options):
    """The reward of the turn and nothing after it. Options: none."""
    return uniform_credit(jnp.where(inputs.mask, inputs.reward, 0), inputs)


OUTSIDE = Estimator("outside", credit, causal=True)
'''
PROMPTS = """
import dataclasses

from hiperjax.acting.renderers import list_changes, list_shown
from hiperjax.types import PromptHints


@dataclasses.dataclass(frozen=True)
class OutsideRenderer:
    role: str
    history_length: int
    hints: PromptHints
    separator: str = ""
    phrases: tuple[str, ...] = ()

    @property
    def prefix(self):
        return f"{self.role} outside: "

    def open(self, observation, past, subgoal):
        shown = ", ".join(list_shown(observation.admissible, self.hints.unlisted))
        return f"{observation.task} {observation.text} so {subgoal or 'none'} can {shown}"

    def extend(self, observation, opening, subgoal):
        new, gone = list_changes(observation, opening)
        return f"{observation.text} so {subgoal} can {new} not {gone}"

    def render_action(self, action):
        return action

    def render_subgoal(self, subgoal):
        return subgoal

    def restore_action(self, action, admissible):
        return action
"""
ENTRY_POINTS = """
[hiperjax.suites]
outside = outside_package.world:LampSuite

[hiperjax.estimators]
outside = outside_package.credit:OUTSIDE

[hiperjax.renderers]
outside = outside_package.prompts:OutsideRenderer
"""
SMALL = (
    "--model.hidden-size 16 --model.intermediate-size 24 --model.num-layers 1 --model.num-heads 2 "
    "--model.num-kv-heads 1 --rollout.episodes 6 --rollout.slots 4 --imitation.steps 0 "
    "--ppo.minibatch-sequences 16 --critic.random-features 8 --eval.max-tasks 4 --env.max-turns 3 "
    "--checkpoint-every 1 --iterations 2 --env.task-types --eval.splits train --target None "
)
OURS = (
    "--env.suite outside --env.options lit=2 --credit.estimator outside --prompt.style outside "
    "--out run"
)
MISTAKES = {
    "--env.options lit=two": "suite outside: option lit is 'two'; expected a whole number",
    "--env.options dark=1": "suite outside: found option 'dark'; expected one of lit",
    "--env.suite inside": "'inside'",
    "--credit.estimator inside": "credit.estimator is 'inside'; expected one of",
    "--prompt.style inside": "prompt.style is 'inside'; expected one of chat, brief, compact, out",
}
PROGRAM = """
import contextlib, io, json, sys
from hiperjax import cli
from hiperjax.learning.credit.registry import find_estimator
from hiperjax.envs.registry import make_suite
from hiperjax.testing import check_estimator, check_suite

check_suite(make_suite("outside", lit=3), tasks=1)
check_estimator(find_estimator("outside"))
results = []
for command in json.load(sys.stdin):
    error, code = io.StringIO(), 0
    with contextlib.redirect_stderr(error), contextlib.redirect_stdout(sys.stderr):
        try:
            cli.main(command.split())
        except SystemExit as stop:
            code = stop.code
    results.append((code, error.getvalue()))
json.dump(results, sys.stdout)
"""


@pytest.fixture
def site(tmp_path) -> pathlib.Path:
    """A folder as an installer leaves it: a package, and beside it what it says of itself."""
    package, info = tmp_path / "outside_package", tmp_path / "outside_package-1.0.dist-info"
    for folder in (package, info):
        folder.mkdir()
    files = {"__init__.py": "", "world.py": WORLD, "credit.py": CREDIT, "prompts.py": PROMPTS}
    for name, text in files.items():
        (package / name).write_text(text)
    about = "Metadata-Version: 2.1\nName: outside-package\nVersion: 1.0\n"
    (info / "METADATA").write_text(about)
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    return tmp_path


@pytest.mark.slow(reason="a process that imports, checks and trains")
def test_parts_of_another_package_are_checked_trained_and_refused(site):
    commands = [f"train {SMALL} {OURS}"]
    commands += [f"train {SMALL} {OURS}2 {mistake}" for mistake in MISTAKES]
    path = os.pathsep.join(map(str, (site, ROOT, ROOT / "kernels")))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=json.dumps(commands), text=True,
        capture_output=True, cwd=site, env=os.environ | {"PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    (code, error), *refused = json.loads(done.stdout)
    assert code == 0, error
    config = json.loads((site / "run" / "config.json").read_text())
    assert config["env"]["options"] == ["lit=2"] and config["prompt"]["style"] == "outside"
    lines = [json.loads(x) for x in (site / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [0, 1, 2]
    assert lines[2]["episode_length"] >= 2, "no episode is won before its lamp is pressed twice"
    for (code, error), message in zip(refused, MISTAKES.values(), strict=True):
        assert code == 2 and error.count("\n") == 1 and message in error, error
    assert not (site / "run2").exists(), "nothing was begun"


@pytest.mark.parametrize("value", ["no_such_module:thing", "hiperjax.types:no_such_thing"])
def test_a_package_that_cannot_be_imported_is_named_in_one_line(monkeypatch, value):
    point = importlib.metadata.EntryPoint("broken", value, "hiperjax.suites")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: (point,))
    assert list_names("hiperjax.suites") == ("broken",)
    with pytest.raises(EntryPointError, match=f"broken of hiperjax.suites is {value}") as error:
        list(load_all("hiperjax.suites", "broken"))
    assert "\n" not in str(error.value)
