"""Accelerators by their datasheets, and how much of one's memory a run takes.

Without JAX, which is told before its first import.
"""

import dataclasses
import os
import re
from typing import Literal, NamedTuple

MEMORY_FRACTION = 0.92
"""Share of a device's memory for arrays; the rest is for the runtime, the compiler's scratch and
fragmentation. JAX's own default is 0.75: 60 GB of 80."""
VARIABLE = "XLA_PYTHON_CLIENT_MEM_FRACTION"


def claim_memory() -> None:
    """Let JAX take its share of a GPU, unless the user has said how much."""
    os.environ.setdefault(VARIABLE, str(MEMORY_FRACTION))


@dataclasses.dataclass(frozen=True)
class Device:
    """An accelerator by its datasheet."""

    memory: float
    """Bytes."""
    bandwidth: float
    """Bytes per second."""
    flops: float
    """Dense bf16 operations per second."""


DEVICES: dict[str, Device] = {
    "a100": Device(80e9, 2.04e12, 312e12),
    "h100": Device(80e9, 3.35e12, 989e12),
    "h200": Device(141e9, 4.8e12, 989e12),
    "l40s": Device(48e9, 0.864e12, 362e12),
    "v4": Device(32e9, 1.23e12, 275e12),
    "v5e": Device(16e9, 0.819e12, 197e12),
    "v5p": Device(95e9, 2.765e12, 459e12),
    "v6e": Device(32e9, 1.64e12, 918e12),
}


class PlanError(ValueError):
    """Something that cannot be planned for."""


def parse_device(name: str) -> tuple[Device, int]:
    """`h200` is one, `v5e-8` and `h100-8` are eight."""
    match = re.fullmatch(r"([a-z]\w*?)(?:-(\d+))?", name)
    if match is None or match[1] not in DEVICES or match[2] == "0":
        raise PlanError(
            f"device {name!r}; expected one of {', '.join(DEVICES)}, with -COUNT for several"
        )
    return DEVICES[match[1]], int(match[2] or 1)


class Site(NamedTuple):
    """What a model's settings depend on, of a device that is not at hand."""

    platform: Literal["cuda", "tpu"]
    memory: float
    """bytes that a run may take"""


def site_of(device: str) -> Site:
    """The site of a device by name; TPUs are called v4, v5e, ..."""
    kind, _ = parse_device(device)
    platform = "tpu" if device.startswith("v") else "cuda"
    return Site(platform, kind.memory * MEMORY_FRACTION)
