"""The real engine (extra `alfworld`), used as an oracle: slow, and exact by definition.

One engine object serves a process for life: every new one leaks about 1.7 MB.
"""

from pathlib import Path
from typing import Any, NamedTuple

from hiperjax.envs.alfworld.games import GAME_FILE, GamesError
from hiperjax.envs.base import Step, TextEnv
from hiperjax.types import Observation


class Reply(NamedTuple):
    """One answer of the real engine."""

    text: str
    admissible: tuple[str, ...]
    reward: float
    done: bool
    won: bool


def is_installed() -> bool:
    """Whether the real engine can be imported."""
    try:
        _import_textworld()
    except ImportError:
        return False
    return True


class RealEngine:
    """Opens official game files one after another and plays them."""

    def __init__(self) -> None:
        self._textworld, self._wrappers = _import_textworld()
        self._env: Any = None

    def reset(self, game: Path) -> Reply:
        """Open a game: its folder or its file."""
        path = game if game.name == GAME_FILE else game / GAME_FILE
        if not path.is_file():
            raise GamesError(f"{path}: no such file; expected a {GAME_FILE}")
        if self._env is None:
            infos = self._textworld.EnvInfos(won=True, admissible_commands=True)
            demangle, add_file = self._wrappers
            wrappers = [demangle(shuffle=False), add_file]
            self._env = self._textworld.start(str(path), infos, wrappers=wrappers)
        else:
            self._env.load(str(path))
        return self._reply(self._env.reset(), 0, False)

    def step(self, command: str) -> Reply:
        """Act in the open game."""
        return self._reply(*self._env.step(command))

    def _reply(self, state: Any, reward: Any, done: Any) -> Reply:
        admissible = tuple(sorted(set(state["admissible_commands"])))
        return Reply(state["feedback"], admissible, float(reward), bool(done), bool(state["won"]))


class RealEnv(TextEnv):
    """The real engine behind our contract: the same words at a few thousand times the price."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._engine = RealEngine()

    def reset(self, task_id: str) -> Observation:
        if not (self._root / task_id / GAME_FILE).is_file():
            raise KeyError(f"game {task_id!r}: not below {self._root}")
        reply = self._engine.reset(self._root / task_id)
        self._task = reply.text.rsplit("Your task is to: ", 1)[1].strip()
        return Observation(reply.text, self._task, reply.admissible)

    def step(self, action: str) -> Step:
        reply = self._engine.step(action)
        observation = Observation(reply.text, self._task, reply.admissible)
        return Step(observation, reply.reward, reply.won, False, success=reply.won)


def _import_textworld() -> tuple[Any, tuple[Any, Any]]:
    try:
        import textworld  # pyright: ignore[reportMissingImports]
        from alfworld.agents.environment.alfred_tw_env import (  # pyright: ignore[reportMissingImports]
            AlfredDemangler,
            AlfredInfos,
        )
    except ImportError as error:
        raise ImportError(
            f"the real ALFWorld engine is not installed ({error});"
            " pip install 'hiperjax[alfworld]' (needs cmake and a C++ compiler)"
        ) from error
    return textworld, (AlfredDemangler, AlfredInfos)
