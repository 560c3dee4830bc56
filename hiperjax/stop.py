"""A request to stop, heard by whatever takes long.

Signals belong to the process, and so does the request: `REQUEST` is the only one there is. What
takes long says what is under way (`during`) and asks where it may be left (`check`): at every
harvest of a rollout, every measurement of imitation, every wait for an environment. Nobody asks
for a stop unless `hiperjax.training.interrupt` listens to signals.
"""

import contextlib
from collections.abc import Iterator


class StopAsked(Exception):
    """This process was asked to stop: what was under way is given up, nothing of it recorded."""


class Request:
    """Whether a stop was asked for, and what a person should hear of it."""

    def __init__(self) -> None:
        self.asked = False
        self.doing = ""
        """what becomes of the work under way, as a person reads it"""

    def check(self) -> None:
        """Give up here, if a stop was asked for.

        Raises:
          StopAsked: it was.
        """
        if self.asked:
            raise StopAsked(self.doing)

    @contextlib.contextmanager
    def during(self, doing: str) -> Iterator[None]:
        """What a request that comes meanwhile leads to."""
        before, self.doing = self.doing, doing
        try:
            yield
        finally:
            self.doing = before


REQUEST = Request()
