"""The documents hold: links resolve, and every command in them parses, without being run."""

import importlib
import pathlib
import re
import shlex
from collections.abc import Iterator

import pytest

from hiperjax import cli, types
from hiperjax.presets import PRESETS
from hiperjax.training.run_folder import save_config

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PLACEHOLDERS = {
    "PRESET": "household-tiny",
    "...": "",
    "HOST0:1234": "localhost:1234",
    "N": "2",
    "I": "0",
}
"""What stands for a reader's own choice; RUN is a run folder, other capitals are any path."""


def read_links(text: str) -> Iterator[str]:
    """Targets of Markdown links and of HTML sources that lie in the repository."""
    for target in re.findall(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"", text):
        found = target[0] or target[1]
        if not re.match(r"[a-z]+:", found):
            yield found


def slugs(text: str) -> set[str]:
    """Anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(document: pathlib.Path, text: str) -> Iterator[str]:
    for link in read_links(text):
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        if not target.exists():
            yield f"{document.name}: {link} leads nowhere"
        elif anchor and anchor not in slugs(target.read_text(encoding="utf-8")):
            yield f"{document.name}: {link} names no heading"


def read_commands(text: str) -> Iterator[str]:
    """Command lines in code blocks, fenced or indented (continued lines joined), and inline."""
    code = re.findall(r"^ *```(?:\w*)\n(.*?)^ *```", text, re.M | re.S)
    rest = re.sub(r"^ *```.*?^ *```", "", text, flags=re.M | re.S)
    code += re.findall(r"(?:^(?: {4,}|\t).*\n?)+", rest, re.M)
    inline = re.findall(r"`([^`\n]+)`", rest)
    lines = [line for block in code for line in block.replace("\\\n", " ").splitlines()]
    for line in [*lines, *inline]:
        for part in re.split(r"&&|\|(?!\|)", line.replace("\\|", "/")):
            command = re.split(r"\s#|\s\(", part)[0].strip().removeprefix("srun ")
            if re.match(r"hiperjax [a-z]|python -m experiments\.", command):
                yield command


def fill(command: str, run: pathlib.Path) -> list[str]:
    """The words of a command, each placeholder replaced."""
    found = []
    for word in shlex.split(command):
        word = PLACEHOLDERS.get(word, word)
        if word in ("RUN", "RUN_FOLDER"):
            word = str(run)
        elif re.fullmatch(r"[A-Z_]+", word):
            word = str(run.parent / word.lower())
        if word:
            found.append(word)
    return found


def parse(command: str, run: pathlib.Path) -> None:
    """Parse a documented command; an unknown word of it ends in SystemExit or an error."""
    words = fill(command, run)
    if words[0] == "hiperjax":
        read = cli.COMMANDS[words[1]]
        if words[2:] not in ([], ["--help"]):  # else it is only named
            assert callable(read(words[2:]))
    else:
        module = importlib.import_module(words[2])
        if hasattr(module, "parse_args"):
            module.parse_args(words[3:])
        else:
            assert len(words) == 3, f"{words[2]} takes no arguments"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> pathlib.Path:
    """A run folder as far as the command line reads it."""
    folder = tmp_path_factory.mktemp("docs") / "run"
    folder.mkdir()
    save_config(PRESETS["household-tiny"][1], folder)
    return folder


COMMANDS = {
    command: document.name
    for document in DOCUMENTS
    for command in read_commands(document.read_text(encoding="utf-8"))
}


def test_links_resolve():
    broken = [
        complaint
        for document in DOCUMENTS
        for complaint in broken_links(document, document.read_text(encoding="utf-8"))
    ]
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_parses(command, run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    parse(command, run)


@pytest.mark.parametrize(
    "command",
    [
        "hiperjax train --credit.gama 1",
        "hiperjax train no-such-preset",
        "hiperjax evaluate RUN --spit unseen",
        "hiperjax evaporate RUN",
        "python -m experiments.benchmarks.hae --turn-count 3",
        "python -m experiments.benchmarks.nothing",
        "python -m experiments.studies.option_study --fast",
    ],
)
def test_a_wrong_command_is_noticed(command, run):
    with pytest.raises((SystemExit, ValueError, KeyError, ImportError, AssertionError)):
        parse(command, run)


def test_what_a_document_says_is_found():
    text = (
        '[a](b.md) [c](https://d) <img src="e.svg">\n`hiperjax plan X` and\n'
        "```\nsrun hiperjax train \\\n  --seed 1   # why\npip install . && hiperjax train\n```\n"
        "\n    hiperjax bench \\\n      RUN\n\n* a list\n\n  ```\n  hiperjax watch RUN\n  ```\n"
    )
    assert list(read_links(text)) == ["b.md", "e.svg"]
    assert list(read_commands(text)) == [
        "hiperjax train    --seed 1",
        "hiperjax train",
        "hiperjax watch RUN",
        "hiperjax bench        RUN",
        "hiperjax plan X",
    ]
    assert list(broken_links(ROOT / "README.md", "[x](no/such.md) [y](README.md#no-such)"))
    assert slugs("# A `b`, c\n```\n# no\n```\n## D-e") == {"a-b-c", "d-e"}


def test_the_famous_commands_stay():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for command in ("pip install -e . && hiperjax train", "pip install -e '.[test]' && pytest"):
        assert command in text


def test_architecture_names_every_noun_and_package():
    """The living plan follows the code: each class of types.py with its fields, each package."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    missing = [
        name
        for name, noun in vars(types).items()
        if isinstance(noun, type) and noun.__module__ == types.__name__ and f"`{name}`" not in text
    ]
    packages = [path.parent.name for path in (ROOT / "hiperjax").glob("*/__init__.py")]
    missing += [name for name in packages if f"{name}/" not in text]
    assert not missing, f"docs/architecture.md says nothing of {missing}"
