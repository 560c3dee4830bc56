"""Many processes, one run: each plays its share of the episodes, all learn from all of them.

Every process has environments of its own and samples on its own devices. What it saw is then told
to the others, a few tens of megabytes of tokens an iteration, so that each packs the same batch and
takes the same decisions as a run of one process would; they meet again inside the update.
"""

import dataclasses
import pickle
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array, Key

from hiperjax.acting.rollout import Rollout, RolloutResult
from hiperjax.mesh import Placement, local_mesh, localize
from hiperjax.models.transformer import Params, cast_params


def is_first() -> bool:
    """Whether this process writes the run folder and speaks to the user."""
    return jax.process_index() == 0


def exchange(mine: Any) -> list[Any]:
    """What every process has to say, in their order; all of them must call this."""
    if jax.process_count() == 1:
        return [mine]
    said = np.frombuffer(pickle.dumps(mine), np.uint8)
    sizes = multihost_utils.process_allgather(np.asarray(len(said), np.int32)).ravel()
    padded = np.zeros(sizes.max(), np.uint8)
    padded[: len(said)] = said
    heard = multihost_utils.process_allgather(padded).reshape(len(sizes), -1)
    return [pickle.loads(row[:size].tobytes()) for row, size in zip(heard, sizes, strict=True)]


def wait(name: str) -> None:
    """Until every process has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def share_of(count: int) -> range:
    """The part of `count` things that is this process's own."""
    index, processes = jax.process_index(), jax.process_count()
    return range(count * index // processes, count * (index + 1) // processes)


@dataclasses.dataclass
class SharedRollout:
    """A `Rollout` on a mesh, or in a 16-bit dtype; `collect` is the same from outside.

    The sampler gets its weights in the compute dtype, cast once: decoding reads them all for every
    token. On a mesh they are the very arrays that the learner trains.
    """

    rollout: Rollout
    placement: Placement

    def collect(
        self,
        params: Params,
        task_ids: Sequence[str],
        *,
        key: Key[Array, ""],
        temperature: float,
        top_p: float = 1.0,
    ) -> RolloutResult:
        """One episode of each task, whichever process plays it; as `Rollout.collect`."""
        own, mesh = share_of(len(task_ids)), self.placement.mesh
        if mesh is not None:
            params = localize(params, mesh)
        with Placement(None if mesh is None else local_mesh(mesh)).in_force():
            mine = self.rollout.collect(
                cast_params(params, self.rollout.config.dtype),
                list(task_ids)[own.start : own.stop],
                key=key,
                temperature=temperature,
                top_p=top_p,
                first=own.start,
            )
        return join(exchange(mine))


def join(results: Sequence[RolloutResult]) -> RolloutResult:
    """Results of several processes as one: counts are added up, seconds the slowest one's."""
    if len(results) == 1:
        return results[0]
    stats = [result.stats for result in results]
    names = [field.name for field in dataclasses.fields(stats[0])]
    totals = {name: sum(getattr(part, name) for part in stats) for name in names}
    return RolloutResult(
        [trajectory for result in results for trajectory in result.trajectories],
        [failure for result in results for failure in result.failures],
        type(stats[0])(**totals),
        {name: max(r.seconds[name] for r in results) for name in results[0].seconds},
    )
