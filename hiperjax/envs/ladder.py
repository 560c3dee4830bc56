"""Tiny text worlds, each isolating one fault of credit assignment; the first that fails names it.

| rung          | what the world does                                    | what fails there       |
|---------------|--------------------------------------------------------|------------------------|
| `constant`    | one turn, always paid 1                                | values at all          |
| `observation` | one turn, paid 1 or -1 by what is seen                 | values of what is seen |
| `discounting` | a walk, paid 1 at its end whatever is done             | values through time    |
| `action`      | the first press decides, paid one turn later           | credit of actions      |
| `subgoal`     | a sign is seen once; a door opened later must match it | credit of subgoals     |
| `switch`      | the same, but the sign may change on the way: a SWITCH | credit of switches     |
|               | is right at the change, and loses the color elsewhere  |                        |

In these last two no observation after the sign tells its color: a policy without memory can
carry it in nothing but the subgoal. Every world is a short script of scenes. An admissible command
turns the page, anything else does nothing and costs a turn, and all reward comes on the last page.

Beside the rungs stand chains: `chain-6` is six presses, each right one following from the one
before, paid 1 at the end if all were right; `chain-2-6-18` has tasks of these lengths.
"""

import dataclasses
import random
from collections.abc import Mapping

from hiperjax.envs.base import Decision, Expert, Step, Suite, TextEnv
from hiperjax.types import Observation

COLORS = ("red", "blue")
TASK = "Do as the last lamp or sign says."
CHAIN_TASKS = 32
"""Tasks of each length; of the shortest chains some are alike."""
MAX_CHAIN = 100


@dataclasses.dataclass(frozen=True, slots=True)
class Scene:
    """One page: what is seen, what may be done, and what had better be done."""

    text: str
    admissible: tuple[str, ...]
    wanted: str | None = None
    """The command without which the prize is lost; None where all are equal."""


@dataclasses.dataclass(frozen=True, slots=True)
class Script:
    """One task: its pages, and what the last one pays if every wanted command was given."""

    scenes: tuple[Scene, ...]
    prize: float = 1.0


QUIET = Scene("The corridor is quiet.", ("walk on",))


def _sign(color: str) -> Scene:
    return Scene(f"A sign says {color}.", ("walk on",))


def _bell(color: str) -> Scene:
    return Scene(f"A bell rings and the sign now says {color}.", ("walk on",))


def _doors(color: str) -> Scene:
    commands = tuple(f"open the {each} door" for each in COLORS)
    return Scene("You stand before closed doors.", commands, wanted=f"open the {color} door")


def _press(color: str) -> Scene:
    commands = tuple(f"press {each}" for each in COLORS)
    return Scene(f"A {color} lamp glows.", commands, wanted=f"press {color}")


def _chain(length: int, number: int) -> Script:
    """A lamp glows, then stays or turns at each press; the first page alone tells its color."""
    rng = random.Random(f"{length}/{number}")
    color = rng.choice(COLORS)
    scenes = [_press(color)]
    for _ in range(length - 1):
        turns = rng.random() < 0.5
        color = _other(color) if turns else color
        text = "The lamp turns." if turns else "The lamp stays as it is."
        scenes.append(dataclasses.replace(scenes[0], text=text, wanted=f"press {color}"))
    return Script(tuple(scenes))


def _other(color: str) -> str:
    return COLORS[1 - COLORS.index(color)]


def read_chain(rung: str) -> tuple[int, ...]:
    """The lengths of a chain, `chain-2-6` of 2 and 6; empty where it is none."""
    kind, *parts = rung.split("-")
    lengths = tuple(int(part) for part in parts if part.isdecimal() and 0 < int(part) <= MAX_CHAIN)
    return lengths if kind == "chain" and len(lengths) == len(parts) else ()


def list_chains(lengths: tuple[int, ...]) -> dict[str, Script]:
    """Tasks of chains by id: as many of each length, in turn."""
    return {
        f"chain-{length}/{number}": _chain(length, number)
        for number in range(CHAIN_TASKS)
        for length in lengths
    }


def _signs_that_change() -> dict[str, Script]:
    scripts = {}
    for first, last in (COLORS, COLORS[::-1]):
        scripts[first] = Script((_sign(first), QUIET, QUIET, _doors(first)))
        scripts[f"{first}-bell-1"] = Script((_sign(first), _bell(last), QUIET, _doors(last)))
        scripts[f"{first}-bell-2"] = Script((_sign(first), QUIET, _bell(last), _doors(last)))
    return scripts


SCRIPTS: Mapping[str, Mapping[str, Script]] = {
    "constant": {"only": Script((Scene("Nothing is here.", ("wait",)),))},
    "observation": {
        "fair": Script((Scene("The sun shines.", ("wait",)),)),
        "foul": Script((Scene("The rain falls.", ("wait",)),), prize=-1.0),
    },
    "discounting": {
        "walk": Script(tuple(Scene(f"You pass milestone {n}.", ("walk on",)) for n in range(4)))
    },
    "action": {c: Script((_press(c), Scene("The machine hums.", ("wait",)))) for c in COLORS},
    "subgoal": {c: Script((_sign(c), QUIET, _doors(c))) for c in COLORS},
    "switch": _signs_that_change(),
}
"""Rung -> task id -> script."""
RUNGS = tuple(SCRIPTS)
"""Bottom to top: each presumes what the ones before it test."""


