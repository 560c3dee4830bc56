"""Environments whose methods are coroutines, run from code that is not asynchronous.

One event loop serves a process, in a thread of its own: many environments wait on it side by side,
as many as there are threads that wait for them.
"""

import asyncio
import functools
import inspect
import threading
from typing import Any


@functools.cache
def _start_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="environments", daemon=True).start()
    return loop


def finish(result: Any) -> Any:
    """What a call comes to: its result, or what the coroutine returns that it made."""
    if not inspect.iscoroutine(result):
        return result
    return asyncio.run_coroutine_threadsafe(result, _start_loop()).result()
