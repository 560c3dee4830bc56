"""The rules of ALFWorld's text world, as pure functions of a `Game` and a `State`.

The engine answers letter for letter as the real one does: observation, admissible commands,
reward, won. It has no step limit and goes on answering after the goal is reached, as that one does.
"""

from collections.abc import Iterable, Sequence

from hiperjax.envs.alfworld.game import EMPTY_HANDED, Game, State

NOTHING_HAPPENS = "Nothing happens."
BANNER = "-= Welcome to TextWorld, ALFRED! =-"
MIDDLE_OF_ROOM = "You are in the middle of a room. Looking quickly around you, you see"


def list_admissible(game: Game, state: State) -> tuple[str, ...]:
    """The commands the world accepts now: no duplicates, sorted as plain strings."""
    held = state.held
    commands = list(game.list_travel(state.location))
    uses = set()
    for r in game.receptacles_at[state.location]:
        name, accessible = game.receptacles[r], True
        if game.openable >> r & 1:
            accessible = state.opened >> r & 1
            commands.append(f"close {name}" if accessible else f"open {name}")
        for o in state.contents[r]:
            if held < 0 and accessible and game.pickupable >> o & 1:
                commands.append(f"take {game.objects[o]} from {name}")
            if game.toggleable >> o & 1:
                uses.add(f"use {game.objects[o]}")
        if held >= 0:
            commands += _list_held(game, held, r, bool(accessible))
    commands += uses
    if held >= 0:
        commands.append(f"examine {game.objects[held]}")
        if game.knives >> held & 1:
            commands += [
                f"slice {game.objects[o]} with {game.objects[held]}"
                for o, location in state.near
                if location == state.location and game.sliceable >> o & 1
            ]
    commands.sort()
    return tuple(commands)


def _list_held(game: Game, held: int, r: int, accessible: bool) -> list[str]:
    """What can be done with the held object at receptacle `r`."""
    commands = []
    name, held_name = game.receptacles[r], game.objects[held]
    if accessible and game.fits[r] >> held & 1:
        if game.old_dialect:
            commands.append(f"put {held_name} in/on {name}")
        else:
            commands.append(f"move {held_name} to {name}")
    if game.sinks >> r & 1 and game.cleanable >> held & 1:
        commands.append(f"clean {held_name} with {name}")
    if game.microwaves >> r & 1 and game.heatable >> held & 1:
        commands.append(f"heat {held_name} with {name}")
    if game.fridges >> r & 1 and game.coolable >> held & 1:
        commands.append(f"cool {held_name} with {name}")
    return commands


def act(
    game: Game, state: State, command: str, admissible: Sequence[str] | None = None
) -> tuple[State, str]:
    """Next state and reply. Any string is legal; what is not admissible changes nothing.

    `admissible` may be given by a caller who has the list of `state` at hand.
    """
    command = command.strip()
    if command not in (list_admissible(game, state) if admissible is None else admissible):
        return state, NOTHING_HAPPENS
    verb, _, rest = command.partition(" ")
    if not rest:
        return state, _REPLIES[verb](game, state)
    return _ACTIONS[verb](game, state, rest)


def is_won(game: Game, state: State) -> bool:
    """Whether the goal holds in this state."""
    kind = game.goal.kind
    if kind == "look_at_obj_in_light":
        return _is_lit(game, state)
    wanted = _treated(game, state)
    return bool(wanted) and _most_placed(game, state, wanted) >= _needed(kind)


def list_reached(game: Game, state: State) -> frozenset[str]:
    """Parts of the goal that hold: "held", "treated" (where asked), "placed 1", "placed 2", "lit".

    The object and state predicates that BEACON calls milestones; known to the engine alone.
    """
    kind, wanted = game.goal.kind, _treated(game, state)
    placed = min(_most_placed(game, state, wanted), _needed(kind))
    looks = kind == "look_at_obj_in_light"
    reached = set() if looks else {f"placed {n + 1}" for n in range(placed)}
    if state.held >= 0 and game.goal_objects >> state.held & 1:
        reached.add("held")
    if kind in _TREATMENTS and wanted:
        reached.add("treated")
    if looks and _is_lit(game, state):
        reached.add("lit")
    return frozenset(reached)


