"""Chosen episodes turn by turn, with rewards, values and advantages, as JSON lines.

What is written follows from the batch alone, so a resumed run's file equals an uninterrupted one's.
"""

import collections
import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from hiperjax.training.diagnostics import segments
from hiperjax.training.metrics import append, read_records, rewind
from hiperjax.training.record_files import EPISODES
from hiperjax.types import STREAMS, Trajectory, Turn

FIRST_SOLVED = "first solved"
MOST_BYTES = 32_000_000
"""Size of the file beyond which only counts of subgoals and first successes are recorded."""
MOST_TURNS, MOST_TEXT, MOST_CONTEXT, MOST_SUBGOALS, MOST_FIRST = 100, 2000, 6000, 20, 8
PER_TURN = ("reward", *(f"v_{s}" for s in STREAMS), "low_value_mask", "has_switch", "has_subgoal",
            "switch_prob", "v_keep")  # fmt: skip
PER_EPISODE = tuple(f"bootstrap_{s}" for s in STREAMS)

Credited = Mapping[str, np.ndarray]
"""On the host, by name: fields of the estimator's inputs and of the credit it gave, `[B, T]` or
`[B]`; what an estimator does without is absent."""


@dataclasses.dataclass(frozen=True)
class EpisodeBatch:
    """One iteration's episodes, and what was learned from them."""

    iteration: int
    trajectories: Sequence[Trajectory]
    """in the order of the rows of `credited`"""
    credited: Credited
    estimator: str
    decode: Callable[[np.ndarray], str]
    """token ids to text"""
    task_type: Callable[[str], str]
    """of a task"""


def choose_episodes(batch: EpisodeBatch, solved_before: Iterable[str]) -> dict[int, list[str]]:
    """Numbers of the episodes worth a look, and why; ties go to the lower number.

    Args:
      batch: to choose from.
      solved_before: task types that an earlier batch solved.
    """
    chosen: dict[int, list[str]] = collections.defaultdict(list)
    for number in _first_solved(batch, set(solved_before)):
        chosen[number].append(FIRST_SOLVED)
    order = sorted(range(len(batch.trajectories)), key=lambda n: _merit(batch.trajectories[n]))
    if order:
        chosen[order[-1]].append("best")
        chosen[order[0]].append("worst")
    for why, count in (("most switches", _switches), ("malformed", _malformed)):
        counts = [count(trajectory) for trajectory in batch.trajectories]
        if counts and max(counts):
            chosen[counts.index(max(counts))].append(why)
    return dict(sorted(chosen.items()))


def _first_solved(batch: EpisodeBatch, known: set[str]) -> list[int]:
    found = []
    for number, trajectory in enumerate(batch.trajectories):
        kind = batch.task_type(trajectory.task_id)
        if trajectory.success and kind not in known and len(found) < MOST_FIRST:
            known.add(kind)
            found.append(number)
    return found


def _merit(trajectory: Trajectory) -> tuple[bool, float, int]:
    """Solved beats not solved, then reward, then brevity."""
    reward = sum(turn.reward for turn in trajectory.turns)
    return trajectory.success, reward, -len(trajectory.turns)


def _switches(trajectory: Trajectory) -> int:
    return sum(turn.blocks.switch for turn in trajectory.turns[1:])


def _malformed(trajectory: Trajectory) -> int:
    return sum(not turn.blocks.well_formed for turn in trajectory.turns)


def record_episodes(batch: EpisodeBatch, solved_before: Iterable[str]) -> list[dict[str, Any]]:
    """A record per chosen episode."""
    chosen = choose_episodes(batch, solved_before)
    return [_record(batch, number, why) for number, why in chosen.items()]


def record_first_solved(batch: EpisodeBatch, solved_before: Iterable[str]) -> list[dict[str, Any]]:
    """Only episodes that solve a task type for the first time."""
    numbers = _first_solved(batch, set(solved_before))
    return [_record(batch, number, [FIRST_SOLVED]) for number in numbers]


def _record(batch: EpisodeBatch, number: int, why: list[str]) -> dict[str, Any]:
    trajectory = batch.trajectories[number]
    shown = trajectory.turns[:MOST_TURNS]
    return {
        "iteration": batch.iteration,
        "kind": "episode",
        "why": why,
        "episode": number,
        "task": clip(trajectory.task_id, MOST_TEXT),
        "type": batch.task_type(trajectory.task_id),
        "solved": trajectory.success,
        "ending": trajectory.ending.value,
        "score": trajectory.score,
        "estimator": batch.estimator,
        "length": len(trajectory.turns),
        "bootstrap": [_rounded(batch.credited.get(name), number) for name in PER_EPISODE],
        "turns": [_turn(batch, number, t, turn) for t, turn in enumerate(shown)],
    }


