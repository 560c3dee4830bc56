"""Suites by name, ours and other people's."""

import dataclasses
import importlib.metadata
import pathlib
from typing import Any, Literal

import pytest

from hiperjax.config import ConfigError, EnvConfig, RunConfig
from hiperjax.envs.base import Suite
from hiperjax.envs.ladder import LadderSuite, make_ladder_suite
from hiperjax.envs.registry import (
    ENTRY_POINT_GROUP,
    SuiteError,
    list_suites,
    make_suite,
    parse_options,
)
from hiperjax.training.suites import build_suite, read_suite_options


@pytest.mark.parametrize("name", ["household", "webshop", "ladder/subgoal"])
def test_suites_are_made_by_name(name):
    suite = make_suite(name)
    assert isinstance(suite, Suite) and name in list_suites()
    task = suite.tasks(suite.splits[0])[0]
    observation = suite.make_env().reset(task)
    assert observation.admissible and suite.task_type(task)


def test_options_are_the_suites_own():
    assert make_suite("household", size="small").name == "household-small"
    with pytest.raises(
        SuiteError, match=r"suite household: found option 'colour'; expected .*size"
    ):
        make_suite("household", colour="red")


def test_unknown_names_list_the_known_ones():
    for name in ("alfwrld", "ladder/top", ""):
        with pytest.raises(SuiteError, match=rf"{name}.*household.*webshop.*ladder/switch"):
            make_suite(name)


@dataclasses.dataclass(frozen=True)
class ForeignOptions:
    """Options of a world from outside."""

    rung: Literal["action", "switch"] = "action"
    bells: int = 1
    loud: bool = False
    colors: tuple[str, ...] = ()
    folder: pathlib.Path | None = None


class ForeignSuite(LadderSuite):
    Options = ForeignOptions

    def __init__(self, **options: Any) -> None:
        self.given = ForeignOptions(**options)
        if self.given.bells > 9:
            raise IndexError("too many bells")
        super().__init__(self.given.rung, make_ladder_suite(self.given.rung)._scripts)


@pytest.fixture
def installed(monkeypatch):
    """Two suites of other packages: one with an options dataclass, one with keyword arguments."""
    paths = {
        "foreign": f"{__name__}:ForeignSuite",
        "mine": "hiperjax.envs.ladder:make_ladder_suite",
    }
    points = importlib.metadata.EntryPoints(
        importlib.metadata.EntryPoint(name, path, ENTRY_POINT_GROUP) for name, path in paths.items()
    )
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **kw: points.select(**kw))


def test_entry_points_of_other_packages(installed):
    assert {"mine", "foreign"} <= set(list_suites())
    assert make_suite("mine", rung="switch").name == make_ladder_suite("switch").name
    assert parse_options("mine", ["rung=switch"]) == {"rung": "switch"}
    with pytest.raises(SuiteError, match=r"suite mine: .*TypeError|suite mine: .*rung"):
        make_suite("mine")


def test_options_from_the_command_line_have_the_types_of_their_fields(installed):
    given = ["rung=switch", "bells=3", "loud=True", "colors=red,blue", "folder=a/b"]
    env = EnvConfig(suite="foreign", options=tuple(given))
    suite = build_suite(RunConfig(env=env), new=False)
    path = pathlib.Path("a/b")
    assert isinstance(suite, ForeignSuite)
    assert suite.given == ForeignOptions("switch", 3, True, ("red", "blue"), path)
    assert parse_options("foreign", ["folder=none"]) == {"folder": None}
    assert parse_options("household", ["seed=4", "hidden=look,help", "search=none"]) == {
        "seed": 4, "hidden": ("look", "help"), "search": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("bells=two", "option bells is 'two'; expected a whole number"),
        ("loud=maybe", "option loud is 'maybe'; expected true or false"),
        ("rung=top", "option rung is 'top'; expected one of action, switch"),
        ("bell=1", "found option 'bell'; expected one of rung, bells"),
        ("bells", "found option 'bells'; expected KEY=VALUE"),
        ("bells=10", "IndexError: too many bells"),
    ],
)
def test_wrong_options_are_one_line(installed, given, message):
    with pytest.raises(SuiteError, match=message) as caught:
        make_suite("foreign", **parse_options("foreign", [given]))
    assert str(caught.value).startswith("suite foreign: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [dict(task_types=("fetch",)), dict(size="full"), dict(data=pathlib.Path("x")),
     dict(goals="human"), dict(profile="hiper"), dict(games=pathlib.Path("x"))],
)  # fmt: skip
def test_a_field_the_suite_has_no_option_for_is_refused(change):
    (name,) = change
    with pytest.raises(ConfigError, match=rf"env.{name} is .*ladder/action has no such option"):
        read_suite_options(EnvConfig(suite="ladder/action", **change))
    assert read_suite_options(EnvConfig(suite="ladder/action")) == {}


def test_splits_and_prompts_are_checked_when_the_suite_is_built():
    config = RunConfig(env=EnvConfig(suite="household"))
    assert build_suite(config, new=True).name == "household-tiny"
    bad = dataclasses.replace(config.eval, splits=("unseen", "validation"))
    with pytest.raises(ConfigError, match=r"eval.splits: the split 'validation' .* train, seen"):
        build_suite(dataclasses.replace(config, eval=bad), new=True)

    class Wordy(ForeignSuite):
        min_prompt_tokens = 128

    assert Wordy().describe() == "ladder/action"
    assert Wordy().report_baselines("train", max_turns=3, episodes=2) is None
