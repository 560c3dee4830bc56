"""Figures of papers: both formats, the same file from the same runs, labels that fit."""

from typing import Any

import pytest
from helpers.run_folders import write_run

from hiperjax.config import ConfigError
from hiperjax.report.groups import LABEL, group_runs
from hiperjax.report.plots import SHORT, Style, plot_curves
from hiperjax.report.run_data import read_runs

pytest.importorskip("matplotlib")
METRIC = "eval/test/success"


def test_the_same_runs_give_the_same_figure(tmp_path):
    runs = read_runs([write_run(tmp_path / f"{e}{s}", seed=s, estimator=e)
                      for e in ("hae", "flat_gae") for s in (1, 2)])  # fmt: skip
    for name in ("a.svg", "b.svg", "a.png"):
        plot_curves(runs, METRIC, tmp_path / name, Style(spread="interval"))
    drawn = (tmp_path / "a.svg").read_text()
    assert drawn == (tmp_path / "b.svg").read_text() and drawn.startswith("<?xml")
    assert "flat_gae (2 seeds)" in drawn and "bands: 95 % interval" in drawn
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ConfigError, match=r"expected \.png or \.svg"):
        plot_curves(runs, METRIC, tmp_path / "a.jpg", Style())
    with pytest.raises(ConfigError, match=r"no run recorded it; expected one of eval/test/success"):
        plot_curves(runs, "nothing", tmp_path / "a.svg", Style())


def test_long_labels_stand_below_the_curves(tmp_path):
    """matplotlib warns where a legend leaves no room for the axes; warnings fail this test."""
    long: dict[str, Any] = {"lambda_segment": 0.125, "switch_cost": 0.25, "malformed_penalty": 0.5}
    folders = [write_run(tmp_path / "a"), write_run(tmp_path / "b", estimator="flat_gae", **long)]
    runs = read_runs(folders)
    labels = [group.label for group in group_runs(runs)]
    assert all(SHORT < len(label) <= LABEL for label in labels)
    assert [label.split(",")[0] for label in labels] == ["estimator hae", "estimator flat_gae"]
    plot_curves(runs, METRIC, tmp_path / "a.svg", Style())
    drawn = (tmp_path / "a.svg").read_text()
    assert "estimator flat_gae" in drawn