def _turn(batch: EpisodeBatch, number: int, t: int, turn: Turn) -> dict[str, Any]:
    blocks, at = turn.blocks, (number, t)
    credited = {name: _rounded(batch.credited.get(name), at) for name in PER_TURN}
    if "cost" in batch.credited:  # worlds whose turns all cost 1 leave it out
        credited["cost"] = turn.delegation.cost
    return {
        "seen": clip(turn.observation, MOST_TEXT),
        "said": clip(batch.decode(turn.reply_ids), MOST_TEXT),
        "done": clip(blocks.action, MOST_TEXT),
        "subgoal": clip(blocks.subgoal, MOST_TEXT),
        "context": clip(batch.decode(turn.prompt_ids), MOST_CONTEXT),
        "switch": blocks.switch,
        "well_formed": blocks.well_formed,
        "admissible": turn.admissible,
        "keep_violation": blocks.keep_violation,
        "milestone": turn.milestone,
        "reward": float(turn.reward),
        "shaped": credited.pop("reward"),
        "values": [credited.pop(f"v_{s}") for s in STREAMS],
        "advantages": [
            _rounded(batch.credited.get(f"adv_{s}"), at)
            if _at(batch.credited.get(f"mask_{s}"), at)
            else None
            for s in STREAMS
        ],
        **credited,
    }


def clip(text: str, most: int) -> str:
    """At most so many characters, what is missing counted."""
    if len(text) <= most:
        return text
    return f"{text[:most]} [{len(text) - most} more characters]"


def _at(array: np.ndarray | None, at: Any) -> Any:
    return None if array is None else array[at].item()


def _rounded(array: np.ndarray | None, at: Any) -> float | bool | None:
    value = _at(array, at)
    return round(value, 6) if isinstance(value, float) else value


def record_subgoals(iteration: int, trajectories: Sequence[Trajectory]) -> dict[str, Any]:
    """The most frequent subgoals of a batch, and the first words of the actions under each."""
    counts: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0, 0])
    verbs: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for trajectory in trajectories:
        start = 0
        for length, subgoal in segments(trajectory):
            name = clip(subgoal, 200)
            for place, more in enumerate((1, length, int(trajectory.success))):
                counts[name][place] += more
            for turn in trajectory.turns[start : start + length]:
                verbs[name][clip((turn.blocks.action.split() or ["-"])[0], 30)] += 1
            start += length
    order = sorted(counts, key=lambda name: (-counts[name][0], name))
    rows = []
    for name in order[:MOST_SUBGOALS]:
        first = sorted(verbs[name].items(), key=lambda item: (-item[1], item[0]))[:4]
        rows.append([name, *counts[name], dict(first)])
    total = sum(count[0] for count in counts.values())
    return {"iteration": iteration, "kind": "subgoals", "segments": total, "rows": rows}


def _is_first_solved(record: Mapping[str, Any]) -> bool:
    why = record.get("why")
    return isinstance(why, list) and FIRST_SOLVED in why


class EpisodeLog:
    """Writes the record; opening it at an iteration forgets everything later.

    Every process of a run keeps one, since all must agree on what is wanted; one of them writes.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        task_type: Callable[[str], str],
        iteration: int = -1,
        *,
        writes: bool = True,
    ):
        self._path, self._task_type, self._writes = folder / EPISODES, task_type, writes
        self.complaints = rewind(self._path, iteration) if writes else []
        """what was wrong with the file of an earlier session"""
        records = [r for r in read_records(self._path)[0] if r["iteration"] <= iteration]
        self._solved = {str(r.get("type")) for r in records if _is_first_solved(r)}

    def wants(self, trajectories: Sequence[Trajectory], *, due: bool) -> bool:
        """Whether there is anything to write: it is time, or a task type is solved at last."""
        solved = {self._task_type(t.task_id) for t in trajectories if t.success}
        return bool(trajectories) and (due or not solved <= self._solved)

    def write(self, batch: EpisodeBatch, *, due: bool) -> None:
        """Chosen episodes and subgoals where it is time, first successes always."""
        room = not self._path.exists() or self._path.stat().st_size < MOST_BYTES
        record = record_episodes if due and room else record_first_solved
        records = record(batch, self._solved)
        if due:
            records.append(record_subgoals(batch.iteration, batch.trajectories))
        self._solved |= {r["type"] for r in records if _is_first_solved(r)}
        if self._writes:
            append(self._path, records)
