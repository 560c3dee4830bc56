"""The terminal player: people, experts and recordings sit on the same chair."""

import pytest

from hiperjax.commands.terminal import Person, Recorded, Recording, format_commands, play
from hiperjax.envs.registry import make_suite

SUITE = make_suite("household")
TASK = "household-tiny/seen/3"


def typing(*lines):
    lines = iter(lines)

    def read(prompt):
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    return Person(read)


def test_an_expert_is_watched_recorded_and_replayed(tmp_path):
    shown = []
    recording = play(SUITE, TASK, SUITE.make_expert(0), write=shown.append)
    assert recording.success and recording.decisions[0].switch
    assert shown[-1] == f"Solved after {len(recording.decisions)} turns."
    assert all(
        f"[{decision.subgoal}] > {decision.action}" in "".join(shown)
        for decision in recording.decisions
    )
    recording.save(tmp_path / "episode.json")
    loaded = Recording.load(tmp_path / "episode.json")
    again = []
    assert play(SUITE, TASK, Recorded(loaded), write=again.append) == recording
    assert again == shown


def test_a_person_plays_by_name_and_number():
    decisions = play(SUITE, TASK, SUITE.make_expert(0), write=lambda text: None).decisions
    shown = []
    lines = [decisions[0].action, "1", "nonsense", "99"]
    recording = play(SUITE, TASK, typing(*lines), write=shown.append)
    assert [decision.action for decision in recording.decisions][2:] == ["nonsense", "99"]
    assert recording.decisions[0].action == decisions[0].action
    assert "Nothing happens." in "".join(shown) and shown[-1] == "Not solved after 4 turns."
    first = shown[2].split("\n")[0]
    assert first.startswith("  1 ") and shown[0].startswith("household-tiny")


def test_quitting_and_limits():
    assert play(SUITE, TASK, typing("quit"), write=lambda text: None).decisions == ()
    recording = play(SUITE, TASK, typing(*["1"] * 9), max_turns=2, write=lambda text: None)
    assert len(recording.decisions) == 2


def test_completion_offers_what_is_admissible():
    person = typing()
    person.reset(SUITE.make_env().reset(TASK))
    matches = [person._complete("go to f", n) for n in range(2)]
    assert matches == ["go to fridge 1", None]


def test_commands_are_numbered_down_the_columns():
    table = format_commands([f"c{i}" for i in range(1, 6)], columns=2).split("\n")
    assert [row.split() for row in table] == [
        ["1", "c1", "4", "c4"],
        ["2", "c2", "5", "c5"],
        ["3", "c3"],
    ]


def test_something_that_is_no_recording(tmp_path):
    file = tmp_path / "x.json"
    file.write_text('{"decisions": 3}')
    with pytest.raises(ValueError, match="not a recording"):
        Recording.load(file)
