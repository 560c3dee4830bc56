"""Scoring an iteration's episodes, as a phase of the loop: one process asks, all are told."""

from collections.abc import Sequence

from hiperjax.distributed.processes import allgather_objects, is_first
from hiperjax.stop import REQUEST, StopAsked
from hiperjax.training.run import Run, save
from hiperjax.training.scored import Scored
from hiperjax.training.stopped import TrainingStopped
from hiperjax.training.timer import Timer
from hiperjax.types import Trajectory

FEW_REASONS = 5
"""Reasons why verdicts failed that are shown at most."""


def score(run: Run, trajectories: Sequence[Trajectory], timer: Timer) -> Scored:
    """What the run rewards its episodes for, where the world's own reward is not all.

    Raises:
      TrainingStopped: a larger share of the verdicts failed than the config allows.
    """
    if run.scorer.idle:
        return Scored(list(trajectories), {})
    config, i = run.components.config, run.iteration
    doing = f"giving up the verdicts of iteration {i + 1}, which a resumed run asks for, and saving"
    with timer.phase("judge"), REQUEST.during(doing):
        try:
            own = run.scorer.score(trajectories, iteration=i) if is_first() else None
        except StopAsked:  # the others wait for an answer, and are to give up too
            own = None
        said = [each for each in allgather_objects(own) if each is not None]
        if not said:
            raise StopAsked(doing)
        scored = said[0]
    for reason in scored.reasons[:FEW_REASONS]:
        run.progress.warn(reason)
    too_many = scored.failed > config.judge.max_failure_rate * scored.verdicts
    if too_many or not scored.trajectories:
        save(run, best=False)
        raise TrainingStopped(
            f"iteration {i}: {scored.failed} of {scored.verdicts} verdicts failed, "
            f"{len(scored.trajectories)} of {len(trajectories)} episodes are left; expected at "
            f"most a share of judge.max_failure_rate {config.judge.max_failure_rate}; the reasons "
            f"stand above, the state is saved in {run.folder}"
        )
    return scored
