"""No write to a stream ever ends a run."""

import io
import subprocess
import sys

import pytest

from hiperjax.streams import SafeStream
from hiperjax.training.console import LOG, Progress


def test_what_cannot_be_encoded_is_replaced_and_no_fault():
    raw = io.BytesIO()
    stream = SafeStream(io.TextIOWrapper(raw, encoding="ascii"))
    assert stream.write("ok █ 运\n") == 7
    stream.flush()
    assert raw.getvalue() == b"ok ? ?\n"
    assert stream.write("\ud800") == 1


class Broken(io.StringIO):
    name = "<broken>"

    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")


@pytest.mark.parametrize("stream", [Broken(), None])
def test_a_stream_fault_is_said_once(stream):
    said = []
    safe = SafeStream(stream, said.append)
    for _ in range(3):
        safe.write("a")
        safe.flush()
    assert len(said) == (stream is not None)
    assert not safe.isatty() and safe.encoding


def test_a_console_that_is_a_fault_ends_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", Broken())
    progress = Progress(3, folder=tmp_path)
    for _ in range(2):
        progress.say("[one] █")
    progress.finish(tmp_path, 3, 0.5, 3, "")
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "takes no more text" in err
    lines = (tmp_path / LOG).read_text(encoding="utf-8").splitlines()
    assert sum("[one] █" in line for line in lines) == 2
    assert sum("takes no more text" in line for line in lines) == 1


SPEAK = """
import sys
from hiperjax import cli
def speak():
    for _ in range(20000):
        print("many words █")
    sys.stdout.flush()
    print("over", file=sys.stderr)
    return 0
cli.COMMANDS["presets"] = lambda args: speak
sys.argv = ["hiperjax", "presets"]
cli.entry()
"""


@pytest.mark.parametrize(
    ("shell", "code"),
    [
        ("PYTHONIOENCODING=ascii:strict {} > /dev/null", 0),
        ("set -o pipefail; {} | head -1 > /dev/null", 0),
        ("{} > /dev/full", 0),
        ("{} >&-", 0),
    ],
)
def test_a_process_outlives_its_stdout(shell, code):
    command = shell.format(f"{sys.executable} -c '{SPEAK}'")
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    assert done.stderr.endswith("over\n") and "Traceback" not in done.stderr
    told = done.stderr.count("takes no more text")
    assert told == ("head" in shell or "full" in shell)
