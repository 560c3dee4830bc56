"""Across the border: what an episode is worth does not depend on the company it is packed with."""

import jax
import numpy as np
import pytest
from helpers.strategies import VOCABULARY, batches, trajectories
from hypothesis import given
from hypothesis import strategies as st

from hiperjax.learning.credit.registry import estimate
from hiperjax.learning.credit.types import Credit, CreditInputs
from hiperjax.learning.packing import pack
from hiperjax.types import Ending, Trajectory

TURNS, EPISODES = 5, 8
ESTIMATES = {
    "hae": {"lambda_turn": 0.9, "lambda_segment": 0.7, "lambda_boundary": 0.5},
    "flat_gae": {"lambda_turn": 0.9},
}
COMPILED = {
    name: jax.jit(lambda inputs, name=name, options=options: estimate(name, inputs, **options))
    for name, options in ESTIMATES.items()
}


def credit_of(batch: list[Trajectory], name: str) -> Credit:
    """Credit `[B, T]` with a made-up critic: a head says what the reply sums to."""
    _, rows, grid, _ = pack(
        batch, max_turns=TURNS, length=32, per_sequence=2, trajectory_multiple=EPISODES
    )
    said = (rows.reply * rows.reply_mask).sum(axis=1) / VOCABULARY

    def read(scale: float) -> np.ndarray:
        return np.where(grid.mask, scale * said[grid.row], np.nan).astype(np.float32)

    tail = np.zeros(EPISODES, np.float32)
    for b, trajectory in enumerate(batch):
        if trajectory.final_prompt_ids is not None:
            tail[b] = trajectory.final_prompt_ids.sum() / VOCABULARY
    inputs = CreditInputs(
        reward=grid.reward,
        mask=grid.mask,
        boundary=grid.boundary,
        terminated=grid.terminated,
        v_low=read(0.5),
        v_high=read(1.5),
        v_term=read(1.0),
        bootstrap_low=tail,
        bootstrap_high=tail,
        bootstrap_term=tail,
        low_value_mask=grid.mask & grid.well_formed,
    )
    return jax.tree.map(np.asarray, COMPILED[name](inputs))


@pytest.mark.parametrize("name", ESTIMATES)
@given(batch=batches(TURNS), data=st.data())
def test_credit_ignores_company_and_order(name: str, batch: list[Trajectory], data) -> None:
    order = data.draw(st.permutations(range(len(batch))))
    together = credit_of([batch[b] for b in order], name)
    for place, b in enumerate(order):
        alone = credit_of([batch[b]], name)
        for field, ours in alone.by_turn().items():
            theirs = getattr(together, field)
            np.testing.assert_array_equal(ours[0], theirs[place], err_msg=field)


@pytest.mark.parametrize("name", ESTIMATES)
@given(trajectory=trajectories(TURNS))
def test_credit_is_finite_and_stays_on_its_turns(name: str, trajectory: Trajectory) -> None:
    credit = credit_of([trajectory], name)
    live = np.zeros((EPISODES, TURNS), bool)
    live[0, : len(trajectory.turns)] = True
    for field, values in credit.by_turn().items():
        assert np.isfinite(values).all() and not values[~live].any(), field
    if name == "hae":
        opened = [turn.blocks.switch for turn in trajectory.turns]
        assert credit.mask_high[0, : len(opened)].tolist() == opened


@pytest.mark.parametrize("name", ESTIMATES)
@given(trajectory=trajectories(TURNS))
def test_the_last_turn_is_worth_its_reward_and_what_is_left(
    name: str, trajectory: Trajectory
) -> None:
    """After a terminal turn nothing is left; after a truncated one the value of the next prompt."""
    credit, last = credit_of([trajectory], name), trajectory.turns[-1]
    left = 0.0
    if trajectory.ending is Ending.TRUNCATED:
        left = trajectory.final_prompt_ids.sum() / VOCABULARY
    found = credit.ret_term[0, len(trajectory.turns) - 1]
    np.testing.assert_allclose(found, last.reward + left, rtol=1e-5)
