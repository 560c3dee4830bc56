"""The training loop as a whole: it runs, it resumes bit for bit, it refuses what cannot be."""

import dataclasses
import json
import pathlib
import shutil
import urllib.request

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.small_runs import BASE, small_run, train_until_killed
from safetensors.numpy import load_file

from hiperjax import cli
from hiperjax.commands.convert import export_adapters, export_run
from hiperjax.commands.evaluate import evaluate_run
from hiperjax.config import (
    ConfigError,
    CriticConfig,
    EnvConfig,
    ModelConfig,
    RunConfig,
)
from hiperjax.envs.base import Suite
from hiperjax.envs.workers import InlineWorkers
from hiperjax.intervals import wilson_interval
from hiperjax.learning.credit.registry import ESTIMATORS
from hiperjax.learning.credit.types import Estimator
from hiperjax.models.convert import load_checkpoint
from hiperjax.models.errors import ModelError
from hiperjax.models.lora import merge_adapters, partition
from hiperjax.models.tokenizers import load_tokenizer
from hiperjax.models.transformer import forward, logits
from hiperjax.presets import PRESETS
from hiperjax.report.credit_again import add_estimators
from hiperjax.report.run_data import read_runs
from hiperjax.report.timelines import recorded_episodes, tabulate_subgoals
from hiperjax.training import build, trainer
from hiperjax.training.build import restore_run
from hiperjax.training.checkpoint import CheckpointError
from hiperjax.training.collecting import collect
from hiperjax.training.metrics import METRICS, Recorder, read_lines
from hiperjax.training.record_files import EPISODES, EVALUATIONS, PROGRESS
from hiperjax.training.run import open_run
from hiperjax.training.run_folder import load_config, save_config
from hiperjax.training.stopped import TrainingStopped
from hiperjax.training.tasks import choose_tasks
from hiperjax.training.timer import Timer
from hiperjax.training.trainer import finish_evaluation, save_when_due, train
from hiperjax.training.unfinished import Unfinished
from hiperjax.validation import validate


def small(out: pathlib.Path, **changes) -> RunConfig:
    """The quick start, much smaller: a block of width 16, six episodes per iteration."""
    return small_run(out, {}, **({"iterations": 4, "checkpoint_every": 2} | changes))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> pathlib.Path:
    """A finished run of four iterations."""
    return train(small(tmp_path_factory.mktemp("run") / "whole"))


def test_a_run_leaves_everything_a_user_looks_for(finished):
    records = read_lines(finished / METRICS)
    assert [r["iteration"] for r in records] == [0, 1, 2, 3, 4]
    expected = {"success", "switch_share", "segment_length", "malformed_share", "subgoal_entropy"}
    expected |= {"explained_variance_low", "advantage_std_high", "mismatch_max"}
    assert expected <= set(records[1])
    assert "eval/unseen/success" in records[0] and "eval/unseen/success" in records[4]
    assert records[1]["mismatch_max"] < 1e-4, "sampler and learner agree"
    assert (finished / "config.json").is_file() and (finished / "tokenizer").is_dir()
    assert list((finished / "events").iterdir()) and list((finished / "samples").iterdir())
    assert load_config(finished) == small(finished)
    assert "rollout" in read_lines(finished / "timings.jsonl")[1]
    assert [r["tallies"]["success"][1] for r in read_lines(finished / EVALUATIONS)] == [4, 4, 4]
    assert json.loads((finished / PROGRESS).read_text())["phase"] == "done"
    check_episodes(finished)


