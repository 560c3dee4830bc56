"""A suite over any environment that speaks text through Gymnasium's methods: nothing to subclass.

    reset(*, seed=None, options={"task": ...}) -> (text | [{"role", "content"}], info)
    step(text | {"name", "arguments"}) -> (text | messages, reward, terminated, truncated, info)
    close()
    [list_tools() -> [{"name", "description", "input_schema"}]]   # else info["tools"]
    [score() -> {"score": float, "criteria": {name: bool}}]       # once, at any end
    [state() -> JSON]                                             # for transcripts and tests

What is in brackets may be missing. Everything is duck-typed, and checked where it enters. A task is
done where `info["success"]` says so; in a world that does not say, where its last step terminated
with a reward above 0; or where its score is 1.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from hiperjax.envs.base import Expert, Outcome, Step, Suite, TextEnv
from hiperjax.envs.border import BorderError
from hiperjax.envs.calls import CallError, read_call
from hiperjax.envs.coroutines import finish
from hiperjax.types import ActionMode, Checklist, Ending, Observation, PromptHints, Tool

RESERVED = frozenset({"reset", "step", "state", "close"})
"""Names that no tool may have: they are the world's own methods on the wire."""
ADMISSIBLE = ("admissible", "admissible_commands")
Task = Mapping[str, Any]
Factory = Callable[[], Any]


def adapt(
    factory: Factory,
    tasks: Mapping[str, Sequence[Task | str]],
    *,
    name: str,
    role: str,
    max_turns: int,
    actions: ActionMode = "free",
    seed: int = 0,
    checklists: Mapping[str, Checklist] | None = None,
    max_concurrency: int | None = None,
    make_expert: Callable[[int, float], Expert] | None = None,
) -> "AdaptedSuite":
    """A suite over environments that a factory makes.

    Args:
      factory: makes one environment; a function or class that can be pickled, for worker processes.
      tasks: split -> its tasks, "train" among them. A task is a mapping, handed to `reset` as
        `options={"task": ...}`; its "id" names it, else its place does, and its "type" is its kind.
        A string stands for a mapping with that id.
      name: of the suite.
      role: one sentence for the prompt: who the agent is.
      max_turns: turn limit.
      actions: what an action is; with "tools", calls are checked against the tools' schemas first.
      seed: with a task's id it makes the seed of every `reset` of that task.
      checklists: of tasks, by id; the world verifies them if `score()` or `info["satisfied"]` does.
      max_concurrency: environments that may be busy at one time.
      make_expert: makes a scripted expert from a seed and a share of noise.
    """
    rows = {split: _name_tasks(split, given) for split, given in tasks.items()}
    return AdaptedSuite(
        factory, rows, name=name, role=role, max_turns=max_turns, actions=actions, seed=seed,
        checklists=dict(checklists or {}), max_concurrency=max_concurrency, expert=make_expert,
    )  # fmt: skip


def _name_tasks(split: str, given: Sequence[Task | str]) -> dict[str, dict[str, Any]]:
    rows = {}
    for number, task in enumerate(given):
        row: dict[str, Any] = {"id": task} if isinstance(task, str) else dict(task)
        row.setdefault("id", f"{split}/{number}")
        rows[str(row["id"])] = row
    return rows


class AdaptedSuite(Suite):
    """Made by `adapt`."""

    def __init__(
        self,
        factory: Factory,
        rows: Mapping[str, dict[str, dict[str, Any]]],
        *,
        name: str,
        role: str,
        max_turns: int,
        actions: ActionMode,
        seed: int,
        checklists: dict[str, Checklist],
        max_concurrency: int | None,
        expert: Callable[[int, float], Expert] | None,
    ) -> None:
        self.name, self.role, self.max_turns, self.seed = name, role, max_turns, seed
        self.hints = PromptHints(actions=actions)
        self.splits, self._rows = tuple(rows), rows
        self._tasks = {task: row for split in rows.values() for task, row in split.items()}
        self._factory, self._checklists, self._expert = factory, checklists, expert
        self.max_concurrency = max_concurrency
        self.reports_criteria, self.has_expert = bool(checklists), expert is not None
        if any(not split for split in rows.values()) or "train" not in rows:
            raise ValueError(
                f"suite {name}: found the splits {', '.join(rows) or 'none'}; expected train among "
                "them, and no empty one"
            )

    def tasks(self, split: str) -> Sequence[str]:
        if split not in self._rows:
            raise KeyError(f"split {split!r} of {self.name}: expected one of {self.splits}")
        return tuple(self._rows[split])

    def task_type(self, task_id: str) -> str:
        return str(self.get_task(task_id).get("type", self.name))

    def get_task(self, task_id: str) -> dict[str, Any]:
        """What a reset is told; `KeyError` naming the task if there is none."""
        if task_id not in self._tasks:
            raise KeyError(f"task {task_id!r}: {self.name} has none such")
        return self._tasks[task_id]

    def checklist(self, task_id: str) -> Checklist | None:
        return self._checklists.get(task_id)

    def is_admissible(self, action: str, observation: Observation) -> bool:
        """A call that fits its tool, a listed command, or, where neither is told, anything."""
        if self.hints.actions == "tools":
            try:
                read_call(action, observation.tools)
            except CallError:
                return False
            return True
        return not observation.admissible or action in observation.admissible

    def make_env(self) -> TextEnv:
        return AdaptedEnv(self, self._factory())

    def make_expert(self, seed: int, noise: float = 0.0) -> Expert:
        if self._expert is None:
            return super().make_expert(seed, noise)
        return self._expert(seed, noise)


