"""Run folders as they are found, matched and compared: whole, cut, damaged, of older versions."""

import json
import math
import pathlib

import pytest
from helpers.run_folders import write_run
from hypothesis import given
from hypothesis import strategies as st

from hiperjax.config import ConfigError
from hiperjax.intervals import interval_of_mean, wilson_interval
from hiperjax.report.alarms import find_alarms
from hiperjax.report.charts import Chart, Line, draw, split_bar, ticks
from hiperjax.report.comparison import compare_runs
from hiperjax.report.comparison_text import render_json, render_markdown, render_text
from hiperjax.report.groups import band_of, differing_settings, group_runs
from hiperjax.report.run_data import LinesFile, NotARun, RunData, RunReader, open_runs, read_runs
from hiperjax.report.text import show


def test_counts_are_read_exactly_or_bounded(tmp_path):
    (run,) = read_runs([write_run(tmp_path / "a", rates=(0.25, 0.5), trials=40)])
    assert [(c.successes, c.trials, c.exact) for c in run.counts("test")] == [
        (10, 40, True),
        (20, 40, True),
    ]
    (tmp_path / "a" / "evaluations.jsonl").unlink()
    (run,) = read_runs([tmp_path / "a"])
    assert [(c.successes, c.trials, c.exact) for c in run.counts("test")] == [
        (1, 4, False),
        (2, 4, False),
    ]


@given(st.lists(st.integers(0, 134), min_size=1, max_size=6))
def test_counts_off_the_rates_divide_the_true_ones(solved):
    metrics = [{"iteration": i, "eval/s/success": k / 134} for i, k in enumerate(solved)]
    counts = RunData(pathlib.Path(), "a", {}, metrics=metrics).counts("s")
    for true, c in zip(solved, counts, strict=True):
        assert 134 % c.trials == 0 and c.successes * 134 == true * c.trials
        low, high = wilson_interval(true, 134)
        found = wilson_interval(c.successes, c.trials)
        assert found[0] <= low + 1e-12 and high <= found[1] + 1e-12


def test_task_types_bound_the_number_of_tasks():
    record = {"iteration": 0, "eval/s/success": 0.5, "eval/s/a": 2 / 7, "eval/s/b": 3 / 5}
    counts = RunData(pathlib.Path(), "a", {}, metrics=[record]).counts("s")
    assert counts[0].trials == 12


DAMAGE = [
    b"",
    b"\n\n",
    b"{",
    b'{"iteration": "one"}\n',
    b'["iteration"]\n',
    b"\xff\xfe\x00\n",
    b'{"iteration": 3, "success": ' + b"9" * 400 + b"}\n",
    b"[" * 100_000 + b"\n",
    b'{"iteration": 3, "success": NaN, "switch_share": "much", "eval/test/success": -3}\n',
    b'{"iteration": 3, "eval/test/success": 0.5}',
]


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["metrics", "timings", "evaluations", "episodes"])
def test_damaged_lines_are_left_out_and_said(tmp_path, name, damage):
    folder = write_run(tmp_path / "a")
    with (folder / f"{name}.jsonl").open("ab") as file:
        file.write(damage)
    (run,) = read_runs([folder])
    assert run.curve("eval/test/success")[:3] == [(0, 0.25), (1, 0.5), (2, 0.75)]
    complete = [line for line in damage.split(b"\n")[:-1]]
    broken = any(not line.startswith(b'{"iteration": 3') for line in complete)
    assert any("damaged" in note for note in run.notes) == broken
    compare_runs([run])
    find_alarms(run)


@pytest.mark.parametrize("config", [b"", b"{", b"[]", b'{"credit": 3, "seed": "x"}', b"\xff"])
def test_a_config_that_cannot_be_read_costs_its_settings_only(tmp_path, config):
    folder = write_run(tmp_path / "a")
    (folder / "config.json").write_bytes(config)
    (run,) = read_runs([folder])
    assert run.seed is None and run.curve("eval/test/success")
    assert render_text(compare_runs([run]))


def test_what_is_no_run_is_refused_in_one_line(tmp_path):
    for folders in ([tmp_path / "nowhere"], [tmp_path], []):
        with pytest.raises(NotARun, match="expected"):
            open_runs(folders)


