"""list[Trajectory] -> PackedBatch: the border from ragged to fixed shape.

Left of this file nothing is traced; right of it everything is an array. Windows are packed into
sequences by best fit, longest first; what is left over, in tokens, rows and trajectories, is
padding of weight zero. Nothing is ever duplicated or dropped. Where all prompts begin alike, that
prefix is stored once per sequence and its windows continue it.
"""

from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from hiperjax.learning.checklists import pack_checklists
from hiperjax.learning.costs import pack_costs
from hiperjax.learning.layout import (
    NO_ROOM,
    Room,
    Window,
    choose_capacity,
    choose_reply_places,
    lay_out,
    lay_out_rows,
    round_up,
    split_windows,
)
from hiperjax.types import (
    Ending,
    FinalPrompts,
    PackedBatch,
    Sequences,
    Span,
    Trajectory,
    Turn,
    TurnGrid,
    TurnRows,
)

_SPANS = ("switch", "subgoal", "action")
MANY_READS = 384
"""Reply tokens per sequence up to which room is made for all there could be where windows grow."""


def pack_windows(
    windows: Sequence[Window],
    *,
    length: int,
    per_sequence: int,
    prefix: Sequence[int] = (),
    capacity: int | None = None,
    multiple: int = 1,
    reply_length: int = 1,
    grown: bool = False,
    attention_columns: int = 0,
    least: Room = NO_ROOM,
    seed: int = 0,
) -> tuple[Sequences, TurnRows, np.ndarray]:
    """Pack windows; returns sequences, rows, and the row of each turn, window by window (of the
    state after a window's turns too, where it has one).

    Args:
      windows: what to pack: each becomes a segment of a sequence, each of its turns one row.
      length: tokens per sequence; grows where a window is longer.
      per_sequence: rows per sequence at most.
      prefix: tokens that every opening prompt begins with; stored once per sequence.
      capacity: sequences, doubled until the windows fit; None: as many as they need.
      multiple: their number is a multiple of this.
      reply_length: reply tokens per row at least; a multiple of 8 that holds the longest reply.
      grown: windows may have many turns: `per_sequence` grows to hold the one of most, and room is
        made for no more reply tokens than the fullest sequence needs.
      attention_columns: attention is to run on rows of one window each, whose columns are a
        multiple of this; 0: on whole sequences, by a mask.
      least: sizes that the arrays have at least.
      seed: order of windows of equal length.

    `value_at` points at the token before the reply for the high and term heads, and at the last
    token of the subgoal block for the low head; a malformed reply has no such position, and its low
    value is read before the reply too.

    Raises:
      ValueError: an opening prompt that does not begin with the prefix.
    """
    start = np.asarray(prefix, np.int32)
    _check_prefix(windows, start)
    sizes, counts = [w.tokens - len(start) for w in windows], [w.rows for w in windows]
    if grown:
        per_sequence = max(per_sequence, round_up(max(counts, default=1), 8))
    layout = lay_out(
        sizes, length=length - len(start), per_sequence=per_sequence, rows=counts, seed=seed
    )
    room = round_up(len(layout.bins), multiple)
    if capacity is not None:
        room = choose_capacity(room, round_up(capacity, multiple))
    replies = [[len(turn.reply_ids) for turn in w.turns] for w in windows]
    longest = max((n for sizes in replies for n in sizes), default=1)
    reply = max(reply_length, round_up(longest, 8))
    most = max((sum(sum(replies[w]) for w in b) for b in layout.bins), default=1)
    # Few sizes, and so few compilations, where a read costs little.
    usual = min(MANY_READS, round_up(3 * layout.length // 8, 64))
    reads = choose_reply_places(max(most, usual) if grown else most)
    reads = min(per_sequence * reply, max(reads, least.reads))
    shape = room, layout.length + len(start)
    sequences, rows = _empty(shape, per_sequence, reply, reads)
    first = np.concatenate([[0], np.cumsum(counts)]).astype(int)
    row_of = np.zeros(first[-1], np.int32)
    for where, members in enumerate(layout.bins):
        _write_prefix(sequences, start, where)
        cursor = _Cursor(where, where * per_sequence, len(start))
        for segment, window in enumerate(members, start=1):
            row_of[first[window] : first[window + 1]] = cursor.row + np.arange(counts[window])
            cursor = _write(sequences, rows, windows[window], cursor, segment, len(start))
    if attention_columns:
        laid = lay_out_rows(
            sequences.segment, sequences.token_mask, multiple=attention_columns, least=least
        )
        sequences = sequences._replace(attention_rows=laid)
    return sequences, rows, row_of


def _check_prefix(windows: Sequence[Window], start: np.ndarray) -> None:
    for window in windows:
        prompt = window.opening
        if not np.array_equal(prompt[: len(start)], start):
            raise ValueError(
                f"prompt of {len(prompt)} tokens begins with "
                f"{prompt[: len(start)].tolist()[:8]}...; expected the shared prefix, "
                f"{len(start)} tokens that begin with {start.tolist()[:8]}..."
            )


class _Cursor(NamedTuple):
    """Where the next window is written: sequence, row, token, and reply indices in use."""

    where: int
    row: int
    at: int
    read: int = 0


def _empty(
    shape: tuple[int, int], per_sequence: int, reply: int, reads: int
) -> tuple[Sequences, TurnRows]:
    n = shape[0] * per_sequence
    sequences = Sequences(
        tokens=np.zeros(shape, np.int32),
        token_mask=np.zeros(shape, bool),
        segment=np.zeros(shape, np.int32),
        position=np.zeros(shape, np.int32),
        reply_index=np.full((shape[0], reads), per_sequence * reply, np.int32),
    )
    masks = {f"{name}_mask": np.zeros((n, reply), bool) for name in ("reply", *_SPANS)}
    rows = TurnRows(
        reply=np.zeros((n, reply), np.int32),
        behavior_logprobs=np.zeros((n, reply), np.float32),
        reply_at=np.ones(n, np.int32),
        value_at=np.zeros((n, 3), np.int32),
        row_mask=np.zeros(n, bool),
        **masks,
    )
    return sequences, rows


def _write_prefix(sequences: Sequences, prefix: np.ndarray, where: int) -> None:
    sequences.tokens[where, : len(prefix)] = prefix
    sequences.token_mask[where, : len(prefix)] = True
    sequences.position[where, : len(prefix)] = np.arange(len(prefix))


def _write(
    sequences: Sequences,
    rows: TurnRows,
    window: Window,
    cursor: _Cursor,
    segment: int,
    shared: int,
) -> _Cursor:
    """Write a window where the cursor stands; returns where the next one begins."""
    where, row, at, read = cursor
    reply, per_sequence = rows.reply.shape[1], len(rows.reply) // len(sequences.tokens)
    parts: list[np.ndarray] = []
    start = at - shared  # the prefix stands at the head of the sequence
    for turn in window.turns:
        parts += [turn.prompt_ids, turn.reply_ids]
        start += len(turn.prompt_ids)
        _write_row(rows, turn, row, start)
        count = len(turn.reply_ids)
        slot = row - where * per_sequence
        sequences.reply_index[where, read : read + count] = slot * reply + np.arange(count)
        start, row, read = start + count, row + 1, read + count
    if window.final is not None:
        parts.append(window.final)
        rows.reply_at[row] = rows.value_at[row] = start + len(window.final) - 1
        row += 1
    tokens = np.concatenate(parts)[shared:]
    end = at + len(tokens)
    sequences.tokens[where, at:end] = tokens
    sequences.token_mask[where, at:end] = True
    sequences.segment[where, at:end] = segment
    sequences.position[where, at:end] = shared + np.arange(end - at)
    return _Cursor(where, row, end, read)


def _write_row(rows: TurnRows, turn: Turn, row: int, start: int) -> None:
    """A turn whose reply begins at token `start` of its sequence."""
    count = len(turn.reply_ids)
    rows.reply[row, :count] = turn.reply_ids
    rows.behavior_logprobs[row, :count] = turn.behavior_logprobs
    rows.reply_mask[row, turn.given : count] = turn.counts
    for name in _SPANS:
        span: Span = getattr(turn.blocks, f"{name}_span")
        getattr(rows, f"{name}_mask")[row, max(turn.given, span[0]) : span[1]] = True
    after_subgoal = start + turn.blocks.subgoal_span[1] - 1
    low = after_subgoal if turn.blocks.well_formed else start - 1
    rows.reply_at[row], rows.value_at[row] = start, (low, start - 1, start - 1)
    rows.row_mask[row] = True


def assign_ids(keys: Iterable[Hashable]) -> list[int]:
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
        if not len(turn.reply_ids) or not len(turn.prompt_ids):
            raise ValueError(f"{where}: empty prompt or reply; expected at least one token of each")
        if len(turn.reply_ids) != len(turn.behavior_logprobs):
            raise ValueError(
                f"{where}: {len(turn.behavior_logprobs)} behavior log-probs for "
                f"{len(turn.reply_ids)} reply tokens; expected one each"
            )
    truncated = trajectory.ending is Ending.TRUNCATED
    if truncated and trajectory.final_prompt_ids is None:
        raise ValueError(
            f"trajectory of task {trajectory.task_id}: truncated without final_prompt_ids; "
            "expected the prompt after the last turn, where its value is read"
        )


def pack_grid(
    trajectories: Sequence[Trajectory],
    row_of: np.ndarray,
    final_row: np.ndarray,
    *,
    max_turns: int,
    trajectory_multiple: int = 1,
) -> TurnGrid:
    """Scalars of `B x T` turns; `row_of` is the row of each turn, trajectory by trajectory, and
    `final_row` that of the state after each trajectory (0 where there is none).

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
        admissible=np.zeros((b, t), bool),
        terminated=np.zeros(b, bool),
        success=np.zeros(b, bool),
        group_id=np.zeros(b, np.int32),
        state_id=np.zeros((b, t), np.int32),
        final_state_id=np.zeros(b, np.int32),
        reply_tokens=np.zeros((b, t), np.int32),
        milestone=np.zeros((b, t), bool),
        final_row=np.pad(final_row, (0, b - len(trajectories))).astype(np.int32),
    )
    groups = assign_ids(trajectory.task_id for trajectory in trajectories)
    states = iter(
        assign_ids(
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
        grid.row[i, :k] = row_of[row : row + k]
        grid.mask[i, :k] = True
        grid.boundary[i, :k] = [turn.blocks.switch for turn in turns]
        grid.reward[i, :k] = [turn.reward for turn in turns]
        grid.well_formed[i, :k] = [turn.blocks.well_formed for turn in turns]
        grid.keep_violation[i, :k] = [turn.blocks.keep_violation for turn in turns]
        grid.admissible[i, :k] = [turn.admissible for turn in turns]
        grid.reply_tokens[i, :k] = [len(turn.reply_ids) - turn.given for turn in turns]
        grid.milestone[i, :k] = [turn.milestone for turn in turns]
        grid.state_id[i, :k] = [next(states) for _ in turns]
        grid.final_state_id[i] = next(states)
        grid.terminated[i] = trajectory.ending is Ending.TERMINATED
        grid.success[i], grid.group_id[i] = trajectory.success, groups[i]
        row += k
    return grid._replace(**pack_checklists(trajectories, b, t))


def pack(
    trajectories: Sequence[Trajectory],
    *,
    max_turns: int,
    length: int = 16,
    per_sequence: int = 1,
    prefix: Sequence[int] = (),
    capacity: int | None = None,
    multiple: int = 1,
    reply_length: int = 1,
    trajectory_multiple: int = 1,
    grown: bool = False,
    attention_columns: int = 0,
    least: Room = NO_ROOM,
    seed: int = 0,
    costs: bool = False,
) -> PackedBatch:
    """Pack whole trajectories; arguments as in `pack_windows` and `pack_grid`.

    `costs`: with the critical steps of each turn, for worlds where it may have more than one.
    `grown`: windows may have many turns, and the state after a truncated episode is a row of its
    window. Without it that state has a prompt of its own (`pack_final_prompts`).

    Raises:
      ValueError: as `pack_grid`.
    """
    for trajectory in trajectories:
        _check(trajectory)
    parts = [split_windows(trajectory, final=grown) for trajectory in trajectories]
    sequences, rows, row_of = pack_windows(
        [window for windows in parts for window in windows],
        length=length,
        per_sequence=per_sequence,
        prefix=prefix,
        capacity=capacity,
        multiple=multiple,
        reply_length=reply_length,
        grown=grown,
        attention_columns=attention_columns,
        least=least,
        seed=seed,
    )
    counts = [sum(window.rows for window in windows) for windows in parts]
    by_trajectory = np.split(row_of, np.cumsum(counts)[:-1])
    valued = [grown and t.final_prompt_ids is not None for t in trajectories]
    grid = pack_grid(
        trajectories,
        np.concatenate([r[:-1] if v else r for r, v in zip(by_trajectory, valued, strict=True)]),
        np.array([r[-1] if v else 0 for r, v in zip(by_trajectory, valued, strict=True)], np.int32),
        max_turns=max_turns,
        trajectory_multiple=trajectory_multiple,
    )
    if costs:
        grid = grid._replace(cost=pack_costs(trajectories, *grid.mask.shape))
    used = int(sequences.token_mask.any(axis=1).sum())
    return PackedBatch(sequences, rows, grid, used)


def pack_final_prompts(
    trajectories: Sequence[Trajectory], *, length: int, trajectory_multiple: int = 1
) -> FinalPrompts:
    """Right-padded prompts of the truncated trajectories, the only ones whose end has a value.

    `length` grows to a multiple of 16 where it does not suffice.
    """
    prompts = [t.final_prompt_ids for t in trajectories]
    longest = max((len(p) for p in prompts if p is not None), default=1)
    room = round_up(len(prompts), trajectory_multiple)
    tokens = np.zeros((room, max(length, round_up(longest, 16))), np.int32)
    lengths, row, count = np.ones(room, np.int32), np.zeros(room, np.int32), 0
    for i, prompt in enumerate(prompts):
        if prompt is not None:
            tokens[count, : len(prompt)] = prompt
            lengths[count], row[i] = len(prompt), count
            count += 1
    return FinalPrompts(tokens, lengths, row, count)
