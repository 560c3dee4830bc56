"""What an installed copy holds: the lazy public face, type hints, both packages, no experiments."""

import os
import pathlib
import subprocess
import sys
import zipfile

import pytest

import hiperjax

ROOT = pathlib.Path(__file__).resolve().parents[1]


def test_importing_wakes_nothing():
    code = "import sys, hiperjax; dir(hiperjax); print(*{'jax', 'numpy', 'flax'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "\n"), done.stderr


@pytest.mark.parametrize("name", hiperjax.__all__)
def test_the_public_face_is_there(name):
    assert callable(getattr(hiperjax, name)) and name in dir(hiperjax)


def test_another_name_is_refused():
    with pytest.raises(AttributeError, match=r"it has .*'train'"):
        _ = hiperjax.tarin


@pytest.mark.slow  # builds a wheel, for which pip may fetch the build backend
def test_a_wheel_works_outside_the_repository(tmp_path):
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", tmp_path, ROOT], check=True, timeout=300)
    (wheel,) = tmp_path.glob("hiperjax-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"hiperjax", "hiperjax_kernels"}
    assert {"hiperjax/py.typed", "hiperjax_kernels/py.typed"} <= set(names)
    target = tmp_path / "installed"
    subprocess.run([*pip, "install", "--no-deps", "--target", target, wheel], check=True)
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    env |= {"PYTHONPATH": str(target)}
    code = "import hiperjax, hiperjax_kernels as k; print(hiperjax.__file__, k.__file__)"
    for argv, expected in (
        (["-c", code], str(target)),
        (["-m", "hiperjax.cli", "presets"], "household-tiny"),
    ):
        done = subprocess.run(
            [sys.executable, *argv], cwd=tmp_path, env=env, capture_output=True, text=True
        )
        assert done.returncode == 0 and expected in done.stdout, done.stderr
