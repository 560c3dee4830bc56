"""Our rollout taken apart: slot-steps chunk by chunk, and seconds of prefill and decoding.

A metered lane waits for the device after every call, so that each second has one owner; that is the
profile, and not how fast the rollout is.
"""

import collections
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from hiperjax.acting.lanes import Lane


class Chunk(NamedTuple):
    """A dispatch of decoding."""

    tail: bool
    """some slots had no episode, because none waited"""
    computed: int
    """slot-steps"""
    drawn: int
    """tokens"""


class Meter:
    """What metered lanes have seen; clear it before a rollout."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.chunks: list[Chunk] = []
        self.seconds: dict[str, float] = collections.defaultdict(float)
        self.calls: dict[str, int] = collections.defaultdict(int)

    def dead_shares(self) -> dict[str, float]:
        """Share of slot-steps that drew no token: in all, while every slot had an episode, and in
        the tail."""
        parts = {
            "whole": self.chunks,
            "steady": [x for x in self.chunks if not x.tail],
            "tail": [x for x in self.chunks if x.tail],
        }
        return {
            name: 1 - sum(x.drawn for x in chunks) / max(1, sum(x.computed for x in chunks))
            for name, chunks in parts.items()
        }

    def book(self, name: str, started: float, *results: Any) -> None:
        """Wait for results and add what has passed since `started`."""
        jax.block_until_ready(results)
        self.seconds[name] += time.perf_counter() - started
        self.calls[name] += 1


METER = Meter()


class MeteredLane(Lane[Any]):
    """Our lane, which writes to the meter."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.counted = np.zeros(self.shape.slots, int)
        self.tail = False

    def _prefill(self, members: list[int]) -> None:
        started = time.perf_counter()
        super()._prefill(members)
        METER.book("prefill", started, self.state)
        self.counted[members] = 1

    def shrink(self) -> None:
        super().shrink()
        self.counted = np.array(self.state.count)

    def _decode(self) -> None:
        self.tail = self.free > 0
        started = time.perf_counter()
        super()._decode()
        METER.book("decode", started, self.state)

    def harvest(self) -> list[Any]:
        before, started = self.stats.decode_slots, time.perf_counter()
        done = super().harvest()
        METER.book("harvest", started)
        count = np.array(jax.device_get(self.state.count))
        drawn = int((count - self.counted).sum())
        self.counted = count
        if self.stats.decode_slots > before:
            METER.chunks.append(Chunk(self.tail, self.stats.decode_slots - before, drawn))
        return done
