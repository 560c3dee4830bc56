"""Between collecting and learning: episodes get their checklists, and what judges say of them.

What goes wrong for an episode takes it out of the batch, and is counted: a verdict that failed, a
checklist that nobody can pay by. A world's own verdicts cost nothing, and no judge is asked.
"""

import collections
import dataclasses
import hashlib
import pathlib
from collections.abc import Sequence

from hiperjax.config import ConfigError, RunConfig
from hiperjax.envs.base import Suite
from hiperjax.envs.criteria import check_checklist
from hiperjax.judging.base import Judge, Question, Request, Verdict, transcribe_episode
from hiperjax.judging.cache import VERDICTS, VerdictCache
from hiperjax.judging.http import HttpJudge
from hiperjax.judging.program import FunctionJudge
from hiperjax.learning.credit.registry import find_estimator
from hiperjax.options.judging import JudgeConfig
from hiperjax.training.parl import ParlStage, make_parl_stage
from hiperjax.training.rubrics import RubricStage, make_rubric_stage
from hiperjax.training.scored import Scored, note_answers
from hiperjax.types import Checklist, Trajectory


@dataclasses.dataclass(frozen=True)
class EpisodeScorer:
    """Sees all episodes of an iteration, hands out those to learn from."""

    suite: Suite
    checklists: bool
    """whether tasks' checklists are wanted"""
    judge: Judge | None = None
    """who verifies them; None: the world did"""
    rubric: RubricStage | None = None
    """compares the episodes of a task, where that pays"""
    parl: ParlStage | None = None
    """pays for delegation and measures it, where the world has sub-agents"""
    flip: float = 0.0
    """share of verdicts on criteria turned over"""
    seed: int = 0

    @property
    def idle(self) -> bool:
        """Whether episodes are learned from as they were collected."""
        return not self.checklists and self.rubric is None and self.parl is None

    def score(self, trajectories: Sequence[Trajectory], *, iteration: int) -> Scored:
        """The episodes with what the run rewards them for.

        Raises:
          StopAsked: while a judge was waited for.
        """
        scored = Scored(list(trajectories), {})
        if self.checklists:
            self._attach(scored)
            if self.judge is not None:
                self._verify(scored, self.judge)
            if self.flip:
                scored.trajectories = [
                    self._turn_over(t, f"{self.seed}/{iteration}/{number}")
                    for number, t in enumerate(scored.trajectories)
                ]
            scored.metrics |= measure_criteria(scored.trajectories)
        if self.parl is not None:  # first: it measures the world's own reward
            self.parl.apply(scored, iteration=iteration)
        if self.rubric is not None:
            self.rubric.apply(scored, iteration=iteration)
        return scored

    def _attach(self, scored: Scored) -> None:
        """Checklists; episodes whose task has none that can be paid by are left out."""
        found: dict[str, Checklist | None] = {}
        bad = 0
        kept = []
        for trajectory in scored.trajectories:
            task = trajectory.task_id
            if task not in found:
                found[task] = self._open(task, scored)
            checklist = found[task]
            if checklist is None:
                bad += 1
            else:
                kept.append(dataclasses.replace(trajectory, checklist=checklist))
        scored.trajectories = kept
        scored.metrics["criteria/bad_checklists"] = float(bad)

    def _open(self, task: str, scored: Scored) -> Checklist | None:
        where = f"suite {self.suite.name}, task {task}, checklist"
        try:  # other people's code runs here, and its checklists are data
            checklist = self.suite.checklist(task)
            if checklist is None:
                raise ValueError(f"{where}: found none")
            return check_checklist(checklist, where)
        except Exception as error:
            scored.reasons.append(f"{type(error).__name__}: {error}".splitlines()[0])
            return None

    def _verify(self, scored: Scored, judge: Judge) -> None:
        """Every episode after every turn, as the judge sees it."""
        requests = [
            Request(
                tuple(Question(item.name, item.question) for item in t.checklist.items),
                transcribe_episode(t, k + 1),
            )
            for t in scored.trajectories
            if t.checklist is not None
            for k in range(len(t.turns))
        ]
        given = judge.verdicts(requests)
        note_answers(scored, given)
        answers = iter(given)
        kept = []
        for trajectory in scored.trajectories:
            own = [next(answers) for _ in trajectory.turns]
            fine = [each for each in own if isinstance(each, Verdict)]
            if len(fine) == len(own):
                kept.append(_with_satisfied(trajectory, [_names(each) for each in fine]))
        scored.trajectories = kept

    def _turn_over(self, trajectory: Trajectory, episode: str) -> Trajectory:
        """Verdicts changed at random, always the same ones; what a criterion is said to be lasts
        until it is said to be something else, so each turn's verdict is drawn for itself."""
        checklist = trajectory.checklist
        assert checklist is not None
        flipped = []
        for k, turn in enumerate(trajectory.turns):
            wrong = {
                item.name
                for item in checklist.items
                if _draw(f"{episode}/{k}/{item.name}") < self.flip
            }
            flipped.append(turn.satisfied ^ wrong)
        return _with_satisfied(trajectory, flipped)


