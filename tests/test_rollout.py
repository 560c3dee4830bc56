"""Rollout: the same episodes whatever the slots; nothing lost, nothing played twice."""

import jax
import numpy as np
import pytest

from hiperjax.acting.blocks import TAGS
from hiperjax.acting.demonstrations import demonstrate, list_texts
from hiperjax.acting.lane_sizes import LaneShape, choose_bucket
from hiperjax.acting.prompts import Prompter
from hiperjax.acting.renderers import ChatRenderer, CompactRenderer
from hiperjax.acting.rollout import Rollout
from hiperjax.acting.sampler import advance, insert, start
from hiperjax.envs.registry import make_suite
from hiperjax.envs.workers import InlineWorkers
from hiperjax.models.tokenizers import train_tokenizer
from hiperjax.models.transformer import TransformerConfig, init_params
from hiperjax.training.diagnostics import describe, segments, warn_of_collapse
from hiperjax.training.samples import render_trajectory
from hiperjax.types import Ending

SUITE = make_suite("household")
RENDERER = CompactRenderer(hints=SUITE.hints)
DEMOS = demonstrate(SUITE, SUITE.tasks("train")[:30], max_turns=16, seed=0, noise=0.2)
TOKENIZER = train_tokenizer((t for d in DEMOS for t in list_texts(RENDERER, d)), TAGS)
MODEL = TransformerConfig(
    vocab_size=len(TOKENIZER), hidden_size=16, intermediate_size=24, num_layers=1, num_heads=2,
    num_kv_heads=1, head_dim=8, embedding_std=0.3,
)  # fmt: skip
PARAMS = init_params(MODEL, jax.random.key(0))
TASKS = SUITE.tasks("train")[100:107]


def collect(slots, chunk, limit=120, *, renderer=RENDERER, shared=True, reply=12, **options):
    prompter = Prompter(renderer, TOKENIZER, limit)
    if not shared:  # as if every prompt began differently
        prompter.__dict__["shared_prefix"] = ()
    rollout = Rollout(
        config=MODEL, prompter=prompter, suite=SUITE, workers=InlineWorkers(SUITE), slots=slots,
        prompt_length=limit, reply_length=reply, max_turns=4, decode_chunk=chunk, **options,
    )  # fmt: skip
    return rollout.collect(PARAMS, TASKS, key=jax.random.key(5), temperature=1.0)


def assert_same_episodes(plain, other):
    assert [t.task_id for t in plain.trajectories] == list(TASKS)
    assert len(other.trajectories) == len(TASKS)
    for a, b in zip(plain.trajectories, other.trajectories, strict=True):
        assert (a.task_id, a.ending, len(a.turns)) == (b.task_id, b.ending, len(b.turns))
        for s, t in zip(a.turns, b.turns, strict=True):
            np.testing.assert_array_equal(s.prompt_ids, t.prompt_ids)
            np.testing.assert_array_equal(s.reply_ids, t.reply_ids)
            np.testing.assert_allclose(s.behavior_logprobs, t.behavior_logprobs, atol=1e-5)
            assert s.blocks == t.blocks


def test_episodes_do_not_depend_on_the_shared_prefix():
    """Rules first, encoded once: the same replies as with whole prompts, and fewer token slots."""
    chat = ChatRenderer(role=SUITE.role, history_length=1, hints=SUITE.hints)
    prompter = Prompter(chat, TOKENIZER, 400)
    assert len(prompter.shared_prefix) > 50
    plain = collect(4, 12, 400, renderer=chat, shared=False)
    other = collect(4, 12, 400, renderer=chat)
    assert_same_episodes(plain, other)
    for trajectory in other.trajectories:
        for turn in trajectory.turns:
            start = turn.prompt_ids[: len(prompter.shared_prefix)]
            assert tuple(start.tolist()) == prompter.shared_prefix
    ours, theirs = other.stats, plain.stats
    assert ours.prompt_tokens - len(prompter.shared_prefix) == theirs.prompt_tokens
    pads = ours.prefill_bucket_pad + ours.prefill_row_pad
    assert ours.prompt_tokens - ours.shared_tokens + pads == ours.prefill_slots
    assert ours.prefill_slots < theirs.prefill_slots / 2


def test_episodes_do_not_depend_on_slots_chunks_or_lanes():
    plain, other = collect(7, 12), collect(3, 5)
    assert_same_episodes(plain, other)
    assert_same_episodes(plain, collect(6, 7, pipeline_groups=2, refill=1))
    stats = plain.stats
    turns = [turn for t in plain.trajectories for turn in t.turns]
    assert stats.reply_tokens == sum(len(t.reply_ids) for t in turns)
    assert stats.prompt_tokens == sum(len(t.prompt_ids) for t in turns)
    pads = stats.prefill_bucket_pad + stats.prefill_row_pad
    assert stats.prompt_tokens + pads == stats.prefill_slots
    assert stats.decode_tokens == stats.reply_tokens - len(turns) <= stats.decode_slots
    assert min(plain.seconds.values()) >= 0 and "environment" in plain.seconds


def test_one_trace_a_bucket():
    """Sizes of a lane and lengths of prompts do not multiply, and a second rollout adds nothing."""
    programs = (start, insert, advance)
    before = [program._cache_size() for program in programs]
    # settings no other test has: 7 tokens per chunk, 13 of a reply
    made, _ = collect(7, 7, reply=13), collect(7, 7, reply=13)
    traced = [program._cache_size() - n for program, n in zip(programs, before, strict=True)]
    shape = LaneShape(slots=7, prompt=120, reply=13, chunk=7, refill=4)
    assert traced[0] <= len(shape.length_ladder)
    assert traced[1] <= len(shape.row_ladder) and traced[2] <= len(shape.row_ladder)
    assert made.stats.prefill_slots > 0 and min(traced) > 0


def test_a_random_model_is_malformed_and_truncated_and_that_is_data():
    trajectories = collect(4, 12).trajectories
    assert all(t.ending is Ending.TRUNCATED and len(t.turns) == 4 for t in trajectories)
    assert all(t.final_prompt_ids is not None for t in trajectories)
    assert all(t.turns[0].blocks.switch for t in trajectories)
    health = describe(trajectories)
    assert health["malformed_share"] == 1.0 and health["switch_share"] == 0.0
    assert health["segment_length"] == 4.0 and health["segments_3_4"] == 1.0
    assert [n for n, _ in segments(trajectories[0])] == [4]
    assert "malformed" in render_trajectory(trajectories[0], TOKENIZER)


def test_prompts_that_cannot_fit_cost_their_episode_and_are_named():
    result = collect(4, 12, limit=20)
    assert not result.trajectories and len(result.failures) == len(TASKS)
    assert "PromptTooLong" in result.failures[0].error and "expected at most 20" in (
        result.failures[0].error
    )


def test_collapse_is_told_plainly():
    assert "collapsed" in (warn_of_collapse(0.95, 10.0) or "")
    assert "collapsed" in (warn_of_collapse(0.001, 10.0) or "")
    assert warn_of_collapse(0.2, 10.0) is None and warn_of_collapse(1.0, 1.0) is None


def test_buckets():
    assert choose_bucket((4, 8), 5) == 8
    with pytest.raises(ValueError, match="exceeds the largest bucket 8"):
        choose_bucket((4, 8), 9)
