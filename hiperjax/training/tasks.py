"""The tasks of an iteration."""

import functools
import itertools
from collections.abc import Collection, Sequence

import numpy as np


def choose_tasks(tasks: Sequence[str], seed: int, first: int, count: int) -> list[str]:
    """Tasks number `first .. first + count - 1` of an endless seeded shuffle, epoch by epoch.

    A function of its arguments alone: the position in the order is the iteration's number.
    """
    out = []
    for number in range(first, first + count):
        epoch, index = divmod(number, len(tasks))
        out.append(tasks[int(_shuffle(len(tasks), seed, epoch)[index])])
    return out


@functools.lru_cache(maxsize=2)
def _shuffle(size: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(size)


def choose_others(
    tasks: Sequence[str], numbers: Sequence[int], count: int, played: Collection[str]
) -> list[str]:
    """At most `count` different tasks that were not played, in an order seeded by `numbers`."""
    order = np.random.default_rng([int(number) for number in numbers]).permutation(len(tasks))
    others = (task for index in order if (task := tasks[int(index)]) not in played)
    return list(itertools.islice(others, count))
