"""`hiperjax watch`: a run under way, on the console and as a page on this machine only."""

import contextlib
import pathlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from hiperjax.commands.arguments import Positional
from hiperjax.config import ConfigError
from hiperjax.report.console_view import render_line, render_view
from hiperjax.report.live import LivePage, LiveServer
from hiperjax.report.page import render_runs
from hiperjax.report.run_data import RunData, open_runs

PORT = 8265
PERIOD = 1.0
"""Seconds between looks at the run's files."""


def watch(
    runs: Annotated[tuple[pathlib.Path, ...], Positional],
    /,
    *,
    port: int = PORT,
    page: bool = True,
) -> None:
    """A run under way: progress, time left, episodes and alarms here, curves in a browser.

    Reads the run's files and writes nothing. The page is served on 127.0.0.1 only. Ctrl-C ends it.

    Args:
      runs: Run folders.
      port: Where the page is served; taken: any free one. 0: any free one.
      page: Serve the page.
    """
    live = open_page(runs)
    with contextlib.ExitStack() as stack:
        if page:
            server = stack.enter_context(start_server(live, port))
            print(f"{server.address} shows the same; Ctrl-C ends this", flush=True)
        with _quiet_stop():
            follow(live)


def open_page(runs: Sequence[pathlib.Path]) -> LivePage:
    """The page of runs under way, as it stands."""
    return LivePage(open_runs(runs), lambda data: render_runs(data, live=True))


@contextlib.contextmanager
def serve_beside(folder: pathlib.Path, port: int = PORT) -> Iterator[str]:
    """Serve the page of a run that this process trains; yields its address.

    Threads look at the run's files as `watch` does, so that training knows nothing of it.
    """
    live, over = open_page([folder]), threading.Event()

    def look() -> None:
        while not over.wait(PERIOD):
            with contextlib.suppress(OSError):  # a file that is just being replaced
                live.refresh()

    looking = threading.Thread(target=look, daemon=True)
    with start_server(live, port) as server:
        looking.start()
        try:
            yield server.address
        finally:
            over.set()
            looking.join()


def start_server(live: LivePage, port: int) -> LiveServer:
    """A server on that port, or on a free one where it is taken.

    Raises:
      ConfigError: no such port.
    """
    if not 0 <= port <= 65535:
        raise ConfigError(f"--port {port}; expected a number in [0, 65535]")
    try:
        return LiveServer(live, port)
    except OSError:
        return LiveServer(live, 0)


@contextlib.contextmanager
def _quiet_stop() -> Iterator[None]:
    """Ctrl-C and SIGTERM end the block without a traceback."""

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    old = signal.signal(signal.SIGTERM, stop)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            yield
    finally:
        signal.signal(signal.SIGTERM, old)


def follow(live: LivePage) -> None:
    """Show the runs until interrupted: a view on a terminal, elsewhere a line for each change."""
    console = Console(highlight=False)
    if console.is_terminal:
        with Live(_view(live.runs), console=console, auto_refresh=False) as screen:
            _repeat(live, lambda: screen.update(_view(live.runs), refresh=True))
    else:
        said: list[str] = []
        _repeat(live, lambda: _say(live.runs, said))


def _repeat(live: LivePage, show: Callable[[], None]) -> None:
    while True:
        show()
        time.sleep(PERIOD)
        live.refresh()


def _view(runs: Sequence[RunData]) -> Group:
    """Plain text: nothing in it is markup."""
    lines = (line for run in runs for line in render_view(run, time.time()))
    return Group(*(Text(line, no_wrap=True) for line in lines))


def _say(runs: Sequence[RunData], said: list[str]) -> None:
    lines = [f"{run.name}: {render_line(run, time.time())}" for run in runs]
    keys = [f"{run.name} {run.iteration} {run.progress.get('phase')}" for run in runs]
    for line, key in zip(lines, keys, strict=True):
        if key not in said:
            print(line, flush=True)
    said[:] = keys