def check_episodes(folder: pathlib.Path) -> None:
    """What was recorded of episodes: rewards, values and the estimator's own advantages."""
    (run,) = read_runs([folder])
    chosen = recorded_episodes([run])
    assert {c.record["iteration"] for c in chosen} == {1, 2, 4}
    assert {"best", "worst"} <= {why for c in chosen for why in c.record["why"]}
    for c in chosen:
        assert len(c.record["turns"]) == c.record["length"] <= 5
        assert all(None not in turn["values"] for turn in c.record["turns"])
    # As if another estimator had trained: the run's own, made again, gives what it recorded.
    strangers = [dataclasses.replace(c, record=c.record | {"estimator": "x"}) for c in chosen]
    again = add_estimators(strangers, ["hae", "flat_gae", "grpo"])
    for before, after in zip(chosen, again, strict=True):
        own = [turn["advantages"] for turn in before.record["turns"]]
        for mine, theirs in zip(own, after.others["hae"], strict=True):
            assert theirs == pytest.approx(mine, abs=2e-5)
        assert set(after.others) == {"hae", "flat_gae"}
        assert any("grpo: not computable" in note for note in after.notes)
    assert tabulate_subgoals(run)


def test_resuming_continues_bit_for_bit(finished, tmp_path, monkeypatch):
    """A run killed after two of four iterations, then resumed, equals the uninterrupted one."""
    folder = tmp_path / "cut"
    train_until_killed(small(folder), 2, monkeypatch)
    with (folder / METRICS).open("a") as file:  # what a killed process wrote after its last save
        file.write('{"iteration": 3, "success": 9.0}\n{"iteration": 4, "su')
    train(RunConfig(), resume=folder)
    for name in (METRICS, EVALUATIONS, EPISODES):
        assert (folder / name).read_bytes() == (finished / name).read_bytes(), name
    whole, again = (restore_run(path, "last")[1] for path in (finished, folder))
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_folder_that_holds_a_run_is_not_trained_over(finished):
    before = (finished / METRICS).read_bytes()
    with pytest.raises(ConfigError, match=r"holds a run .*; expected a new folder.*--resume"):
        train(small(finished))
    assert (finished / METRICS).read_bytes() == before


def test_another_run_can_start_from_this_ones_start_or_end(finished, tmp_path):
    small_one = dataclasses.replace(small(tmp_path), init=finished, iterations=0)
    for which in ("start", "last"):
        folder = train(dataclasses.replace(small_one, init_state=which, out=tmp_path / which))
        source = restore_run(finished, which)[1].policy
        found = restore_run(folder, "last")[1].policy
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(source), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def adapted(tmp_path_factory) -> pathlib.Path:
    """A finished run of two iterations that trained adapters, with a critic of the same kind."""
    return train(lora(tmp_path_factory.mktemp("lora") / "whole"))


def lora(out: pathlib.Path) -> RunConfig:
    config = small(out)
    return dataclasses.replace(
        config,
        iterations=2,
        checkpoint_every=1,
        eval=dataclasses.replace(config.eval, every=1),
        model=dataclasses.replace(config.model, lora_rank=2),
        critic=CriticConfig(kind="lora", warmup_epochs=1, learning_rate=1e-2),
        ppo=dataclasses.replace(config.ppo, kl_coefficient=0.01, learning_rate=1e-2),
    )


def test_a_run_of_adapters_keeps_its_base_and_resumes_bit_for_bit(adapted, tmp_path, monkeypatch):
    start, last = (restore_run(adapted, which)[1] for which in ("start", "last"))
    (fresh, base), (trained, kept) = partition(start.policy), partition(last.policy)
    for a, b in zip(jax.tree.leaves(base), jax.tree.leaves(kept), strict=True):
        np.testing.assert_array_equal(a, b)
    pairs = list(zip(jax.tree.leaves(fresh), jax.tree.leaves(trained), strict=True))
    assert all(np.abs(np.asarray(a) - np.asarray(b)).max() > 0 for a, b in pairs)
    records = read_lines(adapted / METRICS)
    assert records[1]["kl_reference"] >= 0 and records[2]["kl_reference"] > 0
    folder = tmp_path / "cut"
    train_until_killed(lora(folder), 1, monkeypatch)
    train(RunConfig(), resume=folder)
    assert (folder / METRICS).read_text() == (adapted / METRICS).read_text()
    whole, again = (restore_run(path, "last")[1] for path in (adapted, folder))
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_exported_run_is_the_same_function_for_others(adapted, tmp_path):
    """Adapters merged, the embedding's scale spelled out: a plain Qwen2 folder."""
    folder = tmp_path / "hf"
    export_run(adapted, folder, which="last")
    components, state = restore_run(adapted, "last")
    shape, params = load_checkpoint(folder)
    assert shape.lora_rank == 0 and not shape.embedding_scale
    tokens = jnp.arange(24, dtype=jnp.int32).reshape(2, 12)
    ours, theirs = (
        logits(p, c, forward(p, c, tokens, lengths=jnp.full(2, 12)))
        for p, c in ((state.policy, components.model), (params, shape))
    )
    np.testing.assert_allclose(ours, theirs, atol=2e-4)
    assert len(load_tokenizer(folder)) == len(components.prompter.tokenizer)
    with pytest.raises(FileExistsError, match="not empty"):
        export_run(adapted, folder)


