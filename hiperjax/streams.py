"""Writing to streams that may be gone, full, or know few characters: never an exception."""

import contextlib
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any


class SafeStream:
    """A stream whose writes never fail.

    What it cannot encode is replaced. Once a write fails (a closed pipe, a full disk) it is silent;
    `lost` hears of it once.
    """

    def __init__(self, stream: Any, lost: Callable[[str], None] = lambda text: None):
        self.stream: Any = stream.stream if isinstance(stream, SafeStream) else stream
        self.lost = lost

    def write(self, text: str) -> int:
        """Write what can be written; claims that it was all."""
        if self.stream is not None:
            try:
                self.stream.write(text)
            except UnicodeError:
                encoding = getattr(self.stream, "encoding", None) or "ascii"
                self.write(text.encode(encoding, "replace").decode(encoding))
            except (OSError, ValueError) as error:  # ValueError: the stream was closed
                self._lose(error)
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if self.stream is not None:
            try:
                self.stream.flush()
            except (OSError, ValueError) as error:
                self._lose(error)

    def _lose(self, error: Exception) -> None:
        stream, self.stream = self.stream, None
        with contextlib.suppress(OSError, ValueError, AttributeError):
            number = stream.fileno()
            if number in (1, 2):  # what is still buffered would fail again at the end
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, number)
                os.close(nowhere)
        name = getattr(stream, "name", "the output stream")
        self.lost(f"{name} takes no more text ({error}); what is said goes on without it")

    def isatty(self) -> bool:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            return bool(self.stream and self.stream.isatty())
        return False

    @property
    def encoding(self) -> str:
        return getattr(self.stream, "encoding", None) or "utf-8"

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__.get("stream"), name)


def protect_streams() -> None:
    """Put safe streams in the place of the process's own; each tells the other of its end."""
    out, err = SafeStream(sys.stdout), SafeStream(sys.stderr)
    out.lost, err.lost = partial(_tell_on, err), partial(_tell_on, out)
    sys.stdout, sys.stderr = out, err  # type: ignore[assignment]


def tell(text: str) -> None:
    """A line to the person at the terminal, beside a command's output."""
    _tell_on(SafeStream(sys.stderr), text)


def _tell_on(stream: SafeStream, text: str) -> None:
    stream.write(f"hiperjax: {text}\n")
    stream.flush()
