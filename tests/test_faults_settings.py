"""Every number has a range, mistakes are told early and shortly, NaN is never kept."""

import copy
import dataclasses
import math
import types
import typing

import jax
import jax.numpy as jnp
import pytest

from hiperjax.cli import main
from hiperjax.config import ConfigError, RunConfig
from hiperjax.learning.minibatches import all_finite
from hiperjax.presets import PRESETS
from hiperjax.validation import RANGES, list_settings, validate

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
        (["--model.dtype", "int8"], "Expected one of ('float32', 'bfloat16')"),
    ],
)
def test_a_faulty_setting_is_one_line_and_code_two(capsys, argv, message):
    code, out, err = run(capsys, "train", "household-tiny", *argv)
    assert code == 2 and out == "" and err.count("\n") == 1 and message in err


def test_a_fault_on_any_command_line_is_one_line(capsys):
    for argv in (["evaluate"], ["play", "--delay", "x"], ["convert", "up", "a", "b"], ["plan"]):
        code, _, err = run(capsys, *argv)
        assert code == 2 and err.count("\n") == 1, err


def test_faults_in_a_tree_are_seen():
    good = {"a": jnp.ones(3), "b": jnp.int32(3), "key": jax.random.key(0), "none": None}
    assert all_finite(good) and all_finite({})
    for bad in (jnp.nan, jnp.inf):
        assert not all_finite(good | {"a": jnp.asarray([1.0, bad])})