@pytest.fixture(scope="module")
def published(adapted, tmp_path_factory) -> pathlib.Path:
    """A Hugging Face folder, as one would download it."""
    folder = tmp_path_factory.mktemp("published") / "hf"
    export_run(adapted, folder, which="last")
    return folder


def from_folder(folder: pathlib.Path, out: pathlib.Path, **model) -> RunConfig:
    config = dataclasses.replace(small(out), iterations=0)
    imitation = dataclasses.replace(config.imitation, steps=0)
    return dataclasses.replace(
        config, imitation=imitation, model=ModelConfig(folder=folder, **model)
    )


def test_a_run_starts_from_a_hugging_face_folder_and_outlives_it(published, tmp_path):
    folder = tmp_path / "hf"
    shutil.copytree(published, folder)
    run = train(from_folder(folder, tmp_path / "run"))
    shutil.rmtree(folder)
    components, state = restore_run(run, "start")
    shape, params = load_checkpoint(published)
    assert dataclasses.replace(components.model, lora_alpha=shape.lora_alpha) == shape
    for a, b in zip(jax.tree.leaves(state.policy), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_adapters_alone_are_exported_beside_the_folder_they_are_of(published, adapted, tmp_path):
    """What imitation taught them included: their base stays the folder's."""
    config = from_folder(published, tmp_path / "run", lora_rank=2)
    imitation = dataclasses.replace(config.imitation, steps=10)
    run = train(dataclasses.replace(config, critic=lora(tmp_path).critic, imitation=imitation))
    export_adapters(run, tmp_path / "peft", which="last")
    learned = load_file(tmp_path / "peft" / "adapter_model.safetensors")
    assert all(np.abs(x).max() > 0 for x in learned.values()), "no B is zero any more"
    described = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert described["r"] == 2 and described["base_model_name_or_path"] == str(published)
    with pytest.raises(ModelError, match="no base in a folder; export it whole"):
        export_adapters(adapted, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def truncate(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def widen(folder):
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | {"intermediate_size": 32}))


def shrink(folder):
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | {"vocab_size": raw["vocab_size"] - 1}))


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (truncate, ModelError, r"the file is truncated: download it again"),
        (widen, ModelError, r"has shape .* config.json makes it"),
        (shrink, ModelError, r"use the tokenizer of the same checkpoint"),
        (lambda f: (f / "config.json").unlink(), FileNotFoundError, r"no such file; expected"),
        (lambda f: (f / "tokenizer.json").unlink(), FileNotFoundError, r"no tokenizer\.json"),
        (lambda f: (f / "model.safetensors").unlink(), FileNotFoundError, r"safetensors"),
    ],
)
def test_a_bad_checkpoint_folder_is_refused_before_memory_is_taken(
    published, tmp_path, spoil, error, message
):
    folder, out = tmp_path / "hf", tmp_path / "run"
    shutil.copytree(published, folder)
    spoil(folder)
    before = len(jax.live_arrays())
    with pytest.raises(error, match=message):
        train(from_folder(folder, out))
    assert len(jax.live_arrays()) <= before and not out.exists()


