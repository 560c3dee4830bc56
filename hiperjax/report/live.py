"""The page of runs under way, served on this machine only."""

import http
import http.server
import json
import threading
import time
from collections.abc import Callable, Sequence

from hiperjax.report.console_view import render_line
from hiperjax.report.run_data import RunData, RunReader

ADDRESS = "127.0.0.1"
NAMES = (ADDRESS, "localhost")
"""What a browser on this machine calls the server; others are refused, whatever they resolve to."""
SEALS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class LivePage:
    """The newest page of some runs: made again in the background, handed out as it stands."""

    def __init__(
        self, readers: Sequence[RunReader], render: Callable[[Sequence[RunData]], str]
    ) -> None:
        self._readers, self._render = readers, render
        self.runs = [reader.read() for reader in readers]
        self.version, self.page = 0, render(self.runs).encode()

    def refresh(self) -> bool:
        """Read what was appended; make the page anew if anything was. True if so."""
        runs = [reader.read() for reader in self._readers]
        if all(new is old for new, old in zip(runs, self.runs, strict=True)):
            return False
        records = [(r.metrics, r.timings, r.evaluations, r.episodes, r.settings) for r in runs]
        known = [(r.metrics, r.timings, r.evaluations, r.episodes, r.settings) for r in self.runs]
        self.runs = runs
        if records != known:  # a run's progress alone changes the line, not the page
            self.page = self._render(runs).encode()
            self.version += 1
        return True

    def state(self) -> bytes:
        """Version of the page, and what the runs are doing."""
        line = "; ".join(f"{run.name}: {render_line(run, time.time())}" for run in self.runs)
        return json.dumps({"version": self.version, "line": line}).encode()


class _Handler(http.server.BaseHTTPRequestHandler):
    """Answers `/` and `/state`, nothing else; never touches a file."""

    server: "LiveServer"
    timeout = 10
    server_version, sys_version = "hiperjax", ""

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        name, _, port = (self.headers.get("Host") or "").rpartition(":")
        if name not in NAMES or port != str(self.server.server_port):
            self._send(http.HTTPStatus.FORBIDDEN, "text/plain", b"unknown host\n", body)
        elif self.path == "/":
            self._send(http.HTTPStatus.OK, "text/html", self.server.live.page, body)
        elif self.path == "/state":
            self._send(http.HTTPStatus.OK, "application/json", self.server.live.state(), body)
        else:
            self._send(http.HTTPStatus.NOT_FOUND, "text/plain", b"nothing here\n", body)

    def _send(self, status: http.HTTPStatus, kind: str, text: bytes, body: bool) -> None:
        self.send_response(status)
        headers = SEALS | {
            "Content-Type": f"{kind}; charset=utf-8",
            "Content-Length": str(len(text)),
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(text)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the console shows the run."""


class LiveServer(http.server.ThreadingHTTPServer):
    """Serves a page on the loopback interface from a thread of its own."""

    daemon_threads = True

    def __init__(self, live: LivePage, port: int):
        super().__init__((ADDRESS, port), _Handler)
        self.live = live
        self._thread = threading.Thread(target=self.serve_forever, args=(0.1,), daemon=True)

    @property
    def address(self) -> str:
        return f"http://{ADDRESS}:{self.server_port}/"

    def __enter__(self) -> "LiveServer":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing: a reader that hangs up is no error of ours."""
