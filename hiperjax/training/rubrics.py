"""Episodes of a task compared by a rubric, and paid by how they come off."""

import collections
import dataclasses
from collections.abc import Sequence

from hiperjax.config import RunConfig
from hiperjax.judging.base import Judge, transcribe_episode
from hiperjax.judging.pairwise import Compared, FactJudge, Pairing, compare_groups, list_facts
from hiperjax.judging.rubric import load_rubric
from hiperjax.options.judging import RubricConfig
from hiperjax.training.scored import Scored, note_answers
from hiperjax.types import Ending, Trajectory

FLOOR = -2.0
"""What an episode is worth that a gate stops: the least that a comparison comes to."""
JUDGED = "rubric"
"""Name of an episode's worth among `Trajectory.judged`."""


@dataclasses.dataclass(frozen=True)
class RubricStage:
    """Compares the episodes of each task, and pays."""

    judge: Judge
    pairing: Pairing
    options: RubricConfig
    seed: int = 0

    def apply(self, scored: Scored, *, iteration: int) -> None:
        """Put what each episode is worth in its last turn's reward; one whose verdict failed, or
        whose task has no other episode, is left out.

        Raises:
          StopAsked: while the judge was waited for.
        """
        members: dict[str, list[int]] = collections.defaultdict(list)
        for number, trajectory in enumerate(scored.trajectories):
            members[trajectory.task_id].append(number)
        members = {task: numbers for task, numbers in members.items() if len(numbers) > 1}
        shown = [
            dataclasses.replace(transcribe_episode(t), facts=list_facts(t))
            for t in scored.trajectories
        ]
        found = compare_groups(
            self.judge,
            self.pairing,
            [[shown[number] for number in numbers] for numbers in members.values()],
            [f"{self.seed}/{iteration}/{task}" for task in members],
        )
        worth: dict[int, float] = {}
        for numbers, compared in zip(members.values(), found, strict=True):
            note_answers(scored, compared.answers)
            for number, own in zip(numbers, compared.worth, strict=True):
                if own is not None:
                    worth[number] = own
        gated = {n for n in worth if is_gated(scored.trajectories[n], self.options)}
        worth |= dict.fromkeys(gated, FLOOR)
        scored.metrics |= _measure(found, worth, gated)
        kept = enumerate(scored.trajectories)
        scored.trajectories = [
            pay(trajectory, worth[number], replace=self.options.reward == "replace")
            for number, trajectory in kept
            if number in worth
        ]


def is_gated(trajectory: Trajectory, options: RubricConfig) -> bool:
    """Whether the program itself finds a fault that no preference makes good."""
    facts = list_facts(trajectory)
    if facts["malformed"] > options.max_malformed:
        return True
    if facts["inadmissible"] > options.max_inadmissible:
        return True
    if trajectory.ending is Ending.TRUNCATED and not options.allow_truncated:
        return True
    if not options.check_gates or trajectory.checklist is None:
        return False
    held = trajectory.turns[-1].satisfied
    return any(item.gate and item.name not in held for item in trajectory.checklist.items)


def pay(trajectory: Trajectory, worth: float, *, replace: bool) -> Trajectory:
    """The episode with what it is worth in its last turn's reward."""
    turns = list(trajectory.turns)
    if replace:
        turns = [dataclasses.replace(turn, reward=0.0) for turn in turns]
    turns[-1] = dataclasses.replace(turns[-1], reward=turns[-1].reward + worth)
    judged = {**trajectory.judged, JUDGED: worth}
    return dataclasses.replace(trajectory, turns=tuple(turns), judged=judged)


def _measure(
    found: Sequence[Compared], worth: dict[int, float], gated: set[int]
) -> dict[str, float]:
    pairs = sum(compared.pairs for compared in found)
    values = list(worth.values())
    mean = sum(values) / max(1, len(values))
    return {
        "rubric/worth": mean,
        "rubric/spread": (sum((v - mean) ** 2 for v in values) / max(1, len(values))) ** 0.5,
        "rubric/even": sum(v == 0 for v in values) / max(1, len(values)),
        "rubric/gated": len(gated) / max(1, len(values)),
        "rubric/disagreed": sum(compared.disagreed for compared in found) / max(1, pairs),
    }


def make_rubric_stage(config: RunConfig, judge: Judge | None) -> RubricStage | None:
    """What compares the run's episodes; None where nothing does.

    Args:
      config: of the run.
      judge: a function or a language model; None: the program compares facts.

    Raises:
      RubricError: the rubric cannot be read, or the program cannot judge by it.
    """
    options = config.rubric
    if options.reward == "off":
        return None
    rubric = load_rubric(options.path)
    pairing = Pairing(rubric, options.against, options.grade, options.margin, options.both_orders)
    return RubricStage(judge or FactJudge(rubric), pairing, options, config.seed)
