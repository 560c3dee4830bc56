"""Settings of the world and of what runs it."""

import dataclasses
import pathlib
from typing import Literal


@dataclasses.dataclass(frozen=True)
class EnvConfig:
    """Which world, and how its environments run."""

    suite: str = "household"
    """Name of the suite: household, alfworld, webshop, ladder/..., or an installed entry point."""
    options: tuple[str, ...] = ()
    """The suite's own options, each KEY=VALUE (see docs/environments.md). The next six fields are
    options that several suites share; one that the suite does not have is refused."""
    size: Literal["tiny", "small", "full"] = "tiny"
    """Size of generated games."""
    task_types: tuple[str, ...] = ()
    """Only these task types; empty means all."""
    games: pathlib.Path | None = None
    """Folder of official game.tw-pddl files."""
    data: pathlib.Path | None = None
    """Folder of official WebShop files (suite webshop); none means the shipped catalogue."""
    goals: Literal["synthetic", "human"] = "synthetic"
    """WebShop goals: written by a template, or by people."""
    profile: Literal["strict", "hiper"] = "strict"
    """WebShop profile: ours, or the original's quirks."""
    max_turns: int | None = None
    """Turn limit of an episode; none means the suite's usual one."""
    backend: Literal["inline", "threads", "process", "ray"] = "inline"
    """Where environments run: in this process, in its threads (for worlds that wait), in worker
    processes, or in Ray actors."""
    num_workers: int = 2
    """Threads, worker processes or actors, for the backends that have them."""
    step_timeout: float = 60.0
    """Seconds that one step or reset of an environment may take; past it the worker is replaced and
    its episodes are lost. 0: no limit. backend inline has none: it cannot stop what runs in it."""
    max_failure_rate: float = 0.05
    """Stop the run when a larger share of an iteration's or an evaluation's episodes is lost in the
    environment."""
