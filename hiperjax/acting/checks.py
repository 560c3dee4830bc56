"""The contracts of a rollout and of an engine as checks; `hiperjax.testing` offers them to other
people's tests."""

from collections.abc import Iterator, Sequence

import jax
import numpy as np
from jaxtyping import Array, Key

from hiperjax.acting.collector import Collector, RolloutResult
from hiperjax.acting.engine import Engine, EngineFactory
from hiperjax.acting.lane_sizes import LaneShape, RolloutStats
from hiperjax.models.transformer import Params, TransformerConfig
from hiperjax.types import Ending, Trajectory

NO_TASK = "a task that no suite has"
ENGINE = LaneShape(slots=3, prompt=8, reply=5, chunk=2, refill=1)
"""Sizes that an engine is checked at."""
CALLS = 1000
"""How often an engine is asked for replies before it counts as stuck."""


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


def check_engine(
    factory: EngineFactory,
    params: Params,
    config: TransformerConfig,
    *,
    temperature: float = 1.0,
    stop_ids: tuple[int, ...] = (),
) -> None:
    """Hold an engine against the contract of `Engine`.

    Every owner gets each of its replies once, of ids the model knows, as many log-probs, and no
    more than a reply may have; slots are free exactly when nobody owns them; who asks again keeps
    its slot, and who is released is never heard of again.

    Args:
      factory: what makes the engine.
      params: Weights that it gets.
      config: their shape.
      temperature: Temperature of the draws.
      stop_ids: Tokens that end a reply.

    Raises:
      AssertionError: what was found, what was expected.
    """
    name = getattr(factory, "__name__", type(factory).__name__)
    engine = factory(
        ENGINE, params, config, jax.random.key(0),
        shared=(), prefix=None, find_stop=lambda ids, start: None, stats=RolloutStats(),
        openings=None, temperature=np.float32(temperature), top_p=1.0, stop_ids=stop_ids,
    )  # fmt: skip
    owners = [f"owner {i}" for i in range(ENGINE.slots)]
    _check_slots(name, engine, 0)
    for number, owner in enumerate(owners):
        engine.ask(owner, _prompt(number, config), number=number, turn=0)
        _check_slots(name, engine, number + 1)
    _check_replies(name, engine, owners, config)
    engine.release(owners[0])
    _check_slots(name, engine, ENGINE.slots - 1)
    for number, owner in enumerate(owners[1:], start=1):
        engine.ask(owner, _prompt(number + 1, config), number=number, turn=1)
    _check_slots(name, engine, ENGINE.slots - 1)
    engine.shrink()
    _check_replies(name, engine, owners[1:], config)
    for owner in owners[1:]:
        engine.release(owner)
    _require(not engine.busy, f"{name}: busy; expected nobody to be left")
    found = engine.harvest()
    _require(not found, f"{name}: found {found} after everybody was released; expected nothing")


def _prompt(number: int, config: TransformerConfig) -> list[int]:
    """Prompts of several lengths."""
    return [(3 * number + i) % config.vocab_size for i in range(2 + number)]


def _check_slots(name: str, engine: Engine[str], owned: int) -> None:
    free = ENGINE.slots - owned
    _require(
        engine.free == free and engine.busy == (owned > 0),
        f"{name}: found {engine.free} free slots, busy {engine.busy}; expected {free} of "
        f"{ENGINE.slots} free and busy {owned > 0}, with {owned} owners",
    )


def _harvest(name: str, engine: Engine[str], owners: Sequence[str]) -> Iterator[tuple]:
    """What comes until everybody has a reply."""
    waiting = set(owners)
    for _ in range(CALLS):
        engine.run()
        for owner, ids, logprobs in engine.harvest():
            _require(
                owner in waiting, f"{name}: a reply for {owner}; expected one of {sorted(waiting)}"
            )
            waiting.discard(owner)
            yield owner, ids, logprobs
        if not waiting:
            return
    raise AssertionError(f"{name}: no reply for {sorted(waiting)} after {CALLS} calls")


def _check_replies(
    name: str, engine: Engine[str], owners: Sequence[str], config: TransformerConfig
) -> None:
    for owner, ids, logprobs in _harvest(name, engine, owners):
        where = f"{name}, {owner}"
        _require(
            ids.dtype == np.int32 and logprobs.dtype == np.float32,
            f"{where}: ids {ids.dtype}, log-probs {logprobs.dtype}; expected int32 and float32",
        )
        _require(
            0 < len(ids) <= ENGINE.reply and ids.shape == logprobs.shape,
            f"{where}: {ids.shape} ids, {logprobs.shape} log-probs; expected as many of each, 1 to "
            f"{ENGINE.reply}",
        )
        _require(
            ids.min() >= 0 and ids.max() < config.vocab_size,
            f"{where}: ids {ids.tolist()}; expected some below {config.vocab_size}",
        )
        _require(
            np.isfinite(logprobs).all() and logprobs.max() <= 0,
            f"{where}: log-probs {logprobs}; expected finite numbers of at most 0",
        )
