"""A room: one household game, in which whoever comes goes on from what was left there."""

import dataclasses

from hiperjax.envs.alfworld.game import Game, State
from hiperjax.envs.alfworld.suites import HouseholdSuite
from hiperjax.envs.base import Step
from hiperjax.envs.errands.tasks import Errand
from hiperjax.types import Observation


class Room:
    """One household game; its errand, once done, stays done."""

    def __init__(self, household: HouseholdSuite, errand: Errand) -> None:
        self.errand, self.done = errand, False
        self.locked = errand.after is not None
        self._env = household.make_env()
        self._fresh: Observation | None = self._env.reset(errand.game)
        if self.locked:
            self._env.change(_take_away(self._env.game, self._env.state))

    def unlock(self) -> None:
        """What is wanted here appears, where it lies in the game."""
        self.locked = False
        self._env.change(_bring(self._env.game, self._env.state))

    def enter(self, sentence: str) -> Observation:
        """What one sees who comes in to do as the sentence says."""
        seen = self._fresh
        if seen is None:
            looked, carried = self.act("look").observation, self.act("inventory").observation
            seen = dataclasses.replace(looked, text=f"{looked.text} {carried.text}")
        return dataclasses.replace(seen, task=sentence)

    def act(self, command: str) -> Step:
        """Do something here."""
        self._fresh = None
        step = self._env.step(command)
        self.done = self.done or step.success
        return step


def _take_away(game: Game, state: State) -> State:
    wanted = game.goal_objects
    contents = tuple(tuple(o for o in inside if not wanted >> o & 1) for inside in state.contents)
    near = frozenset((o, where) for o, where in state.near if not wanted >> o & 1)
    return state._replace(contents=contents, near=near)


def _bring(game: Game, state: State) -> State:
    wanted, start = game.goal_objects, game.start
    contents = tuple(
        tuple(sorted({*inside, *(o for o in first if wanted >> o & 1)}))
        for inside, first in zip(state.contents, start.contents, strict=True)
    )
    near = state.near | {(o, where) for o, where in start.near if wanted >> o & 1}
    return state._replace(contents=contents, near=near)
