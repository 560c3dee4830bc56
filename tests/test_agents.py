"""Agents in a folder: made of a run, small, played and evaluated anywhere a run is."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest
from helpers.small_runs import small_run

from hiperjax.cli import main
from hiperjax.commands.convert import convert
from hiperjax.training import run_folder
from hiperjax.training.build import restore_run
from hiperjax.training.run_folder import AGENT, AGENTS, find_run, list_agents
from hiperjax.training.trainer import train

MOST_BYTES = 1_000_000


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    return train(small_run(folder, {}, iterations=0))


@pytest.fixture(scope="module")
def agents(run, tmp_path_factory):
    root = tmp_path_factory.mktemp("agents")
    convert("run-to-agent", run, root / "small", which="last")
    return root


def test_an_agent_says_what_its_run_says(run, agents, monkeypatch):
    monkeypatch.setattr(run_folder, "AGENTS", agents)
    assert list_agents() == ("agent:small",)
    answers = []
    for name in (run, "agent:small"):
        components, state = restore_run(name, "last")
        tasks = components.suite.tasks("unseen")[:4]
        played = components.rollout.collect(
            state.policy, tasks, key=jax.random.key(0), temperature=0.0
        )
        answers.append([turn for e in played.trajectories for turn in e.turns])
    shared = zip(*answers, strict=False)
    same = [np.array_equal(a.prompt_ids, b.prompt_ids) for a, b in shared]
    assert same[0] and answers[0][0].prompt_ids is not answers[1][0].prompt_ids
    near = abs(answers[0][0].behavior_logprobs[0] - answers[1][0].behavior_logprobs[0])
    assert near < 0.1, "bfloat16 weights"


def test_an_agent_is_evaluated_watched_and_started_from(agents, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(run_folder, "AGENTS", agents)
    with pytest.raises(SystemExit) as done:
        main(["evaluate", "agent:small", "--max-tasks", "3", "--out", str(tmp_path / "r.json")])
    assert done.value.code == 0
    assert json.loads((tmp_path / "r.json").read_text())["eval/unseen/success"] >= 0
    with pytest.raises(SystemExit) as done:
        main(["play", "--run", "agent:small", "--delay", "0"])
    assert done.value.code == 0 and "-- turn" in capsys.readouterr().out
    config = small_run(tmp_path / "again", {}, iterations=0)
    again = train(dataclasses.replace(config, init=pathlib.Path("agent:small")))
    ours, theirs = (restore_run(each, "start")[1].policy for each in (again, "agent:small"))
    for a, b in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["evaluate", "agent:nobody"], "agent:nobody: no such agent; expected one of agent:small"),
        (["evaluate", "agent:small", "--split", "valid_rooms"], "the split 'valid_rooms' of the"),
        (["evaluate", "agent:small", "--env.games", "/nowhere"], "env.games is /nowhere"),
        (["play", "webshop", "--run", "agent:small"], "was trained on the suite household"),
    ],
)
def test_what_cannot_be_is_one_line(args, said, agents, monkeypatch, capsys):
    monkeypatch.setattr(run_folder, "AGENTS", agents)
    with pytest.raises(SystemExit) as done:
        main(args)
    error = capsys.readouterr().err
    assert done.value.code == 2 and said in error and error.count("\n") == 1


@pytest.mark.parametrize("name", list_agents())
def test_shipped_agents_are_small_and_have_cards(name):
    folder = find_run(name)
    assert folder.parent == AGENTS and (folder / AGENT).is_file()
    assert sum(path.stat().st_size for path in folder.rglob("*")) <= MOST_BYTES
    card = (folder / "README.md").read_text(encoding="utf-8")
    for part in ("## Figures", "hiperjax evaluate", "0.4", "greedy"):
        assert part in card
    assert not any(key in (folder / AGENT).read_text() for key in ("/home", "/work", "/root"))