def test_a_growing_file_is_read_on_and_a_rewound_one_anew(tmp_path):
    path = tmp_path / "lines.jsonl"
    file = LinesFile(path)
    assert not file.read()
    path.write_text('{"iteration": 0}\n{"iterat')
    assert file.read() and [r["iteration"] for r in file.records] == [0]
    assert not file.read()
    with path.open("a") as end:
        end.write('ion": 1}\n{"iteration": 2}\n')
    assert file.read() and [r["iteration"] for r in file.records] == [0, 1, 2]
    path.write_text('{"iteration": 0}\n')
    assert file.read() and [r["iteration"] for r in file.records] == [0]
    path.write_text('{"iteration": 7, "x": 1}\n')
    assert file.read() and [r["iteration"] for r in file.records] == [7]
    path.unlink()
    assert file.read() and file.records == []


def test_a_run_that_did_not_change_is_not_read_again(tmp_path):
    reader = RunReader(write_run(tmp_path / "a"))
    first = reader.read()
    assert reader.read() is first
    with (tmp_path / "a" / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 3}\n')
    assert reader.read().iteration == 3


def test_runs_are_matched_by_what_they_differ_in(tmp_path):
    folders = [write_run(tmp_path / f"{e}{s}", seed=s, estimator=e)
               for e in ("hae", "flat_gae") for s in (1, 2, 3)]  # fmt: skip
    runs = read_runs(folders)
    groups = group_runs(runs)
    assert [g.label for g in groups] == ["hae", "flat_gae"]
    assert [[run.seed for run in g.runs] for g in groups] == [[1, 2, 3]] * 2
    assert set(differing_settings(runs)) == {"seed", "credit.estimator"}


def test_a_setting_an_older_run_lacks_has_its_default(tmp_path):
    old, new = write_run(tmp_path / "old"), write_run(tmp_path / "new", seed=2, switch_cost=0.25)
    config = json.loads((old / "config.json").read_text())
    del config["judge"], config["credit"]["switch_cost"], config["env"]["options"]
    (old / "config.json").write_text(json.dumps(config | {"of_old": 3}))
    runs = read_runs([old, new])
    assert differing_settings(runs) == {
        "seed": [1, 2], "credit.switch_cost": [0.0, 0.25], "of_old": [3, None],
    }  # fmt: skip
    assert len(group_runs(runs)) == 2
    (old / "config.json").unlink()
    assert differing_settings(read_runs([old, new]))["credit.switch_cost"] == [None, 0.25]


def test_a_group_is_named_by_what_only_some_runs_have(tmp_path):
    folders = [write_run(tmp_path / name) for name in "ab"]
    for folder, options in zip(folders, (["x=1", "z=3"], ["x=1", "y=" + "2" * 40]), strict=True):
        config = json.loads((folder / "config.json").read_text())
        config["env"]["options"] = options
        (folder / "config.json").write_text(json.dumps(config))
    labels = [group.label for group in group_runs(read_runs(folders))]
    assert labels == ["options z=3", f"options y={'2' * 17}…"]


def test_a_note_that_holds_for_several_runs_is_said_once(tmp_path):
    folders = [write_run(tmp_path / f"a{s}", seed=s) for s in (1, 2)]
    for folder in folders:
        (folder / "evaluations.jsonl").unlink()
    (note,) = compare_runs(read_runs(folders)).notes
    assert note.startswith("a1, a2: the number of tasks was not recorded; 4 ")


def test_differences_are_paired_by_seed(tmp_path):
    first = [
        write_run(tmp_path / f"a{s}", (0.2, r), seed=s, trials=10) for s, r in ((1, 0.5), (2, 0.3))
    ]
    other = [write_run(tmp_path / f"b{s}", (0.2, r), seed=s, trials=10, estimator="flat_gae")
             for s, r in ((2, 0.4), (1, 0.8), (3, 0.9))]  # fmt: skip
    found = compare_runs(read_runs([*first, *other]))
    (difference,) = found.differences
    assert difference.seeds == (1, 2)
    assert difference.differences == pytest.approx((0.3, 0.1))
    assert difference.interval == pytest.approx(interval_of_mean([0.3, 0.1])[1:])
    assert found.rows[0].interval == wilson_interval(5, 10)
    assert found.iteration == 1


