"""Made-up trajectories for tests, ragged, with well-formed and malformed replies; a tiny model."""

import numpy as np

from hiperjax.models.transformer import TransformerConfig
from hiperjax.types import Blocks, Ending, Trajectory, Turn

VOCABULARY = 19
MODEL = TransformerConfig(
    vocab_size=VOCABULARY, hidden_size=16, intermediate_size=24, num_layers=2, num_heads=2,
    num_kv_heads=1, head_dim=8, embedding_std=0.5,
)  # fmt: skip
"""A transformer that reads these turns."""


def make_turn(rng: np.random.Generator, *, first: bool, malformed: bool | None = None) -> Turn:
    """A turn of 3 to 8 prompt tokens; a well-formed reply has blocks of 2, 2 to 4 and 2 to 4."""
    if malformed is None:
        malformed = bool(rng.random() < 0.2)
    prompt = rng.integers(0, VOCABULARY, rng.integers(3, 9))
    subgoal, action = rng.integers(2, 5, 2)
    ends = np.cumsum([2, subgoal, action])
    spans = [(0, int(ends[0])), (int(ends[0]), int(ends[1])), (int(ends[1]), int(ends[2]))]
    if malformed:
        spans[2] = (0, 0)
    reply = rng.integers(0, VOCABULARY, ends[2])
    blocks = Blocks(
        switch=first or (not malformed and bool(rng.random() < 0.4)),
        subgoal="find a mug",
        action="look",
        switch_span=spans[0],
        subgoal_span=spans[1],
        action_span=spans[2],
        well_formed=not malformed,
    )
    return Turn(
        prompt_ids=prompt.astype(np.int32),
        reply_ids=reply.astype(np.int32),
        behavior_logprobs=-rng.random(len(reply)).astype(np.float32),
        blocks=blocks,
        reward=float(rng.integers(0, 3)),
        observation=f"room {rng.integers(3)}",
    )


def make_trajectory(rng: np.random.Generator, turns: int, task: str = "task 0") -> Trajectory:
    """`turns` turns, ended either way."""
    truncated = bool(rng.random() < 0.4)
    return Trajectory(
        task_id=task,
        turns=tuple(make_turn(rng, first=t == 0) for t in range(turns)),
        ending=Ending.TRUNCATED if truncated else Ending.TERMINATED,
        success=not truncated,
        final_prompt_ids=np.arange(4, dtype=np.int32) if truncated else None,
        final_observation="outside",
    )


def make_batch(seed: int, lengths: list[int]) -> list[Trajectory]:
    """One trajectory a length."""
    rng = np.random.default_rng(seed)
    return [make_trajectory(rng, n, task=f"task {i % 2}") for i, n in enumerate(lengths)]
