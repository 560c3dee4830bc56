"""Imitation: a step is the same however few sequences a pass sees, and its loss is what it says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.episodes import MODEL
from helpers.episodes import make_batch as make_episodes

from hiperjax.learning.imitation import (
    choose_micro,
    imitate,
    make_batch,
    make_optimizer,
    measure_loss,
    start_imitation,
)
from hiperjax.learning.packing import pack
from hiperjax.models.transformer import forward, init_params, logits

POLICY = init_params(MODEL, jax.random.key(0))
EPISODES = make_episodes(5, [3, 5, 1, 4])
PACKED = pack(EPISODES, max_turns=5, length=48, per_sequence=3)
BATCH = make_batch(PACKED.sequences, PACKED.rows)


def test_the_loss_is_the_mean_over_reply_tokens_of_each_turn_alone():
    total, count = 0.0, 0
    for turn in (turn for episode in EPISODES for turn in episode.turns):
        ids = np.concatenate([turn.prompt_ids, turn.reply_ids])
        tokens = jnp.zeros((1, 48), int).at[0, : len(ids)].set(ids)
        hidden = forward(POLICY, MODEL, tokens, token_mask=jnp.arange(48)[None] < len(ids))
        scores = jax.nn.log_softmax(logits(POLICY, MODEL, hidden))[0]
        for at in range(len(turn.prompt_ids), len(ids)):
            total, count = total - float(scores[at - 1, ids[at]]), count + 1
    for micro in (1, 3, 100):  # the last part of three is filled up with padding
        found = measure_loss(POLICY, BATCH, config=MODEL, micro=micro)
        np.testing.assert_allclose(found, total / count, rtol=1e-5)


def test_gradients_of_passes_add_up_to_the_step():
    order = np.asarray([[0, 1, 2, 3], [3, 1, 0, 2]], np.int32)
    optimizer = make_optimizer(1e-2, 10)
    ends = []
    for micro in (4, 1):
        start = start_imitation(MODEL, optimizer, jax.tree.map(jnp.copy, POLICY))
        end, loss = imitate(start, BATCH, order, config=MODEL, optimizer=optimizer, micro=micro)
        ends.append((end.policy, loss))
    assert not np.array_equal(*(jax.tree.leaves(x)[0] for x in (POLICY, ends[0][0]))), "it moved"
    for end in ends[1:]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), end, ends[0])


@pytest.mark.parametrize(
    ("sequences", "most", "expected"), [(14, 4, 2), (14, 0, 14), (13, 4, 1), (2, 8, 2), (16, 4, 4)]
)
def test_a_pass_sees_a_divisor_of_the_steps_sequences(sequences, most, expected):
    assert choose_micro(sequences, most) == expected


def test_imitations_of_the_same_settings_share_their_programs():
    assert make_optimizer(1e-2, 10) is make_optimizer(1e-2, 10)
    assert make_optimizer(1e-2, 10) is not make_optimizer(1e-3, 10)
