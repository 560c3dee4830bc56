"""Made-up trajectories whose turns share windows."""

import dataclasses

import numpy as np

from hiperjax.types import Trajectory


def grow_windows(trajectory: Trajectory, seed: int, share: float = 0.4) -> Trajectory:
    """The same turns; each after the first opens a window with this probability."""
    rng = np.random.default_rng(seed)
    turns = tuple(
        dataclasses.replace(turn, opens=t == 0 or bool(rng.random() < share))
        for t, turn in enumerate(trajectory.turns)
    )
    return dataclasses.replace(trajectory, turns=turns, final_opens=bool(rng.random() < share))


def list_contexts(trajectory: Trajectory) -> list[list[np.ndarray]]:
    """Prompts and replies of each window in turn, the state after a truncated episode included:
    prompt, reply, prompt, reply, ...; a window that ends with that state ends with its prompt."""
    found: list[list[np.ndarray]] = []
    for turn in trajectory.turns:
        if turn.opens:
            found.append([])
        found[-1] += [turn.prompt_ids, turn.reply_ids]
    if trajectory.final_prompt_ids is not None:
        if trajectory.final_opens:
            found.append([])
        found[-1].append(trajectory.final_prompt_ids)
    return found
