"""Hypothesis strategies for ragged trajectories: any turns, boundaries, rewards and endings.

They shrink to the smallest trajectory that breaks a test; `episodes.py` makes whole batches from a
seed where that does not matter.
"""

import numpy as np
from hypothesis import strategies as st

from hiperjax.types import Blocks, Ending, Trajectory, Turn

VOCABULARY = 50

_rewards = st.sampled_from([0.0, 0.0, 1.0, -0.5, 10.0])
_block = st.integers(1, 4)


def _tokens(size: int) -> st.SearchStrategy[np.ndarray]:
    ids = st.lists(st.integers(1, VOCABULARY - 1), min_size=size, max_size=size)
    return ids.map(lambda drawn: np.array(drawn, np.int32))


@st.composite
def turns(draw: st.DrawFn, first: bool = False) -> Turn:
    """One turn. Well-formed: three blocks in order. Malformed: no action, and no switch later."""
    well_formed = draw(st.booleans())
    ends = np.cumsum([draw(_block) for _ in range(3)]).tolist()
    reply = draw(_tokens(ends[2]))
    switch = first or (well_formed and draw(st.booleans()))
    return Turn(
        prompt_ids=draw(st.integers(1, 5).flatmap(_tokens)),
        reply_ids=reply,
        behavior_logprobs=(-reply / VOCABULARY).astype(np.float32),
        blocks=Blocks(
            switch=switch,
            subgoal=f"subgoal {reply[ends[0]]}",
            action="look",
            switch_span=(0, ends[0]),
            subgoal_span=(ends[0], ends[1]),
            action_span=(ends[1], ends[2]) if well_formed else (0, 0),
            well_formed=well_formed,
        ),
        reward=draw(_rewards),
        observation=f"room {draw(st.integers(0, 2))}",
    )


@st.composite
def trajectories(draw: st.DrawFn, max_turns: int = 5) -> Trajectory:
    """One episode of 1 to `max_turns` turns; a truncated one has the prompt after its last turn."""
    ending = draw(st.sampled_from(Ending))
    rest = draw(st.lists(turns(), max_size=max_turns - 1))
    return Trajectory(
        task_id=f"task {draw(st.integers(0, 2))}",
        turns=(draw(turns(first=True)), *rest),
        ending=ending,
        success=draw(st.booleans()),
        final_prompt_ids=draw(_tokens(3)) if ending is Ending.TRUNCATED else None,
        final_observation="outside",
    )


def batches(max_turns: int = 5, max_size: int = 6) -> st.SearchStrategy[list[Trajectory]]:
    """One to `max_size` episodes."""
    return st.lists(trajectories(max_turns), min_size=1, max_size=max_size)
