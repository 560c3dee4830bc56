"""One episode: an orchestrator, its sub-agents, and the rooms they work in."""

from collections.abc import Callable

from hiperjax.envs.alfworld.suites import HouseholdSuite
from hiperjax.envs.base import Outcome, Step, TextEnv
from hiperjax.envs.calls import Call
from hiperjax.envs.errands.agents import Report, run_script, seed_agent
from hiperjax.envs.errands.calls import ACT, ASSIGN, CREATE, TOOLS, read_calls, read_errand
from hiperjax.envs.errands.rooms import Room
from hiperjax.envs.errands.tasks import ErrandsOptions, Task
from hiperjax.types import Delegation, Ending, Observation

LONGEST_NAME = 12
"""Letters of a sub-agent's name."""


class ErrandsEnv(TextEnv):
    """One task at a time. Sub-agents work inside a step; what they do is a function of the task,
    of how many steps went before, and of their own name."""

    def __init__(
        self, options: ErrandsOptions, household: HouseholdSuite, get_task: Callable[[str], Task]
    ) -> None:
        self._options, self._household, self._get_task = options, household, get_task

    def reset(self, task_id: str) -> Observation:
        self._task_id, self._task = task_id, self._get_task(task_id)
        self._rooms = {e.room: Room(self._household, e) for e in self._task.errands}
        self._agents: list[str] = []
        self._stage = self._used = 0
        self._over = False
        return self._observe("You stand in the hall.")

    def step(self, action: str) -> Step:
        done, options = self._count_done(), self._options
        calls, refused = read_calls(action)
        text, reports = self._perform(calls, refused)
        self._unlock()
        new = self._count_done() - done
        delegation = Delegation(
            agents=tuple(reports),
            turns=tuple(report.turns for report in reports.values()),
            claimed=sum(report.claims for report in reports.values()),
            verified=new if reports else 0,
            refused=len(refused),
        )
        self._stage += 1
        self._used += delegation.cost
        cut = not self._over and self._used >= options.budget
        ended = self._over or cut
        return Step(
            self._observe(text), new / len(self._rooms), self._over, cut,
            success=self._count_done() == len(self._rooms), milestone=new > 0,
            score=self._grade() if ended else None, delegation=delegation,
        )  # fmt: skip

    def score(self, ending: Ending) -> Outcome | None:
        """An episode that the turn limit cut is worth what was done."""
        return Outcome(score=self._grade())

    def _perform(self, calls: list[Call], refused: list[str]) -> tuple[str, dict[str, Report]]:
        """What the calls of one reply come to, and what the sub-agents say; adds to `refused`."""
        if len(calls) == 1 and calls[0].name == ACT:
            return self._act(calls[0], refused), {}
        sent: dict[str, tuple[Room, str]] = {}
        for call in calls:
            if call.name == CREATE:
                problem = self._create(call.arguments["name"])
            elif call.name == ASSIGN:
                problem = self._send(call.arguments["name"], call.arguments["errand"], sent)
            elif call.name == ACT:
                problem = "act stands alone."
            else:
                problem, self._over = "", True
            if problem:
                refused.append(problem)
        # Agents in the order they were created, whatever that of the calls.
        reports = {name: self._run(name, *sent[name]) for name in self._agents if name in sent}
        lines = [
            f"{name} {'done' if report.claims else 'gave up'} errand {sent[name][0].errand.room}: "
            f"{report.text}"
            for name, report in reports.items()
        ]
        lines += [f"Error: {problem}" for problem in refused]
        return " ".join(lines) or ("You finish." if self._over else "Nobody is sent."), reports

    def _act(self, call: Call, refused: list[str]) -> str:
        room = self._rooms.get(call.arguments["room"])
        if room is None:
            refused.append(f"there is no room {call.arguments['room']}.")
            return f"Error: {refused[-1]}"
        seen = room.act(call.arguments["action"]).observation
        commands = " | ".join(seen.admissible)
        return f"Room {room.errand.room}: {seen.text} Commands: {commands}."

    def _create(self, name: str) -> str:
        """Create a sub-agent; why not, if it cannot be."""
        if not name.isalnum() or len(name) > LONGEST_NAME or name in self._agents:
            return f"the name {name[:20]!r} cannot be given."
        if len(self._agents) >= self._options.agents:
            return f"there are {len(self._agents)} sub-agents, and no more can be."
        self._agents.append(name)
        return ""

    def _send(self, name: str, errand: str, sent: dict[str, tuple[Room, str]]) -> str:
        """Send a sub-agent; why not, if it cannot be."""
        found = read_errand(errand)
        if name not in self._agents:
            return f"there is no sub-agent {name[:20]!r}."
        if name in sent:
            return f"{name} has an errand."
        if found is None or found[0] not in self._rooms:
            return f"there is no errand {errand[:40]!r}."
        room = self._rooms[found[0]]
        if any(room is other for other, _ in sent.values()):
            return f"somebody goes to room {found[0]}."
        sent[name] = room, found[1] or room.errand.sentence
        return ""

    def _run(self, name: str, room: Room, sentence: str) -> Report:
        options = self._options
        return run_script(
            room,
            sentence,
            turns=max(0, min(options.sub_turns, options.budget - self._used - 1)),
            noise=options.sub_noise,
            seed=seed_agent(options.seed, self._task_id, self._stage, name),
            search=self._household.search,
        )

    def _unlock(self) -> None:
        """What waited for an errand that is done appears."""
        for room in self._rooms.values():
            if room.locked and self._rooms[room.errand.after or 0].done:
                room.unlock()

    def _count_done(self) -> int:
        return sum(room.done for room in self._rooms.values())

    def _grade(self) -> float:
        return self._count_done() / len(self._rooms)

    def _observe(self, text: str) -> Observation:
        undone = ", ".join(str(n) for n, room in self._rooms.items() if not room.done)
        left = max(0, self._options.budget - self._used)
        text = f"{text} Undone: {undone or 'none'}. Left: {left}."
        return Observation(text, self._task.text, (), tools=TOOLS)