def test_a_run_of_adapters_can_start_from_one_without(finished, tmp_path):
    config = dataclasses.replace(lora(tmp_path / "next"), iterations=0, init=finished)
    components, state = restore_run(train(config), "last")
    source = restore_run(finished, "start")[1].policy
    merged = merge_adapters(state.policy, components.model)
    for a, b in zip(jax.tree.leaves(merged), jax.tree.leaves(source), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_run_serves_its_page_while_it_trains(finished, tmp_path, capsys, monkeypatch):
    """`train --live`: the page is there while the run goes on, and not after."""
    folder, pages = tmp_path / "run", []
    shutil.copytree(finished, folder)

    def look(run):
        address = (folder / "console.log").read_text().split("http://")[-1].split(" ")[0]
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://{address}", timeout=20) as answer:
            pages.append(answer.read().decode())

    monkeypatch.setattr(trainer, "run_to_end", look)
    assert cli.train(["--resume", str(folder), "--live"])() is None
    assert "shows this run" in capsys.readouterr().out
    assert "hiperjax report" in pages[0]


def test_a_run_can_be_evaluated(finished, tmp_path, capsys):
    out = tmp_path / "result.json"
    evaluate_run(str(finished), split="seen", max_tasks=6, out=out)
    printed = capsys.readouterr().out
    assert "split seen, 6 tasks" in printed and "95 % interval" in printed
    assert 0 <= json.loads(out.read_text())["eval/seen/success"] <= 1


def test_a_checkpoint_of_another_architecture_is_refused(finished, tmp_path):
    folder = tmp_path / "other"
    shutil.copytree(finished, folder)
    config = load_config(folder)
    wider = dataclasses.replace(config.model, intermediate_size=32)
    save_config(dataclasses.replace(config, model=wider), folder)
    with pytest.raises(CheckpointError, match=r"another architecture.*expected \(1, 32, 16\)"):
        restore_run(folder)


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no config.json; expected a run folder"):
        restore_run(tmp_path)


class Failing(InlineWorkers):
    """Workers whose environments raise on every third step."""

    def __init__(self, suite: Suite, share: int):
        super().__init__(suite)
        self.steps, self.share = 0, share

    def _call(self, method, slot, value):
        self.steps += method == "step"
        if method == "step" and self.steps % self.share == 0:
            return self._fail(slot, ZeroDivisionError("the stove is on fire"))
        return super()._call(method, slot, value)


def test_an_environment_that_raises_costs_its_episode_and_no_more(finished, tmp_path, capsys):
    config = dataclasses.replace(small(tmp_path / "r"), init=finished)
    config = dataclasses.replace(config, env=dataclasses.replace(config.env, max_failure_rate=0.5))
    run = open_run(config, None)
    components = run.components
    components.rollout = dataclasses.replace(
        components.rollout, workers=Failing(components.suite, 15)
    )
    result = collect(run, Timer()).result
    assert result.failures and len(result.trajectories) + len(result.failures) == 6
    assert "the stove is on fire" in capsys.readouterr().out
    components.rollout = dataclasses.replace(
        components.rollout, workers=Failing(components.suite, 2)
    )
    with pytest.raises(TrainingStopped, match="of 6 episodes failed"):
        collect(run, Timer())
    assert run.checkpoints.exists(), "the state was saved before stopping"
    components.rollout = dataclasses.replace(
        components.rollout, workers=Failing(components.suite, 1)
    )
    with pytest.raises(TrainingStopped, match=r"split unseen: 4 of 4 tasks .*none was played"):
        run.unfinished = Unfinished()
        finish_evaluation(run)
        save_when_due(run)
    assert run.best < 0, "nothing was played: no state is the best"
    shown = capsys.readouterr().out
    assert "none was played" in shown and "0.000" not in shown
    run.close()


def test_task_order_is_a_function_of_position():
    tasks = [f"t{i}" for i in range(7)]
    long = choose_tasks(tasks, seed=1, first=0, count=21)
    assert all(sorted(long[i : i + 7]) == tasks for i in (0, 7, 14)), "each once per epoch"
    assert long[:7] != long[7:14]
    pieces = choose_tasks(tasks, 1, 0, 5) + choose_tasks(tasks, 1, 5, 9)
    assert pieces == long[:14]
    assert choose_tasks(tasks, seed=2, first=0, count=7) != long[:7]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            dict(rollout=dataclasses.replace(BASE.rollout, group_size=5)),
            "multiple of rollout.group",
        ),
        (dict(credit=dataclasses.replace(BASE.credit, gamma=1.5)), "credit.gamma is 1.5"),
        (dict(rollout=dataclasses.replace(BASE.rollout, temperature=0.0)), "training must sample"),
        (dict(model=dataclasses.replace(BASE.model, num_heads=5)), "multiple of"),
        (dict(model=dataclasses.replace(BASE.model, attention="cudnn")), "cudnn wants bfloat16"),
        (dict(ppo=dataclasses.replace(BASE.ppo, micro_sequences=5)), "micro_sequences 5"),
        (dict(ppo=dataclasses.replace(BASE.ppo, learning_rate_end=2.0)), "a number from 0 to 1"),
        (dict(critic=CriticConfig(kind="lora")), "critic.kind is lora, model.lora_rank 0"),
        (dict(critic=CriticConfig(), model=ModelConfig(lora_rank=4)), "expected critic.kind lora"),
        (
            dict(model=ModelConfig(lora_rank=4, lora_alpha=0.0)),
            "lora_alpha is 0.0; expected a number above 0",
        ),
    ],
)
def test_impossible_settings_are_refused_by_name(change, message):
    with pytest.raises(ConfigError, match=message):
        validate(dataclasses.replace(BASE, **change))


