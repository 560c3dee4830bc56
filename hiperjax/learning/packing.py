"""list[Trajectory] -> PackedBatch: the border from ragged to fixed shape.

Left of this file nothing is traced; right of it everything is an array. Turns are packed into
sequences by best fit, longest first; what is left over, in tokens, rows and trajectories, is
padding of weight zero. Nothing is ever duplicated or dropped. Where all prompts begin alike, that
prefix is stored once a sequence and its turns continue it.
"""

import bisect
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

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
FEW_READS = 128
"""Reply tokens a sequence up to which room is made for all there could be."""


def round_up(size: int, multiple: int) -> int:
    """The smallest positive multiple of `multiple` that is at least `size`."""
    return max(1, -(-size // multiple)) * multiple


def choose_capacity(needed: int, first: int) -> int:
    """`first`, doubled until it holds what is needed: few sizes, so few compilations."""
    while first < needed:
        first *= 2
    return first


class Layout(NamedTuple):
    """Where each turn goes: `bins[i]` lists the turns of sequence i in the order they stand."""

    bins: list[list[int]]
    length: int
    """tokens a sequence holds"""


def lay_out(sizes: Sequence[int], *, length: int, per_sequence: int, seed: int = 0) -> Layout:
    """Best fit, longest first; ties in random order, so that neighbors are not of one episode.

    `length` grows to a multiple of 16 that holds the longest turn, if it does not already.
    """
    length = max(length, round_up(max(sizes, default=1), 16))
    order = np.random.default_rng(seed).permutation(len(sizes))
    order = order[np.argsort(-np.asarray(sizes, int)[order], kind="stable")]
    bins: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens left, bin), sorted; full bins leave the list
    for turn in order.tolist():
        at = bisect.bisect_left(room, (sizes[turn], -1))
        if at == len(room):
            bins.append([])
            left, where = length, len(bins) - 1
        else:
            left, where = room.pop(at)
        bins[where].append(turn)
        if len(bins[where]) < per_sequence:
            bisect.insort(room, (left - sizes[turn], where))
    return Layout(bins, length)


def pack_turns(
    turns: Sequence[Turn],
    *,
    length: int,
    per_sequence: int,
    prefix: Sequence[int] = (),
    capacity: int | None = None,
    multiple: int = 1,
    reply_length: int = 1,
    seed: int = 0,
) -> tuple[Sequences, TurnRows, np.ndarray]:
    """Pack turns; returns sequences, rows, and the row of each turn.

    Args:
      turns: what to pack.
      length: tokens a sequence; grows where a turn is longer.
      per_sequence: turns a sequence at most.
      prefix: tokens that every prompt begins with; stored once a sequence.
      capacity: sequences, doubled until the turns fit; None: as many as they need.
      multiple: their number is a multiple of this.
      reply_length: reply tokens a row at least; a multiple of 8 that holds the longest reply.
      seed: order of turns of equal length.

    `value_at` points at the token before the reply for the high and term heads, and at the last
    token of the subgoal block for the low head; a malformed reply has no such place, and its low
    value is read before the reply too.

    Raises:
      ValueError: a prompt that does not begin with the prefix.
    """
    start = np.asarray(prefix, np.int32)
    for turn in turns:
        if not np.array_equal(turn.prompt_ids[: len(start)], start):
            raise ValueError(
                f"prompt of {len(turn.prompt_ids)} tokens begins with "
                f"{turn.prompt_ids[: len(start)].tolist()[:8]}...; expected the shared prefix, "
                f"{len(start)} tokens that begin with {start.tolist()[:8]}..."
            )
    sizes = [len(t.prompt_ids) - len(start) + len(t.response_ids) for t in turns]
    layout = lay_out(sizes, length=length - len(start), per_sequence=per_sequence, seed=seed)
    room = round_up(len(layout.bins), multiple)
    if capacity is not None:
        room = choose_capacity(room, round_up(capacity, multiple))
    longest = max((len(t.response_ids) for t in turns), default=1)
    reply = max(reply_length, round_up(longest, 8))
    most = max((sum(len(turns[t].response_ids) for t in b) for b in layout.bins), default=1)
    few = max(FEW_READS, -(-per_sequence * reply // 4))
    reads = min(per_sequence * reply, choose_capacity(most, few))
    shape = room, layout.length + len(start)
    sequences, rows = _empty(shape, per_sequence, reply, reads)
    row_of = np.zeros(len(turns), np.int32)
    for where, members in enumerate(layout.bins):
        _write_prefix(sequences, start, where)
        at, read = len(start), 0
        for slot, turn in enumerate(members):
            row_of[turn] = where * per_sequence + slot
            _write(sequences, rows, turns[turn], int(row_of[turn]), where, at, slot + 1, len(start))
            count = len(turns[turn].response_ids)
            sequences.reply_place[where, read : read + count] = slot * reply + np.arange(count)
            at, read = at + sizes[turn], read + count
    return sequences, rows, row_of


def _empty(
    shape: tuple[int, int], per_sequence: int, reply: int, reads: int
) -> tuple[Sequences, TurnRows]:
    n = shape[0] * per_sequence
    sequences = Sequences(
        tokens=np.zeros(shape, np.int32),
        token_mask=np.zeros(shape, bool),
        segment=np.zeros(shape, np.int32),
        position=np.zeros(shape, np.int32),
        reply_place=np.full((shape[0], reads), per_sequence * reply, np.int32),
    )
    masks = {f"{name}_mask": np.zeros((n, reply), bool) for name in ("response", *_SPANS)}
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
    turn: Turn,
    row: int,
    where: int,
    at: int,
    segment: int,
    shared: int,
) -> None:
    prompt, count = turn.prompt_ids[shared:], len(turn.response_ids)
    start = at + len(prompt)
    end = start + count
    sequences.tokens[where, at:start] = prompt
    sequences.tokens[where, start:end] = turn.response_ids
    sequences.token_mask[where, at:end] = True
    sequences.segment[where, at:end] = segment
    sequences.position[where, at:end] = shared + np.arange(end - at)
    rows.reply[row, :count] = turn.response_ids
    rows.behavior_logprobs[row, :count] = turn.behavior_logprobs
    rows.response_mask[row, :count] = True
    for name in _SPANS:
        span: Span = getattr(turn.blocks, f"{name}_span")
        getattr(rows, f"{name}_mask")[row, span[0] : span[1]] = True
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
    trajectories: Sequence[Trajectory],
    row_of: np.ndarray,
    *,
    max_turns: int,
    trajectory_multiple: int = 1,
) -> TurnGrid:
    """Scalars of `B x T` turns; `row_of` is the row of each turn, trajectory by trajectory.

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
        grid.reply_tokens[i, :k] = [len(turn.response_ids) for turn in turns]
        grid.milestone[i, :k] = [turn.milestone for turn in turns]
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
    length: int = 16,
    per_sequence: int = 1,
    prefix: Sequence[int] = (),
    capacity: int | None = None,
    multiple: int = 1,
    reply_length: int = 1,
    trajectory_multiple: int = 1,
    seed: int = 0,
) -> PackedBatch:
    """Pack whole trajectories; arguments as in `pack_turns` and `pack_grid`.

    Raises:
      ValueError: as `pack_grid`.
    """
    for trajectory in trajectories:
        _check(trajectory)
    turns = [turn for trajectory in trajectories for turn in trajectory.turns]
    sequences, rows, row_of = pack_turns(
        turns,
        length=length,
        per_sequence=per_sequence,
        prefix=prefix,
        capacity=capacity,
        multiple=multiple,
        reply_length=reply_length,
        seed=seed,
    )
    grid = pack_grid(
        trajectories, row_of, max_turns=max_turns, trajectory_multiple=trajectory_multiple
    )
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
