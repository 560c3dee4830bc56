"""`check_suite` accepts every suite of ours, and names what is wrong with broken ones."""

import itertools
import pathlib
from typing import Any

import pytest
from helpers.alfworld_games import write_file

from hiperjax.cli import main
from hiperjax.config import EnvConfig, RunConfig
from hiperjax.envs.base import Decision, Expert
from hiperjax.envs.checks import CheckFailed, check_suite
from hiperjax.envs.ladder import RUNGS, SCRIPTS, LadderEnv, LadderExpert, LadderSuite
from hiperjax.envs.registry import make_suite
from hiperjax.training.suites import build_suite
from hiperjax.types import Observation

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name", [f"ladder/{rung}" for rung in RUNGS])
def test_the_rungs_keep_the_contract(name):
    check_suite(make_suite(name), fresh_process=False)


@pytest.mark.parametrize(
    ("name", "options"),
    [("household", {}), ("household", {"size": "small"}), ("webshop", {"size": "tiny"})],
)
def test_the_worlds_keep_the_contract(name, options):
    check_suite(make_suite(name, **options), tasks=2, fresh_process=name == "webshop")


def test_official_games_keep_the_contract(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for split in ("train", "valid_seen"):
        place = "pick_and_place_simple-Apple-None-Fridge-1"
        write_file(tmp_path / "json_2.1.1" / split / place / "trial_0")
    check_suite(make_suite("alfworld", games=tmp_path), fresh_process=False)


class BrokenEnv(LadderEnv):
    fault = ""

    def reset(self, task_id: str) -> Observation:
        if self.fault == "any task":
            task_id = "red"
        return super().reset(task_id)

    def step(self, action: str) -> Any:
        if self.fault == "strict" and action not in ("press red", "press blue", "wait"):
            raise ValueError("what?")
        step = super().step(action)
        if self.fault == "random":
            return step._replace(reward=next(COUNTER))
        if self.fault == "reward":
            return step._replace(reward=None)
        if self.fault == "milestone":
            return step._replace(milestone=True)
        return step


COUNTER = itertools.count()


class Idle(Expert):
    def reset(self, observation: Observation) -> None: ...

    def decide(self, observation: Observation) -> Decision:
        return Decision(True, "rest", "wait" if "wait" in observation.admissible else "rest")


class BrokenSuite(LadderSuite):
    def __init__(self, fault: str) -> None:
        super().__init__("action", SCRIPTS["action"])
        self.fault = fault
        if fault == "no train":
            self.splits = ("test",)

    def tasks(self, split: str) -> tuple[str, ...]:
        if self.fault == "no train" or (self.fault == "any split" and split != "train"):
            split = "train"
        if split not in ("train",):
            raise KeyError(split)
        tasks = ["red", "blue"]
        if self.fault == "shuffled":
            tasks = [f"red{next(COUNTER)}"]
        return ("red", "red") if self.fault == "twice" else tuple(tasks)

    def make_env(self) -> LadderEnv:
        env = BrokenEnv(self._rung, self._scripts)
        env.fault = self.fault
        return env

    def make_expert(self, seed: int, noise: float = 0.0) -> Any:
        return Idle() if self.fault == "idle" else LadderExpert(seed, noise)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("no train", r"splits: found \('test',\); expected train among them"),
        ("twice", r"task ids: found \['red', 'red'\]; expected no id twice"),
        ("shuffled", "task ids asked for again"),
        ("any split", r"tasks\('no such split'\): found 'no error'; expected a KeyError"),
        ("any task", r"reset\('no such task'\): found 'no error'; expected a KeyError"),
        ("random", "turn 1, played again: found Step"),
        ("reward", "task red, turn 1: reward is None"),
        ("milestone", "turn 1, milestone: found True; expected False"),
        ("strict", r"step\('no world understands this command'\): found 'ValueError: what\?'"),
        ("idle", "turn 1, expert, action: found 'rest'; expected an admissible one"),
    ],
)
def test_what_is_broken_is_named(fault, message):
    with pytest.raises(CheckFailed, match=message):
        check_suite(BrokenSuite(fault), fresh_process=False)


def test_the_world_of_the_docs_is_installed_checked_and_played(tmp_path, monkeypatch, capsys):
    """The code of docs/environments.md as a package of its own, found by its entry point."""
    text = (ROOT / "docs" / "environments.md").read_text(encoding="utf-8")
    code = text.split("```python\n")[1].split("```")[0]
    (tmp_path / "tea_world.py").write_text(code, encoding="utf-8")
    record = tmp_path / "tea_world-1.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: tea-world\nVersion: 1\n")
    entry = text.split("```toml\n[project.entry-points.")[1].split("```")[0]
    group, _, line = entry.partition("]\n")
    (record / "entry_points.txt").write_text(
        f"[{group.strip(chr(34))}]\n{line.replace(chr(34), '')}", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(tmp_path)
    check_suite(make_suite("tea"))
    with pytest.raises(SystemExit) as ended:
        main(["play", "tea", "--expert", "--delay", "0", "--options", "cups=3"])
    assert ended.value.code == 0 and "Solved after 3 turns." in capsys.readouterr().out
    env = EnvConfig(suite="tea", options=("cups=4",))
    assert build_suite(RunConfig(env=env), new=True).max_turns == 6
