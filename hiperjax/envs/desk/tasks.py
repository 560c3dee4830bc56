"""Tasks of the desk: requests that follow each other, and the criteria they are judged by.

Criteria are checked by program, over the audit log, the changes of the records and the replies:
what had to be looked up was; what had to be changed is; nothing else is (a gate); the reply names
the fact asked for and no other that it could have been; no call was repeated.
"""

import dataclasses
import functools
import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

from hiperjax.envs.calls import Call
from hiperjax.envs.criteria import check_checklist
from hiperjax.envs.desk.procedures import PROCEDURES
from hiperjax.envs.desk.records import Copy, Key, Records, generate_records
from hiperjax.envs.desk.tools import REPLY, Entry, run_tool
from hiperjax.types import Checklist, Criterion

SINGLE = tuple(PROCEDURES)
PAIRED = ("status", "stock", "fix", "discount", "refund")
PAIRS = tuple(f"{a}+{b}" for a in PAIRED for b in PAIRED if a != b)
HELD_OUT = tuple(pair for number, pair in enumerate(PAIRS) if number % 3 == 2)
"""Pairs of requests that no training task makes: their parts are known, their order is not."""
SPLITS: Mapping[str, tuple[tuple[str, ...], int, int]] = {
    "train": (SINGLE + tuple(pair for pair in PAIRS if pair not in HELD_OUT), 100_000, 400),
    "unseen": (SINGLE + tuple(pair for pair in PAIRS if pair not in HELD_OUT), 140, 100),
    "transfer": (HELD_OUT, 60, 100),
}
"""Kinds of task, number of tasks and of shops in each split. No two splits share a shop."""


@dataclasses.dataclass(frozen=True)
class Request:
    """One request, and what it takes."""

    kind: str
    text: str
    reads: tuple[Call, ...]
    writes: tuple[Call, ...]
    wanted: Mapping[Key, Any]
    """changes of the records that it asks for"""
    answer: str
    wrong: frozenset[str]
    """what else could have been the answer"""


@dataclasses.dataclass(frozen=True)
class Task:
    """A customer's requests, one after the other, in one shop."""

    records: Records
    requests: tuple[Request, ...]

    @functools.cached_property
    def checklist(self) -> Checklist:
        items = [
            item for number, r in enumerate(self.requests) for item in list_criteria(r, number)
        ]
        return check_checklist(Checklist(tuple(items)))


def make_task(split: str, index: int, seed: int, size: str, kind: str) -> Task:
    """The task of a number; `kind` is one of the split's."""
    rng = random.Random(f"desk task {split} {index} {seed}")
    shops = SPLITS[split][2]
    shop = list(SPLITS).index(split) * 10_000 + rng.randrange(shops) + seed * 1_000_000
    records = generate_records(shop, size)
    copy = Copy(records)
    requests = tuple(_make_request(part, rng, copy) for part in kind.split("+"))
    return Task(records, requests)


def _make_request(kind: str, rng: random.Random, copy: Copy) -> Request:
    """Draws a request, and runs its procedure on the records as those before it leave them."""
    procedure, before = PROCEDURES[kind], dict(copy.changes)
    arguments = procedure.draw(rng, copy.records)
    reads: list[Call] = []
    writes: list[Call] = []

    def ask(name: str, /, **given: str) -> str:
        call, changes = Call(name, dict(given)), dict(copy.changes)
        said = run_tool(copy, call)
        (reads if copy.changes == changes else writes).append(call)
        return said

    answer = procedure.run(ask, **arguments)
    wanted = {key: value for key, value in copy.changes.items() if key not in before}
    others = procedure.answers or tuple(copy.records.tables["products"])
    return Request(
        kind, procedure.text.format(**arguments), tuple(reads), tuple(writes), wanted, answer,
        frozenset(others) - {answer},
    )  # fmt: skip


def list_criteria(request: Request, number: int) -> list[Criterion]:
    """A request's criteria, named by its number from 1; what they weigh sums to 1."""
    name = f"{number + 1} {{}}".format
    reads = list(dict.fromkeys(call.name for call in request.reads))
    parts: list[tuple[str, str, float, tuple[str, ...], bool, bool]] = [
        (name(tool), f"Did the agent call {tool} for what it had to know?", 1.0, (), False, False)
        for tool in reads
    ]
    known = tuple(name(tool) for tool in reads)
    if request.wanted:
        parts.append(
            (name("done"), "Is what was asked for entered in the records?", 2.0, known, True, False)
        )
    told = (*known, name("done")) if request.wanted else known
    parts += [
        (
            name("answered"),
            "Does the reply state the fact asked for, and no other?",
            2.0,
            told,
            True,
            False,
        ),
        (name("nothing else"), "When it replied, was nothing else changed?", 1.0, (), True, True),
        (name("no repeats"), "When it replied, was no call made twice?", 0.5, (), False, False),
    ]
    total = sum(weight for _, _, weight, *_ in parts)
    return [
        Criterion(
            title, question, weight / total, depends, request=number, strict=strict, gate=gate
        )
        for title, question, weight, depends, strict, gate in parts
    ]


def verify(
    request: Request,
    number: int,
    log: Sequence[Entry],
    changes: Mapping[Key, Any],
    allowed: Mapping[Key, Any],
) -> frozenset[str]:
    """Criteria of a request that hold now.

    Args:
      request: which.
      number: its place among the task's.
      log: what was called, in all requests.
      changes: of the records.
      allowed: changes that this request and those before it ask for.
    """
    own = [entry for entry in log if entry.request == number]
    calls = [Call(entry.tool, dict(entry.arguments)) for entry in log]
    found = {
        tool
        for tool in {call.name for call in request.reads}
        if all(call in calls for call in request.reads if call.name == tool)
    }
    if request.wanted and request.wanted.items() <= changes.items():
        found.add("done")
    reply = next((entry for entry in own if entry.tool == REPLY), None)
    if reply is not None:
        words = set(re.findall(r"\w+", str(reply.arguments["text"]).lower()))
        if request.answer in words and not request.wrong & words:
            found.add("answered")
        if changes.items() <= allowed.items():
            found.add("nothing else")
        if len({repr(call) for call in _calls(own)}) == len(own):
            found.add("no repeats")
    return frozenset(f"{number + 1} {name}" for name in found)


def _calls(log: Sequence[Entry]) -> list[Call]:
    return [Call(entry.tool, dict(sorted(entry.arguments.items()))) for entry in log]
