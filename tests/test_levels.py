"""Whose tokens are learned from: exactly the planner's, exactly the executor's, or all; and what a
decision to switch costs."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.episodes import VOCABULARY, make_batch
from helpers.small_runs import BASE

from hiperjax.acting.blocks import ABSENT
from hiperjax.config import ConfigError, CreditConfig, CriticConfig, PpoConfig
from hiperjax.learning.credit.registry import assign_credit, find_estimator
from hiperjax.learning.credit.shaping import charge_switches
from hiperjax.learning.credit.tokens import Level, prepare_batch
from hiperjax.learning.learner import Learner
from hiperjax.learning.minibatches import count_minibatch
from hiperjax.learning.objectives import policy_objective
from hiperjax.learning.packing import pack, pack_final_prompts
from hiperjax.models.transformer import TransformerConfig, init_params
from hiperjax.validation import validate

MODEL = TransformerConfig(
    vocab_size=VOCABULARY, hidden_size=16, intermediate_size=24, num_layers=1, num_heads=2,
    num_kv_heads=1, head_dim=8, embedding_std=0.5,
)  # fmt: skip
POLICY = init_params(MODEL, jax.random.key(0))


def break_off(trajectory):
    """The same episode with a last reply that never ends its subgoal block."""
    turn = trajectory.turns[-1]
    end = len(turn.reply_ids)
    blocks = dataclasses.replace(
        turn.blocks, well_formed=False, subgoal_span=ABSENT, action_span=(2, end),
        switch=len(trajectory.turns) == 1,
    )  # fmt: skip
    turns = (*trajectory.turns[:-1], dataclasses.replace(turn, blocks=blocks))
    return dataclasses.replace(trajectory, turns=turns)


TRAJECTORIES = [break_off(t) if i == 1 else t for i, t in enumerate(make_batch(5, [3, 5, 2, 4]))]
BATCH = pack(
    TRAJECTORIES, max_turns=6, length=48, per_sequence=3, capacity=8, multiple=4, reply_length=16
)
FINAL = pack_final_prompts(TRAJECTORIES, length=16)


def make_learner(**credit):
    return Learner(
        MODEL,
        credit=CreditConfig(gamma=0.9, reward_scale=1.0, **credit),
        critic=CriticConfig(kind="features", random_features=8),
        ppo=PpoConfig(minibatch_sequences=4),
        score_sequences=4,
    )


@functools.cache
def assigned():
    """Scores and the estimators' inputs, once for all tests."""
    learner = make_learner()
    state = learner.init(jax.tree.map(jnp.copy, POLICY), jax.random.key(1))
    scores = learner.score(state, BATCH, FINAL, np.int32(BATCH.count))
    return scores, learner.assign(state, BATCH, scores)[2]


def prepare(estimator="hae", *, switch_cost=0.0, train: Level = "all"):
    scores, inputs = assigned()
    credit = assign_credit(estimator, inputs, bootstrap="proper", switch_cost=switch_cost)
    return prepare_batch(
        credit, inputs, BATCH, scores, hierarchical=find_estimator(estimator).hierarchical,
        whitening="standard", weights=(1.0, 1.0, 1.0), train=train,
    )  # fmt: skip


def touched(prepared, **options):
    """Tokens `[N, R]` by whose log-prob the loss has a gradient, KL and entropy included."""

    def loss(logprobs):
        return policy_objective(
            logprobs, -logprobs, prepared, count_minibatch(prepared), clip=0.2, dual_clip=3.0,
            kl_coefficient=0.1, entropy_coefficient=0.1, switch_rate_coefficient=0.0,
            switch_rate_target=0.2, **options,
        ).loss  # fmt: skip

    gradient = jax.grad(loss)(prepared.old_logprobs - 0.01)
    return np.asarray(gradient).reshape(-1, gradient.shape[-1]) != 0


