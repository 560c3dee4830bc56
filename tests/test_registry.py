"""Suites by name, ours and other people's."""

import importlib.metadata

import pytest

from hiperjax.envs.base import Suite
from hiperjax.envs.ladder import make_ladder_suite
from hiperjax.envs.registry import ENTRY_POINT_GROUP, list_suites, make_suite


@pytest.mark.parametrize("name", ["household", "webshop", "ladder/subgoal"])
def test_suites_are_made_by_name(name):
    suite = make_suite(name)
    assert isinstance(suite, Suite) and name in list_suites()
    task = suite.tasks(suite.splits[0])[0]
    observation = suite.make_env().reset(task)
    assert observation.admissible and suite.task_type(task)


def test_options_are_the_suites_own():
    assert make_suite("household", size="small").name == "household-small"
    with pytest.raises(TypeError, match="colour"):
        make_suite("household", colour="red")


def test_unknown_names_list_the_known_ones():
    with pytest.raises(KeyError, match=r"alfwrld.*household.*webshop"):
        make_suite("alfwrld")


def test_entry_points_of_other_packages(monkeypatch):
    point = importlib.metadata.EntryPoint(
        "mine", "hiperjax.envs.ladder:make_ladder_suite", ENTRY_POINT_GROUP
    )
    points = importlib.metadata.EntryPoints([point])
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **kw: points.select(**kw))
    assert "mine" in list_suites()
    assert make_suite("mine", rung="switch").name == make_ladder_suite("switch").name
