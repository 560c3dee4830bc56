"""The contract of a rollout as a check; `hiperjax.testing` offers it to other people's tests."""

from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Array, Key

from hiperjax.acting.collector import Collector, RolloutResult
from hiperjax.models.transformer import Params
from hiperjax.types import Ending, Trajectory

NO_TASK = "a task that no suite has"


def _require(holds: object, message: str) -> None:
    if not holds:
        raise AssertionError(message)


def check_collector(
    collector: Collector,
    params: Params,
    task_ids: Sequence[str],
    *,
    key: Key[Array, ""] | None = None,
    temperature: float = 1.0,
) -> None:
    """Hold a rollout against the contract of `Collector`.

    The same key gives the same episodes; trajectories come in the order of the tasks; each token of
    a reply has one log-prob; a task that cannot be opened is a failure in the result.

    Args:
      collector: what is checked.
      params: Parameters of the policy, as its `collect` takes them.
      task_ids: at least two tasks that its suite can open, all different.
      key: Key for sampling.
      temperature: Sampling temperature.

    Raises:
      AssertionError: what was found, what was expected.
    """
    name, tasks = type(collector).__name__, [*task_ids[:1], NO_TASK, *task_ids[1:]]
    _require(len(set(task_ids)) == len(task_ids) > 1, "task_ids: expected two or more, all unequal")
    key = jax.random.key(0) if key is None else key

    def play(tasks: Sequence[str]) -> RolloutResult:
        return collector.collect(params, tasks, key=key, temperature=temperature)

    result = play(tasks)
    played, lost = [t.task_id for t in result.trajectories], [f.task_id for f in result.failures]
    _require(NO_TASK in lost, f"{name}: {NO_TASK!r} is no failure of the result; found {lost}")
    _require(
        sorted(played + lost) == sorted(tasks),
        f"{name}: found {played} played and {lost} lost; expected each of {tasks} once",
    )
    order = [task for task in tasks if task in set(played)]
    _require(played == order, f"{name}: found the order {played}; expected {order}, as asked for")
    _require(played, f"{name}: no episode was played: {[f.error for f in result.failures]}")
    for trajectory in result.trajectories:
        _check_trajectory(name, trajectory)
    again = play(tasks)
    _require(
        [_sample_of(t) for t in again.trajectories] == [_sample_of(t) for t in result.trajectories],
        f"{name}: found other replies at the same key; expected the same",
    )
    nothing = play([])
    _require(
        not nothing.trajectories and not nothing.failures,
        f"{name}: found {nothing} where no task was asked for; expected nothing",
    )


def _check_trajectory(name: str, trajectory: Trajectory) -> None:
    for number, turn in enumerate(trajectory.turns):
        where = f"{name}, task {trajectory.task_id}, turn {number}"
        shape, wanted = turn.behavior_logprobs.shape, turn.reply_ids.shape
        _require(
            len(wanted) == 1 and wanted[0] > 0 and shape == wanted,
            f"{where}: log-probs of shape {shape} for reply tokens of shape {wanted}; expected one "
            "of each per token, and a token at least",
        )
        for what, array, dtype in (
            ("prompt_ids", turn.prompt_ids, np.int32),
            ("reply_ids", turn.reply_ids, np.int32),
            ("behavior_logprobs", turn.behavior_logprobs, np.float32),
        ):
            _require(array.dtype == dtype, f"{where}: {what} is {array.dtype}; expected {dtype}")
        found = turn.behavior_logprobs
        _require(
            np.isfinite(found).all() and (found <= 0).all(),
            f"{where}: log-probs {found}; expected finite numbers of at most 0",
        )
        opens = turn.blocks.switch or number > 0
        _require(opens, f"{where}: no switch; expected the first turn to open a segment")
    truncated = trajectory.ending is Ending.TRUNCATED
    _require(
        truncated == (trajectory.final_prompt_ids is not None),
        f"{name}, task {trajectory.task_id}: ending {trajectory.ending.value}; expected a final "
        "prompt exactly where an episode was truncated, since its value is read there",
    )


def _sample_of(trajectory: Trajectory) -> list[object]:
    replies = [(t.prompt_ids.tolist(), t.reply_ids.tolist()) for t in trajectory.turns]
    return [trajectory.task_id, trajectory.ending, trajectory.success, replies]
