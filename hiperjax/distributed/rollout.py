"""Rollouts of many processes as one: each plays its share, all learn from all of it."""

import dataclasses
from collections.abc import Sequence

import jax
from jaxtyping import Array, Key

from hiperjax.acting.collector import RolloutResult
from hiperjax.acting.rollout import Rollout
from hiperjax.distributed.mesh import Placement, local_mesh, localize
from hiperjax.distributed.processes import allgather_objects, share_of
from hiperjax.models.transformer import Params, cast_params
from hiperjax.stop import StopAsked


@dataclasses.dataclass
class DistributedRollout:
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
        with Placement(None if mesh is None else local_mesh(mesh)).use_mesh():
            try:
                mine = self.rollout.collect(
                    cast_params(params, self.rollout.config.dtype),
                    list(task_ids)[own.start : own.stop],
                    key=key,
                    temperature=temperature,
                    top_p=top_p,
                    first=own.start,
                )
            except StopAsked:  # the others wait for an answer, and are to give up too
                mine = None
        results = [result for result in allgather_objects(mine) if result is not None]
        if len(results) < jax.process_count():
            raise StopAsked("one of the processes was asked to stop")
        return merge_results(results)


def merge_results(results: Sequence[RolloutResult]) -> RolloutResult:
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