class LadderEnv(TextEnv):
    """Reads a script page by page."""

    def __init__(self, rung: str, scripts: Mapping[str, Script]) -> None:
        self._rung = rung
        self._scripts = scripts
        self._script: Script | None = None
        self._page = 0
        self._spoiled = False

    def reset(self, task_id: str) -> Observation:
        """Open the script called `task_id`."""
        if task_id not in self._scripts:
            raise KeyError(
                f"no task {task_id!r} in ladder/{self._rung}; there are {', '.join(self._scripts)}"
            )
        self._script = self._scripts[task_id]
        self._page = 0
        self._spoiled = False
        return self._observe()

    def step(self, action: str) -> Step:
        """Turn the page if the command is admissible there."""
        if self._script is None or self._page == len(self._script.scenes):
            raise RuntimeError(f"ladder/{self._rung}: step without an open episode; call reset")
        scene = self._script.scenes[self._page]
        if action not in scene.admissible:
            return Step(self._observe(), 0.0, False, False)
        self._spoiled |= scene.wanted not in (None, action)
        self._page += 1
        ended = self._page == len(self._script.scenes)
        reward = self._script.prize if ended and not self._spoiled else 0.0
        return Step(self._observe(), reward, ended, False, success=reward > 0)

    def _observe(self) -> Observation:
        assert self._script is not None
        if self._page == len(self._script.scenes):
            return Observation("The end.", TASK, ())
        scene = self._script.scenes[self._page]
        return Observation(scene.text, TASK, scene.admissible)


class LadderExpert(Expert):
    """Follows the last color it saw: a new color opens a new segment."""

    def __init__(self, seed: int, noise: float) -> None:
        self._random = random.Random(seed)
        self._noise = noise
        self._subgoal = ""

    def reset(self, observation: Observation) -> None:
        """Forget the color of the last episode."""
        self._subgoal = ""

    def decide(self, observation: Observation) -> Decision:
        """Take over the color seen, if any; give the command that names it, if any."""
        words = observation.text.rstrip(".").split()
        color = next((each for each in COLORS if each in words), None)
        if words[-1] == "turns":
            color = _other(self._subgoal.removeprefix("follow "))
        subgoal = f"follow {color}" if color else self._subgoal or "go on"
        switch = subgoal != self._subgoal
        self._subgoal = subgoal
        return Decision(switch, subgoal, self._choose(observation.admissible))

    def _choose(self, admissible: tuple[str, ...]) -> str:
        if self._random.random() < self._noise:
            return self._random.choice(admissible)
        color = self._subgoal.removeprefix("follow ")
        return next((each for each in admissible if color in each.split()), admissible[0])


class LadderSuite(Suite):
    """One rung: a handful of tasks in one split, since there is nothing to generalize to."""

    role = "You are a walker in a very small world."
    splits = ("train",)

    def __init__(self, rung: str, scripts: Mapping[str, Script]) -> None:
        self.name = f"ladder/{rung}"
        self._rung = rung
        self._scripts = scripts
        self.max_turns = 2 * max(len(script.scenes) for script in scripts.values())

    def tasks(self, split: str) -> tuple[str, ...]:
        """Every task of the rung."""
        if split not in self.splits:
            raise KeyError(f"no split {split!r} in {self.name}; there is {', '.join(self.splits)}")
        return tuple(self._scripts)

    def task_type(self, task_id: str) -> str:
        """The rung: its tasks differ in nothing worth a table; of a chain, the length."""
        kind, _, number = task_id.partition("/")
        return kind if number else self._rung

    def read_script(self, task_id: str) -> Script:
        """The pages of a task, for tests and studies: no agent sees them ahead."""
        return self._scripts[task_id]

    def plan_length(self, task_id: str) -> int:
        """Its pages."""
        return len(self.read_script(task_id).scenes)

    def make_env(self) -> LadderEnv:
        """A new reader of this rung's scripts."""
        return LadderEnv(self._rung, self._scripts)

    def make_expert(self, seed: int, noise: float = 0.0) -> LadderExpert:
        """Never wrong without noise."""
        return LadderExpert(seed, noise)


@dataclasses.dataclass(frozen=True)
class LadderOptions:
    """A rung has no options."""


def make_ladder_suite(rung: str) -> LadderSuite:
    """The world of one rung of `RUNGS`, or of a chain."""
    lengths = read_chain(rung)
    if rung not in SCRIPTS and not lengths:
        raise KeyError(
            f"no rung {rung!r} on the ladder; there are {', '.join(RUNGS)}, and chain-L of up to "
            f"{MAX_CHAIN} presses"
        )
    return LadderSuite(rung, list_chains(lengths) if lengths else SCRIPTS[rung])
