"""Verdicts that were given already, in the run folder: a resumed run does not ask again, and gets
the same answers."""

import hashlib
import json
import pathlib
import threading
from typing import Any

from hiperjax.judging.base import Verdict

VERDICTS = "verdicts.jsonl"
"""The cache's name in a run folder."""


class VerdictCache:
    """Verdicts by what was asked; `path` None keeps them in memory only. Safe among threads."""

    def __init__(self, path: pathlib.Path | None = None) -> None:
        self._path, self._lock = path, threading.Lock()
        self._verdicts: dict[str, Verdict] = {}
        if path is not None and path.is_file():
            for line in path.read_bytes().splitlines():
                self._read(line)

    def _read(self, line: bytes) -> None:
        try:
            record = json.loads(line)
            marks = {str(name): float(mark) for name, mark in record["marks"].items()}
            self._verdicts[record["key"]] = Verdict(marks, tuple(record["ungrounded"]))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return  # a line that a crash cut: it is asked for again

    def __len__(self) -> int:
        return len(self._verdicts)

    def get(self, key: str) -> Verdict | None:
        return self._verdicts.get(key)

    def put(self, key: str, verdict: Verdict) -> None:
        """Keep a verdict."""
        record = {"key": key, "marks": dict(verdict.marks), "ungrounded": list(verdict.ungrounded)}
        with self._lock:
            if key in self._verdicts:
                return
            self._verdicts[key] = verdict
            if self._path is not None:
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(record) + "\n")


def make_key(model: str, messages: Any) -> str:
    """What a verdict depends on, in short."""
    whole = json.dumps([model, messages], sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()
