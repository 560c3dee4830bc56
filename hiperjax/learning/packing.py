"""list[Trajectory] -> PackedBatch: the border from ragged to fixed shape.

Left of this file nothing is traced; right of it everything is an array. Rows beyond the turns of the
batch and trajectories beyond its episodes are padding of weight zero: nothing is ever duplicated or
dropped.
"""

from collections.abc import Hashable, Iterable, Sequence

import numpy as np

from hiperjax.types import Ending, PackedBatch, Span, Trajectory, Turn, TurnGrid, TurnRows


def round_up(size: int, multiple: int) -> int:
    """The smallest positive multiple of `multiple` that is at least `size`."""
    return max(1, -(-size // multiple)) * multiple


def _mark(mask: np.ndarray, row: int, offset: int, span: Span) -> None:
    mask[row, offset + span[0] : offset + span[1]] = True


def pack_turns(turns: Sequence[Turn], *, row_multiple: int, length_multiple: int) -> TurnRows:
    """One row a turn: prompt, reply, padding; the length is the longest's, rounded up.

    `value_at` points at the token before the reply for the high and term heads, and at the last
    token of the subgoal block for the low head; a malformed reply has no such place, and its low
    value is read before the reply too.
    """
    n = round_up(len(turns), row_multiple)
    longest = max((len(t.prompt_ids) + len(t.response_ids) for t in turns), default=1)
    length = round_up(longest, length_multiple)
    tokens = np.zeros((n, length), np.int32)
    logprobs = np.zeros((n, length), np.float32)
    masks = {k: np.zeros((n, length), bool) for k in ("token", "response", *_SPANS)}
    value_at = np.zeros((n, 3), np.int32)
    for i, turn in enumerate(turns):
        start, end = len(turn.prompt_ids), len(turn.prompt_ids) + len(turn.response_ids)
        tokens[i, :start], tokens[i, start:end] = turn.prompt_ids, turn.response_ids
        logprobs[i, start:end] = turn.behavior_logprobs
        masks["token"][i, :end] = True
        masks["response"][i, start:end] = True
        for name in _SPANS:
            _mark(masks[name], i, start, getattr(turn.blocks, f"{name}_span"))
        after_subgoal = start + turn.blocks.subgoal_span[1] - 1
        value_at[i] = (after_subgoal if turn.blocks.well_formed else start - 1, start - 1, start - 1)
    return TurnRows(
        tokens=tokens,
        token_mask=masks["token"],
        response_mask=masks["response"],
        switch_mask=masks["switch"],
        subgoal_mask=masks["subgoal"],
        action_mask=masks["action"],
        behavior_logprobs=logprobs,
        value_at=value_at,
        row_mask=np.arange(n) < len(turns),
    )


_SPANS = ("switch", "subgoal", "action")


def intern(keys: Iterable[Hashable]) -> list[int]:
    """Small integers for hashable things: equal things get equal ids, in order of appearance."""
    table: dict[Hashable, int] = {}
    return [table.setdefault(key, len(table)) for key in keys]


def _check(trajectory: Trajectory) -> None:
    for t, turn in enumerate(trajectory.turns):
        where = f"trajectory of task {trajectory.task_id}, turn {t}"
        if t == 0 and not turn.blocks.switch:
            raise ValueError(f"{where}: the first turn must open a segment (blocks.switch True)")
        if not np.isfinite(turn.reward):
            raise ValueError(f"{where}: found reward {turn.reward}; expected a finite number")
        if not len(turn.response_ids) or not len(turn.prompt_ids):
            raise ValueError(f"{where}: empty prompt or reply; expected at least one token of each")
        if len(turn.response_ids) != len(turn.behavior_logprobs):
            raise ValueError(
                f"{where}: {len(turn.behavior_logprobs)} behavior log-probs for "
                f"{len(turn.response_ids)} reply tokens; expected one each"
            )
    truncated = trajectory.ending is Ending.TRUNCATED
    if truncated and trajectory.final_prompt_ids is None:
        raise ValueError(
            f"trajectory of task {trajectory.task_id}: truncated without final_prompt_ids; "
            "expected the prompt after the last turn, where its value is read"
        )


def pack_grid(
    trajectories: Sequence[Trajectory], *, max_turns: int, trajectory_multiple: int = 1
) -> TurnGrid:
    """Scalars of `B x T` turns; rows are numbered trajectory by trajectory, turn by turn.

    Raises:
      ValueError: a trajectory longer than `max_turns`, or one that breaks the contract of its type.
    """
    b, t = round_up(len(trajectories), trajectory_multiple), max_turns
    grid = TurnGrid(
        row=np.zeros((b, t), np.int32),
        mask=np.zeros((b, t), bool),
        boundary=np.zeros((b, t), bool),
        reward=np.zeros((b, t), np.float32),
        well_formed=np.zeros((b, t), bool),
        keep_violation=np.zeros((b, t), bool),
        terminated=np.zeros(b, bool),
        success=np.zeros(b, bool),
        group_id=np.zeros(b, np.int32),
        state_id=np.zeros((b, t), np.int32),
        final_state_id=np.zeros(b, np.int32),
        reply_tokens=np.zeros((b, t), np.int32),
    )
    groups = intern(trajectory.task_id for trajectory in trajectories)
    states = iter(
        intern(
            text
            for trajectory in trajectories
            for text in (*(turn.observation for turn in trajectory.turns),
                         trajectory.final_observation)
        )
    )  # fmt: skip
    row = 0
    for i, trajectory in enumerate(trajectories):
        turns, k = trajectory.turns, len(trajectory.turns)
        if k > max_turns:
            raise ValueError(
                f"trajectory of task {trajectory.task_id}: {k} turns; expected at most {max_turns}"
            )
        _check(trajectory)
        grid.row[i, :k] = np.arange(row, row + k)
        grid.mask[i, :k] = True
        grid.boundary[i, :k] = [turn.blocks.switch for turn in turns]
        grid.reward[i, :k] = [turn.reward for turn in turns]
        grid.well_formed[i, :k] = [turn.blocks.well_formed for turn in turns]
        grid.keep_violation[i, :k] = [turn.blocks.keep_violation for turn in turns]
        grid.reply_tokens[i, :k] = [len(turn.response_ids) for turn in turns]
        grid.state_id[i, :k] = [next(states) for _ in turns]
        grid.final_state_id[i] = next(states)
        grid.terminated[i] = trajectory.ending is Ending.TERMINATED
        grid.success[i], grid.group_id[i] = trajectory.success, groups[i]
        row += k
    return grid


def pack(
    trajectories: Sequence[Trajectory],
    *,
    max_turns: int,
    row_multiple: int = 1,
    length_multiple: int = 16,
    trajectory_multiple: int = 1,
) -> PackedBatch:
    """Pack whole trajectories. Shapes are rounded up so that few programs are compiled.

    Raises:
      ValueError: as `pack_grid`.
    """
    grid = pack_grid(trajectories, max_turns=max_turns, trajectory_multiple=trajectory_multiple)
    turns = [turn for trajectory in trajectories for turn in trajectory.turns]
    rows = pack_turns(turns, row_multiple=row_multiple, length_multiple=length_multiple)
    return PackedBatch(rows=rows, grid=grid)


def pack_prompts(
    prompts: Sequence[np.ndarray | None], *, length_multiple: int, row_multiple: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Right-padded prompts `[B, L]` and their lengths `[B]`; a missing one is a single pad token."""
    n = round_up(len(prompts), row_multiple)
    longest = max((len(p) for p in prompts if p is not None), default=1)
    tokens = np.zeros((n, round_up(longest, length_multiple)), np.int32)
    lengths = np.ones(n, np.int32)
    for i, prompt in enumerate(prompts):
        if prompt is not None:
            tokens[i, : len(prompt)] = prompt
            lengths[i] = len(prompt)
    return tokens, lengths
