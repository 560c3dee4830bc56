"""Checklists: refused or paid, CM2's worked example, shaping that adds up, what worlds verify."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.episodes import make_trajectory
from hiperjax_kernels.checklist import follow, potential
from hypothesis import given
from hypothesis import strategies as st

from hiperjax.acting.demonstrations import demonstrate
from hiperjax.envs.criteria import ChecklistError, check_checklist, grade, make_checklist
from hiperjax.envs.registry import make_suite
from hiperjax.learning.credit.checklist import CHECKLIST
from hiperjax.learning.credit.inputs import shape_grid
from hiperjax.learning.credit.registry import estimate
from hiperjax.learning.credit.types import CreditInputs
from hiperjax.learning.packing import pack
from hiperjax.testing import example_inputs
from hiperjax.types import Checklist, Criterion, Ending, Trajectory

A = Criterion("a", "Is it?", 0.25)
B = Criterion("b", "Is it?", 0.25, ("a",))
C = Criterion("c", "Is it?", 0.5, ("b",))
EXAMPLE = Checklist((A, B, C))
SETS = (("", "a", "ab", "abc"), ("", "a", "a", "a"), ("b", "ab", "ab", "ab"), ("", "", "", ""))
"""Criteria that hold after each turn of four episodes of one task."""


def play(sets, checklist: Checklist = EXAMPLE, seed: int = 0) -> Trajectory:
    made = make_trajectory(np.random.default_rng(seed), len(sets))
    turns = tuple(
        dataclasses.replace(turn, satisfied=frozenset(names), reward=0.0)
        for turn, names in zip(made.turns, sets, strict=True)
    )
    return dataclasses.replace(made, turns=turns, checklist=checklist)


@pytest.fixture(scope="module")
def example() -> CreditInputs:
    grid = pack([play(sets) for sets in SETS], max_turns=5).grid
    inputs = example_inputs(episodes=4, turns=5)
    return inputs._replace(
        mask=jnp.asarray(grid.mask), reward=jnp.zeros((4, 5)), group_id=jnp.asarray(grid.group_id),
        request=jnp.asarray(grid.request), satisfied=jnp.asarray(grid.satisfied),
        item_weight=jnp.asarray(grid.item_weight), item_depends=jnp.asarray(grid.item_depends),
        item_request=jnp.asarray(grid.item_request),
    )  # fmt: skip


def test_the_worked_example_of_cm2(example):
    whole = np.asarray(estimate("checklist_trajectory", example).adv_low)
    np.testing.assert_allclose(
        whole[:, :4], np.repeat([[0.625], [-0.125], [-0.125], [-0.375]], 4, 1)
    )
    assert not whole[:, 4].any()
    by_turn = np.asarray(estimate("checklist_step", example).adv_low)[:, :4]
    expected = [[0.25, 0.25, 0.75, 0.75], [0.25, 0.25, -0.25, -0.25],
                [0.25, -1 / 12, -0.25, -0.25], [-0.75] * 4]  # fmt: skip
    np.testing.assert_allclose(by_turn, expected, atol=1e-6)
    request = np.asarray(estimate("checklist_turn", example).adv_high)
    np.testing.assert_allclose(request, whole, atol=1e-6)  # of one request


def test_what_held_before_its_dependency_pays_late_where_it_is_latched(example):
    latched = np.asarray(estimate("checklist_trajectory", example, checklist_latch=True).adv_low)
    total = np.array([1, 0.25, 0.5, 0])
    np.testing.assert_allclose(latched[:, 0], total - total.mean(), atol=1e-6)


def test_requests_pay_apart():
    """Two requests: the first is done by both episodes, the second by one, the other is cut."""
    late = Criterion("b", "?", 1.0, request=1)
    checklist = Checklist((Criterion("a", "?", 1.0, strict=True), late))
    both, one = play(("a", "ab"), checklist), play(("a", ""), checklist)
    turns = (both.turns[0], dataclasses.replace(both.turns[1], request=1))
    both = dataclasses.replace(both, turns=turns)
    grid = pack([both, one], max_turns=2).grid
    inputs = example_inputs(episodes=2, turns=2)._replace(
        **{n: jnp.asarray(getattr(grid, n)) for n in ("mask", *CHECKLIST)}
    )
    np.testing.assert_allclose(estimate("checklist_turn", inputs).adv_low, [[0, 0.5], [0, 0]])
    whole = estimate("checklist_trajectory", inputs).adv_low
    np.testing.assert_allclose(whole, [[0.25, 0.25], [-0.25, -0.25]])


FOLLOW = jax.jit(follow, static_argnames="latch")
POTENTIAL = jax.jit(potential, static_argnames="gamma")


@given(st.lists(st.sets(st.sampled_from("abc")), min_size=1, max_size=6), st.booleans())
def test_a_criterion_pays_at_most_once_and_a_potential_adds_up(sets, terminated):
    padded = [*sets, *[set("abc")] * (6 - len(sets))]
    satisfied = jnp.array([[name in held for name in "abc"] for held in padded])
    mask = jnp.arange(6) < len(sets)
    depends = jnp.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], bool)
    weight = jnp.array([0.25, 0.25, 0.5])
    for latch in (False, True):
        progress = FOLLOW(satisfied, depends, mask, latch=latch)
        paid = np.asarray(progress.paid)
        assert paid.sum(axis=0).max() <= 1
        ever = [any(name in held for held in sets) for name in "abc"]
        assert (np.array(ever) >= paid.any(axis=0)).all() and not paid[len(sets) :].any()
        assert (np.asarray(progress.eligible) >= paid).all() or latch
        shaped = POTENTIAL(progress.paid, weight, mask, jnp.array(terminated), gamma=1.0)
        total = 0.0 if terminated else float((paid * np.asarray(weight)).sum())
        assert float(shaped.sum()) == pytest.approx(total, abs=1e-6)


def test_checklists_pay_in_place_of_the_reward_beside_it_or_as_a_potential():
    episodes = [play(sets) for sets in SETS]
    first = dataclasses.replace(episodes[0].turns[0], reward=3.0)
    episodes[0] = dataclasses.replace(
        episodes[0], turns=(first, *episodes[0].turns[1:]), ending=Ending.TERMINATED,
        final_prompt_ids=None,
    )  # fmt: skip
    grid = jax.tree.map(jnp.asarray, pack(episodes, max_turns=4).grid)
    settings = dict(malformed_penalty=0.0, checklist_latch=False, gamma=1.0)

    def shape(how):
        return shape_grid(grid, 2.0, checklist_reward=how, **settings)  # type: ignore[arg-type]

    assert "checklist" not in shape("off")[1]
    paid = np.array([0, 0.5, 0.5, 1.0])
    np.testing.assert_allclose(shape("replace")[0][0], paid)
    np.testing.assert_allclose(shape("add")[0][0], paid + np.array([6, 0, 0, 0]))
    reward, terms = shape("potential")
    np.testing.assert_allclose(reward[0], [6, 0.5, 0.5, -1.0])
    np.testing.assert_allclose(sum(terms.values()), reward)
    plain = [dataclasses.replace(e, checklist=None) for e in episodes]
    bare = jax.tree.map(jnp.asarray, pack(plain, max_turns=4).grid)
    with pytest.raises(ValueError, match="has no checklists"):
        shape_grid(bare, 1.0, checklist_reward="add", **settings)
    with pytest.raises(ValueError, match="no checklist; expected one"):
        pack([episodes[0], dataclasses.replace(episodes[1], checklist=None)], max_turns=4)


@pytest.mark.parametrize(
    ("items", "complaint"),
    [
        ((), "found no criteria"),
        ((A, A), "two criteria 'a'"),
        ((A, B), "request 0: weights sum to 0.5; expected 1"),
        ((dataclasses.replace(A, weight=float("nan")), C), "criterion a: weight is nan"),
        ((dataclasses.replace(A, depends=("c",)), B, C), "a, b, c depend on each other in a cycle"),
        ((dataclasses.replace(A, depends=("x",)), B, C), "depends on 'x'; expected a criterion"),
        ((dataclasses.replace(A, weight=1.0, request=1),), "request 0: weights sum to 0"),
    ],
)
def test_checklists_that_cannot_pay_are_refused(items, complaint):
    with pytest.raises(ChecklistError, match=complaint):
        check_checklist(Checklist(items))


def test_a_gate_grades_to_zero():
    gated = Checklist((dataclasses.replace(A, gate=True), B, C))
    assert grade(gated, {"a", "c"}) == 0.75 and grade(gated, {"b", "c"}) == 0.0
    assert make_checklist([]) is None


@pytest.mark.parametrize("name", ["household", "webshop"])
def test_worlds_verify_their_checklists(name):
    """An expert that wins satisfies them in order; an agent that does nothing satisfies none."""
    suite = make_suite(name)
    tasks = suite.tasks("train")[:12]
    for demo in demonstrate(suite, tasks, max_turns=suite.max_turns, seed=0, noise=0.0):
        checklist = suite.checklist(demo.task_id)
        assert checklist is not None and suite.reports_criteria
        env = suite.make_env()
        env.reset(demo.task_id)
        assert env.step("dream of sheep").satisfied == frozenset()
        names = {item.name for item in checklist.items}
        ever = frozenset().union(*(step.satisfied for step in demo.steps))
        if demo.steps[-1].success and (name == "household" or "bought" in ever):
            assert names <= ever | {"price"}
            satisfied = np.array([[n in s.satisfied for n in sorted(names)] for s in demo.steps])
            order = {n: i for i, n in enumerate(sorted(names))}
            depends = np.zeros((len(names),) * 2, bool)
            for item in checklist.items:
                depends[order[item.name], [order[d] for d in item.depends]] = True
            paid = np.asarray(
                follow(*map(jnp.asarray, (satisfied, depends, np.ones(len(satisfied), bool)))).paid
            )
            assert paid.any(axis=0).sum() >= len(names) - 1
