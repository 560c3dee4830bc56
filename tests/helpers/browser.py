"""Headless Chromium by its own debugging port: enough to open a page, ask and press keys.

The standard library speaks to it: one WebSocket without extensions, to this machine only.
"""

import base64
import contextlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-extensions", "--disable-default-apps", "--remote-debugging-port=0",
    "--disable-dev-shm-usage",
)  # fmt: skip


def find_chromium() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """One page under control.

    `requests` holds the address of whatever it asked for, `blocked` of what its own policy stopped.
    """

    def __init__(self, address: str):
        host, _, path = address.removeprefix("ws://").partition("/")
        name, _, port = host.partition(":")
        self._socket = socket.create_connection((name, int(port)), timeout=60)
        key = base64.b64encode(os.urandom(16)).decode()
        self._socket.sendall(
            f"GET /{path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        self._file = self._socket.makefile("rb")
        while self._file.readline().strip():
            pass
        self._number = 0
        self.requests: list[str] = []
        self.blocked: list[str] = []
        self.messages: list[str] = []
        self._addresses: dict[str, str] = {}
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Ask, and wait for the answer; what happens meanwhile is kept."""
        self._number += 1
        self._send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = self._receive()
            if message.get("id") == self._number:
                return message["result"]
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        method, found = message.get("method"), message.get("params", {})
        if method == "Network.requestWillBeSent":
            self._addresses[found["requestId"]] = found["request"]["url"]
            self.requests.append(found["request"]["url"])
        elif method == "Network.loadingFailed" and found.get("blockedReason") == "csp":
            self.blocked.append(self._addresses[found["requestId"]])
        elif method == "Runtime.exceptionThrown":
            self.messages.append(json.dumps(found["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled":
            self.messages.append(json.dumps(found["args"]))
        elif method == "Log.entryAdded":
            self.messages.append(found["entry"]["text"])
        elif method == "Page.javascriptDialogOpening":
            self.messages.append("dialog: " + found["message"])

    def _send(self, text: str) -> None:
        payload, mask = text.encode(), os.urandom(4)
        size = len(payload)
        head = bytes([0x81, 0x80 | (size if size < 126 else 126)])
        head += size.to_bytes(2, "big") if size >= 126 else b""
        masked = bytes(b ^ mask[i % 4] for i, b in enumerate(payload))
        self._socket.sendall(head + mask + masked)

    def _receive(self) -> dict[str, Any]:
        whole = b""
        while True:
            first, second = self._file.read(2)
            size = second & 0x7F
            if size > 125:
                size = int.from_bytes(self._file.read(2 if size == 126 else 8), "big")
            whole += self._file.read(size)
            if first & 0x80:
                return json.loads(whole)

    def open(self, address: str) -> None:
        """Go there, and wait until it is loaded."""
        self.call("Page.navigate", url=address)
        deadline = time.monotonic() + 60
        while self.ask("document.readyState + location.href") != f"complete{address}":
            assert time.monotonic() < deadline, f"{address} did not load"
            time.sleep(0.05)

    def ask(self, expression: str) -> Any:
        """Value of a JavaScript expression."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, key: str) -> None:
        text = {"text": key} if len(key) == 1 else {}
        text |= {"text": "\r"} if key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def close(self) -> None:
        self._file.close()
        self._socket.close()


@contextlib.contextmanager
def browse(profile: pathlib.Path) -> Iterator[Page]:
    """A page of a browser of its own, with a profile of its own."""
    chromium = find_chromium()
    assert chromium is not None
    command = [chromium, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        page = Page(_find_page(profile))
        yield page
        page.close()
    finally:
        browser.terminate()
        try:
            browser.wait(20)
        except subprocess.TimeoutExpired:
            browser.kill()
            browser.wait()


def _find_page(profile: pathlib.Path) -> str:
    """Address of the first page's WebSocket, once the browser tells its port."""
    deadline, port_file = time.monotonic() + 60, profile / "DevToolsActivePort"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() < deadline:
        time.sleep(0.1)
        if not port_file.is_file() or not (lines := port_file.read_text().split()):
            continue
        with opener.open(f"http://127.0.0.1:{lines[0]}/json/list", timeout=10) as answer:
            pages = [p for p in json.loads(answer.read()) if p["type"] == "page"]
        if pages:
            return pages[0]["webSocketDebuggerUrl"]
    raise TimeoutError(f"{profile}: Chromium opened no page within a minute")
