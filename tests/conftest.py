"""Tests run stricter than users do.

Settings reach JAX through environment variables, before its first import: worlds are then tested
without waking XLA, and processes that tests start inherit the same strictness. Do not import
`hiperjax` here at module level: the shape checker hooks its imports only after this file is read.

- Rank promotion raises: `[B] + [B, 1]` is a bug far more often than a wish. flax and optax obey.
- Dtype promotion is strict in the tests of `hiperjax_kernels` only: optax's bias correction
  (`decay ** count`, float and int32) raises under it, so no training step can be taken.
- Generated examples are the same in every run. `pytest --hypothesis-profile=explore` looks further.
- Compiled programs are kept in pytest's cache folder; `pytest --cache-clear` drops them.
"""

import os
import pathlib
from collections.abc import Callable, Iterator

import pytest
from hypothesis import settings

ROOT = pathlib.Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
DTYPE_STRICT = {f"test_{path.stem}" for path in (ROOT / "kernels/hiperjax_kernels").glob("*.py")}

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the gpu marker's tests: JAX_PLATFORMS=cuda pytest
os.environ["JAX_ENABLE_X64"] = "0"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"

settings.register_profile("same", derandomize=True, deadline=None, database=None, max_examples=30)
settings.register_profile("explore", deadline=None, max_examples=500)
settings.load_profile("same")


def pytest_configure(config: pytest.Config) -> None:
    if config.cache is None:  # -p no:cacheprovider
        return
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(config.cache.mkdir("xla")))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
    # Two pytest processes may write one entry at once; a torn entry is compiled again.
    config.addinivalue_line("filterwarnings", "ignore:Error (reading|writing) persistent comp")


@pytest.fixture(autouse=True)
def strict_dtypes(request: pytest.FixtureRequest) -> Iterator[None]:
    """No implicit dtype promotion, in the tests of the kernels."""
    if request.path.stem not in DTYPE_STRICT:
        yield
        return
    import jax

    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture
def shared() -> Callable[[str], pathlib.Path]:
    """Path of a file of the data folder beside the repository; skips where it is absent."""

    def find(name: str) -> pathlib.Path:
        path = SHARED / name
        if not path.exists():
            pytest.skip(f"{name} is absent: this test reads it from {SHARED}")
        return path

    return find
