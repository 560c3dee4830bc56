"""Judges that are programs: what the world verified, or a function of one's own."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from hiperjax.judging.base import Failed, Request, Verdict, check_marks
from hiperjax.stop import REQUEST


class JudgeError(ValueError):
    """A judge that cannot be made as it was asked for."""


class ProgramJudge:
    """Says what the world verified."""

    def verdicts(self, requests: Sequence[Request]) -> list[Verdict | Failed]:
        """Yes where the world says that the criterion holds."""
        return [self._judge(request) for request in requests]

    def _judge(self, request: Request) -> Verdict | Failed:
        satisfied = request.episode.satisfied
        return check_marks(request, {q.name: q.name in satisfied for q in request.questions})


class FunctionJudge:
    """Asks a function, which takes a `Request` and returns a number for each question by name.

    What it raises is a failed verdict. It is called from several threads where `concurrency` is
    above 1.
    """

    def __init__(self, name: str, concurrency: int = 1) -> None:
        self._function, self._concurrency = load_function(name), concurrency

    def verdicts(self, requests: Sequence[Request]) -> list[Verdict | Failed]:
        """What the function says of each."""
        return map_requests(self._judge, requests, self._concurrency)

    def _judge(self, request: Request) -> Verdict | Failed:
        try:
            marks: Any = self._function(request)
        except Exception as error:  # other people's code; its failure is data
            return Failed(f"{type(error).__name__}: {error}".splitlines()[0])
        if not isinstance(marks, Mapping):
            return Failed(f"found {type(marks).__name__}; expected a number for each criterion")
        return check_marks(request, marks)


def map_requests(
    judge: Callable[[Request], Verdict | Failed], requests: Sequence[Request], concurrency: int
) -> list[Verdict | Failed]:
    """A judge of single requests asked for many, some at a time; answers in their order.

    Raises:
      StopAsked: the process was asked to stop; what is under way is waited for, the rest is not.
    """
    if concurrency == 1:
        found = []
        for request in requests:
            REQUEST.check()
            found.append(judge(request))
        return found
    with ThreadPoolExecutor(max_workers=concurrency) as pool:
        futures = [pool.submit(judge, request) for request in requests]
        try:
            return [_wait(future) for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _wait(future: Any) -> Any:
    while True:
        REQUEST.check()
        try:
            return future.result(timeout=0.2)
        except TimeoutError:
            if future.done():
                raise


def load_function(name: str) -> Callable[[Request], Any]:
    """The function called `MODULE:FUNCTION`.

    Raises:
      JudgeError: there is none.
    """
    module, colon, attribute = name.partition(":")
    try:
        if not colon:
            raise ValueError("no colon")
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # whatever a foreign module does when it is imported
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        raise JudgeError(
            f"judge.function is {name!r}, which cannot be imported ({said}); expected "
            "MODULE:FUNCTION"
        ) from error
    if not callable(found):
        raise JudgeError(f"judge.function is {name!r}, a {type(found).__name__}; not callable")
    return found