class AdaptedEnv(TextEnv):
    """One foreign environment. Its methods may be coroutines."""

    def __init__(self, suite: AdaptedSuite, world: Any) -> None:
        self._suite, self._world = suite, world

    def reset(self, task_id: str) -> Observation:
        """Open a task, with a seed that depends on it and on the suite's alone."""
        row = self._suite.get_task(task_id)
        self._where = f"suite {self._suite.name}, task {task_id}"
        self._success, self._total = False, 0.0
        self._satisfied: frozenset[str] = frozenset()
        drawn = hashlib.sha256(f"{self._suite.seed}/{task_id}".encode()).digest()
        seed = int.from_bytes(drawn[:4], "big") >> 1
        found = finish(self._world.reset(seed=seed, options={"task": row}))
        said, info = self._unpack(found, 2, "reset")
        text = self._write(said)
        told = info.get("task", row.get("task"))
        self._task = told if isinstance(told, str) else text
        return self._observe(text, info)

    def step(self, action: str) -> Step:
        """Act; a call that is none is answered here, and the world never hears of it."""
        sent: Any = action
        if self._suite.hints.actions == "tools":
            try:
                sent = read_call(action, self._seen.tools)._asdict()
            except CallError as error:
                seen = dataclasses.replace(self._seen, text=f"Error: {error}", pinned="")
                return Step(seen, 0.0, False, False, satisfied=self._satisfied)
        found = finish(self._world.step(sent))
        said, reward, terminated, truncated, info = self._unpack(found, 5, "step")
        self._total += reward
        self._satisfied = _read_names(info.get("satisfied"))
        won = bool(terminated and reward > 0)
        self._success = bool(info["success"]) if "success" in info else won
        return Step(
            self._observe(self._write(said), info), reward, terminated, truncated,
            success=self._success, satisfied=self._satisfied,
        )  # fmt: skip

    def score(self, ending: Ending) -> Outcome | None:
        """The world's own score and criteria, where it has `score`."""
        if not hasattr(self._world, "score"):
            return None
        found = finish(self._world.score())
        if found is None:
            return None
        if not isinstance(found, Mapping):
            raise BorderError(f"{self._where}: score() is {found!r:.80}; expected a mapping")
        score, criteria = found.get("score"), found.get("criteria")
        names = None if criteria is None else _read_names(criteria)
        success = self._success or score == 1.0
        if score is None or self._total != 0:  # a world that paid by steps is not paid again
            return Outcome(score, 0.0, names, success)
        return Outcome(score, score, names, success)

    def close(self) -> None:
        if hasattr(self._world, "close"):
            finish(self._world.close())

    def _observe(self, text: str, info: Mapping[str, Any]) -> Observation:
        listed = next((info[name] for name in ADMISSIBLE if name in info), ())
        tools = tuple(self._list_tools(info)) if self._suite.hints.actions == "tools" else ()
        request = info.get("request", 0)
        task = info.get("task", self._task)
        self._task = task if isinstance(task, str) else self._task
        self._seen = Observation(text, self._task, tuple(listed), request=request, tools=tools)
        return self._seen

    def _list_tools(self, info: Mapping[str, Any]) -> Iterable[Tool]:
        listed = info.get("tools")
        if hasattr(self._world, "list_tools"):
            listed = finish(self._world.list_tools())
        for row in listed or ():
            if not isinstance(row, Mapping) or not isinstance(row.get("name"), str):
                raise BorderError(
                    f"{self._where}: a tool is {row!r:.80}; expected its name at least"
                )
            if row["name"] in RESERVED:
                raise BorderError(
                    f"{self._where}: a tool is called {row['name']!r}, which is a method of every "
                    "world; expected another name"
                )
            schema = row.get("input_schema", row.get("inputSchema", {}))
            yield Tool(row["name"], str(row.get("description", "")), dict(schema))

    def _unpack(self, found: Any, length: int, method: str) -> tuple[Any, ...]:
        if not isinstance(found, tuple) or len(found) != length:
            raise BorderError(f"{self._where}: {method} is {found!r:.80}; expected {length} values")
        if not isinstance(found[-1], Mapping):
            raise BorderError(f"{self._where}: info is {found[-1]!r:.80}; expected a mapping")
        return found

    def _write(self, said: Any) -> str:
        """Text as it is; messages one after the other, each with its role."""
        if isinstance(said, str):
            return said
        rows: Sequence[Any] = said if isinstance(said, list | tuple) else [None]
        parts = []
        for row in rows:
            if not isinstance(row, Mapping) or not isinstance(row.get("content"), str):
                raise BorderError(
                    f"{self._where}: the observation is {said!r:.80}; expected a text, or messages "
                    "with role and content"
                )
            parts.append(f"{row.get('role', 'user')}: {row['content']}")
        return "\n".join(parts)


def _read_names(found: Any) -> frozenset[str]:
    """Names that hold, of a mapping of names to flags or of a collection of names."""
    if isinstance(found, Mapping):
        return frozenset(str(name) for name, holds in found.items() if holds)
    return frozenset(map(str, found or ()))
