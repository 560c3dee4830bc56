"""Every number has a range, mistakes are told early and shortly, NaN is never kept."""

import copy
import dataclasses
import importlib
import math
import pathlib
import types
import typing

import jax
import jax.numpy as jnp
import pytest

from hiperjax import cli
from hiperjax.cli import main
from hiperjax.config import ConfigError, RunConfig
from hiperjax.learning.minibatches import all_finite
from hiperjax.options.ranges import ARGUMENTS, RANGES, list_settings
from hiperjax.presets import PRESETS
from hiperjax.validation import validate

BASE = PRESETS["household-tiny"][1]


def list_numbers(kind: typing.Any, prefix: str = "") -> dict[str, type]:
    """Dotted name of every number of a configuration class -> int or float."""
    found = {}
    for name, hint in typing.get_type_hints(kind).items():
        options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        for option in options:
            if dataclasses.is_dataclass(option):
                found |= list_numbers(option, f"{prefix}{name}.")
            elif option in (int, float):
                found[prefix + name] = option
    return found


NUMBERS = list_numbers(RunConfig)


def change(config: typing.Any, name: str, value: object) -> typing.Any:
    """The same with one setting another, past the type checker of the tests."""
    first, _, rest = name.partition(".")
    changed = copy.copy(config)
    new = change(getattr(config, first), rest, value) if rest else value
    object.__setattr__(changed, first, new)
    return changed


def test_every_number_has_a_range_and_every_range_a_number():
    assert RANGES.keys() == NUMBERS.keys()
    assert all(RANGES[name].whole == (kind is int) for name, kind in NUMBERS.items())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "1", True, -2])
def test_no_number_may_be_a_fault(value):
    for name in NUMBERS:
        if name == "credit.history_exponent" and value == -2:
            continue
        with pytest.raises(ConfigError, match=rf"^{name} is .*; expected") as refused:
            validate(change(BASE, name, value))
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_no_faults(name):
    validate(PRESETS[name][1])
    assert {n for n, v in list_settings(BASE) if isinstance(v, float)} <= NUMBERS.keys()


def run(capsys, *argv):
    with pytest.raises(SystemExit) as stop:
        main(argv)
    captured = capsys.readouterr()
    return stop.value.code, captured.out, captured.err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--ppo.learning-rate", "nan"], "ppo.learning_rate is nan; expected a number from 0"),
        (["--ppo.learning-rate", "-inf"], "ppo.learning_rate is -inf"),
        (["--checkpoint-every", "0"], "checkpoint_every is 0; expected a whole number from 1"),
        (
            ["--rollout.slots", "4", "--rollout.pipeline-groups", "8"],
            "expected at most the 4 slots",
        ),
        (["--env.max-turns", "0"], "env.max_turns is 0; expected a whole number from 1"),
        (["--imitation.episodes", "1"], "expected some to be left to imitate"),
        (["--model.hidden-size", "12"], "rotary positions need an even number"),
        (["--mesh.fsdp", "0"], "mesh.fsdp is 0"),
        (["--seed", "1.5"], "--seed: invalid literal"),
        (["--seed"], "Missing value for argument '--seed'"),
        (["--ppo.lerning-rate", "1"], "--ppo.lerning-rate, 1; perhaps --ppo.learning-rate"),
        (["--model.hidden-size", "2000000000"], "expected a whole number from 1 to 1000000"),
        (["--rollout.temperature", "1e-45"], "expected a number from 0.001 to 100"),
        (["--model.dtype", "int8"], "Expected one of ('float32', 'bfloat16')"),
    ],
)
def test_a_faulty_setting_is_one_line_and_code_two(capsys, argv, message):
    code, out, err = run(capsys, "train", "household-tiny", *argv)
    assert code == 2 and out == "" and err.count("\n") == 1 and message in err


def test_a_fault_on_any_command_line_is_one_line(capsys):
    nonsense = ["play", "household", "--split", "nonsense"]
    for argv in (
        nonsense,
        ["evaluate"],
        ["play", "--delay", "x"],
        ["convert", "up", "a", "b"],
        ["plan"],
    ):
        code, _, err = run(capsys, *argv)
        assert code == 2 and err.count("\n") == 1, err