def mark(level, *, flat):
    """The same by hand, turn by turn."""
    found = np.zeros(BATCH.rows.reply.shape, bool)
    for b, trajectory in enumerate(TRAJECTORIES):
        for t, turn in enumerate(trajectory.turns):
            row, blocks = found[BATCH.grid.row[b, t]], turn.blocks
            broke_off = blocks.subgoal_span == ABSENT
            if level != "executor":
                row[slice(*blocks.switch_span)] = True
                row[slice(*blocks.subgoal_span)] = flat or blocks.switch
            if level != ("executor" if broke_off else "planner"):
                row[(blocks.action_span if any(blocks.action_span) else blocks.subgoal_span)[1] :
                    len(turn.reply_ids)] |= not any(blocks.action_span)  # fmt: skip
                row[slice(*blocks.action_span)] = True
    return found


@pytest.mark.parametrize("estimator", ["hae", "flat_gae"])
def test_exactly_the_tokens_of_the_level_have_a_gradient(estimator):
    flat = estimator == "flat_gae"
    levels: tuple[Level, ...] = ("all", "planner", "executor")
    found = {level: touched(prepare(estimator, train=level)) for level in levels}
    for ratio in ("block", "reply"):  # a unit's ratio moves with the tokens that count, no others
        np.testing.assert_array_equal(
            touched(prepare(estimator, train="planner"), ratio=ratio), found["planner"]
        )
    for level, tokens in found.items():
        np.testing.assert_array_equal(tokens, mark(level, flat=flat), level)
        assert tokens.any()
    assert not (found["planner"] & found["executor"]).any()
    np.testing.assert_array_equal(found["planner"] | found["executor"], found["all"])


def test_what_is_left_in_the_loss_has_the_same_advantages():
    whole, part = prepare(), prepare(train="planner")
    kept = np.asarray(part.loss_mask)
    np.testing.assert_array_equal(part.advantage, np.where(kept, whole.advantage, 0))
    assert 0 < kept.sum() < np.asarray(whole.loss_mask).sum()


def test_a_switch_is_charged_where_it_was_decided():
    term = jnp.asarray([[1.0, 2, 3, 4], [5, 6, 7, 8]])
    boundary = jnp.asarray([[1, 0, 1, 1], [1, 1, 0, 0]], bool)
    decided = jnp.asarray([[1, 1, 1, 0], [1, 1, 1, 1]], bool)
    paid = charge_switches(term, boundary, decided, 0.5)
    np.testing.assert_array_equal(paid, [[1, 2, 2.5, 4], [5, 5.5, 7, 8]])


def test_the_price_of_a_switch_reaches_the_learner():
    inputs = assigned()[1]
    free, paid = (make_learner(switch_cost=cost).credit_of(inputs) for cost in (0.0, 0.25))
    decided = np.array(inputs.boundary & free.mask_term)
    decided[:, 0] = False
    np.testing.assert_allclose(free.adv_term - paid.adv_term, 0.25 * decided, atol=1e-6)
    assert decided.any()


def test_where_nobody_decides_to_switch_a_price_of_it_is_refused():
    with pytest.raises(ConfigError, match=r"credit.switch_cost is 0.1 with credit.estimator flat"):
        make_learner(estimator="flat_gae", switch_cost=0.1)
    plan = dataclasses.replace(BASE.plan, boundaries="never")
    credit = dataclasses.replace(BASE.credit, switch_cost=0.1)
    validate(dataclasses.replace(BASE, credit=credit))
    with pytest.raises(ConfigError, match=r"credit.switch_cost is 0.1 with plan.boundaries never"):
        validate(dataclasses.replace(BASE, credit=credit, plan=plan))


def test_to_pull_on_switches_without_the_planner_is_refused():
    credit = dataclasses.replace(BASE.credit, train="executor")
    ppo = dataclasses.replace(BASE.ppo, switch_rate_coefficient=1.0)
    with pytest.raises(ConfigError, match=r"with credit\.train executor; expected 0"):
        validate(dataclasses.replace(BASE, credit=credit, ppo=ppo))
