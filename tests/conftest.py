"""Tests run stricter than users do.

Settings reach JAX through environment variables, before its first import: worlds are then tested
without waking XLA, and processes that tests start inherit them. Do not import `hiperjax` at module
level above the hooks that check its types.

- Every function is checked against its annotations when it is called, array shapes included. The
  checker of shapes binds the arguments of each call anew, which costs the worlds (no arrays, many
  calls) half their time: it has the files that name shapes, beartype alone has the others.
- Rank promotion raises in the tests of `hiperjax_kernels` and `hiperjax.models`, where code is for
  one example or broadcasts by name. Left of a vmap it does not: acting and learning compare
  `[T]` with `[B, 1]` on purpose.
- Dtype promotion is strict in the tests of `hiperjax_kernels`. Anywhere near optax it cannot be:
  its bias correction is `decay ** count`, float and int32.
- Generated examples are the same in every run. `pytest --hypothesis-profile=explore` looks further.
- Compiled programs are kept in pytest's cache folder; `pytest --cache-clear` drops them.
"""

import contextlib
import gc
import importlib.metadata
import os
import pathlib
import signal
import sys
from collections.abc import Callable, Iterator

import jaxtyping
import pytest
from beartype import BeartypeConf
from beartype.claw import beartype_packages
from helpers.paths import ROOT, SHARED
from hypothesis import HealthCheck, settings

MAPS = 15_000


def list_shaped(package: str) -> list[str]:
    """The modules of a package whose files name shapes."""
    base = ROOT / package
    shaped = [path for path in base.rglob("*.py") if "jaxtyping" in path.read_text("utf-8")]
    return [
        ".".join(path.relative_to(base.parent).with_suffix("").parts).removesuffix(".__init__")
        for path in shaped
    ]


SHAPED = [*list_shaped("hiperjax"), *list_shaped("kernels/hiperjax_kernels")]
# Records hold what a foreign world gave until the border looks: their fields stay unchecked.
SHAPED += ["hiperjax.envs.base"]
jaxtyping.install_import_hook(SHAPED, "beartype.beartype")
BY_CALL = BeartypeConf(claw_is_pep526=False, is_pep484_tower=True)  # an int is a float, too
beartype_packages(["hiperjax", "hiperjax_kernels"], conf=BY_CALL)


def tests_of(package: str) -> set[str]:
    return {f"test_{path.stem}" for path in (ROOT / package).glob("*.py")}


DTYPE_STRICT = tests_of("kernels/hiperjax_kernels")
RANK_STRICT = DTYPE_STRICT | tests_of("hiperjax/models")

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the gpu marker's tests: JAX_PLATFORMS=cuda pytest
os.environ["JAX_ENABLE_X64"] = "0"
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # the suite's time is compilation
if importlib.metadata.version("jaxlib").startswith("0.10."):
    # Halves the time again; later versions know no such flag, and die of it.
    EMITTERS = "--xla_cpu_use_fusion_emitters=false"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {EMITTERS}"

SLOW = [HealthCheck.too_slow]  # a machine that is shared is no fault of a test
settings.register_profile(
    "same", derandomize=True, deadline=None, database=None, max_examples=30,
    suppress_health_check=SLOW,
)  # fmt: skip
settings.register_profile("explore", deadline=None, max_examples=500, suppress_health_check=SLOW)
settings.load_profile("same")


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background of a shell
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # beartype checks a random item of a sequence; no drawn example depends on its choice.
    config.addinivalue_line("filterwarnings", "ignore:Do not use the `random` module inside strat")
    cache = getattr(config, "cache", None)
    if cache is None:  # -p no:cacheprovider
        return
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache.mkdir("xla")))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
    # Two pytest processes may write one entry at once; a torn entry is compiled again.
    config.addinivalue_line("filterwarnings", "ignore:Error (reading|writing) persistent comp")


@pytest.fixture(autouse=True)
def strict_arrays(request: pytest.FixtureRequest) -> Iterator[None]:
    """No implicit promotion where the code can do without."""
    name = request.path.stem
    with contextlib.ExitStack() as stack:
        if name in RANK_STRICT:
            import jax

            stack.enter_context(jax.numpy_rank_promotion("raise"))
            if name in DTYPE_STRICT:
                stack.enter_context(jax.numpy_dtype_promotion("strict"))
        yield


@pytest.fixture(autouse=True, scope="module")
def memory_maps() -> Iterator[None]:
    """Programs of earlier modules are let go of in time.

    Each compiled program maps memory, Linux allows a process 65,530 maps, and XLA dies at the
    limit without a word (a segmentation fault while it writes a cache entry).
    """
    yield
    maps = pathlib.Path("/proc/self/maps")
    if "jax" in sys.modules and maps.exists() and maps.read_bytes().count(b"\n") > MAPS:
        sys.modules["jax"].clear_caches()
        gc.collect()


@pytest.fixture
def shared() -> Callable[[str], pathlib.Path]:
    """Path of a file of the data folder beside the repository; skips where it is absent."""

    def find(name: str) -> pathlib.Path:
        path = SHARED / name
        if not path.exists():
            pytest.skip(f"{name} is absent: this test reads it from {SHARED}")
        return path

    return find
