"""The check that waits for an accelerator runs its small stages on any machine."""

import json
import sys

import pytest

from experiments.benchmarks import accelerator_stages, check_accelerator
from experiments.benchmarks.check_accelerator import Stage, command_of, run_stage


def test_stages_write_what_they_found(tmp_path):
    """Stages of one process each, here in this one: what compiles is shared."""
    for name in ("machine", "kernels"):
        assert accelerator_stages.main([name, "--out", str(tmp_path), "--tiny"]) == 0
    machine = json.loads((tmp_path / "machine.json").read_text())
    assert machine["platform"] == "cpu" and machine["bf16_flops"] > 0
    (found,) = json.loads((tmp_path / "kernels.json").read_text())
    assert found["kernel"] == "xla" and max(found["values"], found["gradients"]) < 0.05


def test_a_stage_that_overruns_is_killed_and_the_rest_is_told(tmp_path):
    slow = Stage("slow", 1, "never ends")
    outcome = run_stage(slow, ["sleep", "60"])
    assert outcome.ended == "killed after 1 s"
    command = [sys.executable, "-c", "raise SystemExit('no device')"]
    wrong = run_stage(slow._replace(limit=60), command)
    assert wrong.ended == "failed" and "no device" in wrong.output
    iteration = next(s for s in check_accelerator.STAGES if s.name == "iteration")
    assert "--max-turns" in command_of(iteration, tmp_path, True)
    assert "qwen2.5-1.5b" in command_of(iteration, tmp_path, False)


@pytest.mark.slow  # half a minute: an iteration compiles
def test_the_whole_check_at_small_sizes(tmp_path):
    assert check_accelerator.main(["--tiny", "--out", str(tmp_path)]) == 0
    ended = [x["ended"] for x in json.loads((tmp_path / "summary.json").read_text())]
    assert ended == ["ok"] * 3
    assert json.loads((tmp_path / "iteration.json").read_text())["episodes"] == 2


@pytest.mark.gpu
def test_the_accelerators_kernels_are_the_mask(tmp_path):
    """Rows by the device's own kernel, values and gradients in bfloat16, odd lengths, two heads."""
    assert accelerator_stages.main(["kernels", "--out", str(tmp_path)]) == 0
