"""Playing a suite in the terminal: by a person, an expert, a recording, or anything that decides.

Whoever plays is an `Expert`: it sees observations and gives decisions. A trained policy joins in by
implementing the same two methods.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from hiperjax.envs.base import Decision, Expert, Suite
from hiperjax.envs.border import CheckedEnv
from hiperjax.files import DamagedFile, read_json, write_json
from hiperjax.types import Observation

QUIT = ("quit", "exit")


class Quit(Exception):
    """The person has had enough."""


class Person(Expert):
    """Someone at the keyboard: types a command, its beginning (Tab completes), or its number."""

    def __init__(self, read: Callable[[str], str] = input) -> None:
        self._read = read
        self._commands: Sequence[str] = ()
        if read is input:
            self._complete_with_tab()

    def reset(self, observation: Observation) -> None:
        self._commands = observation.admissible

    def decide(self, observation: Observation) -> Decision:
        """Ask for a command. A number stands for the command of that number."""
        self._commands = observation.admissible
        try:
            typed = self._read("> ").strip()
        except EOFError as error:
            raise Quit from error
        if typed in QUIT:
            raise Quit
        if typed.isdigit() and 1 <= int(typed) <= len(self._commands):
            typed = self._commands[int(typed) - 1]
        return Decision(switch=False, subgoal="", action=typed)

    def _complete_with_tab(self) -> None:
        try:
            import readline
        except ImportError:  # not on every platform; typing in full still works
            return
        readline.set_completer_delims("")
        readline.set_completer(self._complete)
        readline.parse_and_bind("tab: complete")

    def _complete(self, typed: str, number: int) -> str | None:
        matches = [command for command in self._commands if command.startswith(typed)]
        return matches[number] if number < len(matches) else None


class Recorded(Expert):
    """The decisions of a recording, one after another; then it quits."""

    def __init__(self, recording: "Recording") -> None:
        self._recording = recording

    def reset(self, observation: Observation) -> None:
        self._turn = 0

    def decide(self, observation: Observation) -> Decision:
        if self._turn == len(self._recording.decisions):
            raise Quit
        self._turn += 1
        return self._recording.decisions[self._turn - 1]


@dataclasses.dataclass(frozen=True)
class Recording:
    """An episode as its task and decisions: worlds are deterministic, so this is all of it."""

    suite: str
    task_id: str
    decisions: tuple[Decision, ...]
    success: bool

    def save(self, path: Path) -> None:
        """Write as JSON."""
        write_json(path, dataclasses.asdict(self))

    @classmethod
    def load(cls, path: Path) -> "Recording":
        """Read what `save` wrote."""
        try:
            fields = read_json(path, cure="expected a file saved by `hiperjax play`")
            decisions = tuple(Decision(**decision) for decision in fields["decisions"])
            return cls(fields["suite"], fields["task_id"], decisions, fields["success"])
        except (KeyError, TypeError) as error:
            raise DamagedFile(
                f"{path}: not a recording ({type(error).__name__}: {error});"
                " expected a file saved by `hiperjax play`"
            ) from error


def play(
    suite: Suite,
    task_id: str,
    player: Expert | None = None,
    *,
    max_turns: int | None = None,
    delay: float = 0.0,
    write: Callable[[str], object] = print,
) -> Recording:
    """Play one episode and show it; a person plays where no player is given.

    Args:
        suite: the world.
        task_id: the task to open.
        player: who plays; `Person()` where None.
        max_turns: the suite's usual limit where None.
        delay: seconds to wait after each turn, for those who watch.
        write: shows one paragraph.
    """
    player = player or Person()
    env = CheckedEnv(suite)
    observation = env.reset(task_id)
    player.reset(observation)
    limit = max_turns or suite.max_turns
    write(f"{suite.name}: {task_id}, at most {limit} turns\ntask: {observation.task}\n")
    write(observation.text)
    decisions: list[Decision] = []
    success = ended = False
    while not ended and len(decisions) < limit:
        if isinstance(player, Person):
            write(format_commands(observation.admissible))
        try:
            decision = player.decide(observation)
        except Quit:
            break
        step = env.step(decision.action)
        decisions.append(decision)
        observation, success = step.observation, step.success
        ended = step.terminated or step.truncated
        write(_format_turn(len(decisions), decision, observation.text))
        time.sleep(delay)
    env.close()
    write(f"{'Solved' if success else 'Not solved'} after {len(decisions)} turns.")
    return Recording(suite.name, task_id, tuple(decisions), success)


def format_commands(commands: Sequence[str], columns: int = 3) -> str:
    """Numbered commands, down the columns."""
    cells = [f"{number:>3} {command}" for number, command in enumerate(commands, start=1)]
    rows = -(-len(cells) // columns)
    width = max(map(len, cells), default=0) + 2
    lines = ("".join(cell.ljust(width) for cell in cells[row::rows]) for row in range(rows))
    return "\n".join(line.rstrip() for line in lines)


def _format_turn(number: int, decision: Decision, text: str) -> str:
    subgoal = f"[{decision.subgoal}] " if decision.subgoal else ""
    mark = "* " if decision.switch else "  "
    return f"\n{number:>3} {mark}{subgoal}> {decision.action}\n{text.rstrip()}"
