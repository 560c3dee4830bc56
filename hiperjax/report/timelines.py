"""Recorded episodes as a page shows them, and what subgoals were used for."""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hiperjax.report.run_data import Record, RunData, as_number
from hiperjax.report.text import show, show_line

BUDGET = 1_600_000
"""Characters that the episodes of a page take at most."""
CONTEXT = 6000
MARKS = (
    ("well_formed", False, "malformed"),
    ("keep_violation", True, "rewrote the subgoal"),
    ("admissible", False, "inadmissible"),
    ("milestone", True, "milestone"),
)
Numbers = list[float | None]
Advantages = Mapping[str, Sequence[Numbers]]
"""by estimator: low, high and term of every turn"""


@dataclasses.dataclass(frozen=True)
class Chosen:
    """A recorded episode of a run, and advantages under estimators other than the run's."""

    run: RunData
    record: Record
    others: Advantages = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()


def recorded_episodes(runs: Sequence[RunData]) -> list[Chosen]:
    """Every record that is an episode, by iteration."""
    found = [Chosen(run, record) for run in runs for record in run.episodes if _is_episode(record)]
    return sorted(found, key=lambda chosen: chosen.record["iteration"])


def _is_episode(record: Record) -> bool:
    turns = record.get("turns")
    whole = isinstance(turns, list) and bool(turns) and all(isinstance(t, dict) for t in turns)
    return record.get("kind") == "episode" and whole


def build_timelines(
    episodes: Sequence[Chosen], *, name_runs: bool = False, budget: int = BUDGET
) -> tuple[list[dict[str, Any]], list[str]]:
    """Episodes for the page within the budget, and what was left out to stay there.

    Contexts go first, from the earliest; then whole iterations, evenly, the last one kept.
    """
    timelines = [_timeline(chosen, name_runs) for chosen in episodes]
    sizes = [_size(timeline) for timeline in timelines]
    notes = []
    if sum(sizes) > budget:
        bare = [_without_context(timeline) for timeline in timelines]
        for n, timeline in enumerate(bare):
            if sum(sizes) <= budget:
                break
            timelines[n], sizes[n] = timeline, _size(timeline)
        notes.append("contexts of the earlier episodes are left out of this page for its size")
    kept = _fit(timelines, sizes, budget)
    if len(kept) < len(timelines):
        notes.append(
            f"{len(timelines) - len(kept)} of {len(timelines)} recorded episodes are left out of "
            "this page for its size"
        )
    return kept, notes


def _size(timeline: Mapping[str, Any]) -> int:
    return len(json.dumps(timeline))


def _fit(timelines: list[dict[str, Any]], sizes: list[int], budget: int) -> list[dict[str, Any]]:
    iterations = sorted({t["iteration"] for t in timelines}, reverse=True)
    for step in range(1, len(iterations) + 1):
        wanted = set(iterations[::step])
        chosen = [n for n, t in enumerate(timelines) if t["iteration"] in wanted]
        if sum(sizes[n] for n in chosen) <= budget:
            return [timelines[n] for n in chosen]
    return []


def _without_context(timeline: dict[str, Any]) -> dict[str, Any]:
    return timeline | {"turns": [turn | {"context": ""} for turn in timeline["turns"]]}


def _timeline(chosen: Chosen, name_run: bool) -> dict[str, Any]:
    record, run = chosen.record, chosen.run
    own = show_line(str(record.get("estimator") or "run"), 40)
    table = {own: _own_advantages(record)} | dict(chosen.others)
    why = record.get("why")
    task = show_line(str(record.get("task")), 120)
    return {
        "key": f"{run.name} {record['iteration']} {record.get('episode')}",
        "run": run.name if name_run else "",
        "iteration": record["iteration"],
        "why": [show_line(str(w), 40) for w in why] if isinstance(why, list) else [],
        "task": task,
        "kind": show_line(str(record.get("type") or ""), 60),
        "solved": record.get("solved") is True,
        "ending": show_line(str(record.get("ending")), 40),
        "estimators": list(table),
        "notes": [*chosen.notes, *_notes(record)],
        "turns": [_turn(turn, t, table) for t, turn in enumerate(record["turns"])],
    }


def _notes(record: Record) -> Iterator[str]:
    bootstrap = _numbers(record.get("bootstrap"))
    if record.get("ending") == "truncated" and any(v is not None for v in bootstrap):
        shown = ", ".join("-" if v is None else f"{v:.3f}" for v in bootstrap)
        yield f"cut by the turn limit; value of the state after the last turn: {shown}"
    length, shown_turns = record.get("length"), len(record["turns"])
    if isinstance(length, int) and length > shown_turns:
        yield f"the first {shown_turns} of {length} turns were recorded"


def _own_advantages(record: Record) -> list[Numbers]:
    return [_numbers(turn.get("advantages")) for turn in record["turns"]]


def _numbers(value: Any) -> Numbers:
    """Three numbers, whatever stands there."""
    items = value if isinstance(value, list) else []
    return [as_number(item) for item in [*items, None, None, None][:3]]


def _turn(turn: Record, t: int, table: Advantages) -> dict[str, Any]:
    texts = {name: show(str(turn.get(name) or "")) for name in ("seen", "said", "done", "subgoal")}
    values = _numbers(turn.get("values"))
    return {
        **texts,
        "context": show(str(turn.get("context") or ""), CONTEXT),
        "switch": turn.get("switch") is True,
        "boundary": t == 0 or turn.get("switch") is True,
        "marks": [mark for name, bad, mark in MARKS if turn.get(name) is bad],
        "reward": as_number(turn.get("reward")),
        "shaped": as_number(turn.get("shaped")),
        "values": values if any(v is not None for v in values) else None,
        "advantages": {name: rows[t] for name, rows in table.items() if t < len(rows)},
    }


SUBGOAL_HEAD = ("subgoal", "segments", "turns each", "in solved episodes", "actions under it")


def tabulate_subgoals(run: RunData, most: int = 15) -> tuple[int, list[Sequence[str]]] | None:
    """The last batch that was recorded: its iteration, and a row per frequent subgoal."""
    records = [r for r in run.episodes if r.get("kind") == "subgoals"]
    if not records or not isinstance(records[-1].get("rows"), list):
        return None
    rows = [cells for row in records[-1]["rows"][:most] if (cells := _subgoal(row))]
    return records[-1]["iteration"], [SUBGOAL_HEAD, *rows]


def _subgoal(row: Any) -> Sequence[str] | None:
    if not isinstance(row, list) or len(row) != 5 or not isinstance(row[4], dict):
        return None
    segments, turns, solved = (as_number(value) for value in row[1:4])
    if not segments or turns is None or solved is None:
        return None
    total = sum(as_number(count) or 0 for count in row[4].values()) or 1
    verbs = [f"{verb} {(as_number(n) or 0) / total:.0%}" for verb, n in row[4].items()]
    return (
        show_line(str(row[0]), 120),
        f"{segments:.0f}",
        f"{turns / segments:.1f}",
        f"{solved / segments:.0%}",
        show_line(", ".join(verbs), 160),
    )
