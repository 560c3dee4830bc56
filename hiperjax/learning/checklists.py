"""Checklists of trajectories as arrays of fixed shape: the part of the grid that criteria fill."""

from collections.abc import Sequence

import numpy as np

from hiperjax.types import Checklist, Trajectory

FEW = 8
"""Criteria that there is room for at least; beyond, room doubles: few sizes, few compilations."""


def pack_checklists(trajectories: Sequence[Trajectory], b: int, t: int) -> dict[str, np.ndarray]:
    """Fields of a grid of `b` trajectories and `t` turns; none where no trajectory has a checklist.

    Raises:
      ValueError: some have one and others do not.
    """
    lists = [trajectory.checklist for trajectory in trajectories]
    if not any(lists):
        return {}
    room = FEW
    while room < max(len(each.items) for each in lists if each is not None):
        room *= 2
    fields = {
        "satisfied": np.zeros((b, t, room), bool),
        "item_weight": np.zeros((b, room), np.float32),
        "item_depends": np.zeros((b, room, room), bool),
        "item_request": np.zeros((b, room), np.int32),
        "request": np.zeros((b, t), np.int32),
    }
    for i, (trajectory, checklist) in enumerate(zip(trajectories, lists, strict=True)):
        if checklist is None:
            raise ValueError(
                f"trajectory of task {trajectory.task_id}: no checklist; expected one, since "
                "others of the batch have one"
            )
        _fill(fields, i, trajectory, checklist)
    return fields


def _fill(
    fields: dict[str, np.ndarray], i: int, trajectory: Trajectory, checklist: Checklist
) -> None:
    place = {item.name: c for c, item in enumerate(checklist.items)}
    for c, item in enumerate(checklist.items):
        fields["item_weight"][i, c] = item.weight
        fields["item_request"][i, c] = item.request
        for other in item.depends:
            fields["item_depends"][i, c, place[other]] = True
    for k, turn in enumerate(trajectory.turns):
        fields["request"][i, k] = turn.request
        for name in turn.satisfied & place.keys():
            fields["satisfied"][i, k, place[name]] = True