_TREATMENTS = {
    "pick_clean_then_place_in_recep": ("clean", "cleanable"),
    "pick_heat_then_place_in_recep": ("hot", "heatable"),
    "pick_cool_then_place_in_recep": ("cool", "coolable"),
}


def _needed(kind: str) -> int:
    return 2 if kind == "pick_two_obj_and_place" else 1


def _treated(game: Game, state: State) -> int:
    """Objects of the wanted type that are clean, hot or cool where the goal asks for it."""
    treatment = _TREATMENTS.get(game.goal.kind)
    if treatment is None:
        return game.goal_objects
    done, possible = treatment
    return game.goal_objects & getattr(state, done) & getattr(game, possible)


def _most_placed(game: Game, state: State, wanted: int) -> int:
    """The most of these objects that lie in one receptacle of the goal's type."""
    return max(
        (sum(wanted >> o & 1 for o in state.contents[r]) for r in game.goal_receptacles), default=0
    )


def _is_lit(game: Game, state: State) -> bool:
    """An object of the wanted type in hand, a lamp of the named type, turned on, here."""
    if state.held < 0 or not game.goal_objects >> state.held & 1:
        return False
    lamp = game.goal.target_type.removesuffix("type")
    return any(
        state.toggled & game.toggleable & 1 << o and game.objects[o].split(" ", 1)[0] == lamp
        for r in game.receptacles_at[state.location]
        for o in state.contents[r]
    )


def describe_start(game: Game) -> str:
    """The first observation."""
    room = f"{MIDDLE_OF_ROOM} {_join(f'a {name}' for name in game.receptacles)}."
    return f"{BANNER}\n\n{room}\n\nYour task is to: {game.sentence}"


def _join(entries: Iterable[str]) -> str:
    entries = list(entries)
    if len(entries) < 2:
        return entries[0] if entries else "nothing"
    return f"{', '.join(entries[:-1])}, and {entries[-1]}"


def _view(game: Game, state: State, r: int) -> str:
    name = game.receptacles[r]
    if game.openable >> r & 1:
        if not state.opened >> r & 1:
            return f"The {name} is closed."
        return f"The {name} is open. In it, you see {_list_inside(game, state.contents[r])}."
    return f"On the {name}, you see {_list_inside(game, state.contents[r])}."


def _list_inside(game: Game, objects: Iterable[int]) -> str:
    return _join([f"a {game.objects[o]}" for o in objects])


def _describe_object(game: Game, state: State, o: int) -> str:
    name = game.objects[o]
    if o in game.nested:
        return f"This is a normal {name}. In it, you see {_list_inside(game, game.nested[o])}."
    clean, hot, cool = (mask >> o & 1 for mask in (state.clean, state.hot, state.cool))
    sliced = bool(state.sliced >> o & 1)
    states = []
    if hot and (clean or not cool):
        states = ["hot"]
    elif cool:
        states = ["cool"]
    if clean:
        states.append("clean")
    if states == ["cool"] and not sliced:
        states = ["cold"]
    if not states and not sliced:
        return f"There's nothing special about {name}."
    return (
        f"This is a {' '.join([' and '.join(states)] * bool(states) + ['sliced'] * sliced)} {name}."
    )


def _look(game: Game, state: State) -> str:
    here = game.receptacles_at[state.location]
    if not here:
        return f"{MIDDLE_OF_ROOM} nothing."
    beside = [o for o, r in sorted(state.left) if r in here and (o, state.location) in state.near]
    facing = _join(game.receptacles[r] for r in here)
    return f"You are facing the {facing}. Next to it, you see {_list_inside(game, beside)}."


def _inventory(game: Game, state: State) -> str:
    if state.held < 0:
        return "You are not carrying anything."
    return f"You are carrying: a {game.objects[state.held]}."


