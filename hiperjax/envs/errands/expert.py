"""A scripted orchestrator: it sends sub-agents, or does all itself, and sees only observations."""

import random
import re
from collections.abc import Sequence

from hiperjax.envs.alfworld.expert import ScriptedExpert
from hiperjax.envs.base import Decision, Expert, Suite
from hiperjax.envs.playing import play_expert
from hiperjax.types import Observation

NAMES = ("ann", "bob", "cid", "dan", "eve", "fay", "gus", "hal")
_ERRAND = re.compile(r"Errand (\d+)(?: after (\d+))?: (.+?\.)(?= Errand \d|$)")
_UNDONE = re.compile(r"Undone: ([\d, ]+|none)\. Left: ")
_ROOM = re.compile(r"Room (\d+): (.*) Commands: (.*)\. Undone: ", re.DOTALL)


class ErrandsExpert(Expert):
    """Sends a sub-agent to each errand that can be begun, all at once, until all are done; or goes
    from room to room itself.

    Args:
      seed: of what is random.
      noise: share of turns at which it does something that does not help.
      spawn: chance of sending sub-agents, drawn once per episode; a single errand it does itself.
    """

    def __init__(self, seed: int, noise: float = 0.0, spawn: float = 1.0) -> None:
        self._rng, self._noise, self._spawn = random.Random(seed), noise, spawn

    def reset(self, observation: Observation) -> None:
        found = _ERRAND.findall(observation.task)
        self._sentences = {int(room): sentence for room, _, sentence in found}
        self._after = {int(room): int(first) for room, first, _ in found if first}
        self._sends = self._rng.random() < self._spawn and len(found) > 1
        self._created: list[str] = []
        self._workers: dict[int, ScriptedExpert] = {}
        self._subgoal = ""

    def decide(self, observation: Observation) -> Decision:
        listed = _UNDONE.search(observation.text)
        undone = [int(n) for n in re.findall(r"\d+", listed[1])] if listed else []
        subgoal, action = self._choose(observation, undone)
        if undone and self._rng.random() < self._noise:
            action = f"act[{self._rng.choice(undone)} | look]"
        else:
            self._created += re.findall(r"create\[(\w+)", action)
        switch, self._subgoal = subgoal != self._subgoal, subgoal
        return Decision(switch, subgoal, action)

    def _choose(self, observation: Observation, undone: list[int]) -> tuple[str, str]:
        ready = [room for room in undone if self._after.get(room) not in undone]
        if not ready:
            return "end the work", "finish[done]"
        if self._sends:
            return "send helpers", self._send(ready)
        return self._work(observation, ready[0])

    def _send(self, ready: list[int]) -> str:
        calls = []
        for name, room in zip(NAMES, ready, strict=False):
            if name not in self._created:
                calls.append(f"create[{name} | helper]")
            calls.append(f"assign[{name} | {room}]")
        return " ".join(calls)

    def _work(self, observation: Observation, room: int) -> tuple[str, str]:
        """One command in a room, by the household's expert."""
        found = _ROOM.match(observation.text)
        if found is None or int(found[1]) != room:
            return f"enter room {room}", f"act[{room} | look]"
        seen = Observation(found[2], self._sentences[room], tuple(found[3].split(" | ")))
        if room not in self._workers:
            self._workers[room] = ScriptedExpert(self._rng.randrange(2**32), search="onward")
            self._workers[room].reset(seen)
        decision = self._workers[room].decide(seen)
        return f"room {room}: {decision.subgoal}", f"act[{room} | {decision.action}]"


def report_plans(suite: Suite, tasks: Sequence[str], *, max_turns: int) -> str:
    """What the expert comes to, alone and by sub-agents, in two lines."""
    lines = [f"{suite.describe()}: {len(tasks)} tasks, at most {max_turns} turns"]
    for name, spawn in (("alone", 0.0), ("by sub-agents", 1.0)):
        played = [
            play_expert(suite, ErrandsExpert(0, 0.0, spawn), task, max_turns=max_turns)
            for task in tasks
        ]
        count = len(played)
        steps = [step.delegation for steps in played for step in steps]
        critical, total = (sum(getattr(x, y) for x in steps) / count for y in ("cost", "total"))
        score = sum(step.reward for steps in played for step in steps) / count
        solved = sum(steps[-1].success for steps in played) / count
        lines.append(
            f"{name:<14} success {solved:6.1%}  errands done {score:6.1%}  "
            f"critical steps {critical:.1f}  all steps {total:.1f}"
        )
    return "\n".join(lines)
