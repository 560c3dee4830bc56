"""Scalars for TensorBoard: a copy of the records, for its curves.

Written by this thread. tensorboardX's own writer has one that dies of a full disk, after which
whoever writes waits for it for ever.
"""

import contextlib
import os
import pathlib
import socket
import time
from collections.abc import Mapping
from typing import Any

VERSION = "brain.Event:2"
"""Of the format; the first event of a file says it."""


class Events:
    """One file of events; what earlier files of the folder hold from iteration `first` on is
    hidden by it."""

    def __init__(self, folder: pathlib.Path, *, first: int):
        from tensorboardX.proto import event_pb2, summary_pb2  # torch too, if it is there
        from tensorboardX.record_writer import RecordWriter

        events, summaries = vars(event_pb2), vars(summary_pb2)  # made at run time from a protocol
        Event, SessionLog, Summary = events["Event"], events["SessionLog"], summaries["Summary"]

        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads a folder's files in the order of their names.
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
        self._file, self._event, self._summary = RecordWriter(str(folder / name)), Event, Summary
        self._add(file_version=VERSION)
        self._add(step=first, session_log=SessionLog(status=SessionLog.START))

    def _add(self, **fields: Any) -> None:
        event = self._event(wall_time=time.time(), **fields)
        self._file.write(event.SerializeToString())

    def write(self, iteration: int, scalars: Mapping[str, float]) -> None:
        """Add the scalars of an iteration.

        Raises:
          OSError: the disk is full, or fails otherwise.
        """
        values = [self._summary.Value(tag=name, simple_value=x) for name, x in scalars.items()]
        self._add(step=iteration, summary=self._summary(value=values))
        self._file.flush()

    def close(self) -> None:
        """Give back the file; what a full disk refuses is in the records."""
        with contextlib.suppress(OSError):
            self._file.close()