@pytest.mark.parametrize(
    ("estimator", "suite", "critic", "message"),
    [
        ("magic", "household", "separate", "credit.estimator is 'magic'; expected one of beacon, "),
        ("grpo", "household", "separate", "group_size is 1, expected at least 2"),
        ("flat_token_gae", "household", "features", "a value at every token"),
        ("toy_milestones", "ladder/action", "separate", "needs milestones, which the suite ladder"),
    ],
)
def test_estimators_that_cannot_be_trained_with_are_refused_at_once(
    estimator, suite, critic, message, monkeypatch
):
    """Before the expert plays for the tokenizer, in one line that says what would do."""
    toy = Estimator("toy_milestones", lambda inputs, options: None, needs=("milestone",))
    monkeypatch.setitem(ESTIMATORS, toy.name, toy)
    monkeypatch.setattr(build, "build_tokenizer", lambda *_: pytest.fail("too late"))
    config = dataclasses.replace(
        BASE,
        credit=dataclasses.replace(BASE.credit, estimator=estimator),
        critic=dataclasses.replace(BASE.critic, kind=critic),
        env=EnvConfig(suite=suite),
        eval=dataclasses.replace(BASE.eval, splits=("train",)),
    )
    with pytest.raises(ConfigError, match=message) as refused:
        build.build_components(config)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid_and_survive_the_run_folder(name, tmp_path):
    config = validate(PRESETS[name][1])
    save_config(config, tmp_path)
    assert load_config(tmp_path) == config


def test_an_unknown_field_in_a_run_folder_is_an_error(tmp_path):
    save_config(BASE, tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    raw["credit"]["lambda_magic"] = 1
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(ValueError, match="lambda_magic"):
        load_config(tmp_path)


def test_the_recorder_forgets_what_lies_after_the_iteration_it_opens_at(tmp_path):
    recorder = Recorder(tmp_path)
    for i in range(4):
        recorder.write(i, {"a": i / 3}, {"rollout": 1.0})
    recorder.close()
    Recorder(tmp_path, iteration=1).close()
    assert [r["iteration"] for r in read_lines(tmp_path / METRICS)] == [0, 1]


def test_wilson_intervals():
    assert wilson_interval(0, 0) == (0.0, 1.0)
    low, high = wilson_interval(133, 140)  # textbook values
    assert (round(low, 3), round(high, 3)) == (0.9, 0.976)
    assert wilson_interval(0, 10)[0] == 0.0 and wilson_interval(10, 10)[1] == 1.0
