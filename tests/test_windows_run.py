"""A run whose contexts grow: it imitates, learns, counts, is shown, and resumes bit for bit."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest
from helpers.small_runs import train_until_killed

from hiperjax.commands.play import play_suite
from hiperjax.config import RunConfig
from hiperjax.presets import PRESETS
from hiperjax.training.build import restore_run
from hiperjax.training.metrics import METRICS, read_lines
from hiperjax.training.trainer import train

BASE = PRESETS["household-tiny"][1]
SIZES = {
    "model": dict(hidden_size=16, intermediate_size=24, num_layers=1, num_heads=2, num_kv_heads=1),
    "prompt": dict(window="episode", window_length=224),
    "rollout": dict(episodes=6, slots=4, group_size=2),
    "imitation": dict(steps=40, episodes=20, check_every=20),
    "ppo": dict(minibatch_sequences=16),
    "critic": dict(random_features=8),
    "eval": dict(every=2, max_tasks=4),
    "env": dict(max_turns=5),
}


def small(out: pathlib.Path) -> RunConfig:
    """The quick start, much smaller, in windows."""
    parts = {k: dataclasses.replace(getattr(BASE, k), **v) for k, v in SIZES.items()}
    return dataclasses.replace(BASE, out=out, iterations=2, checkpoint_every=1, **parts)


@pytest.mark.slow(reason="three runs, each compiled anew, and an evaluation")
def test_a_run_in_windows_resumes_bit_for_bit_and_is_shown(tmp_path, monkeypatch, capsys):
    whole = train(small(tmp_path / "whole"))
    records = read_lines(whole / METRICS)
    for record in records[1:]:
        turns = round(6 * record["episode_length"])
        assert record["window_turns"] == turns - 6 - record["window_overflows"]
        assert record["copied_tokens"] > 0, "two episodes open each task"
        assert record["mismatch_max"] < 1e-4, "sampler and learner agree"
        assert 0 < record["tokens_per_turn/prefill"] < record["prompt_length"] + 1
    train_until_killed(small(tmp_path / "cut"), 1, monkeypatch)
    train(RunConfig(), resume=tmp_path / "cut")
    assert (tmp_path / "cut" / METRICS).read_text() == (whole / METRICS).read_text()
    states = [restore_run(folder, "last")[1] for folder in (whole, tmp_path / "cut")]
    for a, b in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_array_equal(a, b)
    capsys.readouterr()
    play_suite(run=whole, delay=0.0, show_context=True)
    shown = capsys.readouterr().out
    assert shown.count("context opens with") == 1 and "context grows by" in shown
