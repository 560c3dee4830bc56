"""One word for one thing: what docs/glossary.md puts aside stays out of source and documents."""

import pathlib
import re
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
GLOSSARY = ROOT / "docs" / "glossary.md"
FOLDERS = ("hiperjax", "kernels", "experiments", "tests", "docs")
SUFFIXES = {".py", ".md"}
EXEMPT = {GLOSSARY, pathlib.Path(__file__).resolve()}

UNITS = (
    "bytes|floats?|tokens|turns|episodes|trajectories|sequences|rows|slots|steps|operations|lines?"
    "|records?|entries|ms|us|seconds|milliseconds|MB|GB|memory|votes?|once|columns?"
)
PER = (
    "parameter|token|turn|segment|episode|trajectory|iteration|epoch|row|sequence|step|update|batch"
    "|chunk|call|slot|second|device|process|host|file|field|command|module|layer|head|group|task"
    "|game|prompt|reply|position|class|estimator|worker|machine"
)
DISTRIBUTIVE = re.compile(rf"\b(?:{UNITS}) an? (?:{PER})s?\b(?! has| is)")
"""`12 bytes a parameter`: per is meant, and per is what it says."""


def read_banned(text: str) -> list[str]:
    """First column of the glossary's last table."""
    table = text[text.index("## Words that are not used") :]
    rows = re.findall(r"^\| ([^|]+?) \| [^|]+ \|$", table, re.M)
    words = [word for row in rows for word in row.split(", ")]
    return [word for word in words if word not in ("not", "---")]


BANNED = re.compile(
    "|".join(
        rf"\b{re.escape(word)}\b(?!\.json)" for word in read_banned(GLOSSARY.read_text("utf-8"))
    ),
    re.I,
)


def complain(name: str, text: str) -> Iterator[str]:
    """Lines that say what is put aside."""
    joined = re.sub(r"\n\s*#?\s*", " ", text)
    for pattern in (BANNED, DISTRIBUTIVE):
        for found in pattern.finditer(joined):
            yield f"{name}: {joined[max(0, found.start() - 30) : found.end() + 20]!r}"


def list_files() -> list[pathlib.Path]:
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*")]
    files += [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    return sorted(path for path in files if path.suffix in SUFFIXES and path not in EXEMPT)


def test_words_put_aside_are_not_written():
    complaints = [
        complaint
        for path in list_files()
        for complaint in complain(str(path.relative_to(ROOT)), path.read_text(encoding="utf-8"))
    ]
    assert not complaints, "\n".join(complaints)


@pytest.mark.parametrize(
    "text",
    [
        "12 bytes a parameter",
        "one line a\n    field",
        "the other Wing",
        "a rival of ours",
    ],
)
def test_a_word_put_aside_is_noticed(text):
    assert list(complain("somewhere", text))


@pytest.mark.parametrize("text", ["bytes per parameter", "arrival", "swing", "a token of a row"])
def test_the_words_of_the_field_pass(text):
    assert not list(complain("somewhere", text))
