"""Scalars to an experiment tracker as well: wandb or trackio, through what both of them publish.

Off unless `track.to` names one. Each is an extra of this package; where it keeps its files, whether
it sends them anywhere, and under which account is its own affair (`WANDB_MODE=offline`,
`TRACKIO_DIR`, ...). A tracker that fails is dropped with a line: it never costs a run.
"""

import dataclasses
import importlib
import importlib.util
import pathlib
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from hiperjax.config import ConfigError, RunConfig, TrackConfig
from hiperjax.files import DamagedFile, dump_json, parse_json, read_json, write_json

RECORD = "tracker.json"


def check_tracker(track: TrackConfig) -> None:
    """Refuse a tracker that is not installed, before anything slow.

    Raises:
      ConfigError: says how to install it.
    """
    if track.to != "none" and importlib.util.find_spec(track.to) is None:
        raise ConfigError(
            f"track.to is {track.to}, and the package {track.to} is not installed; expected it, or "
            f"none: pip install 'hiperjax[{track.to}]'"
        )


class Tracker:
    """One run in the tracker, across its sessions.

    The run folder remembers its name there and the last iteration sent: what a resumed run does
    again is equal, and not sent again.
    """

    def __init__(self, config: RunConfig, folder: pathlib.Path, warn: Callable[[str], None]):
        self._path, self._warn, self._to = folder / RECORD, warn, config.track.to
        self._record = self._read() or {"id": f"{folder.name}-{uuid.uuid4().hex[:8]}", "sent": -1}
        self._run: Any = self._attempt(lambda: self._open(config, folder))

    def _read(self) -> dict[str, Any] | None:
        try:
            record = read_json(self._path, cure="a new run is begun in the tracker")
        except FileNotFoundError:
            return None
        except DamagedFile as error:
            self._warn(str(error))
            return None
        known = isinstance(record.get("id"), str) and isinstance(record.get("sent"), int)
        return record if known else None

    def _open(self, config: RunConfig, folder: pathlib.Path) -> Any:
        name, settings = self._record["id"], parse_json(dump_json(dataclasses.asdict(config)))
        module = importlib.import_module(self._to)
        options = dict(project=config.track.project, name=name, config=settings, resume="allow")
        if self._to == "wandb":
            options |= dict(id=name, dir=str(folder))
        return module.init(**options)

    def write(self, iteration: int, values: Mapping[str, float]) -> None:
        """Send an iteration's scalars, once."""
        if self._run is None or iteration <= self._record["sent"]:
            return
        self._attempt(lambda: self._run.log(dict(values), step=iteration))
        if self._run is not None:
            self._record["sent"] = iteration
            write_json(self._path, self._record)

    def close(self) -> None:
        """End the session there."""
        if self._run is not None:
            self._attempt(lambda: self._run.finish())

    def _attempt(self, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except Exception as error:  # foreign code: whatever it raises, the run goes on
            self._run = None
            said = " ".join(f"{type(error).__name__}: {error}".split())
            self._warn(f"{self._to}: {said}; nothing more is sent to it in this session")
