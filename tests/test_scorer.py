"""Between collecting and learning: checklists attached, verdicts taken in, failures left out."""

import dataclasses

import numpy as np
import pytest
from helpers.episodes import make_trajectory
from helpers.small_runs import small_run

from hiperjax.config import ConfigError
from hiperjax.envs.base import Suite
from hiperjax.envs.registry import make_suite
from hiperjax.judging.base import Request
from hiperjax.judging.program import FunctionJudge
from hiperjax.options.judging import JudgeConfig
from hiperjax.training.metrics import METRICS, read_lines
from hiperjax.training.scorer import EpisodeScorer, make_scorer
from hiperjax.training.stopped import TrainingStopped
from hiperjax.training.trainer import train
from hiperjax.types import Checklist, Criterion, Trajectory
from hiperjax.validation import validate

ITEMS = Checklist((Criterion("a", "Is it?", 0.5), Criterion("b", "Is it?", 0.5, ("a",))))


class Listed(Suite):
    """A suite as far as scoring knows one."""

    name = "listed"

    def __init__(self, **lists: Checklist | None) -> None:
        self.lists = lists

    def checklist(self, task_id: str) -> Checklist | None:
        return self.lists[task_id]

    tasks = task_type = make_env = make_expert = None  # type: ignore[assignment]


def make_episode(task: str, sets: tuple[str, ...], seed: int = 0) -> Trajectory:
    made = make_trajectory(np.random.default_rng(seed), len(sets), task=task)
    turns = (
        dataclasses.replace(t, satisfied=frozenset(s))
        for t, s in zip(made.turns, sets, strict=True)
    )
    return dataclasses.replace(made, turns=tuple(turns), task=task)


def judge_by_number(request: Request) -> dict[str, float]:
    """b holds from turn 2; the judge breaks down where a task says so."""
    if request.episode.task == "odd" and len(request.episode.turns) == 2:
        raise TimeoutError("no answer")
    return {"a": 1, "b": len(request.episode.turns) >= 2}


def test_what_the_world_verified_is_taken_as_it_is():
    scorer = EpisodeScorer(Listed(one=ITEMS), checklists=True)
    scored = scorer.score([make_episode("one", ("a", "ab", "b"))], iteration=0)
    assert scored.trajectories[0].checklist == ITEMS
    assert scored.metrics == {
        "criteria/bad_checklists": 0, "criteria/satisfied": 1.0, "criteria/regressed": 0.5,
        "criteria/a": 1.0, "criteria/b": 1.0,
    }  # fmt: skip
    off = dataclasses.replace(scorer, checklists=False).score(
        [make_episode("one", ("",))], iteration=0
    )
    assert off.trajectories[0].checklist is None and off.metrics == {}


def test_a_failed_verdict_takes_the_episode_out_of_its_group_and_is_counted():
    judge = FunctionJudge(f"{__name__}:judge_by_number", 4)
    scorer = EpisodeScorer(Listed(one=ITEMS, odd=ITEMS), checklists=True, judge=judge)
    episodes = [make_episode(t, ("",) * n) for t, n in (("one", 3), ("odd", 3), ("odd", 1))]
    scored = scorer.score(episodes, iteration=0)
    assert [t.task_id for t in scored.trajectories] == ["one", "odd"]
    assert [sorted(t.satisfied) for t in scored.trajectories[0].turns] == [
        ["a"],
        ["a", "b"],
        ["a", "b"],
    ]
    assert (scored.verdicts, scored.failed, scored.reasons) == (7, 1, ["TimeoutError: no answer"])
    assert scored.metrics["judge/failed"] == 1 and scored.metrics["judge/verdicts"] == 7


def test_a_checklist_with_a_cycle_costs_its_episodes():
    cycle = Checklist((dataclasses.replace(ITEMS.items[0], depends=("b",)), ITEMS.items[1]))
    scorer = EpisodeScorer(Listed(one=ITEMS, ring=cycle, none=None), checklists=True)
    scored = scorer.score(
        [make_episode(t, ("a",)) for t in ("ring", "one", "ring", "none")], iteration=0
    )
    assert [t.task_id for t in scored.trajectories] == ["one"]
    assert scored.metrics["criteria/bad_checklists"] == 3
    assert "depend on each other in a cycle" in scored.reasons[0] and len(scored.reasons) == 2


def test_noise_turns_the_same_verdicts_over_again():
    scorer = EpisodeScorer(Listed(one=ITEMS), checklists=True, flip=0.2, seed=1)
    episodes = [make_episode("one", ("a",) * 40, seed) for seed in range(5)]
    first, again = (scorer.score(episodes, iteration=3).trajectories for _ in range(2))
    sets = [[t.satisfied for t in e.turns] for e in first]
    assert sets == [[t.satisfied for t in e.turns] for e in again]
    assert sets != [
        [t.satisfied for t in e.turns] for e in scorer.score(episodes, iteration=4).trajectories
    ]
    flipped = np.mean([len(names ^ {"a"}) / 2 for each in sets for names in each])
    assert 0.12 < flipped < 0.28


def test_settings_that_do_not_suit_are_refused(tmp_path):
    config = small_run(tmp_path, {"credit": {}}, credit=dataclasses.replace(
        small_run(tmp_path, {}).credit, checklist_reward="add"))  # fmt: skip
    make_scorer(config, make_suite("household"))
    with pytest.raises(ConfigError, match="the suite ladder/action does not have"):
        make_scorer(config, make_suite("ladder/action"))
    callable_judge = dataclasses.replace(config, judge=JudgeConfig(kind="callable"))
    with pytest.raises(ConfigError, match="expected a function exactly where"):
        validate(callable_judge)


def judge_generously(request: Request) -> dict[str, float]:
    return {question.name: len(request.episode.turns) > 1 for question in request.questions}


def judge_nothing(request: Request) -> dict[str, float]:
    raise OSError("gone")


@pytest.mark.slow(reason="two runs, each compiled")
def test_a_run_learns_from_what_a_function_says(tmp_path):
    base = small_run(tmp_path / "run", {}, iterations=1)
    config = dataclasses.replace(
        base,
        rollout=dataclasses.replace(base.rollout, group_size=2),
        credit=dataclasses.replace(
            base.credit, estimator="checklist_step", checklist_reward="replace", whitening="none"
        ),
        judge=JudgeConfig(kind="callable", function=f"{__name__}:judge_generously"),
    )
    records = read_lines(train(config) / METRICS)
    assert records[1]["judge/failed"] == 0 and records[1]["judge/verdicts"] > 0
    assert records[1]["criteria/satisfied"] == 1.0 and records[1]["reward_checklist"] > 0
    broken = dataclasses.replace(
        config, out=tmp_path / "broken",
        judge=dataclasses.replace(config.judge, function=f"{__name__}:judge_nothing"),
    )  # fmt: skip
    with pytest.raises(TrainingStopped, match="verdicts failed, 0 of 6 episodes are left"):
        train(broken)
