"""Prompts: rules first and constant, nothing lost but history, actions restored word for word."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hiperjax.acting.blocks import TAGS
from hiperjax.acting.demonstrations import demonstrate, list_texts, transcribe
from hiperjax.acting.prompts import Prompter, PromptTooLong
from hiperjax.acting.renderers import ChatRenderer, CompactRenderer, PastTurn, make_renderer
from hiperjax.envs.registry import make_suite
from hiperjax.models.tokenizers import load_tokenizer, train_tokenizer
from hiperjax.types import Observation

SUITE = make_suite("household")
DEMOS = list(demonstrate(SUITE, SUITE.tasks("train")[:30], max_turns=16, seed=0, noise=0.2))
SEEN = Observation(
    "You see a mug 1.", "put a mug in shelf.", ("go to shelf 1", "take mug 1", "help")
)
PAST = [PastTurn(i, f"room {i}", f"go to shelf {i}") for i in range(1, 6)]


def compact_prompter(limit=200, history_length=1):
    renderer = CompactRenderer(history_length=history_length, hints=SUITE.hints)
    texts = (text for demo in DEMOS for text in list_texts(renderer, demo))
    return Prompter(renderer, train_tokenizer(texts, TAGS, phrases=renderer.phrases), limit)


def test_chat_prompts_show_every_field_after_a_constant_prefix():
    renderer = make_renderer("chat", role="You are a cook.", history_length=2, hints=SUITE.hints)
    text = renderer.open(SEEN, PAST[:2], "find a mug")
    for part in (SEEN.text, SEEN.task, "find a mug", "'take mug 1'", "room 2", "go to shelf 2"):
        assert part in text
    assert "'help'" not in text
    assert renderer.prefix.startswith("You are a cook.")
    assert all(tag in renderer.prefix for tag in TAGS)
    assert "Current subgoal: None" in renderer.open(SEEN, [], "")


def test_history_is_dropped_oldest_first_and_counted():
    vocabulary: dict[str, int] = {}

    class Words:  # a tokenizer of blanks, so that lengths are easy to count
        chat_template = unk_token = None
        get_added_vocab = staticmethod(dict)

        class backend_tokenizer:
            @staticmethod
            def encode(text, add_special_tokens):
                ids = [vocabulary.setdefault(word, len(vocabulary)) for word in text.split()]
                return type("Encoding", (), {"ids": ids})()

    renderer = ChatRenderer(role="r", history_length=3)

    def encode(limit):
        ids, cuts = Prompter(renderer, Words(), limit).encode(SEEN, PAST, "find a mug")
        words = list(vocabulary)
        assert cuts.tokens == 0
        return " ".join(words[i] for i in ids), cuts.history, len(ids)

    whole, dropped, size = encode(10_000)
    assert dropped == 0 and "room 3" in whole and "room 2" not in whole
    shorter, dropped, _ = encode(size - 1)
    assert dropped == 1 and "room 3" not in shorter and "room 5" in shorter
    bare, dropped, least = encode(size - 30)
    assert dropped == 3 and "room" not in bare
    assert all(part in bare for part in (SEEN.task, SEEN.text, "find a mug", "take mug 1"))
    with pytest.raises(PromptTooLong, match=r"expected at most .*raise prompt.prompt_length"):
        encode(least - 1)


@given(st.integers(0, 40), st.integers(0, 60))
def test_trimming_cuts_the_end_of_the_observation_and_nothing_else(words, spare):
    prompter = compact_prompter(limit=10_000)
    room = " ".join(["mug 1"] * words)
    seen = Observation(room, SEEN.task, SEEN.admissible)
    past = [PastTurn(1, "shelf 1", "go to shelf 1")]
    bare = len(prompter.encode(Observation("...", SEEN.task, SEEN.admissible), [], "find mug")[0])
    tight = dataclasses.replace(prompter, limit=bare + spare, trims=True)
    ids, cuts = tight.encode(seen, past, "find mug")
    whole = prompter.encode(seen, [], "find mug")[0]
    assert len(ids) <= bare + spare
    if cuts.tokens:
        assert cuts.history == 1 and len(whole) - len(ids) == cuts.tokens
        now = prompter.tokenizer.convert_tokens_to_ids("now")
        can = prompter.tokenizer.convert_tokens_to_ids("can")
        assert ids[: ids.index(now)] == whole[: whole.index(now)], "task and subgoal"
        assert ids[ids.index(can) :] == whole[whole.index(can) :], "actions"
        assert tight.limit - len(ids) <= 3, "no more than needed"
    with pytest.raises(PromptTooLong, match="without any history or observation"):
        dataclasses.replace(prompter, limit=bare // 2, trims=True).encode(seen, past, "find mug")


def test_compact_prompts_star_the_words_of_the_task():
    text = CompactRenderer(hints=SUITE.hints).open(SEEN, [], "find mug")
    assert "now * mug 1" in text and "go to * shelf 1" in text and "take * mug 1" in text


@given(st.integers(0, len(DEMOS) - 1), st.data())
def test_every_admissible_action_survives_the_compact_rendering(number, data):
    demo = DEMOS[number]
    observation = demo.observations[data.draw(st.integers(0, len(demo.decisions) - 1))]
    renderer = CompactRenderer()
    for action in observation.admissible:
        rendered = renderer.render_action(action)
        assert renderer.restore_action(rendered, observation.admissible) == action


def test_identifiers_are_taken_apart_and_put_together():
    renderer = CompactRenderer(hints=make_suite("webshop").hints)
    offered = ("click[soft3mug]", "click[64gb]")
    seen = Observation("SOFT3MUG [SEP] soft mug", "find mug", offered)
    assert "soft 3 * mug soft * mug can click[ soft 3 * mug , 64gb" in renderer.open(seen, [], "")
    for action in offered:
        assert renderer.restore_action(renderer.render_action(action), offered) == action


def test_a_pinned_opening_is_never_cut():
    whole = compact_prompter(limit=10_000)
    seen = Observation("mug 1 shelf 1" + " mug 1" * 20, SEEN.task, SEEN.admissible, "mug 1 shelf 1")
    bare = len(whole.encode(dataclasses.replace(seen, text="mug 1 shelf 1 ..."), [], "")[0])
    for spare in range(4):
        tight = dataclasses.replace(whole, limit=bare + spare, trims=True)
        ids, cuts = tight.encode(seen, [], "")
        assert cuts.tokens and "mug 1 shelf 1" in tight.tokenizer.decode(ids).replace("* ", "")
    with pytest.raises(PromptTooLong):
        dataclasses.replace(whole, limit=bare - 1, trims=True).encode(seen, [], "")


@pytest.mark.parametrize(
    ("written", "restored"),
    [("search[ red shoes ]", "search[red shoes]"), ("click [ buy now ]", "click[Buy Now]"),
     ("nonsense", "nonsense")],
)  # fmt: skip
def test_brackets_are_closed_up_again(written, restored):
    assert CompactRenderer().restore_action(written, ("click[Buy Now]",)) == restored


@pytest.mark.parametrize("history_length", [1, 2])
def test_demonstrations_become_well_formed_trajectories(history_length):
    """What the expert did, word for word; without unknown tokens."""
    prompter = compact_prompter(history_length=history_length)
    trajectories = transcribe(prompter, DEMOS)
    unknown = prompter.tokenizer.unk_token_id
    for demo, trajectory in zip(DEMOS, trajectories, strict=True):
        assert [t.blocks.action for t in trajectory.turns] == [p.action for p in demo.decisions]
        assert [t.blocks.switch for t in trajectory.turns] == [p.switch for p in demo.decisions]
        assert all(t.blocks.well_formed and not t.blocks.keep_violation for t in trajectory.turns)
        assert all(unknown not in t.prompt_ids and unknown not in t.reply_ids
                   for t in trajectory.turns)  # fmt: skip
        assert trajectory.success == demo.steps[-1].terminated
        assert [t.milestone for t in trajectory.turns] == [s.milestone for s in demo.steps]
        assert (trajectory.final_prompt_ids is None) == demo.steps[-1].terminated


def test_the_qwen_tokenizer_and_its_chat_template(shared):
    prompter = Prompter(
        ChatRenderer(role="r"), load_tokenizer(shared("data/tokenizer/qwen2")), 2048
    )
    trajectory = transcribe(prompter, DEMOS[:1])[0]
    assert all(turn.blocks.well_formed for turn in trajectory.turns)
    prompts = [prompter.tokenizer.decode(turn.prompt_ids) for turn in trajectory.turns]
    assert all(text.endswith("<|im_start|>assistant\n") for text in prompts)
    head = len(prompts[0].split(prompter.renderer.prefix)[0]) + len(prompter.renderer.prefix)
    assert len({text[:head] for text in prompts}) == 1, "one prefix for every turn"
