"""Imitation of a stream: mistakes that are not learned, the expert's labels on a policy's episodes,
portions that do not depend on who plays them, and going on bit for bit."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest
from helpers.small_runs import BASE, small_run

from hiperjax.acting.blocks import TAGS
from hiperjax.acting.demonstrations import demonstrate, list_texts, relabel, transcribe
from hiperjax.acting.expert_stream import ExpertStream, PortionPlan
from hiperjax.acting.prompts import Prompter, WindowRules, merge_refused
from hiperjax.acting.renderers import TRIED, CompactRenderer, PastTurn
from hiperjax.config import ConfigError
from hiperjax.envs.registry import make_suite
from hiperjax.envs.workers import EnvFailure
from hiperjax.learning.imitation import split_steps
from hiperjax.learning.layout import split_windows
from hiperjax.learning.packing import pack_windows
from hiperjax.models.tokenizers import train_tokenizer
from hiperjax.presets import PRESETS
from hiperjax.stop import REQUEST
from hiperjax.training import build, streamed_imitation
from hiperjax.training.build import restore_run
from hiperjax.training.components import RunComponents
from hiperjax.training.console import Progress
from hiperjax.training.diagnostics import ends_in_loop, loop_share
from hiperjax.training.stopped import TrainingStopped
from hiperjax.training.trainer import train
from hiperjax.types import Observation
from hiperjax.validation import validate

SUITE = make_suite("household")
TASKS = SUITE.tasks("train")[:12]


def play(mistakes):
    return list(demonstrate(SUITE, TASKS, max_turns=16, seed=0, noise=0.0, mistakes=mistakes))


CLEAN, CLUMSY = play(0.0), play(0.3)
RENDERER = CompactRenderer(history_length=1, hints=SUITE.hints)
TEXTS = [text for demo in CLEAN + CLUMSY for text in list_texts(RENDERER, demo, grown=True)]
TOKENIZER = train_tokenizer(TEXTS, TAGS, phrases=RENDERER.phrases, words=(TRIED,))
PROMPTER = Prompter(RENDERER, TOKENIZER, 200, recall=8, marks=True)


def test_mistakes_are_done_and_the_expert_decides_on_every_state():
    assert all(demo.actions == tuple(d.action for d in demo.decisions) for demo in CLEAN)
    wrong = [a != d.action for demo in CLUMSY for a, d in zip(demo.actions, demo.decisions)]  # noqa: B905
    assert 0.2 < np.mean(wrong) < 0.6
    assert np.mean([demo.steps[-1].success for demo in CLUMSY]) > 0.5, "there is a way out"
    assert play(0.3) == CLUMSY


def test_what_is_learned_is_the_experts_and_what_is_remembered_was_done():
    for demo, episode in zip(CLUMSY, transcribe(PROMPTER, CLUMSY), strict=True):
        for turn, decision, done in zip(episode.turns, demo.decisions, demo.actions, strict=True):
            said = TOKENIZER.decode(turn.reply_ids)
            assert turn.counts and turn.blocks.action == done
            assert RENDERER.render_action(decision.action) in said


def test_where_contexts_grow_a_mistake_stands_there_and_counts_for_nothing():
    grown = dataclasses.replace(PROMPTER, windows=WindowRules("episode", 400))
    episodes = transcribe(grown, CLUMSY)
    for demo, episode in zip(CLUMSY, episodes, strict=True):
        for turn, decision, done in zip(episode.turns, demo.decisions, demo.actions, strict=True):
            assert turn.counts == (done == decision.action)
            assert RENDERER.render_action(done) in TOKENIZER.decode(turn.reply_ids)
    windows = [window for e in episodes for window in split_windows(e, final=False)]
    _, rows, row_of = pack_windows(windows, length=400, per_sequence=16, grown=True)
    turns = [turn for window in windows for turn in window.turns]
    for row, turn in zip(row_of, turns, strict=True):
        assert rows.reply_mask[row].sum() == turn.counts * len(turn.reply_ids)


def test_labels_on_the_experts_own_episodes_are_its_own_replies():
    played = transcribe(PROMPTER, CLEAN)
    for before, after in zip(played, relabel(PROMPTER, SUITE, played), strict=True):
        for a, b in zip(before.turns, after.turns, strict=True):
            np.testing.assert_array_equal(a.reply_ids, b.reply_ids)
            np.testing.assert_array_equal(a.prompt_ids, b.prompt_ids)


def test_a_label_switches_exactly_where_the_subgoal_in_force_is_another():
    played = transcribe(PROMPTER, CLUMSY)
    strange = [
        dataclasses.replace(
            episode,
            turns=tuple(
                dataclasses.replace(t, blocks=dataclasses.replace(t.blocks, subgoal="use lamp"))
                for t in episode.turns
            ),
        )
        for episode in played
    ]
    for episode in relabel(PROMPTER, SUITE, strange):
        assert all(turn.blocks.switch and turn.blocks.well_formed for turn in episode.turns)


def test_marks_and_recall_show_what_history_forgot():
    seen = Observation(
        "You arrive at cabinet 1.", "put two mug in drawer.", ("go to drawer 1", "go to cabinet 2")
    )
    past = [
        PastTurn(1, "You are in a room.", "go to drawer 1"),
        PastTurn(2, "You arrive at drawer 1. On the drawer 1, you see a mug 2.", "go to shelf 1"),
        PastTurn(3, "You arrive at shelf 1.", "go to cabinet 1"),
    ]
    prompter = dataclasses.replace(PROMPTER, renderer=dataclasses.replace(RENDERER))
    texts = []
    for recall, marks in ((0, False), (8, True)):
        plain = dataclasses.replace(prompter, recall=recall, marks=marks)
        texts.append(TOKENIZER.decode(plain.encode(seen, past, "")[0]))
    assert "mug 2" not in texts[0] and "~" not in texts[0]
    assert "go to drawer 1 * mug 2" in texts[1], "the command that showed it; not what it named"
    assert "~ drawer 1" in texts[1].replace("* ", "") or "~ * drawer 1" in texts[1]
    assert "~ cabinet" not in texts[1]


def test_what_was_seen_last_outlives_a_run_of_refused_commands():
    seen = Observation("Nothing happens.", "put two mug in drawer.", ("go to cabinet 2",))
    past = [
        PastTurn(1, "You are in a room.", "go to drawer 1"),
        PastTurn(2, "You arrive at drawer 1.", "go to drawer 1", refused=True),
        PastTurn(3, "Nothing happens.", "go to cabinet 1", refused=True),
        PastTurn(4, "Nothing happens.", "go to shelf 1", refused=True),
    ]
    plain, merged = (
        TOKENIZER.decode(dataclasses.replace(PROMPTER, merges=on).encode(seen, past, "")[0])
        for on in (False, True)
    )
    assert "arrive" not in plain and "arrive at drawer 1 act go to shelf 1 now" in merged
    assert "go to cabinet 1" not in merged, "only the last of them"
    went_on = [*past, PastTurn(5, "Nothing happens.", "go to cabinet 2")]
    turns = merge_refused(went_on)
    assert [(t.number, t.observation, t.action, t.refused) for t in turns] == [
        (1, "You are in a room.", "go to drawer 1", False),
        (2, "You arrive at drawer 1.", "go to cabinet 2", False),
    ]
    assert merge_refused(past[:1]) == past[:1] and merge_refused([]) == []


def make_plan(episodes=4):
    return PortionPlan(
        suite=SUITE, prompter=PROMPTER, max_turns=16, seed=3, noise=0.0, mistakes=0.2,
        episodes=episodes,
    )  # fmt: skip


def ids_of(portion):
    return [turn.prompt_ids.tolist() for e in portion.trajectories for turn in e.turns]


def test_portions_are_the_same_whoever_plays_them():
    here = [
        ids_of(portion) for portion, _ in zip(ExpertStream(make_plan()), range(4), strict=False)
    ]
    elsewhere = ExpertStream(make_plan(), workers=1, first=1)
    assert ids_of(next(elsewhere)) == here[1]
    assert elsewhere._pool is not None
    (player,) = elsewhere._pool._processes.values()
    player.kill()
    assert ids_of(next(elsewhere)) == here[2], "another plays it again"
    (player,) = elsewhere._pool._processes.values()
    elsewhere.close()
    assert here[0] != here[1] and not player.is_alive()


def test_losses_of_a_stream_are_named_and_too_many_stop_it(capsys):
    lost = [EnvFailure("x", "why")] * 3
    work = object.__new__(streamed_imitation.StreamedImitation)
    work.components = object.__new__(RunComponents)
    lossy = dataclasses.replace(BASE.env, max_failure_rate=1.0)
    work.components.config = dataclasses.replace(BASE, env=lossy)
    work.progress = Progress(1)
    work.tell_losses(lost, 4)
    assert capsys.readouterr().out.count("episode of task x lost: why") == 3
    with pytest.raises(TrainingStopped, match=r"3 of 3 episodes were lost.*the first: why"):
        work.tell_losses(lost, 3)  # nothing is left to learn from, whatever share may be lost


def test_steps_hold_every_sequence_once():
    windows = [w for e in transcribe(PROMPTER, CLEAN) for w in split_windows(e, final=False)]
    sequences, rows, _ = pack_windows(windows, length=128, per_sequence=3)
    steps = list(split_steps(sequences, rows, 4, (1, 2)))
    assert len(steps) == len(sequences.tokens) // 4
    seen = np.concatenate([step.sequences.tokens for step in steps])
    assert len(np.unique(seen, axis=0)) == len(seen)
    order = next(iter(split_steps(sequences, rows, 4, (1, 2))))
    np.testing.assert_array_equal(order.reply, steps[0].reply)


def stream(out: pathlib.Path):
    imitation = dict(
        steps=16, episodes=0, mistakes=0.2, noise=0.0, check_every=8, sequences=4, rounds=2,
        round_episodes=6, round_steps=3, stop_loss=0.0,
    )  # fmt: skip
    prompt = dict(mark_tried=True, recall_length=8)
    config = small_run(out, {"imitation": imitation}, iterations=0)
    return dataclasses.replace(config, prompt=dataclasses.replace(config.prompt, **prompt))


@pytest.mark.slow  # trains twice, once in three sessions
def test_streamed_imitation_goes_on_bit_for_bit(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(streamed_imitation, "PORTION", 6)
    whole = train(stream(tmp_path / "whole"))
    said = capsys.readouterr().out
    assert "round 2/2, own success" in said and "imitation    16/22" in said
    follow, done = streamed_imitation.StreamedImitation.step_through, []

    def ask_to_stop(self, batches, most):
        follow(self, batches, most)
        done.append(self.now.done)
        REQUEST.asked = len(done) in (1, 4)

    with monkeypatch.context() as patch:
        patch.setattr(streamed_imitation.StreamedImitation, "step_through", ask_to_stop)
        train(stream(tmp_path / "cut"))
        while not (tmp_path / "cut" / "checkpoints").exists():
            train(stream(tmp_path / "cut"), resume=tmp_path / "cut")
    assert len(done) > 3
    states = [restore_run(folder, "last")[1] for folder in (whole, tmp_path / "cut")]
    for a, b in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_array_equal(a, b)


def test_rounds_need_a_stream_of_single_turns(tmp_path):
    config = stream(tmp_path)
    kept = dataclasses.replace(config.imitation, episodes=20)
    with pytest.raises(ConfigError, match="expected episodes 0"):
        validate(dataclasses.replace(config, imitation=kept))


def test_loops_are_counted():
    (episode, *_) = transcribe(PROMPTER, CLEAN)
    turn = episode.turns[0]

    def act(names, success=False):
        turns = (dataclasses.replace(turn, blocks=dataclasses.replace(turn.blocks, action=name))
                 for name in names)  # fmt: skip
        return dataclasses.replace(episode, turns=tuple(turns), success=success)

    looping, wandering = act("abc" * 10), act("abcdefghij" * 3)
    assert ends_in_loop(looping) and not ends_in_loop(wandering)
    assert not ends_in_loop(act("abc" * 10, success=True)) and not ends_in_loop(act("abc"))
    assert loop_share([looping, wandering]) == 0.5


def test_the_vocabulary_knows_what_a_refused_command_is_answered():
    """With mistakes among the demonstrations; else the agent reads it as an unknown word."""
    config = PRESETS["household-tiny"][1]
    suite = make_suite("household")
    known = {}
    for share in (0.0, 0.3):
        imitation = dataclasses.replace(config.imitation, mistakes=share)
        changed = dataclasses.replace(config, imitation=imitation)
        tokenizer = build.build_tokenizer(changed, suite, None)
        known[share] = tokenizer.unk_token_id not in tokenizer.encode("nothing happens")
    assert known == {0.0: False, 0.3: True}
