"""Many processes, one run: each plays its share of the episodes, all learn from all of them.

Every process has environments of its own and samples on its own devices. What it collected is
sent to the others, a few tens of megabytes of tokens per iteration, so that each packs the same
batch and takes the same decisions as a run of one process would; they meet again inside the update.
"""

import pickle
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


def is_first() -> bool:
    """Whether this process writes the run folder and prints to the console."""
    return jax.process_index() == 0


def allgather_objects(mine: Any) -> list[Any]:
    """What every process has to say, in their order; all of them must call this."""
    if jax.process_count() == 1:
        return [mine]
    said = np.frombuffer(pickle.dumps(mine), np.uint8)
    sizes = multihost_utils.process_allgather(np.asarray(len(said), np.int32)).ravel()
    padded = np.zeros(sizes.max(), np.uint8)
    padded[: len(said)] = said
    gathered = multihost_utils.process_allgather(padded).reshape(len(sizes), -1)
    return [pickle.loads(row[:size].tobytes()) for row, size in zip(gathered, sizes, strict=True)]


def wait(name: str) -> None:
    """Until every process has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def share_of(count: int) -> range:
    """The part of `count` things that is this process's own."""
    index, processes = jax.process_index(), jax.process_count()
    return range(count * index // processes, count * (index + 1) // processes)


def fetch(tree: Any) -> Any:
    """Arrays on the host, whole, wherever they lie; all processes must call this."""

    def get(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and not (
            leaf.is_fully_addressable or leaf.is_fully_replicated
        ):
            return multihost_utils.process_allgather(leaf, tiled=True)
        return np.asarray(leaf)

    return jax.tree.map(get, tree)
