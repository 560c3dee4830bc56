"""Tokenizers: round trips, single tokens, offsets, and the folder on disk."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import BPE, Unigram
from transformers import PreTrainedTokenizerFast

from hiperjax.models.tokenizers import (
    END_OF_TURN,
    UNKNOWN,
    check_vocabulary,
    encode_batch,
    encode_with_offsets,
    load_tokenizer,
    train_tokenizer,
)

TAGS = ("[a]", "[/a]")
PHRASES = ("go to", "go to the", "take a (big) mug")
WORDS = ["go", "to", "the", "a", "mug", "desk", "1", "it's", "(big)", "take"]
TRAINED = train_tokenizer(["[a]" + " ".join(WORDS), *PHRASES], TAGS, PHRASES)


@given(st.lists(st.sampled_from([*WORDS, *TAGS, *PHRASES]), max_size=12))
def test_decoding_gives_back_the_text(pieces):
    text = " ".join(pieces)
    ids = TRAINED.encode(text, add_special_tokens=False)
    assert TRAINED.decode(ids) == text
    assert TRAINED.unk_token_id not in ids


def test_tags_and_whole_phrases_are_single_tokens():
    def tokens(text):
        return TRAINED.convert_ids_to_tokens(TRAINED.encode(text, add_special_tokens=False))

    assert tokens("[a]go[/a]") == ["[a]", "go", "[/a]"]
    assert tokens("go to the desk") == ["go to the", "desk"]
    assert tokens("go to desk") == ["go to", "desk"]
    assert tokens("take a (big) mug 1") == ["take a (big) mug", "1"]
    assert tokens("take a (big) mugs") == ["take", "a", "(big)", UNKNOWN]
    assert tokens("  go\n 1\t") == ["go", "1"]


def test_special_tokens_are_named():
    assert TRAINED.eos_token == END_OF_TURN and TRAINED.pad_token_id == 0
    assert TRAINED.encode(END_OF_TURN, add_special_tokens=False) == [TRAINED.eos_token_id]
    assert TRAINED.encode("zebra", add_special_tokens=False) == [TRAINED.unk_token_id]


def test_a_saved_folder_is_the_same_tokenizer(tmp_path):
    TRAINED.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    text = "[a]go to the desk 1 zebra[/a]" + END_OF_TURN
    assert loaded.encode(text) == TRAINED.encode(text)
    assert loaded.get_vocab() == TRAINED.get_vocab()
    assert loaded.eos_token_id == TRAINED.eos_token_id
    assert loaded.pad_token_id == TRAINED.pad_token_id


def test_a_trained_tokenizer_beside_a_published_architecture_stays_itself(tmp_path):
    TRAINED.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    text = "[a]go to the desk 1[/a]"
    assert load_tokenizer(tmp_path).encode(text) == TRAINED.encode(text)


def test_training_is_deterministic_and_bounded():
    texts = ["b b b a a c", "d"]
    small = train_tokenizer(texts, TAGS, max_vocab=7)
    assert len(small) == 7
    assert set(small.get_vocab()) >= {"a", "b"} and "d" not in small.get_vocab()
    assert small.get_vocab() == train_tokenizer(iter(texts), TAGS, max_vocab=7).get_vocab()


def test_batches_encode_like_single_texts():
    texts = ["go to desk 1", "", "[a]mug[/a]"]
    for text, ids in zip(texts, encode_batch(TRAINED, texts), strict=True):
        assert ids.dtype == np.int32
        assert ids.tolist() == TRAINED.encode(text, add_special_tokens=False)


def test_offsets_point_at_the_text():
    text = "[a]go to  the desk[/a]"
    ids, offsets = encode_with_offsets(TRAINED, text)
    spans = [text[first:end] for first, end in offsets]
    assert spans == TRAINED.convert_ids_to_tokens(ids)
    assert encode_with_offsets(TRAINED, "")[1].shape == (0, 2)


@pytest.mark.parametrize(
    ("tags", "phrases", "limit", "message"),
    [
        (("a b",), (), 99, "without blanks"),
        (("",), (), 99, "non-empty"),
        ((), ("one",), 99, "two or more words"),
        ((), ("two  words",), 99, "one blank"),
        (TAGS, (), 5, "leaves no room"),
    ],
)
def test_bad_vocabularies_are_refused(tags, phrases, limit, message):
    with pytest.raises(ValueError, match=message):
        train_tokenizer(["x"], tags, phrases, limit)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        load_tokenizer(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match=r"no tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_ids_beyond_the_model_are_refused():
    check_vocabulary(TRAINED, len(TRAINED))
    with pytest.raises(ValueError, match="embeddings"):
        check_vocabulary(TRAINED, len(TRAINED) - 1)


def test_the_qwen2_folder_loads_as_the_file_says(shared):
    folder = shared("data/tokenizer/qwen2")
    loaded = load_tokenizer(folder)
    raw = Tokenizer.from_file(str(folder / "tokenizer.json"))
    text = "<switch>KEEP</switch>\n<action>go to désk 1</action>\n\n  it's 🙂<|im_end|>"
    ids, offsets = encode_with_offsets(loaded, text)
    assert ids.tolist() == raw.encode(text, add_special_tokens=False).ids
    assert ids[-1] == loaded.eos_token_id
    assert loaded.decode(ids) == text
    covered = {i for first, end in offsets for i in range(first, end)}
    assert covered == set(range(len(text)))
    check_vocabulary(loaded, 151_936)
    message = [{"role": "user", "content": "hi"}]
    chat = loaded.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    assert chat.endswith("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n")


def _sentencepiece():
    vocabulary = {"<unk>": 0, "</s>": 1, "\u2581": 2, "a": 3, "\u2581a": 4, "<0x0A>": 5}
    return Tokenizer(BPE(vocabulary, [("\u2581", "a")], byte_fallback=True))


def _unigram():
    return Tokenizer(Unigram([("</s>", 0.0), ("a", -1.0)]))


@pytest.mark.parametrize(
    ("make", "message"), [(_sentencepiece, "token '\u2581"), (_unigram, "Unigram model; expected")]
)
def test_tokenizers_whose_bytes_are_not_known_are_refused(make, message, tmp_path):
    saved = PreTrainedTokenizerFast(tokenizer_object=make(), eos_token="</s>")
    saved.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"tokenizer {tmp_path}: {message}"):
        load_tokenizer(tmp_path)


def test_words_are_split_as_the_file_says_whatever_the_class(tmp_path):
    """SmolLM2 calls itself GPT-2's class, which by itself would not split its digits."""
    backend = Tokenizer(BPE({**{c: i for i, c in enumerate("\u0120123")}, "12": 4}, [("1", "2")]))
    digits = pre_tokenizers.Digits(individual_digits=True)
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([digits, plain])
    saved = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="3")
    saved.save_pretrained(tmp_path)
    described = json.loads((tmp_path / "tokenizer_config.json").read_text())
    described["tokenizer_class"] = "GPT2Tokenizer"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(described))
    assert load_tokenizer(tmp_path).encode("12") == [1, 2]


def test_a_damaged_tokenizer_is_named(tmp_path):
    TRAINED.save_pretrained(tmp_path)
    whole = (tmp_path / "tokenizer.json").read_text()
    (tmp_path / "tokenizer.json").write_text(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"tokenizer.json: line \d+.*copy it") as damaged:
        load_tokenizer(tmp_path)
    assert "\n" not in str(damaged.value)
