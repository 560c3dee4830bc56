"""The command line: help, presets, and one clear line for a user's mistake."""

import pytest

from hiperjax.cli import COMMANDS, main
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
    code, out, _ = run(capsys, "train", "household-tiny", "--help")
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
        (["train", "alfworld-small", "--env.games", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_end_with_one_line_and_code_two(capsys, argv, message):
    code, _, err = run(capsys, *argv)
    assert code in (1, 2) and message in err and "Traceback" not in err


def test_an_unknown_flag_is_refused(capsys):
    code, out, err = run(capsys, "train", "--credit.lambda-magic", "1")
    assert code == 2 and "lambda-magic" in out + err


def test_capacity_is_planned_before_anything_is_launched(capsys):
    argv = ("plan", "household-tiny", "--device", "h200", "--model.shape", "qwen2.5-1.5b")
    code, out, _ = run(capsys, *argv)
    assert code == 0 and "GB to give" in out and "roofline" in out