def _names(verdict: Verdict) -> frozenset[str]:
    return frozenset(name for name, mark in verdict.marks.items() if mark > 0.5)


def _with_satisfied(trajectory: Trajectory, satisfied: Sequence[frozenset[str]]) -> Trajectory:
    turns = (
        dataclasses.replace(turn, satisfied=names)
        for turn, names in zip(trajectory.turns, satisfied, strict=True)
    )
    return dataclasses.replace(trajectory, turns=tuple(turns))


def _draw(what: str) -> float:
    """A number in [0, 1) that depends on nothing else."""
    return int.from_bytes(hashlib.sha256(what.encode()).digest()[:8]) / 2**64


def measure_criteria(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """How far checklists were satisfied: `criteria/satisfied`, the mean weight of what held at some
    turn; `criteria/regressed`, the share of those criteria that did not hold at the end."""
    shares, held, lost = [], 0, 0
    by_name: dict[str, list[bool]] = collections.defaultdict(list)
    for trajectory in trajectories:
        checklist = trajectory.checklist
        if checklist is None:
            continue
        ever = frozenset().union(*(turn.satisfied for turn in trajectory.turns))
        last = trajectory.turns[-1].satisfied
        share = sum(item.weight for item in checklist.items if item.name in ever)
        shares.append(share / checklist.num_requests)
        for item in checklist.items:
            by_name[item.name].append(item.name in ever)
            held += item.name in ever
            lost += item.name in ever - last
    if not shares:
        return {}
    found = {
        "criteria/satisfied": sum(shares) / len(shares),
        "criteria/regressed": lost / max(1, held),
    }
    if len(by_name) <= MOST_NAMES:
        found |= {f"criteria/{n}": sum(x) / len(x) for n, x in sorted(by_name.items())}
    return found


MOST_NAMES = 16
"""Criteria that are shown one by one at most."""


def wants_checklists(config: RunConfig) -> bool:
    """Whether the run learns from checklists, or stops episodes at their gates."""
    needs = find_estimator(config.credit.estimator).needs
    gates = config.rubric.reward != "off" and config.rubric.check_gates
    return config.credit.checklist_reward != "off" or "satisfied" in needs or gates


def make_judge(config: JudgeConfig, folder: pathlib.Path | None) -> Judge | None:
    """The run's judge; None where the world itself says; verdicts are kept in the folder.

    Raises:
      JudgeError: it cannot be made.
    """
    if config.kind == "program":
        return None
    if config.kind == "callable":
        return FunctionJudge(config.function, config.concurrency)
    return HttpJudge(
        config.url,
        config.model,
        cache=VerdictCache(None if folder is None else folder / VERDICTS),
        concurrency=config.concurrency,
        timeout=config.timeout,
        retries=config.retries,
        attempts=config.attempts,
        max_tokens=config.max_tokens,
        transcript_length=config.transcript_length,
    )


def make_scorer(
    config: RunConfig, suite: Suite, folder: pathlib.Path | None = None
) -> EpisodeScorer:
    """What scores the run's episodes.

    Raises:
      ConfigError: the run learns from checklists, and the suite has none or does not verify them.
      ChecklistError: the first task's checklist cannot be paid by.
      JudgeError: the judge cannot be made.
      RubricError: nobody can judge by the rubric.
    """
    wanted = wants_checklists(config)
    pays_rubric = config.rubric.reward != "off"
    if wanted:
        task = suite.tasks("train")[0]
        checklist = suite.checklist(task)
        asked = f"credit.estimator {config.credit.estimator} and credit.checklist_reward"
        asked += f" {config.credit.checklist_reward} pay by checklists"
        if checklist is None:
            raise ConfigError(
                f"{asked}, which the suite {suite.name} does not have; choose one that does "
                "(household, alfworld, webshop, desk), or another estimator"
            )
        check_checklist(checklist, f"suite {suite.name}, task {task}, checklist")
        if config.judge.kind == "program" and not suite.reports_criteria:
            raise ConfigError(
                f"{asked}, and judge.kind is program: the suite {suite.name} does not verify its "
                "criteria; expected judge.kind callable or http"
            )
    judge = make_judge(config.judge, folder) if wanted or pays_rubric else None
    return EpisodeScorer(
        suite=suite,
        checklists=wanted,
        judge=judge if wanted else None,
        rubric=make_rubric_stage(config, judge),
        parl=make_parl_stage(config, suite),
        flip=config.judge.flip,
        seed=config.seed,
    )
