"""Ctrl-C and SIGTERM as a request to stop."""

import signal
from typing import Any

from hiperjax.training.console import Progress


class StopRequest:
    """Turns the first Ctrl-C or SIGTERM into a request; the second one is obeyed at once."""

    def __init__(self, progress: Progress):
        self.asked, self._progress = False, progress
        self._old: dict[int, Any] = {}

    def _ask(self, number: int, frame: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        self._progress.say("finishing this iteration, then saving; once more to stop at once")

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._old[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