def test_runs_are_compared_where_all_were_evaluated(tmp_path):
    runs = read_runs([write_run(tmp_path / "a", (0.25, 0.5, 0.75)),
                      write_run(tmp_path / "b", (0.25, 0.25), seed=2)])  # fmt: skip
    found = compare_runs(runs)
    assert found.iteration == 1 and any("iteration 2" in note for note in found.notes)
    assert compare_runs(runs, iteration=0).iteration == 0
    for wish in ({"split": "nowhere"}, {"iteration": 9}):
        with pytest.raises(ConfigError):
            compare_runs(runs, **wish)


def test_a_comparison_says_the_same_in_three_languages(tmp_path):
    runs = read_runs([write_run(tmp_path / f"a{s}|<b>", seed=s) for s in (1, 2)])
    found = compare_runs(runs)
    text, markdown = render_text(found), render_markdown(found)
    raw = json.loads(render_json(found))
    for row in raw["rows"]:
        assert row["run"] in text and f"{row['interval'][0]:.3f}" in markdown
    assert "a1\\|\\<b\\>" in markdown
    assert raw["means"][0]["runs"] == 2 and raw["differences"] == []


def test_one_value_alone_has_no_interval():
    assert interval_of_mean([0.5]) == (0.5, -math.inf, math.inf)
    mean, low, high = interval_of_mean([1.0, 2.0, 3.0])
    assert mean == 2 and high - mean == pytest.approx(4.302653 / math.sqrt(3), rel=1e-5)
    assert mean - low == pytest.approx(high - mean)


def test_bands_end_with_the_shortest_run():
    band = band_of([[(0, 1.0), (1, 2.0), (2, 9.0)], [(0, 3.0), (1, 2.0)]])
    assert band.mean == [(0, 2.0), (1, 2.0)] and band.around == [(0, 1.0, 3.0), (1, 2.0, 2.0)]


def test_text_is_shown_and_never_acts():
    assert show("a\x1b[31m\u202eb\x00\n") == "a␛[31m⟨U+202E⟩b␀\n"
    assert show("\ud800").encode() == "⟨U+D800⟩".encode()
    assert len(show("x" * 10**6)) < 2100 and "1,000,000 characters" in show("x" * 10**6)


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9))
def test_ticks_are_few_and_inside(low, width):
    high = low + width
    if high > low:
        found = ticks(low, high, 5)
        assert len(found) <= 11
        assert all(low - 1e-6 * width - 1e-6 * abs(low) <= t <= high + 1e-6 * abs(high) + 1e-6
                   for t in found)  # fmt: skip


@given(st.lists(st.tuples(st.integers(0, 99), st.floats(allow_nan=False, allow_infinity=False,
                                                      width=32))))  # fmt: skip
def test_lines_stay_in_their_frame(points):
    drawing = draw(Chart("x", [Line("a", sorted(points))]))
    for _, path in drawing.paths:
        for pair in path.removeprefix("M").split("L") if path else ():
            x, y = map(float, pair.split(","))
            assert drawing.frame[0] <= x <= drawing.frame[2]
            assert drawing.frame[1] <= y <= drawing.frame[3]


def test_bars_fill_the_whole():
    shares = split_bar([("a", 1.0), ("b", 0.0), ("c", 3.0)])
    assert [(s.label, s.start, s.width) for s in shares] == [("a", 0, 25), ("c", 25, 75)]
    assert split_bar([("a", 0.0)]) == []


def test_a_collapse_and_a_fall_are_alarms():
    metrics = [{"iteration": i, "eval/s/success": r, "switch_share": 0.001, "episode_length": 9.0}
               for i, r in enumerate((0.9, 0.1))]  # fmt: skip
    evaluations = [{"iteration": i, "split": "s", "tallies": {"success": [k, 100]}}
                   for i, k in enumerate((90, 10))]  # fmt: skip
    run = RunData(pathlib.Path(), "a", {}, metrics=metrics, evaluations=evaluations)
    alarms = find_alarms(run)
    assert any("collapsed" in a for a in alarms) and any("fell from 0.90" in a for a in alarms)
