"""Generated household games that misbehave when they are ordered to: a world for `fault_run`.

An order is a file of that name in the folder `orders`. The first environment that sees one takes it
and obeys it once; without orders this is the suite `household`.
"""

import dataclasses
import pathlib
from typing import Any

from hiperjax.envs.alfworld.suites import HouseholdSuite
from hiperjax.envs.base import Step, TextEnv
from hiperjax.types import Observation

ORDERS = ("raise", "nonsense")
NONSENSE = (None, "text", (1, 2), Step(Observation("?", "?", ()), float("nan"), False, False))
"""What a step may return that is none."""


class FaultyEnv(TextEnv):
    """An environment of another suite, and its faults."""

    def __init__(self, inner: TextEnv, orders: pathlib.Path):
        self._inner, self._orders, self._count = inner, orders, 0

    def reset(self, task_id: str) -> Observation:
        return self._inner.reset(task_id)

    def step(self, action: str) -> Any:
        self._count += 1
        for order in ORDERS:
            if self._take(order):
                if order == "raise":
                    raise RuntimeError("the world has fallen apart, as ordered")
                return NONSENSE[self._count % len(NONSENSE)]
        return self._inner.step(action)

    def _take(self, order: str) -> bool:
        try:
            (self._orders / order).unlink()
        except FileNotFoundError:
            return False
        return True

    def close(self) -> None:
        self._inner.close()


@dataclasses.dataclass(frozen=True)
class FaultyOptions:
    """Options of the suite."""

    orders: pathlib.Path
    """folder"""
    task_types: tuple[str, ...] = ()
    """as in the suite `household`"""


class FaultySuite(HouseholdSuite):
    """The suite `household`, whose environments obey orders to fail."""

    Options = FaultyOptions

    def __init__(self, orders: pathlib.Path, task_types: tuple[str, ...] = ()):
        super().__init__(task_types=task_types)
        self.name, self._orders = "faulty", orders

    def make_env(self) -> TextEnv:
        return FaultyEnv(super().make_env(), self._orders)


def install(folder: pathlib.Path) -> None:
    """Make the suite known to whoever has `folder` on the path, as an installed package would."""
    info = folder / "hiperjax_fault_world-0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: hiperjax-fault-world\nVersion: 0\n"
    )
    maker = f"{FaultySuite.__module__}:{FaultySuite.__name__}"
    (info / "entry_points.txt").write_text(f"[hiperjax.suites]\nfaulty = {maker}\n")
