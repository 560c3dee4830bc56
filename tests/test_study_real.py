"""The study of official games: what it would run, what it goes on with, what it tabulates."""

import pathlib

from helpers.run_folders import write_lines

from experiments.studies import real_alfworld as study_file
from experiments.studies.real_alfworld import (
    GROUPED,
    Study,
    evaluate_commands,
    find_start,
    imitate_command,
    list_cells,
    print_table,
    train_command,
)
from hiperjax.commands.arguments import read_settings


def test_estimators_of_a_start_and_a_seed_differ_in_nothing_else(tmp_path):
    study = Study(games=tmp_path, folder=tmp_path / "runs", seeds=(1, 2))
    cells = list_cells(study)
    assert len(cells) == 2 * 2 * 5 == len({cell.name for cell in cells})
    settings = {}
    for cell in cells:
        command = train_command(study, cell)
        assert command is not None and command[0] == "train"
        config = read_settings("train", command[1:])
        assert config.init == find_start(study, cell)
        assert config.rollout.group_size == (8 if cell.estimator in GROUPED else 1)
        settings.setdefault((cell.start, cell.seed), set()).add(
            (config.rollout.episodes, config.iterations, config.preset, config.seed, config.init)
        )
    assert all(len(found) == 1 for found in settings.values())
    start = imitate_command(study, cells[0])
    assert start is not None and read_settings("imitate", start[1:]).imitation.steps > 0


def test_what_was_stopped_goes_on_and_what_is_done_is_not_done_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(study_file, "RESULTS", tmp_path / "kept")
    study = Study(games=tmp_path, folder=tmp_path / "runs", seeds=(1,), iterations=4)
    cell = list_cells(study)[0]
    run = study.folder / cell.name
    run.mkdir(parents=True)
    (run / "config.json").write_text("{}")
    assert train_command(study, cell) == ["train", "--resume", str(run)]
    scores = [dict(iteration=i, switch_share=0.2) | {"eval/valid_seen/success": i / 10}
              for i in range(5)]  # fmt: skip
    write_lines(run / "metrics.jsonl", scores)
    assert train_command(study, cell) is None
    assert len(evaluate_commands(study, cell)) == 4
    kept = tmp_path / "kept" / cell.name
    kept.mkdir(parents=True)
    write_lines(kept / "metrics.jsonl", scores)
    pathlib.Path(kept / "last-0.4.json").write_text('{"eval/valid_seen/success": 0.9}')
    assert len(evaluate_commands(study, cell)) == 3
    print_table(study, tmp_path / "kept")
    said = capsys.readouterr().out
    assert "0.900 [0.84, 0.94]" in said and "1 of 10 runs" in said and "| 0.400 | 0.400 |" in said
