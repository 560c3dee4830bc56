"""Wall seconds of an iteration in named phases, compilation apart."""

import collections
import contextlib
import time
from collections.abc import Callable, Iterator

import jax
import jax.monitoring


class _Compiler:
    """Seconds that XLA has compiled in this process, as JAX reports them."""

    seconds = 0.0
    listens = False

    @classmethod
    def listen(cls) -> None:
        if not cls.listens:
            jax.monitoring.register_event_duration_secs_listener(cls._hear)
            cls.listens = True

    @classmethod
    def _hear(cls, event: str, duration_secs: float, **_: object) -> None:
        if event.endswith(("backend_compile_duration", "jaxpr_to_mlir_module_duration")):
            cls.seconds += duration_secs


class Timer:
    """Wall seconds since it was made, in named phases; compiling is a phase of its own, taken out
    of the one it happens in."""

    def __init__(self, tell: Callable[[str], object] = lambda name: None) -> None:
        """`tell` hears the name of each phase as it begins."""
        _Compiler.listen()
        self._tell = tell
        self.seconds: dict[str, float] = collections.defaultdict(float)
        self._start = time.perf_counter()

    @property
    def elapsed(self) -> float:
        return time.perf_counter() - self._start

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self._tell(name)
        start, before = time.perf_counter(), _Compiler.seconds
        try:
            yield
        finally:
            compiled = _Compiler.seconds - before
            self.seconds[name] += time.perf_counter() - start - compiled
            if compiled:
                self.seconds["compile"] += compiled
