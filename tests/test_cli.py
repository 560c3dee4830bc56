"""The command line: help, presets, and one clear line for a user's mistake."""

import pathlib

import pytest

from hiperjax.cli import COMMANDS, main
from hiperjax.commands.plan import usual_turns
from hiperjax.config import EnvConfig, RunConfig
from hiperjax.presets import PRESETS


def run(capsys, *argv):
    with pytest.raises(SystemExit) as stop:
        main(argv)
    captured = capsys.readouterr()
    return stop.value.code, captured.out, captured.err


def test_help_lists_every_command(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0 and all(name in out for name in COMMANDS)


def test_presets_are_listed_and_shown(capsys):
    code, out, _ = run(capsys, "presets")
    assert code == 0 and all(name in out for name in PRESETS)
    _, out, _ = run(capsys, "presets", "household-tiny")
    shown = PRESETS["household-tiny"][1].credit.lambda_boundary
    assert f"credit.lambda_boundary = {shown}" in out


def test_help_of_train_tells_each_field(capsys):
    code, out, _ = run(capsys, "train", "household-tiny", "--help-all")
    assert (
        code == 0
        and "--credit.lambda-boundary" in out
        and "0 is the paper" in " ".join(out.split())
    )


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["fly"], "no command 'fly'"),
        (["train", "household-huge"], "expected one of household-tiny"),
        (["train", "--credit.gamma", "2"], "credit.gamma is 2.0"),
        (["evaluate", "nowhere"], "expected a run folder"),
        (["train", "--resume", "nowhere"], "expected a run folder"),
        (["verify", "everything"], "expected one of hae"),
        (["train", "alfworld-qwen2.5-1.5b"], "expected --model.folder DIR"),
        (["train", "--model.folder", "nowhere"], "nowhere: no such folder"),
        (["train", "--model.shape", "gpt-9", "--model.random-weights"], "expected one of qwen2.5"),
        (["train", "--model.lora-rank", "4", "--critic.kind", "separate"], "saves nothing"),
        (["train", "--mesh.data", "7"], "must be positive, their product the number of devices"),
        (["train", "--mesh.coordinator", "localhost:1"], "expected all three or none"),
        (["plan", "--device", "abacus"], "expected one of a100"),
        (["train", "alfworld-small", "--env.games", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_end_with_one_line_and_code_two(capsys, argv, message):
    code, _, err = run(capsys, *argv)
    assert code == 2 and message in err and "Traceback" not in err


def test_an_unknown_flag_is_refused(capsys):
    code, out, err = run(capsys, "train", "--credit.lambda-magic", "1")
    assert code == 2 and "lambda-magic" in out + err


@pytest.mark.parametrize(
    ("preset", "critic"),
    [
        ("alfworld-qwen2.5-1.5b", "critic: separate"),
        ("alfworld-qwen2.5-7b-lora", "critic: lora"),
        ("alfworld-qwen3-1.7b", "critic: separate"),
        ("webshop-qwen2.5-1.5b", "critic: separate"),
    ],
)
def test_published_presets_are_planned_and_fit_one_h200(capsys, preset, critic):
    code, out, _ = run(capsys, "plan", preset, "--device", "h200")
    assert code == 0 and critic in out and "  fits\n" in out


def test_plans_follow_the_mesh_and_refuse_what_it_does_not_divide(capsys):
    argv = ("plan", "alfworld-qwen2.5-1.5b", "--device", "v5e-8", "--mesh.fsdp", "8")
    code, _, err = run(capsys, *argv)
    assert code == 2 and "8 does not divide 4 sequences" in err
    code, out, _ = run(capsys, *argv, "--ppo.micro-sequences", "8")
    assert code == 0 and "data=1 fsdp=8 tensor=1" in out


@pytest.mark.parametrize(
    ("arguments", "turns"),
    [
        (("household-tiny",), "7.36"),  # 0.46 of the world's own 16
        (("household-tiny", "--env.max-turns", "10"), "4.6"),
        (("household-tiny", "--turns", "3"), "3"),
        (("alfworld-qwen2.5-1.5b",), "23"),
    ],
)
def test_a_plan_knows_how_long_episodes_are(capsys, arguments, turns):
    code, out, _ = run(capsys, "plan", *arguments, "--device", "h200")
    assert code == 0 and f"episodes of {turns} turns" in out


def test_a_plan_needs_no_world():
    config = RunConfig(env=EnvConfig(suite="alfworld", games=pathlib.Path("nowhere")))
    assert usual_turns(config) == 23


def test_capacity_is_planned_before_anything_is_launched(capsys):
    argv = ("plan", "household-tiny", "--device", "h200", "--model.shape", "qwen2.5-1.5b")
    code, out, _ = run(capsys, *argv)
    assert code == 0 and "GB to give" in out and "roofline" in out
