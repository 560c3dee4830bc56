"""The waste ledger: where an iteration's token slots and seconds went, so that the parts sum up.

A token slot is one position of a batch in one pass of a model: it computes a token that counts, or
one that was computed before, or nothing that is used. Seconds of a phase on the device are divided
among the kinds of its slots in proportion to their number; what environments, host, compiler,
checkpoints and evaluation took is measured by the clock.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from hiperjax.acting.lane_sizes import RolloutStats
from hiperjax.types import PackedBatch

KINDS = ("useful", "recomputed", "bucket_pad", "row_pad", "dead")
"""Kinds of token slots: tokens that count; copies of the shared prefix; positions after the end of
a prompt or packed sequence; empty rows or sequences; decode steps of an idle slot."""
PHASES = ("prefill", "decode", "score", "update")
CLOCKED = ("environment", "judge", "host", "compile", "checkpoint", "evaluate")


class Slots(NamedTuple):
    """Token slots of one phase, by kind."""

    useful: float = 0.0
    recomputed: float = 0.0
    bucket_pad: float = 0.0
    row_pad: float = 0.0
    dead: float = 0.0

    def times(self, passes: float | int) -> "Slots":
        return Slots(*(passes * count for count in self))


def count_rollout(stats: RolloutStats) -> dict[str, Slots]:
    """Slots of prefill and decoding."""
    pads = stats.prefill_bucket_pad + stats.prefill_row_pad
    prefill = Slots(
        useful=stats.prefill_slots - pads,
        bucket_pad=stats.prefill_bucket_pad,
        row_pad=stats.prefill_row_pad,
    )
    dead = stats.decode_slots - stats.decode_tokens
    return {"prefill": prefill, "decode": Slots(useful=stats.decode_tokens, dead=dead)}


def count_pass(
    batch: PackedBatch, prefix: int, micro: int, minibatch_sizes: Sequence[int] | None = None
) -> Slots:
    """Slots of one pass over a packed batch.

    Args:
      batch: what is learned from.
      prefix: tokens of the shared prefix, of which one copy per batch is needed.
      micro: sequences at once.
      minibatch_sizes: sequences of each optimizer step; None: no steps.
    """
    length, used = batch.sequences.tokens.shape[1], int(batch.count)
    tokens = int(batch.sequences.token_mask[:used].sum())
    copies = prefix * max(0, used - 1)
    rows = sum(-(-count // micro) * micro for count in minibatch_sizes or (used,)) - used
    return Slots(
        useful=tokens - copies,
        recomputed=copies,
        bucket_pad=used * length - tokens,
        row_pad=rows * length,
    )


@dataclasses.dataclass(frozen=True)
class Ledger:
    """One iteration's books."""

    slots: Mapping[str, Slots]
    """slots by phase"""
    seconds: Mapping[str, float]
    """seconds by kind; they sum to the whole"""
    device: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """the device's share of those seconds: rollout (prefill and decode), update (scores as well)"""
    turns: int = 0
    """turns that were collected and learned from"""

    def tokens_per_turn(self) -> dict[str, float]:
        """Tokens each phase computed for a turn, padding and rest left out."""
        turns = max(1, self.turns)
        return {name: (s.useful + s.recomputed) / turns for name, s in self.slots.items()}

    def metrics(self) -> dict[str, float]:
        """Shares of token slots that were not useful, by phase and kind: no clock in them."""
        out = {}
        for phase, slots in self.slots.items():
            whole = sum(slots)
            for kind, count in zip(KINDS[1:], slots[1:], strict=True):
                if count:
                    out[f"waste/{phase}_{kind}"] = count / whole
        return out


def build_ledger(
    slots: Mapping[str, Slots],
    seconds: Mapping[str, float],
    device: Mapping[str, float],
    turns: int = 0,
) -> Ledger:
    """Book an iteration.

    Args:
      slots: Slots of every phase.
      seconds: measured by the clock, for the kinds in `CLOCKED`.
      device: seconds on the device of `rollout` (prefill and decode together) and `update` (scores
        and update together).
      turns: collected and learned from.
    """
    booked = dict.fromkeys((*KINDS, *CLOCKED), 0.0) | dict(seconds)
    for name, phases in (("rollout", PHASES[:2]), ("update", PHASES[2:])):
        together = [sum(parts) for parts in zip(*(slots[p] for p in phases), strict=True)]
        whole = sum(together)
        for kind, count in zip(KINDS, together, strict=True):
            booked[kind] += device[name] * count / whole if whole else 0.0
        if not whole:
            booked["host"] += device[name]
    return Ledger(dict(slots), booked, dict(device), turns)


def render(ledgers: list[Ledger]) -> str:
    """Tables of the mean iteration: token slots by phase, seconds by kind."""
    count = max(1, len(ledgers))
    lines = [f"token slots of a mean iteration of {len(ledgers)}", ""]
    lines.append(f"{'phase':<10}{'slots':>12}" + "".join(f"{kind:>13}" for kind in KINDS))
    for phase in PHASES:
        parts = [sum(x) / count for x in zip(*(b.slots[phase] for b in ledgers), strict=True)]
        whole = sum(parts)
        shares = "".join(f"{part / whole if whole else 0:>12.1%} " for part in parts)
        lines.append(f"{phase:<10}{whole:>12,.0f}{shares}")
    if turns := sum(b.turns for b in ledgers):
        parts = (
            f"{phase} {sum(b.tokens_per_turn()[phase] * b.turns for b in ledgers) / turns:,.1f}"
            for phase in PHASES
        )
        lines += ["", f"tokens computed per turn: {', '.join(parts)}"]
    lines += ["", "seconds"]
    total = sum(sum(b.seconds.values()) for b in ledgers) / count
    for kind in (*KINDS, *CLOCKED):
        amount = sum(b.seconds[kind] for b in ledgers) / count
        lines.append(f"{kind:<14}{amount:>9.3f} s{amount / total if total else 0:>8.1%}")
    lines.append(f"{'together':<14}{total:>9.3f} s")
    return "\n".join(lines)
