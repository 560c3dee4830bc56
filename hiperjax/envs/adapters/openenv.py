"""OpenEnv's wire: a world behind a WebSocket, used and served (extra `openenv`).

Each message is `{"type": reset | step | state | close, "data": ...}`; the answer is of type
`observation`, with `{"observation", "reward", "done"}`, or `state`, or `error`. Tools are listed
and called by actions of the types `list_tools` and `call_tool`.
"""

import contextlib
import importlib
import json
from collections.abc import Callable, Mapping
from typing import Any

OBSERVATION, ERROR = "observation", "error"


class OpenEnvError(RuntimeError):
    """A server that is gone, or answered by an error."""


def _import(module: str) -> Any:
    try:
        return importlib.import_module(f"websockets.sync.{module}")
    except ImportError as error:
        raise ImportError(
            "OpenEnv's wire needs websockets; pip install 'hiperjax[openenv]'"
        ) from error


class OpenEnvWorld:
    """A server as a world: each episode has a connection of its own.

    A task's "reset" holds further arguments of the server's reset.

    Args:
      url: such as ws://127.0.0.1:8000/ws.
      text: field of an observation that is shown; where there is none, all of it as JSON.
      message: field of an action that carries text, where actions are no calls.
      timeout: seconds that an answer may take.
    """

    def __init__(
        self, url: str, *, text: str = "text", message: str = "message", timeout: float = 60.0
    ) -> None:
        self._url, self._text, self._message, self._timeout = url, text, message, timeout
        self._connection: Any = None
        self._opened = contextlib.ExitStack()

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Connect, and open the task."""
        task = (options or {}).get("task") or {}
        self.close()
        try:
            opening = _import("client").connect(self._url, open_timeout=self._timeout)
            self._connection = self._opened.enter_context(opening)
        except OSError as error:
            raise OpenEnvError(f"{self._url}: {error}") from error
        given = {"seed": seed, "episode_id": task.get("id"), **task.get("reset", {})}
        found = self._ask("reset", given)
        return self._read(found["observation"]), self._describe(found)

    def list_tools(self) -> list[dict[str, Any]]:
        """The server's tools as they are now."""
        found = self._ask("step", {"type": "list_tools"})["observation"]
        return [dict(row) for row in found["tools"]]

    def step(self, action: Any) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Act: by a call, or by text."""
        sent = {self._message: action}
        if isinstance(action, Mapping):
            named = {"tool_name": action["name"], "arguments": dict(action["arguments"])}
            sent = {"type": "call_tool", **named}
        found = self._ask("step", sent)
        reward = float(found.get("reward") or 0.0)
        text, done = self._read(found["observation"]), bool(found.get("done"))
        return text, reward, done, False, self._describe(found)

    def state(self) -> Any:
        """The server's state."""
        return self._ask("state", {})

    def close(self) -> None:
        """End the connection."""
        self._opened.close()

    def _describe(self, found: Mapping[str, Any]) -> dict[str, Any]:
        seen = found["observation"]
        return dict(seen.get("metadata") or {}) if isinstance(seen, Mapping) else {}

    def _read(self, seen: Any) -> str:
        if isinstance(seen, Mapping):
            return str(seen[self._text]) if self._text in seen else json.dumps(dict(seen))
        return str(seen)

    def _ask(self, kind: str, data: Mapping[str, Any]) -> Any:
        try:
            self._connection.send(json.dumps({"type": kind, "data": dict(data)}))
            message = json.loads(self._connection.recv(timeout=self._timeout))
        except (OSError, TimeoutError, ValueError, _import("connection").ConnectionClosed) as error:
            raise OpenEnvError(f"{self._url}, {kind}: {type(error).__name__} {error}") from error
        if message.get("type") == ERROR:
            raise OpenEnvError(f"{self._url}, {kind}: {message.get('data')}")
        return message["data"]


def start_server(make_world: Callable[[], Any], host: str = "127.0.0.1", port: int = 0) -> Any:
    """A server of worlds (see `adapters.world`), one per connection.

    Serve with its `serve_forever`, end it with its `shutdown`.
    """

    def handle(connection: Any) -> None:
        world = make_world()
        for raw in connection:
            try:
                message = json.loads(raw)
                if message["type"] == "close":
                    return
                answer = _answer(world, message["type"], message.get("data") or {})
            except Exception as error:  # a client's mistake is its own affair
                answer = {"type": ERROR, "data": f"{type(error).__name__}: {error}"}
            connection.send(json.dumps(answer))

    return _import("server").serve(handle, host, port)


def _answer(world: Any, kind: str, data: Mapping[str, Any]) -> dict[str, Any]:
    if kind == "state":
        return {"type": "state", "data": world.state()}
    if kind == "step" and data.get("type") == "list_tools":
        seen: Any = {"tools": list(world.list_tools())}
        return {"type": OBSERVATION, "data": {OBSERVATION: seen, "reward": 0.0, "done": False}}
    if kind == "reset":
        task = {"id": data.get("episode_id")} if data.get("episode_id") else None
        text, info = world.reset(seed=data.get("seed"), options={"task": task})
        reward, done = 0.0, False
    else:
        call = {"name": data["tool_name"], "arguments": data.get("arguments") or {}}
        text, reward, terminated, truncated, info = world.step(call)
        done = terminated or truncated
    seen = {"text": text, "metadata": dict(info)}
    return {"type": OBSERVATION, "data": {OBSERVATION: seen, "reward": reward, "done": done}}
