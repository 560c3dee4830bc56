"""Ctrl-C, SIGTERM and SIGHUP as a request to stop, on which the processes of a run agree."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

from hiperjax.distributed.processes import allgather_objects
from hiperjax.stop import REQUEST, StopAsked
from hiperjax.training.console import Progress

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


class StopRequest:
    """Turns the first signal into a request; the second one is obeyed at once.

    So is the first one as long as nobody listens (`announce_on`): there is nothing to save yet.
    """

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._heard = 0
        self._old: dict[int, Any] = {}
        self._speaker: threading.Thread | None = None

    def announce_on(self, progress: Progress) -> None:
        """From now on a signal is a request, and is answered there."""
        self._progress = progress

    def _ask(self, number: int, frame: Any) -> None:
        self._heard += 1
        if self._progress is None or self._heard > 1:
            raise KeyboardInterrupt
        REQUEST.asked = True
        text = f"{signal.Signals(number).name}: {REQUEST.doing}; once more to stop at once"
        # A handler runs amid anything, writing included: another thread waits for its turn.
        self._speaker = threading.Thread(target=self._progress.say, args=(text,), daemon=True)
        self._speaker.start()

    def __enter__(self) -> "StopRequest":
        REQUEST.asked, REQUEST.doing = False, "stopping after the step under way"
        if threading.current_thread() is threading.main_thread():  # no other may listen
            for name in SIGNALS:
                number = getattr(signal, name, None)
                ignored = number is not None and signal.getsignal(number) is signal.SIG_IGN
                if number is None or (ignored and name == "SIGHUP"):  # nohup means it
                    continue
                self._old[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
        REQUEST.asked = False
        if self._speaker is not None:
            self._speaker.join(timeout=5)


def agree_to_stop() -> None:
    """Ask every process of the run whether it was asked to stop; all of them must call this.

    Raises:
      StopAsked: in all of them, where one was.
    """
    REQUEST.asked = any(allgather_objects(REQUEST.asked))
    REQUEST.check()


@contextlib.contextmanager
def given_up_together(doing: str) -> Iterator[None]:
    """Work that each process does for itself, which is given up by all where one does."""
    with REQUEST.during(doing):
        with contextlib.suppress(StopAsked):
            yield
        agree_to_stop()
