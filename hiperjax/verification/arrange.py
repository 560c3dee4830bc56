"""From loose turn rows to the grid, and the checks that types cannot make. Host side, numpy."""

from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from hiperjax.learning.credit.types import CreditInputs

OF_TOKENS = ("v_token", "reply_mask")
FINITE = ("reward", "v_low", "v_high", "v_term")


def arrange(
    trajectory: Sequence[Hashable],
    turn: Sequence[int],
    columns: Mapping[str, Sequence | np.ndarray],
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Rows in any order -> arrays `[B, T]`; trajectories in order of first appearance.

    Returns:
      `row [B, T]`, the index of each turn's row and -1 in the padding, and the columns arranged
      alike, zero (or False) in the padding.

    Raises:
      ValueError: columns of unequal length, two rows that share (trajectory, turn), or a gap in a
        trajectory's turns; names both.
    """
    for name, column in {"turn": turn, **columns}.items():
        if len(column) != len(trajectory):
            raise ValueError(f"{name}: found {len(column)} rows; expected {len(trajectory)}")
    slots: dict[Hashable, dict[int, int]] = {}
    for row, (name, t) in enumerate(zip(trajectory, turn, strict=True)):
        turns = slots.setdefault(name, {})
        if t in turns:
            raise ValueError(
                f"trajectory {name!r}, turn {t}: rows {turns[t]} and {row} share it; expected one "
                "row per turn (was a batch padded with copies?)"
            )
        turns[t] = row
    for name, turns in slots.items():
        missing = sorted(set(range(len(turns))) - set(turns))
        if missing:
            raise ValueError(
                f"trajectory {name!r}: found turns {sorted(turns)}, turn {missing[0]} is missing; "
                "expected 0, 1, 2, ... without a gap"
            )
    rows = np.full((len(slots), max((len(t) for t in slots.values()), default=0)), -1)
    for b, turns in enumerate(slots.values()):
        for t, row in turns.items():
            rows[b, t] = row
    live = rows >= 0
    arrays = {k: np.asarray(v)[np.maximum(rows, 0)] for k, v in columns.items()}
    return rows, {k: np.where(live, a, np.zeros((), a.dtype)) for k, a in arrays.items()}


def check_credit(inputs: CreditInputs, names: Sequence[str] | None = None) -> None:
    """Raise where a batch breaks the estimators' contract; `names` are the trajectories'.

    Raises:
      ValueError: shapes that disagree, a hole in a trajectory, a first turn that is no boundary, a
        reward or value that is not finite; names trajectory and turn.
    """
    mask = np.asarray(inputs.mask)
    check_shapes(inputs, mask.shape)
    checks = {"hole: a padding slot before a live turn": mask & ~np.cumprod(mask, 1).astype(bool)}
    first = mask & (np.arange(mask.shape[1]) == 0)
    checks["first turn is no boundary; expected True"] = first & ~np.asarray(inputs.boundary)
    for name in FINITE:
        values = np.asarray(getattr(inputs, name))
        checks[f"{name} is not a finite number"] = mask & ~np.isfinite(values)
    for what, bad in checks.items():
        if bad.any():
            b, t = np.argwhere(bad)[0]
            raise ValueError(f"trajectory {names[b] if names else b}, turn {t}: {what}")


def check_shapes(inputs: CreditInputs, shape: tuple[int, ...]) -> None:
    """Every field is `[B, T]` or `[B]`, as the mask says; those of tokens have one more axis."""
    for name, field in inputs._asdict().items():
        found = np.shape(field)
        found = found[:-1] if name in OF_TOKENS else found
        if field is not None and found not in (shape, shape[:1]):
            raise ValueError(
                f"{name}: found shape {np.shape(field)}; expected {shape} or {shape[:1]} "
                "as the mask has it"
            )
