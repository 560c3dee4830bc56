"""Prompt formats: the same text as ever for our worlds, every command of anybody else's."""

import dataclasses
import importlib.metadata
import pathlib
import re

import pytest

from hiperjax import cli
from hiperjax.acting.blocks import TAGS, parse_reply
from hiperjax.acting.demonstrations import demonstrate, list_texts
from hiperjax.acting.pieces import build_pieces
from hiperjax.acting.renderers import (
    ENTRY_POINT_GROUP,
    RENDERERS,
    Renderer,
    list_renderers,
    make_renderer,
)
from hiperjax.config import ConfigError, EnvConfig, PromptConfig, RunConfig
from hiperjax.envs.registry import make_suite
from hiperjax.models.tokenizers import train_tokenizer
from hiperjax.training.build import build_components
from hiperjax.training.prompting import make_run_renderer
from hiperjax.types import CommandGroup, Observation, PromptHints

GOLDEN = pathlib.Path(__file__).parent / "data" / "prompts.txt"
WORLDS = (
    ("household", {}),
    ("household", {"size": "full"}),
    ("webshop", {"size": "tiny"}),
    ("ladder/switch", {}),
)
FOREIGN = Observation(
    "Looking quickly around you, you see a sign [SEP] and a gate.",
    "Leave the garden.",
    ("look left", "close the gate", "examine sign", "help me", "go to gate", "inventory", "help"),
)


def render_worlds() -> str:
    """Rules, and the first two turns of an expert's episode, of every format in every world."""
    parts = []
    for name, options in WORLDS:
        suite = make_suite(name, **options)
        tasks = [suite.tasks(suite.splits[0])[1]]
        (demo,) = demonstrate(suite, tasks, max_turns=2, seed=0, noise=0.0)
        for style in RENDERERS:
            example = suite.example if style == "brief" else ()
            hints = dataclasses.replace(suite.hints, example=example)
            renderer = make_renderer(style, role=suite.role, history_length=1, hints=hints)
            texts = "\n---\n".join(list_texts(renderer, demo))
            parts.append(f"=== {suite.name}, {style}\n{texts}\n")
    return "\n".join(parts)


def test_prompts_are_those_that_policies_were_trained_on():
    """What fails here changes what every trained policy reads."""
    expected = GOLDEN.read_text(encoding="utf-8")
    assert render_worlds() == expected, f"if this is meant: python {pathlib.Path(__file__).name}"


@pytest.mark.parametrize("style", RENDERERS)
def test_no_command_of_a_foreign_world_vanishes(style):
    renderer = make_renderer(style, role="You are a gardener.", history_length=0)
    text = renderer.open(FOREIGN, [], "")
    shown = text.partition("Admissible actions:" if style == "chat" else " can ")[2]
    for command in FOREIGN.admissible:
        assert command in shown.replace("* ", "")
    assert "sign" in text.partition("gate")[0], "nothing is cut from what the world says"


def test_hints_say_what_is_left_out_and_listed_together():
    hints = PromptHints(
        unlisted=("help",),
        minor=("look", "close the"),
        groups=(CommandGroup("go to "),),
        banner="Looking quickly.*see",
        phrases=("open up",),
    )
    brief = make_renderer("compact", role="", history_length=0, hints=hints)
    long = make_renderer("chat", role="", history_length=0, hints=hints)
    text = brief.open(FOREIGN, [], "")
    assert text.endswith(" can go to gate | examine sign | inventory")
    assert "quickly" not in text and brief.phrases == ("open up",)
    assert "'look left'" in long.open(FOREIGN, [], "")
    assert "'help" not in long.open(FOREIGN, [], "")


@pytest.mark.parametrize("style", ["chat", "brief"])
@pytest.mark.parametrize("name", ["household", "webshop"])
def test_an_example_shows_replies_that_parse_to_what_they_say(style, name):
    """Every prompt and reply of the suite's example stands in the rules, legal and in order."""
    suite = make_suite(name)
    assert suite.example[0].switch, "turn 0 opens a segment"
    hints = dataclasses.replace(suite.hints, example=suite.example)
    renderer = make_renderer(style, role=suite.role, history_length=2, hints=hints)
    plain = make_renderer(style, role=suite.role, history_length=2, hints=suite.hints)
    assert "For example" in renderer.prefix and "For example" not in plain.prefix
    tokenizer = train_tokenizer([renderer.prefix], TAGS)
    pieces, subgoal = build_pieces(tokenizer), ""
    rest = renderer.prefix.partition("For example")[2]
    for number, turn in enumerate(suite.example):
        assert suite.is_admissible(turn.action, turn.observation)
        prompt, reply, rest = re.split(r"(<switch>.*?</action>)", rest, maxsplit=1, flags=re.DOTALL)
        assert turn.observation.task.split()[-1].strip(".").lower() in prompt.lower()
        ids = tokenizer.encode(reply)
        blocks = parse_reply(pieces, ids, current_subgoal=subgoal, first_turn=not number)
        assert blocks.well_formed and blocks.switch == turn.switch and not blocks.keep_violation
        action = renderer.restore_action(blocks.action, turn.observation.admissible)
        assert suite.is_admissible(action, turn.observation)
        subgoal = blocks.subgoal


@pytest.mark.parametrize(
    ("suite", "style", "lack"),
    [
        ("household", "compact", "the style compact shows none"),
        ("ladder/switch", "chat", "it has none"),
    ],
)
def test_an_example_that_is_not_there_is_refused(suite, style, lack):
    config = RunConfig(env=EnvConfig(suite=suite), prompt=PromptConfig(style=style, example=True))
    with pytest.raises(ConfigError, match=rf"prompt\.example is on, .*{lack}"):
        make_run_renderer(config, make_suite(suite))


def test_an_unknown_style_is_refused_before_anything_is_built(capsys, monkeypatch):
    with pytest.raises(ValueError, match=r"'chatty'; expected one of chat, brief, compact"):
        make_renderer("chatty", role="", history_length=0)
    with pytest.raises(
        ConfigError, match=r"prompt\.style is 'chatty'; expected .*chat, brief, compact"
    ):
        build_components(RunConfig(prompt=PromptConfig(style="chatty")))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")  # main would make a folder in the home
    with pytest.raises(SystemExit) as stopped:
        cli.main(["train", "--prompt.style", "chatty"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("hiperjax train: prompt.style is 'chatty'")


def test_formats_of_other_packages(monkeypatch):
    point = importlib.metadata.EntryPoint(
        "theirs", "hiperjax.acting.renderers:ChatRenderer", ENTRY_POINT_GROUP
    )
    points = importlib.metadata.EntryPoints([point])
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **kw: points.select(**kw))
    assert list_renderers() == (*RENDERERS, "theirs")
    renderer = make_renderer("theirs", role="You are a cook.", history_length=3)
    assert isinstance(renderer, Renderer) and renderer.history_length == 3


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(render_worlds(), encoding="utf-8")