def _help(game: Game, state: State) -> str:
    return game.help_text


_REPLIES = {"look": _look, "inventory": _inventory, "help": _help}


def _go(game: Game, state: State, rest: str) -> tuple[State, str]:
    r = game.receptacle_of[rest.removeprefix("to ")]
    location = game.location_of[r]
    place = game.location_names[location] if game.old_dialect else game.receptacles[r]
    return state._replace(location=location), f"You arrive at {place}. {_view(game, state, r)}"


def _open(game: Game, state: State, rest: str) -> tuple[State, str]:
    r = game.receptacle_of[rest]
    state = state._replace(opened=state.opened | 1 << r)
    return state, f"You open the {rest}. {_view(game, state, r)}"


def _close(game: Game, state: State, rest: str) -> tuple[State, str]:
    r = game.receptacle_of[rest]
    return state._replace(opened=state.opened & ~(1 << r)), f"You close the {rest}."


def _take(game: Game, state: State, rest: str) -> tuple[State, str]:
    object_name, name = rest.split(" from ")
    o, r = game.object_of[object_name], game.receptacle_of[name]
    inside = tuple(x for x in state.contents[r] if x != o)
    state = state._replace(
        held=o,
        contents=(*state.contents[:r], inside, *state.contents[r + 1 :]),
        near=state.near - {(o, state.location)},
        left=state.left | {(o, r)},
    )
    return state, f"You pick up the {object_name} from the {name}."


def _move(game: Game, state: State, rest: str) -> tuple[State, str]:
    object_name, name = rest.split(" in/on " if game.old_dialect else " to ")
    o, r = game.object_of[object_name], game.receptacle_of[name]
    inside = tuple(sorted({*state.contents[r], o}))
    state = state._replace(
        held=EMPTY_HANDED,
        contents=(*state.contents[:r], inside, *state.contents[r + 1 :]),
        near=state.near | {(o, state.location)},
        left=state.left - {(o, r)},
    )
    if game.old_dialect:
        return state, f"You put the {object_name} in/on the {name}."
    return state, f"You move the {object_name} to the {name}."


def _clean(game: Game, state: State, rest: str) -> tuple[State, str]:
    object_name, name = rest.split(" with ")
    state = state._replace(clean=state.clean | 1 << state.held)
    return state, f"You clean the {object_name} using the {name}."


def _heat(game: Game, state: State, rest: str) -> tuple[State, str]:
    object_name, name = rest.split(" with ")
    bit = 1 << state.held
    state = state._replace(hot=state.hot | bit, cool=state.cool & ~bit)
    return state, f"You heat the {object_name} using the {name}."


def _cool(game: Game, state: State, rest: str) -> tuple[State, str]:
    object_name, name = rest.split(" with ")
    bit = 1 << state.held
    state = state._replace(cool=state.cool | bit, hot=state.hot & ~bit)
    return state, f"You cool the {object_name} using the {name}."


def _use(game: Game, state: State, rest: str) -> tuple[State, str]:
    state = state._replace(toggled=state.toggled | 1 << game.object_of[rest])
    return state, f"You turn on the {rest}."


def _slice(game: Game, state: State, rest: str) -> tuple[State, str]:
    object_name, knife = rest.split(" with ")
    state = state._replace(sliced=state.sliced | 1 << game.object_of[object_name])
    return state, f"You sliced the {object_name} with the {knife}."


def _examine(game: Game, state: State, rest: str) -> tuple[State, str]:
    if state.held >= 0 and rest == game.objects[state.held]:
        return state, _describe_object(game, state, state.held)
    return state, _view(game, state, game.receptacle_of[rest])


_ACTIONS = {
    "go": _go,
    "open": _open,
    "close": _close,
    "take": _take,
    "move": _move,
    "put": _move,
    "clean": _clean,
    "heat": _heat,
    "cool": _cool,
    "use": _use,
    "slice": _slice,
    "examine": _examine,
}
