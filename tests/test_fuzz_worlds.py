"""Whatever a world says is data: a prompt within its limit, in which nothing of it is a control
token, or a prompt too long; and trajectories that pack."""

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hiperjax.acting.blocks import TAGS, parse_reply
from hiperjax.acting.demonstrations import ExpertError, demonstrate, transcribe
from hiperjax.acting.pieces import build_pieces
from hiperjax.acting.prompts import Prompter, PromptTooLong, WindowRules
from hiperjax.acting.renderers import PastTurn, list_renderers, make_renderer
from hiperjax.acting.windows import WindowWriter
from hiperjax.envs.base import Decision, Expert, Step
from hiperjax.envs.border import BorderError, CheckedEnv
from hiperjax.envs.ladder import SCRIPTS, LadderEnv, LadderSuite
from hiperjax.learning.layout import split_windows
from hiperjax.learning.packing import pack_windows
from hiperjax.models.tokenizers import train_tokenizer
from hiperjax.types import Observation

SENTENCE = "go to shelf 1 take mug find a lamp task subgoal none you see nothing"
WORDS = SENTENCE.split()
NASTY = [
    *TAGS,
    *("<end>", "<pad>", "<unk>", "<|im_end|>", "<|im_start|>assistant\n"),
    *(
        "\0",
        "\u202e",
        "\u2028",
        "\r\n",
        "\t",
        "{{ 1 }}",
        "{observation}",
        "%s",
        "\\n",
        "é",
        "𝄞",
        "'",
    ),
    *("", " ", "\n\n\n", "a" * 3000, "take mug " * 400),
]
TEXT = st.lists(st.one_of(st.sampled_from([*NASTY, *WORDS]), st.text(max_size=6)), max_size=8).map(
    " ".join
)
OBSERVATION = st.builds(
    lambda text, task, admissible, cut: Observation(
        text, task, tuple(admissible), pinned=text[: cut % (len(text) + 1)]
    ),
    TEXT, TEXT, st.lists(TEXT, max_size=5), st.integers(0, 50),
)  # fmt: skip
PAST = st.lists(st.builds(PastTurn, st.integers(1, 9), TEXT, TEXT), max_size=3)
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_prompter(style: str, limit: int, trims: bool, window: Any = "turn") -> Prompter:
    renderer = make_renderer(style, role="You are a cook.", history_length=2)
    tokenizer = train_tokenizer([SENTENCE, renderer.prefix], TAGS, phrases=renderer.phrases)
    if style == "chat":
        tokenizer.add_tokens(["<|im_start|>", "<|im_end|>"], special_tokens=True)
        tokenizer.chat_template = TEMPLATE
    return Prompter(renderer, tokenizer, limit, trims, WindowRules(window, 400))


PROMPTERS = {
    (style, trims, window): make_prompter(style, 250, trims, window)
    for style in list_renderers()
    for trims in (False, True)
    for window in ("turn", "episode")
}
KEY = st.sampled_from(sorted(PROMPTERS))


def count_control(prompter: Prompter, ids) -> int:
    return sum(i in prompter.encoder.control_ids for i in ids)


@given(KEY, OBSERVATION, PAST, TEXT)
def test_fuzz_prompts(key, observation, past, subgoal):
    prompter = PROMPTERS[key]
    plain, _ = prompter.encode(Observation("mug", "mug", ()), [], "")
    try:
        ids, cuts = prompter.encode(observation, past, subgoal)
    except PromptTooLong as error:
        assert "expected at most 250" in str(error) and "\n" not in str(error)
        return
    assert len(ids) <= 250 and cuts.tokens >= 0
    assert count_control(prompter, ids) == count_control(prompter, plain)


@given(KEY, st.lists(OBSERVATION, min_size=2, max_size=4), TEXT)
def test_fuzz_windows(key, observations, subgoal):
    """Contexts that grow: never longer than allowed, and parsed replies are told to the writer."""
    prompter = PROMPTERS[key]
    writer, pieces, context = WindowWriter(prompter), build_pieces(prompter.tokenizer), 0
    for turn, observation in enumerate(observations):
        try:
            prompt = writer.write(observation, [], subgoal)
        except PromptTooLong:
            return
        context = len(prompt.ids) + (0 if prompt.opens else context)
        assert context <= 400 + len(prompter.shared_prefix)
        reply = prompter.encoder.encode_reply(subgoal)[:20]
        blocks = parse_reply(pieces, reply, current_subgoal=subgoal, first_turn=not turn)
        writer.note_reply(reply, blocks)
        context += len(reply)


