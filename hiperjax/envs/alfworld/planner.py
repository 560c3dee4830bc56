"""Solving a game with its hidden state in view: the proof that a generated game can be won.

Not an expert: the expert of `expert.py` sees only observations.
"""

import dataclasses

from hiperjax.envs.alfworld.engine import act, is_won
from hiperjax.envs.alfworld.game import Game, State, build_game
from hiperjax.envs.alfworld.problem import Problem, ProblemError

_TREATMENTS = {
    "pick_clean_then_place_in_recep": ("clean", "sinks"),
    "pick_heat_then_place_in_recep": ("heat", "microwaves"),
    "pick_cool_then_place_in_recep": ("cool", "fridges"),
}


def solve(problem: Problem) -> Game:
    """The game with a walkthrough that wins; raises `ProblemError` where none is found."""
    game = build_game(problem)
    walk = _Walk(game)
    if game.goal.kind == "look_at_obj_in_light":
        walk.fetch(walk.find_wanted(avoid=None))
        walk.light()
    else:
        target = walk.choose_target()
        while not is_won(game, walk.state):
            wanted = walk.find_wanted(avoid=target)
            walk.fetch(wanted)
            if game.goal.kind in _TREATMENTS:
                walk.treat(wanted, *_TREATMENTS[game.goal.kind])
            walk.put(wanted, target)
    if not is_won(game, walk.state):
        raise ProblemError(f"no plan wins the task {problem.sentence!r}: {walk.commands}")
    return dataclasses.replace(game, walkthrough=tuple(walk.commands))


class _Walk:
    """A state, and the commands that led there."""

    def __init__(self, game: Game) -> None:
        self.game = game
        self.state: State = game.start
        self.commands: list[str] = []

    def do(self, command: str) -> None:
        after, _ = act(self.game, self.state, command)
        if after == self.state:
            raise ProblemError(f"no plan wins: {command!r} does nothing after {self.commands}")
        self.state = after
        self.commands.append(command)

    def go(self, r: int) -> None:
        if self.game.location_of[r] != self.state.location:
            self.do(f"go to {self.game.receptacles[r]}")

    def open(self, r: int) -> None:
        if self.game.openable >> r & 1 and not self.state.opened >> r & 1:
            self.do(f"open {self.game.receptacles[r]}")

    def places_of(self, o: int) -> list[int]:
        return [r for r, inside in enumerate(self.state.contents) if o in inside]

    def choose_target(self) -> int:
        """The target that holds most of the wanted objects already."""
        if not self.game.goal_receptacles:
            raise ProblemError(f"no receptacle of type {self.game.goal.target_type}")
        wanted = self.game.goal_objects
        return max(
            self.game.goal_receptacles,
            key=lambda r: sum(wanted >> o & 1 for o in self.state.contents[r]),
        )

    def find_wanted(self, avoid: int | None) -> int:
        """An object of the wanted type that can be taken; one outside `avoid` if there is one."""
        treated = self.game.goal.kind in _TREATMENTS
        found = [
            o
            for o in range(len(self.game.objects))
            if self.game.goal_objects & self.game.pickupable & 1 << o
            and self.places_of(o)
            and (treated or avoid not in self.places_of(o))
        ]
        if not found:
            raise ProblemError(f"no object of type {self.game.goal.object_type} is left to take")
        return found[0]

    def fetch(self, o: int) -> None:
        r = self.places_of(o)[0]
        self.go(r)
        self.open(r)
        self.do(f"take {self.game.objects[o]} from {self.game.receptacles[r]}")

    def treat(self, o: int, verb: str, appliances: str) -> None:
        mask = getattr(self.game, appliances)
        places = [r for r in range(len(self.game.receptacles)) if mask >> r & 1]
        if not places:
            raise ProblemError(f"nothing to {verb} the {self.game.objects[o]} with")
        self.go(places[0])
        self.do(f"{verb} {self.game.objects[o]} with {self.game.receptacles[places[0]]}")

    def put(self, o: int, r: int) -> None:
        self.go(r)
        self.open(r)
        self.do(f"move {self.game.objects[o]} to {self.game.receptacles[r]}")

    def light(self) -> None:
        lamp_class = self.game.goal.target_type.removesuffix("type")
        for o, name in enumerate(self.game.objects):
            if name.split(" ")[0] == lamp_class and self.places_of(o):
                self.go(self.places_of(o)[0])
                self.do(f"use {name}")
                return
        raise ProblemError(f"no {lamp_class} stands in a receptacle")
