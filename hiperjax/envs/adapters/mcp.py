"""The Model Context Protocol over standard input and output: a world's tools served, and used.

Messages are JSON-RPC, one per line; of the protocol, what tools need: `initialize`, `tools/list`,
`tools/call`. A server holds one episode and ends with its client. What a call comes to besides its
text (reward, end, success) stands in the result's `_meta` under `hiperjax`; a server that is not
ours has none, and an episode with it ends by the tool `answer`, which the client adds.
"""

import json
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import IO, Any

VERSION = "2025-06-18"
META, ANSWER = "hiperjax", "answer"
ANSWER_TOOL = {
    "name": ANSWER,
    "description": "Say the answer; ends the episode.",
    "input_schema": {
        "type": "object",
        "properties": {"text": {"type": "string"}},
        "required": ["text"],
    },
}


class ServerGone(RuntimeError):
    """A server ended, or answered too late, or said what is no message."""


class McpWorld:
    """A server as a world: each episode starts one of its own.

    A task holds "prompt", and may hold "arguments" for the command, and "setup": calls made before
    the agent's first, each {"name", "arguments"}.

    Args:
      command: starts the server.
      timeout: seconds that an answer may take.
    """

    def __init__(self, command: Sequence[str], *, timeout: float = 60.0) -> None:
        self._command, self._timeout = tuple(command), timeout
        self._process: subprocess.Popen[bytes] | None = None

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Start a server, and make the task's calls."""
        task = dict((options or {})["task"])
        self.close()
        self._start([*self._command, *task.get("arguments", ())])
        client = {"name": "hiperjax", "version": "1"}
        given = {"protocolVersion": VERSION, "capabilities": {}, "clientInfo": client}
        self._ask("initialize", given)
        self._send({"method": "notifications/initialized"})
        for call in task.get("setup", ()):
            self._call(call)
        return str(task["prompt"]), {"task": str(task["prompt"])}

    def list_tools(self) -> list[dict[str, Any]]:
        """The server's tools as they are now."""
        rows = self._ask("tools/list", {})["tools"]
        found = [
            {
                "name": row["name"],
                "description": row.get("description", ""),
                "input_schema": row.get("inputSchema", {}),
            }
            for row in rows
        ]
        return (
            found if any(row.get("_meta", {}).get(META) for row in rows) else [*found, ANSWER_TOOL]
        )

    def step(self, action: Mapping[str, Any]) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Call a tool."""
        if action["name"] == ANSWER:
            return str(action["arguments"]["text"]), 0.0, True, False, {}
        text, meta = self._call(action)
        info = {
            key: meta[key] for key in ("success", "satisfied", "task", "request") if key in meta
        }
        return (
            text, float(meta.get("reward", 0.0)), bool(meta.get("terminated", False)),
            bool(meta.get("truncated", False)), info,
        )  # fmt: skip

    def close(self) -> None:
        """End the server."""
        if self._process is None:
            return
        process, self._process = self._process, None
        try:
            if process.stdin is not None:
                process.stdin.close()  # it ends with its input; its output is the reader's to close
            process.wait(timeout=2)
        except (subprocess.TimeoutExpired, BrokenPipeError):
            process.kill()
            process.wait()

    def _start(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._number = 0
        source, lines = self._process.stdout, self._lines
        threading.Thread(target=_pump, args=(source, lines), daemon=True).start()

    def _call(self, call: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
        given = {"name": call["name"], "arguments": dict(call.get("arguments", {}))}
        found = self._ask("tools/call", given)
        parts = [part["text"] for part in found.get("content", ()) if part.get("type") == "text"]
        text = "\n".join(parts)
        if found.get("isError") and not text.startswith("Error"):
            text = f"Error: {text}"
        return text, found.get("_meta", {}).get(META, {})

    def _ask(self, method: str, given: Mapping[str, Any]) -> Any:
        self._number += 1
        self._send({"id": self._number, "method": method, "params": dict(given)})
        while True:
            try:
                line = self._lines.get(timeout=self._timeout)
            except queue.Empty:
                self.close()
                raise ServerGone(f"{method}: no answer within {self._timeout:g} s") from None
            if line is None:
                raise ServerGone(f"{method}: the server {self._command[0]} ended")
            try:
                message = json.loads(line)
            except ValueError:
                raise ServerGone(f"{method}: the server said {line[:80]!r}, no JSON") from None
            if message.get("id") == self._number:
                if "error" in message:
                    raise ServerGone(
                        f"{method}: {message['error'].get('message', message['error'])}"
                    )
                return message["result"]

    def _send(self, message: Mapping[str, Any]) -> None:
        assert self._process is not None and self._process.stdin is not None, "reset comes first"
        try:
            self._process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError):
            raise ServerGone(f"the server {self._command[0]} ended") from None


def _pump(source: IO[bytes] | None, lines: "queue.SimpleQueue[bytes | None]") -> None:
    with source or sys.stdin.buffer as stream:
        for line in stream:
            lines.put(line)
    lines.put(None)


class ToolServer:
    """Serves the tools of a world whose task is open (see `adapters.world`), request by request."""

    def __init__(self, world: Any) -> None:
        self._world = world

    def answer(self, message: Mapping[str, Any]) -> dict[str, Any] | None:
        """The answer to a message; None to a notification."""
        if "id" not in message:
            return None
        head = {"jsonrpc": "2.0", "id": message["id"]}
        method, given = message.get("method"), message.get("params") or {}
        if method == "initialize":
            about = {"name": "hiperjax", "version": "1"}
            found: Any = {
                "protocolVersion": VERSION,
                "capabilities": {"tools": {}},
                "serverInfo": about,
            }
        elif method == "tools/list":
            found = {"tools": [_list(row) for row in self._world.list_tools()]}
        elif method == "tools/call":
            found = self._call(given)
        elif method == "ping":
            found = {}
        else:
            return head | {"error": {"code": -32601, "message": f"no method {method!r}"}}
        return head | {"result": found}

    def _call(self, given: Mapping[str, Any]) -> dict[str, Any]:
        call = {"name": given.get("name"), "arguments": given.get("arguments") or {}}
        text, reward, terminated, truncated, info = self._world.step(call)
        meta = {"reward": reward, "terminated": terminated, "truncated": truncated, **info}
        return {
            "content": [{"type": "text", "text": text}],
            "isError": text.startswith("Error:"),
            "_meta": {META: meta},
        }

    def serve(self, source: IO[str], target: IO[str]) -> None:
        """Answer line by line until the source ends."""
        for line in source:
            try:
                answer = self.answer(json.loads(line))
            except ValueError:
                answer = {
                    "jsonrpc": "2.0",
                    "id": None,
                    "error": {"code": -32700, "message": "no JSON"},
                }
            if answer is not None:
                target.write(json.dumps(answer) + "\n")
                target.flush()


def _list(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": row["name"],
        "description": row["description"],
        "inputSchema": row["input_schema"],
        "_meta": {META: True},
    }