@given(KEY, TEXT, st.lists(TEXT, max_size=5))
def test_fuzz_command_lists(key, written, commands):
    """An action comes back as the world's own spelling of it, or as it was written."""
    renderer = PROMPTERS[key].renderer
    restored = renderer.restore_action(written, tuple(commands))
    assert restored == written or restored in commands
    for command in commands:
        assert isinstance(renderer.render_action(command), str)


class HostileEnv(LadderEnv):
    def __init__(self, script: list[Observation]):
        self.script = script

    def reset(self, task_id):
        self.at = 0
        return self.script[0]

    def step(self, action):
        self.at += 1
        return Step(self.script[self.at], 1.0, self.at + 1 == len(self.script), False)


class HostileExpert(Expert):
    def __init__(self, decisions):
        self.decisions = decisions

    def reset(self, observation):
        self.left = list(self.decisions)

    def decide(self, observation):
        return self.left.pop(0)


class HostileSuite(LadderSuite):
    def __init__(self, script, decisions):
        super().__init__("action", SCRIPTS["action"])
        self.script, self.decisions = script, decisions

    def make_env(self):
        return HostileEnv(self.script)

    def make_expert(self, seed, noise=0.0):
        return HostileExpert(self.decisions)


DECISION = st.builds(Decision, st.booleans(), TEXT, TEXT)


@settings(max_examples=10)
@pytest.mark.filterwarnings("ignore:Generating overly large repr")  # long texts are the point
@given(KEY, st.lists(st.tuples(OBSERVATION, DECISION), min_size=2, max_size=4))
def test_fuzz_demonstrations_pack(key, turns):
    """Or the expert says what no reply can say, or a prompt is too long: told in one line."""
    prompter = PROMPTERS[key]
    script, decisions = ([turn[i] for turn in turns] for i in (0, 1))
    decisions[0] = dataclasses.replace(decisions[0], switch=True)
    suite = HostileSuite(script, decisions)
    demos = list(demonstrate(suite, ["x"], max_turns=9, seed=0, noise=0.0))
    try:
        trajectories = transcribe(prompter, demos)
    except (ExpertError, PromptTooLong) as error:
        assert "\n" not in str(error)
        return
    windows = [w for t in trajectories for w in split_windows(t, final=False)]
    sequences, rows, *_ = pack_windows(
        windows, length=2048, per_sequence=4, prefix=prompter.shared_prefix,
        grown=prompter.windows.grow,
    )  # fmt: skip
    replied = sum(len(turn.reply_ids) for t in trajectories for turn in t.turns)
    assert rows.reply_mask.sum() == replied and sequences.token_mask.any()


ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXT, st.binary(max_size=3)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.tuples(inner, inner)),
    max_leaves=4,
)


@given(st.sampled_from([*Step._fields, ""]), ANYTHING)
def test_fuzz_steps(field, value):
    """What a world returns is a step of plain types, or a breach in one line."""
    seen = Observation("mug", "mug", ("go",))
    step: Any = Step(seen, 0.0, False, False)
    step = step._replace(**{field: value}) if field else value

    class Env(HostileEnv):
        def step(self, action):
            return step

    suite = HostileSuite([seen], [])
    suite.make_env = lambda: Env([seen])  # type: ignore[method-assign]
    env = CheckedEnv(suite)
    env.reset("x")
    try:
        found = env.step("go")
    except BorderError as error:
        assert "\n" not in str(error) and "turn 1" in str(error)
        return
    json.dumps([found.reward, found.terminated, found.truncated, found.success, found.score])


@pytest.mark.parametrize("words", [20_000])
def test_fuzz_an_endless_observation_is_cut_in_time(words):
    prompter = PROMPTERS["chat", True, "turn"]
    ids, cuts = prompter.encode(Observation("mug " * words, "mug", ()), [], "")
    assert len(ids) <= 250 and cuts.tokens > words // 2