FUNCTIONS = {
    "bench": ("bench",),
    "compare": ("compare",),
    "convert": ("convert",),
    "evaluate": ("evaluate_run",),
    "fetch": ("fetch",),
    "games": ("games_stats", "games_generate"),
    "play": ("play_suite",),
    "plot": ("plot_curves",),
    "report": ("report",),
    "verify": ("verify_hae", "verify_alfworld", "verify_webshop", "verify_model"),
    "watch": ("watch",),
}
"""Modules of commands -> the functions whose parameters are a command line."""


def test_every_number_a_command_takes_has_a_range():
    found = {"turns"}  # of `plan`, which has no function of its own
    for module, names in FUNCTIONS.items():
        for name in names:
            function = getattr(importlib.import_module(f"hiperjax.commands.{module}"), name)
            for parameter, hint in typing.get_type_hints(function).items():
                kinds = typing.get_args(hint) or (hint,)
                if parameter != "return" and {int, float} & set(kinds):
                    found.add(parameter)
                    assert ARGUMENTS[parameter].whole == (int in kinds), (name, parameter)
    assert found == ARGUMENTS.keys()


@pytest.mark.parametrize(
    "argv",
    [
        ["evaluate", "nowhere", "--temperature", "nan"],
        ["evaluate", "nowhere", "--max-tasks", "0"],
        ["evaluate", "nowhere", "--seed", "-1"],
        ["play", "--delay", "inf"],
        ["play", "--temperature", "-1"],
        ["bench", "nowhere", "--iterations", "0"],
        ["watch", "nowhere", "--port", "99999"],
        ["plan", "--device", "h100", "--turns", "nan"],
        ["games", "generate", "nowhere", "--count", "-1"],
        ["plot", "curves", "nowhere", "--out", "a.png", "--dpi", "0"],
    ],
)
def test_a_faulty_number_of_any_command_is_one_line_and_code_two(capsys, argv):
    code, out, err = run(capsys, *argv)
    assert code == 2 and out == "" and err.count("\n") == 1, err
    assert f"hiperjax {argv[0]}: {argv[-2]} is " in err and "; expected a" in err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["evaluate", "nowhere", "--out"], "expected a file that can be written"),
        (["compare", "nowhere", "--out"], "expected a file that can be written"),
        (["play", "--save"], "expected a file that can be written"),
    ],
)
def test_an_output_that_is_a_fault_is_told_before_anything_slow(capsys, tmp_path, argv, message):
    (tmp_path / "file").write_text("kept")
    for path in (tmp_path, tmp_path / "file" / "below", pathlib.Path("/proc/no/such")):
        code, out, err = run(capsys, *argv, str(path))
        assert code == 2 and out == "" and err.count("\n") == 1 and message in err, err
    assert (tmp_path / "file").read_text() == "kept"
    assert "nowhere" in run(capsys, "evaluate", "nowhere", "--out", str(tmp_path / "a" / "b"))[2]
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["file"]


def test_memory_that_is_not_there_is_a_fault_in_one_line(capsys, monkeypatch):
    def take(args):
        return lambda: jnp.zeros((1 << 30, 1 << 20)).block_until_ready()

    monkeypatch.setitem(cli.COMMANDS, "bench", take)
    code, _, err = run(capsys, "bench")
    assert code == 1 and err.count("\n") == 1 and "out of memory" in err and "plan" in err, err


def test_help_is_no_fault_of_a_command_with_parts(capsys):
    for command in ("games", "plot", "verify"):
        code, out, err = run(capsys, command, "--help")
        assert (code, err) == (0, "") and out.startswith(f"usage: hiperjax {command} {{")


def test_faults_in_a_tree_are_seen():
    good = {"a": jnp.ones(3), "b": jnp.int32(3), "key": jax.random.key(0), "none": None}
    assert all_finite(good) and all_finite({})
    for bad in (jnp.nan, jnp.inf):
        assert not all_finite(good | {"a": jnp.asarray([1.0, bad])})
