"""Contexts that grow in their slot: equal to the full forward pass, whatever the slot."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hiperjax.acting.lane_sizes import LaneShape, RolloutStats
from hiperjax.acting.lanes import Lane, Openings
from hiperjax.acting.sampler import encode_prefix
from hiperjax.models.transformer import (
    TransformerConfig,
    append,
    forward,
    init_cache,
    init_params,
    logits,
)

CONFIG = TransformerConfig(
    vocab_size=23, hidden_size=16, intermediate_size=24, num_layers=2, num_heads=2,
    num_kv_heads=1, head_dim=8, embedding_std=0.5,
)  # fmt: skip
PARAMS = init_params(CONFIG, jax.random.key(0))
PREFIX = np.array([5, 9, 1], np.int32)
REPLY, WINDOW, TURNS = 6, 60, 4
STOP = 22
"""Completes a reply: the lane is told so by `find_stop`, and its chunk may run past it."""


def find_stop(ids, start):
    return ids.index(STOP, start) + 1 if STOP in ids[start:] else None


def words(episode, turn):
    rng = np.random.default_rng((episode, turn))
    return rng.integers(0, 22, rng.integers(2, 9)).tolist()


def play(slots, *, chunk=5, rows=2, grows=True, episodes=7, turns=TURNS, same=False, stats=None):
    """Every episode's prompts, replies and log-probs, turn by turn; all contexts grow, or none."""
    shape = LaneShape(
        slots=slots, prompt=12 if grows else WINDOW, reply=REPLY, chunk=chunk, refill=2, rows=rows,
        window=WINDOW if grows else 0,
    )  # fmt: skip
    lane = Lane(
        shape, PARAMS, CONFIG, jax.random.key(3),
        prefix=encode_prefix(PARAMS, jnp.asarray(PREFIX), config=CONFIG), find_stop=find_stop,
        stats=stats or RolloutStats(), openings=Openings() if same else None,
        temperature=np.float32(1.0), top_p=1.0, stop_ids=(),
    )  # fmt: skip
    waiting, found = list(range(episodes)), {n: [] for n in range(episodes)}
    while waiting or lane.busy:
        for number, ids, logprobs in lane.harvest():
            found[number][-1] += [ids, logprobs]
            turn = len(found[number])
            if turn == turns:
                lane.release(number)
                continue
            more = words(number, turn)
            before = [x for prompt, reply, _ in found[number] for x in (*prompt, *reply)]
            found[number].append([more])
            if grows:
                lane.ask_more(number, more, number=number, turn=turn)
            else:
                lane.ask(number, [int(x) for x in before] + more, number=number, turn=turn)
        while waiting and lane.free:
            number = waiting.pop(0)
            found[number].append([words(0 if same else number, 0)])
            lane.ask(number, found[number][0][0], number=number, turn=0)
        if not waiting:
            lane.shrink()
        lane.run()
    return found


def assert_same(one, other):
    assert one.keys() == other.keys()
    for number in one:
        for (a, ids, logprobs), (b, other_ids, others) in zip(
            one[number], other[number], strict=True
        ):
            assert a == b
            np.testing.assert_array_equal(ids, other_ids)
            np.testing.assert_allclose(logprobs, others, atol=1e-5)


@pytest.mark.parametrize("bucket", [None, 24])
def test_appending_in_a_slot_is_the_full_forward_at_every_position(bucket):
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 23, n) for n in (17, 21, 13)]
    cache, slots = init_cache(CONFIG, 5, 30), np.array([4, 0, 2], np.int32)
    done = np.zeros(3, np.int32)
    for size in (4, 3, 5, 1):
        tokens = np.zeros((4, 7), np.int32)
        lengths = np.ones(4, np.int32)
        where = np.full(4, 5, np.int32)  # the last row is padding: a slot past the end
        for i, row in enumerate(rows):
            tokens[i, :size] = row[done[i] : done[i] + size]
            lengths[i], where[i] = size, slots[i]
        starts = np.append(done, 0).astype(np.int32)
        given = map(jnp.asarray, (tokens, lengths, starts, where))
        hidden, cache = append(PARAMS, CONFIG, *given, cache, attend_to=bucket)
        done += size
        for i, row in enumerate(rows):
            whole = forward(
                PARAMS, CONFIG, jnp.asarray(row[: done[i]])[None], lengths=jnp.array([done[i]])
            )
            np.testing.assert_allclose(hidden[i, :size], whole[0, -size:], atol=1e-5)
    assert not np.asarray(cache.k)[:, [1, 3]].any(), "other slots are left alone"


@pytest.fixture(scope="module")
def grown():
    return play(7)


def test_growing_contexts_sample_what_whole_prompts_do(grown):
    """The same replies as when every turn prefills its whole context: overshoot leaves no trace."""
    assert any(len(ids) < REPLY and ids[-1] == STOP for t in grown.values() for _, ids, _ in t)
    assert any(len(ids) == REPLY and ids[-1] != STOP for t in grown.values() for _, ids, _ in t)
    assert_same(grown, play(7, grows=False))


@pytest.mark.parametrize("options", [dict(slots=3, chunk=2), dict(slots=2, rows=3, chunk=9)])
def test_replies_do_not_depend_on_slots_refill_or_rows(grown, options):
    assert_same(grown, play(**options))


def test_sampler_logprobs_are_those_of_the_whole_context(grown):
    for turns in grown.values():
        context = list(PREFIX)
        for prompt, ids, logprobs in turns:
            context += prompt
            row = jnp.asarray([*context, *ids], jnp.int32)[None]
            hidden = forward(PARAMS, CONFIG, row, lengths=jnp.array([row.shape[1]]))
            scores = logits(PARAMS, CONFIG, hidden)[0, len(context) - 1 : -1]
            expected = jax.nn.log_softmax(scores)[np.arange(len(ids)), ids]
            np.testing.assert_allclose(logprobs, expected, atol=1e-5)
            context += ids.tolist()


def test_one_turn_windows_reply_as_growing_ones_do_at_their_first_turn(grown):
    alone = play(4, grows=False, turns=1)
    assert_same({n: turns[:1] for n, turns in grown.items()}, alone)


@pytest.mark.parametrize("slots", [7, 3])
def test_a_task_that_is_opened_again_is_prefilled_once(slots):
    stats, plain = RolloutStats(), RolloutStats()
    shared = play(slots, same=True, stats=stats)
    lone = {n: play(1, episodes=n + 1, same=True)[n] for n in (0, 4)}
    for number, turns in lone.items():
        assert_same({0: turns}, {0: shared[number]})
    assert len({tuple(turns[0][1]) for turns in shared.values()}) > 1, "each draws its own reply"
    play(slots, stats=plain)
    assert stats.copied_tokens == 6 * len(words(0, 0))
    assert plain.copied_tokens == 0 and stats.window_turns == plain.window_turns == 7 * 3


def test_counts_of_windows_stand_only_where_there_are_some():
    assert "window_turns" not in RolloutStats(prompt_tokens=3).metrics()
    assert RolloutStats(window_turns=2).metrics()["window_turns"] == 2.0


def test_a_context_that_is_not_there_cannot_grow():
    shape = LaneShape(slots=2, prompt=12, reply=REPLY, chunk=2, refill=1, window=WINDOW)
    lane = Lane(
        shape, PARAMS, CONFIG, jax.random.key(3), prefix=None, find_stop=find_stop,
        stats=RolloutStats(),
    )  # fmt: skip
    with pytest.raises(ValueError, match="episode 0, turn 1: no context in this lane"):
        lane.ask_more(0, [1], number=0, turn=1)
