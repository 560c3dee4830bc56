"""What becomes of an iteration's episodes on the way to learning."""

import dataclasses
from collections.abc import Sequence

from hiperjax.judging.base import Failed, Verdict
from hiperjax.types import Trajectory


@dataclasses.dataclass
class Scored:
    """Episodes to learn from, and what became of the others."""

    trajectories: list[Trajectory]
    metrics: dict[str, float]
    verdicts: int = 0
    """asked for"""
    failed: int = 0
    """verdicts that failed"""
    ungrounded: int = 0
    """positive marks whose evidence was never said"""
    reasons: list[str] = dataclasses.field(default_factory=list)
    """why, each once"""


def note_answers(scored: Scored, answers: Sequence[Verdict | Failed]) -> None:
    """Count what a judge was asked, and what failed."""
    failed = [each.reason for each in answers if isinstance(each, Failed)]
    scored.verdicts += len(answers)
    scored.failed += len(failed)
    scored.ungrounded += sum(len(x.ungrounded) for x in answers if isinstance(x, Verdict))
    scored.reasons += [reason for reason in dict.fromkeys(failed) if reason not in scored.reasons]
    scored.metrics |= {
        "judge/verdicts": float(scored.verdicts),
        "judge/failed": float(scored.failed),
        "judge/ungrounded": float(scored.ungrounded),
    }
