"""The layers hold: who may import whom, and the other nevers of docs/architecture.md.

Every rule is a function from modules to complaints. It is held against the project's own source,
and against a few lines that break it, so that a rule which sees nothing fails too.
"""

import ast
import dataclasses
import functools
import pathlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
FILE_LINES = 400
FUNCTION_LINES = 50  # without the docstring
WORDLESS_LINES = 8

GROUND = {
    "types", "config", "options", "intervals", "random_keys", "models", "kernels", "files", "stop",
    "streams", "validation", "entry_points", "devices",
}  # fmt: skip
MIDDLE = {"acting", "learning", "envs", "judging"}
MAY_IMPORT: Mapping[str, set[str]] = {
    **{package: set() for package in GROUND},
    "config": {"options"},
    "models": {"kernels", "files"},
    "validation": {"config", "options"},
    "presets": {"config"},
    "capacity": {"kernels", "models", "distributed", "devices"},
    "envs": {"types", "intervals", "files", "stop", "entry_points"},
    "judging": {"types", "files", "stop"},
    "acting": {"envs", "models", "types", "stop", "entry_points", "options"},
    "learning": {"kernels", "models", "config", "options", "types", "entry_points"},
    "distributed": {"acting", "models", "types", "stop"},
    "training": GROUND | MIDDLE | {"presets", "distributed"},
    "report": GROUND | MIDDLE | {"presets", "distributed", "training"},
    "verification": GROUND | MIDDLE | {"presets", "distributed", "training"},
    "testing": GROUND | MIDDLE | {"presets", "distributed", "training"},
}
"""Package -> other packages it may import, from the ground up; the ones not named (commands, cli,
experiments) may import anything below them. `kernels` is the package `hiperjax_kernels`."""
ABOVE: Mapping[str, set[str]] = {
    "commands": {"cli", "experiments"},
    "cli": {"experiments"},
    "experiments": set(),
}
"""Packages at the top, and what stands above each."""

JAX_FREE = (
    "hiperjax.types",
    "hiperjax.envs",
    "hiperjax.judging",
    "hiperjax.acting.blocks",
    "hiperjax.acting.prompts",
    "hiperjax.acting.renderers",
)
USES_JAX = {"jax", "jaxlib", "flax", "optax", "orbax", "chex", "hiperjax_kernels"}
TAG_FILES = ("hiperjax.acting.blocks", "hiperjax.acting.renderers")
EPISODE_FILE = "hiperjax.acting.episode"
GROWN_THERE = {"Turn", "Trajectory"}
TAGS = re.compile(r"</?(switch|subgoal|action)\b", re.IGNORECASE)
RAGGED = {"Trajectory", "Turn", "Blocks"}
FIXED = {"TurnRows", "TurnGrid", "PackedBatch"}
UNKNOWN_TO_MODELS = {"reward", "rewards", "advantage", "advantages", "subgoal", "episode"}
TAKES_CONFIG = (
    "hiperjax.config",
    "hiperjax.options",
    "hiperjax.presets",
    "hiperjax.validation",
    "hiperjax.training",
    "hiperjax.learning.learner",
    "hiperjax.commands",
    "hiperjax.cli",
    "experiments",
)


