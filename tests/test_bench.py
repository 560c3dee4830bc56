"""The benchmarks compare what they say: same episodes, same gradients, real lengths."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.baselines.lockstep import lock_step
from experiments.baselines.padded_update import unpack
from experiments.baselines.scripted import follow
from experiments.benchmarks import iteration as bench_iteration
from experiments.benchmarks.common import (
    alternate,
    format_table,
    pick_tasks,
    verdict,
    widen,
)
from experiments.benchmarks.metered import METER, MeteredLane
from experiments.benchmarks.rollout import Game, count_equal
from experiments.benchmarks.update import Padded, build_ours, check_padded, resized_learner
from hiperjax.acting.demonstrations import demonstrate, transcribe
from hiperjax.commands.convert import spell_out
from hiperjax.models.transformer import forward, logits
from hiperjax.presets import PRESETS
from hiperjax.random_keys import Stream, derive_key
from hiperjax.training.build import build_components
from hiperjax.validation import validate


@pytest.fixture(scope="module")
def components():
    config = PRESETS["household-tiny"][1]
    model = dataclasses.replace(
        config.model, hidden_size=16, intermediate_size=24, num_layers=1, embedding_std=0.3
    )
    rollout = dataclasses.replace(config.rollout, slots=12, episodes=14, decode_chunk=5)
    env = dataclasses.replace(config.env, max_turns=4)
    ppo = dataclasses.replace(config.ppo, minibatch_sequences=4)
    return build_components(
        validate(dataclasses.replace(config, model=model, rollout=rollout, env=env, ppo=ppo))
    )


@pytest.fixture(scope="module")
def game(components):
    return Game(components.init_policy(), pick_tasks(components, 14), temperature=1.0)


@pytest.fixture(scope="module")
def script(components, game):
    demos = demonstrate(components.suite, game.tasks, max_turns=4, seed=0, noise=0.5)
    return transcribe(components.prompter, list(demos))


def test_the_lock_step_baseline_plays_our_episodes(components, game):
    ours, theirs = game.play(components.rollout), game.play(lock_step(components.rollout))
    assert count_equal(ours.trajectories, theirs.trajectories) == len(game.tasks)
    assert theirs.stats.reply_tokens == ours.stats.reply_tokens
    assert theirs.stats.decode_slots > ours.stats.decode_slots


def test_a_widened_policy_says_the_same(components):
    model = dataclasses.replace(
        components.model, norm_eps=0.1
    )  # so large that its share would show
    params = components.init_policy()
    assert widen(params, model, 3)[1].hidden_size == 3 * model.hidden_size
    tokens = jax.random.randint(jax.random.key(0), (2, 9), 0, model.vocab_size)
    ours, theirs = (
        logits(p, c, forward(p, c, tokens, lengths=jnp.full(2, 9)))
        for p, c in (spell_out(params, model), widen(*spell_out(params, model), 3))
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_dead_slots_are_counted_chunk_by_chunk(components, game):
    METER.clear()
    result = game.play(dataclasses.replace(components.rollout, lane_factory=MeteredLane))
    drawn, computed = sum(x.drawn for x in METER.chunks), sum(x.computed for x in METER.chunks)
    assert computed == result.stats.decode_slots
    assert result.stats.decode_tokens <= drawn <= computed
    assert {x.tail for x in METER.chunks} == {True, False}
    assert set(METER.dead_shares()) == {"whole", "steady", "tail"}
    # a chunk that finds every reply ended in its prefill computes nothing
    assert METER.calls["decode"] >= len(METER.chunks) > 0 and min(METER.seconds.values()) > 0


def test_a_scripted_rollout_has_the_scripts_worlds_and_lengths(components, game, script):
    """Prompts and what replies say are the script's; the tokens are the model's own."""
    result = game.play(follow(components.rollout, script))
    assert not result.failures and len(result.trajectories) == len(script)
    for ours, theirs in zip(result.trajectories, script, strict=True):
        assert (ours.task_id, ours.ending, ours.success) == (
            theirs.task_id, theirs.ending, theirs.success,
        )  # fmt: skip
        for a, b in zip(ours.turns, theirs.turns, strict=True):
            np.testing.assert_array_equal(a.prompt_ids, b.prompt_ids)
            assert len(a.reply_ids) == len(b.reply_ids) == len(a.behavior_logprobs)
            assert a.blocks == b.blocks and (a.behavior_logprobs < 0).all()
    tokens = sum(len(turn.reply_ids) for t in script for turn in t.turns)
    assert result.stats.reply_tokens == tokens
    assert result.stats.decode_tokens == tokens - sum(len(t.turns) for t in script)


def test_scripted_tokens_are_the_samplers(components, game, script):
    """Their log-probs are what the learner finds for the same tokens: nothing was shuffled."""
    learner = components.learner
    playing = dataclasses.replace(game, temperature=learner.temperature)
    episodes = playing.play(follow(components.rollout, script))
    batch, final = components.pack(episodes.trajectories, seed=0)
    state = learner.init(jax.tree.map(np.array, game.params), derive_key(0, Stream.STATE))
    scores = learner.score(state, batch, final, np.int32(batch.count))
    mask = np.asarray(batch.rows.reply_mask)
    found = np.asarray(scores.logprobs)[mask]
    np.testing.assert_allclose(found, np.asarray(batch.rows.behavior_logprobs)[mask], atol=2e-5)


def test_a_script_with_longer_replies_than_the_limit_is_refused(components, script):
    short = dataclasses.replace(components.rollout, reply_length=3)
    with pytest.raises(ValueError, match="expected at most reply_length 3"):
        follow(short, script)


def test_the_padded_baseline_has_our_gradient(components, game, script, capsys):
    episodes = game.play(follow(components.rollout, script)).trajectories
    ours = build_ours(components, resized_learner(components, 16, 1, 0), episodes)
    p = components.config.prompt
    rows = unpack(ours.batch, ours.prepared, p.prompt_length + p.reply_length)
    baseline = Padded(ours, rows, 4)
    check_padded(ours, rows, baseline)
    broken = rows._replace(advantage=rows.advantage + 1)
    with pytest.raises(SystemExit, match="different gradients"):
        check_padded(ours, broken, Padded(ours, broken, 4))


def test_a_dry_iteration_needs_no_model(capsys, tmp_path):
    args = bench_iteration.parse_args(
        ["--shape", "qwen2.5-1.5b", "--dry", "--episodes", "2", "--max-turns", "3"]
    )
    run = bench_iteration.open_bench(args, tmp_path)
    assert bench_iteration.dry(run, args) == 0
    said = capsys.readouterr().out
    assert "packed sequences" in said and "an iteration, at the roofline" in said


@pytest.mark.slow(reason="a whole run, then an iteration under a meter")
def test_an_iteration_is_measured_and_its_parts_sum_up(capsys, tmp_path, monkeypatch):
    words = "--episodes 2 --slots 2 --max-turns 2 --iterations 1"
    out = tmp_path / "result.json"
    monkeypatch.setattr("sys.argv", ["bench_iteration", *words.split(), "--out", str(out)])
    assert bench_iteration.main() == 0
    found = json.loads(out.read_text())
    parts = {name: s for name, s in found["seconds"].items() if name != "iteration"}
    assert sum(parts.values()) <= found["seconds"]["iteration"] * 1.001
    assert 0 < found["mfu"] < 1.5 and 0 < found["decode_share"] < 2
    assert found["compile_cold"] > found["compile_warm"] > 0
    assert "iteration" in capsys.readouterr().out


def test_results_in_the_repo_are_whole():
    folder = pathlib.Path(bench_iteration.__file__).parents[1] / "results"
    results = sorted(folder.glob("iteration-*.json"))
    assert results
    for path in results:
        found = json.loads(path.read_text())
        assert {"machine", "arguments", "seconds", "floors", "mfu"} <= set(found)


def test_clocks_alternate_and_tables_line_up():
    seen = []
    times = alternate({"a": lambda: seen.append("a"), "b": lambda: seen.append("b")}, 3)
    assert seen == list("ababab") and set(times) == {"a", "b"}
    lines = format_table(("name", "figure"), [["one", 1.0], ["longer", 12345.6]]).splitlines()
    assert len({len(line) for line in lines}) == 1 and lines[2].endswith("12,346")
    assert verdict(3.0, 5).endswith("MISSED") and verdict(3.0, 5, at_most=True).endswith("met")
