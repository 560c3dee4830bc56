"""The tasks of an iteration."""

import functools
from collections.abc import Sequence

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