@dataclasses.dataclass(frozen=True)
class Module:
    """One source file."""

    name: str
    source: str
    is_package: bool = False

    @functools.cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.source)

    def within(self, names: tuple[str, ...]) -> bool:
        return any(self.name == name or self.name.startswith(f"{name}.") for name in names)

    def imports(self) -> Iterator[str]:
        """Dotted names imported anywhere in the file; `from a import b` gives `a` and `a.b`.

        What only a type checker imports is left out.
        """
        seen: set[ast.AST] = set()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                seen |= set(node.body)
            if node in seen:
                continue
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = self._resolve(node)
                yield base
                yield from (f"{base}.{alias.name}" for alias in node.names)

    def _resolve(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = self.name.split(".")
        kept = parts[: len(parts) - node.level + self.is_package]
        return ".".join([*kept, *([node.module] if node.module else [])])


@functools.cache
def read_modules() -> list[Module]:
    found = []
    for base, package in ((".", "hiperjax"), ("kernels", "hiperjax_kernels"), (".", "experiments")):
        for path in sorted((ROOT / base / package).rglob("*.py")):
            parts = path.relative_to(ROOT / base).with_suffix("").parts
            is_package = parts[-1] == "__init__"
            name = ".".join(parts[:-1] if is_package else parts)
            found.append(Module(name, path.read_text(encoding="utf-8"), is_package))
    return found


def package_of(name: str) -> str | None:
    """Package of a dotted name; None for third parties and for the bare package `hiperjax`."""
    top, _, rest = name.partition(".")
    if top == "hiperjax_kernels":
        return "kernels"
    if top == "experiments":
        return "experiments"
    return rest.split(".")[0] or None if top == "hiperjax" else None


Complaints = Iterator[str]


def import_upward(module: Module) -> Complaints:
    package = package_of(module.name)
    if package is None:
        yield from (
            f"{module.name} imports {name}" for name in module.imports() if package_of(name)
        )
        return
    packages = MAY_IMPORT.keys() | ABOVE.keys()
    if package not in packages:
        yield f"{module.name} stands in no layer; give {package!r} one in MAY_IMPORT"
        return
    allowed = MAY_IMPORT[package] if package in MAY_IMPORT else packages - ABOVE[package]
    for name in module.imports():
        other = package_of(name)
        if other in packages and other != package and other not in allowed:
            yield f"{module.name} imports {name}; {package} may import {sorted(allowed)}"


def wake_jax(module: Module) -> Complaints:
    if module.within(JAX_FREE):
        for name in module.imports():
            if name.split(".")[0] in USES_JAX:
                yield f"{module.name} imports {name}, which is or wakes jax"


def know_rl_in_models(module: Module) -> Complaints:
    if not module.within(("hiperjax.models",)):
        return
    for node in ast.walk(module.tree):
        for field in ("id", "attr", "arg", "name"):
            name = getattr(node, field, None)
            if isinstance(name, str) and UNKNOWN_TO_MODELS & set(name.lower().split("_")):
                yield f"{module.name}: a model knows {name!r}"


def write_tags(module: Module) -> Complaints:
    if module.within(TAG_FILES):
        return
    for number, line in enumerate(module.source.splitlines(), start=1):
        if TAGS.search(line):
            yield f"{module.name}:{number} writes a tag: {line.strip()}"
    if module.within(("hiperjax.report",)):  # HTML has tags of its own
        return
    for node in ast.walk(module.tree):
        if isinstance(node, ast.JoinedStr) and re.search(r"</?\0>", _flatten(node)):
            yield f"{module.name}:{node.lineno} builds a tag: {ast.unparse(node)}"


def _flatten(node: ast.JoinedStr) -> str:
    parts = (part.value if isinstance(part, ast.Constant) else "\0" for part in node.values)
    return "".join(str(part) for part in parts)


def blur_the_border(module: Module) -> Complaints:
    """Only `pack` makes fixed shapes; whatever else of learning reads ragged turns just counts."""
    if module.name == "hiperjax.learning.packing":
        return
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in FIXED:
            yield f"{module.name}:{node.lineno} makes a {ast.unparse(node.func)}; packing.py does"
    imported = set(module.imports())
    wakes = {name for name in imported if name.split(".")[0] in USES_JAX}
    ragged = {name for name in imported if name in {f"hiperjax.types.{noun}" for noun in RAGGED}}
    if module.within(("hiperjax.learning",)) and wakes and ragged:
        yield f"{module.name} sees both {sorted(ragged)} and {sorted(wakes)}"


def record_elsewhere(module: Module) -> Complaints:
    """Only the recorder makes turns and trajectories: whoever acts, they say the same."""
    if module.name == EPISODE_FILE or not module.within(("hiperjax",)):
        return
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in GROWN_THERE:
            yield f"{module.name}:{node.lineno} makes a {ast.unparse(node.func)}"


def take_config(module: Module) -> Complaints:
    """The run's config; a model's own description of its shape is no such object."""
    if module.within(TAKES_CONFIG):
        return
    imported = {name for name in module.imports() if name.startswith("hiperjax.config.")}
    classes = {name.split(".")[-1] for name in imported}
    for function in functions_of(module):
        arguments = function.args
        for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
            words = set(re.findall(r"\w+", ast.unparse(argument.annotation or ast.Constant(None))))
            unclear = argument.arg in ("config", "cfg") and words <= {"None", "Any", "object"}
            if unclear or words & {*classes, "config"}:
                yield f"{module.name}.{function.name} takes a config object: {argument.arg}"


def lack_docstring(module: Module) -> Complaints:
    """Every module says what it is, and every public function whose name cannot say it all."""
    if module.source.strip() and not ast.get_docstring(module.tree):
        yield f"{module.name} has no docstring"
    for node in module.tree.body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        public = not node.name.startswith("_") and node.name != "main"
        if public and not ast.get_docstring(node) and lines_of(node) > WORDLESS_LINES:
            yield f"{module.name}.{node.name} has no docstring"


def is_too_long(module: Module) -> Complaints:
    lines = len(module.source.splitlines())
    if lines > FILE_LINES:
        yield f"{module.name} has {lines} lines; at most {FILE_LINES}, better split it"
    for function in functions_of(module):
        lines = lines_of(function)
        if lines > FUNCTION_LINES:
            yield f"{module.name}.{function.name} has {lines} lines; at most {FUNCTION_LINES}"


def lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of the body, its docstring left out."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return (function.end_lineno or 0) - body[0].lineno + 1 if body else 0


def functions_of(module: Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


LONG_BODY = "def f():\n" + "    pass\n" * (FUNCTION_LINES + 1)
BROKEN: list[tuple[Callable[[Module], Complaints], str, str]] = [
    (import_upward, "hiperjax_kernels.hae", "import hiperjax.types"),
    (import_upward, "hiperjax_kernels.hae", "from hiperjax import types"),
    (import_upward, "hiperjax.acting.rollout", "from hiperjax.learning import packing"),
    (import_upward, "hiperjax.acting.rollout", "from ..learning import packing"),
    (
        import_upward,
        "hiperjax.learning.packing",
        "def f():\n    from hiperjax.acting import blocks",
    ),
    (import_upward, "hiperjax.models.heads", "from hiperjax.types import Turn"),
    (import_upward, "hiperjax.training.trainer", "import hiperjax.cli"),
    (import_upward, "hiperjax.training.trainer", "from experiments import alfworld"),
    (import_upward, "hiperjax.cellar", ""),
    (import_upward, "hiperjax.commands.plan", "import hiperjax.cli"),
    (import_upward, "hiperjax.distributed.mesh", "import hiperjax.training.run"),
    (import_upward, "hiperjax", "from hiperjax.training.trainer import train"),
    (wake_jax, "hiperjax.envs.ladder", "import jax.numpy as jnp"),
    (wake_jax, "hiperjax.types", "from chex import Array"),
    (know_rl_in_models, "hiperjax.models.heads", "def read(features, turn_rewards): ..."),
    (write_tags, "hiperjax.training.trainer", "x = '</action>'"),
    (write_tags, "hiperjax.learning.packing", "x = f'{a}<Subgoal>{b}'"),
    (write_tags, "hiperjax.training.trainer", "x = f'<{name}>{text}</{name}>'"),
    (blur_the_border, "hiperjax.learning.losses", "from hiperjax.types import Turn\nimport jax"),
    (blur_the_border, "hiperjax.acting.rollout", "types.TurnRows(tokens, masks)"),
    (record_elsewhere, "hiperjax.acting.rollout", "done = Trajectory(task, turns, ending, True)"),
    (record_elsewhere, "hiperjax.acting.demonstrations", "types.Turn(prompt, reply)"),
    (take_config, "hiperjax.learning.losses", "def f(config): ..."),
    (
        take_config,
        "hiperjax.learning.losses",
        "from hiperjax.config import PpoConfig\ndef f(*, ppo: PpoConfig | None): ...",
    ),
    (lack_docstring, "hiperjax.training.metrics", "import math"),
    (lack_docstring, "hiperjax.training.metrics", "'''Said.'''\n" + LONG_BODY),
    (is_too_long, "hiperjax.training.metrics", "\n" * (FILE_LINES + 1)),
    (is_too_long, "hiperjax.training.metrics", LONG_BODY),
]
RULES = list(dict.fromkeys(rule for rule, _, _ in BROKEN))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_no_module_may(rule: Callable[[Module], Complaints]) -> None:
    complaints = [complaint for module in read_modules() for complaint in rule(module)]
    assert not complaints, "\n".join(complaints)


@pytest.mark.parametrize(("rule", "name", "source"), BROKEN)
def test_a_broken_rule_is_noticed(
    rule: Callable[[Module], Complaints], name: str, source: str
) -> None:
    assert list(rule(Module(name, source)))


def test_the_source_is_found() -> None:
    names = {module.name for module in read_modules()}
    assert {"hiperjax.types", "hiperjax_kernels.hae", "hiperjax.envs.ladder"} <= names


def test_the_kernels_folder_is_no_package() -> None:
    """A package called `kernels` would answer when transformers asks for Hugging Face's."""
    assert not (ROOT / "kernels" / "__init__.py").exists()


def test_worlds_do_not_wake_jax() -> None:
    """Importing every world, with all it imports in turn, leaves jax asleep."""
    worlds = [module.name for module in read_modules() if module.within(JAX_FREE[:3])]
    code = f"import sys, {', '.join(worlds)}\nprint(*{USES_JAX!r} & sys.modules.keys())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_pre_commit_and_ci_lint_alike() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    pin = next(x for x in project["project"]["optional-dependencies"]["dev"] if "ruff==" in x)
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert f"rev: v{pin.removeprefix('ruff==')}\n" in hooks
