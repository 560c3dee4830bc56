"""Run folders as training writes them, with whatever text and numbers a test wants in them."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from hiperjax.presets import PRESETS


def write_lines(path: pathlib.Path, records: Sequence[Any]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def write_run(
    folder: pathlib.Path,
    rates: Sequence[float] = (0.25, 0.5, 0.75),
    *,
    seed: int = 1,
    trials: int = 8,
    extra: dict[str, float] | None = None,
    **credit: Any,
) -> pathlib.Path:
    """A run of one evaluation per iteration."""
    config = dataclasses.replace(
        PRESETS["household-tiny"][1], seed=seed, iterations=max(4, len(rates)), out=folder
    )
    config = dataclasses.replace(config, credit=dataclasses.replace(config.credit, **credit))
    folder.mkdir(parents=True)
    settings = json.dumps(dataclasses.asdict(config), default=str)
    (folder / "config.json").write_text(settings)
    always = {"switch_share": 0.2, "episode_length": 9.0, "segment_length": 4.5, "success": 0.3}
    metrics = [
        {"iteration": i, "eval/test/success": rate} | always | (extra or {})
        for i, rate in enumerate(rates)
    ]
    tallies = [{"success": [round(rate * trials), trials]} for rate in rates]
    timings = [{"iteration": i, "rollout": 1.5, "ledger/useful": 2.0, "ledger/host": 1.0}
               for i in range(len(rates))]  # fmt: skip
    write_lines(folder / "metrics.jsonl", metrics)
    write_lines(folder / "timings.jsonl", timings)
    evaluations = [{"iteration": i, "split": "test", "tallies": t} for i, t in enumerate(tallies)]
    write_lines(folder / "evaluations.jsonl", evaluations)
    return folder


def make_turn(text: str = "", **changes: Any) -> dict[str, Any]:
    """A recorded turn in which every text is the same."""
    texts = dict.fromkeys(("seen", "said", "done", "subgoal", "context"), text)
    flags = {"well_formed": True, "admissible": True, "keep_violation": False, "milestone": False}
    numbers = {"reward": 0.0, "shaped": 0.0, "values": [0.1, 0.2, 0.3],
               "advantages": [0.5, None, -0.25], "switch": False}  # fmt: skip
    return texts | flags | numbers | changes


def make_episode(iteration: int, turns: Sequence[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """A recorded episode."""
    about = {"iteration": iteration, "kind": "episode", "why": ["best"], "episode": 0, "task": "t",
             "type": "put", "solved": True, "ending": "terminated", "score": None,
             "estimator": "hae", "length": len(turns), "bootstrap": [0.0, 0.0, 0.0],
             "turns": list(turns)}  # fmt: skip
    return about | changes
