"""Trajectories as text a person can read."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from hiperjax.files import write_text
from hiperjax.types import Trajectory

SAMPLES = "samples"


def render_trajectory(trajectory: Trajectory, tokenizer: Any, *, context: bool = False) -> str:
    """Turn by turn: observation, decision, subgoal, action, reward, and the reply as sampled.

    `context`: and the prompt as the model saw it, whole where a window opens, else what it grew by.
    """
    outcome = "solved" if trajectory.success else "not solved"
    lines = [f"task {trajectory.task_id}: {outcome}, {trajectory.ending.value}"]
    for number, turn in enumerate(trajectory.turns, start=1):
        b = turn.blocks
        word = "SWITCH" if b.switch else "keep"
        marks = [m for m, on in (("malformed", not b.well_formed),
                                 ("rewrote the subgoal", b.keep_violation),
                                 ("inadmissible", not turn.admissible)) if on]  # fmt: skip
        lines.append(f"-- turn {number} {' '.join(f'[{m}]' for m in marks)}".rstrip())
        if context:
            lines.append(_render_context(turn.prompt_ids, turn.opens, tokenizer))
        lines += [
            f"   sees    {turn.observation.strip()!r}",
            f"   {word:<7} {b.subgoal}",
            f"   acts    {b.action}    reward {turn.reward:g}",
            f"   reply   {tokenizer.decode(turn.reply_ids)!r}",
        ]
    if context and trajectory.final_prompt_ids is not None:
        lines.append("-- cut short; the state after the last turn")
        lines.append(
            _render_context(trajectory.final_prompt_ids, trajectory.final_opens, tokenizer)
        )
    return "\n".join(lines) + "\n"


def _render_context(ids: np.ndarray, opens: bool, tokenizer: Any) -> str:
    verb = "opens with" if opens else "grows by"
    return f"   context {verb} {len(ids)} tokens: {tokenizer.decode(ids)!r}"


def write_samples(
    folder: pathlib.Path, name: str, trajectories: Sequence[Trajectory], tokenizer: Any
) -> None:
    """One solved and one unsolved episode (where there are such) to `samples/`."""
    chosen = [
        next((t for t in trajectories if t.success is wanted), None) for wanted in (True, False)
    ]
    text = "\n".join(render_trajectory(t, tokenizer) for t in chosen if t is not None)
    (folder / SAMPLES).mkdir(parents=True, exist_ok=True)
    write_text(folder / SAMPLES / f"{name}.txt", text)
