"""Tokenizers: the one a checkpoint folder brings, or a small one trained on a world's own words.

Both are `transformers` fast tokenizers with the same interface, and both live in an ordinary
tokenizer folder.
"""

import collections
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import regex
from jaxtyping import Int
from tokenizers import AddedToken, Tokenizer, pre_tokenizers
from tokenizers import Regex as TokenizerRegex
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from hiperjax.files import DamagedFile, read_json
from hiperjax.models.byte_level import BYTES
from hiperjax.models.errors import ModelError
from hiperjax.models.generation import CURE

UNKNOWN, PAD, END_OF_TURN = "<unk>", "<pad>", "<end>"
FILES = ("tokenizer.json", "tokenizer_config.json")


def load_tokenizer(folder: str | pathlib.Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a local folder, just as its tokenizer.json has it; never asks the network.

    Raises:
      FileNotFoundError: the folder, or a tokenizer in it, is absent.
      DamagedFile: a file of it is cut or no tokenizer.
      ModelError: it is neither byte-level BPE nor word level, or says not what ends a turn.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder}: no such folder; expected one that holds {' and '.join(FILES)}"
        )
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{folder}: no {' and no '.join(missing)}; copy them from the checkpoint"
        )
    for name in FILES:
        read_json(folder / name, cure=CURE)
    # Not AutoTokenizer: for some classes (GPT-2's) it makes the class's own way of splitting words,
    # whatever tokenizer.json says (SmolLM2 splits digits first).
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the tokenizers library raises bare ones
        raise DamagedFile(f"{folder / FILES[0]}: cannot be read: {error}; {CURE}") from error
    check_alphabet(tokenizer)
    if tokenizer.eos_token_id is None:
        raise ModelError(f"{folder}: no eos_token in {FILES[1]}; name the token that ends a turn")
    return tokenizer


def name_of(tokenizer: Any) -> str:
    """How messages name a tokenizer."""
    return getattr(tokenizer, "name_or_path", "") or "(in memory)"


def check_alphabet(tokenizer: PreTrainedTokenizerFast) -> None:
    """Refuse tokens whose bytes are not known: only byte-level BPE and word level say them.

    SentencePiece writes blanks as `\u2581` and puts one before each text it is given.
    """
    kind = type(tokenizer.backend_tokenizer.model).__name__
    if kind == "WordLevel":
        return
    where = f"tokenizer {name_of(tokenizer)}"
    if kind != "BPE":
        raise ModelError(f"{where}: {kind} model; expected byte-level BPE or word level")
    added = tokenizer.get_added_vocab()
    for token in tokenizer.get_vocab():
        if token not in added and not BYTES.keys() >= set(token):
            raise ModelError(
                f"{where}: token {token!r} is not written in bytes (SentencePiece?); expected "
                "byte-level BPE, as of Qwen, SmolLM2 or Llama 3"
            )


def check_vocabulary(tokenizer: PreTrainedTokenizerFast, vocab_size: int) -> None:
    """Refuse a tokenizer with ids the model has no embedding for (models may have spare rows)."""
    largest = max(tokenizer.get_vocab().values())
    if largest >= vocab_size:
        raise ModelError(
            f"tokenizer {name_of(tokenizer)}: largest token id {largest}, but "
            f"the model has {vocab_size} embeddings; use the tokenizer of the same checkpoint"
        )


def _phrase_pattern(phrases: Sequence[str]) -> str:
    """Whole phrases first, the longest first; then any word."""
    whole = (regex.escape(p, literal_spaces=True) for p in sorted(phrases, key=len, reverse=True))
    alternatives = "|".join(whole)
    return rf"(?<!\S)(?:{alternatives})(?!\S)|\S+" if alternatives else r"\S+"


def _check_pieces(special_tags: Sequence[str], phrases: Sequence[str]) -> None:
    for tag in special_tags:
        if not tag or any(c.isspace() for c in tag):
            raise ModelError(f"special tag {tag!r}: expected a non-empty string without blanks")
    for phrase in phrases:
        if phrase != " ".join(phrase.split()) or " " not in phrase:
            raise ModelError(f"phrase {phrase!r}: expected two or more words, one blank between")


def _count_pieces(
    texts: Iterable[str],
    pattern: str,
    tags: Sequence[str],
    phrases: Sequence[str],
    words: Sequence[str],
) -> collections.Counter:
    """How often each word or phrase occurs; tags stand apart even where no blank does.

    The words of a phrase count too, as rarest: they may turn up in another order; so do `words`.
    """
    pieces = regex.compile(pattern)
    apart = regex.compile("|".join(map(regex.escape, tags))) if tags else None
    counts = collections.Counter({word: 0 for phrase in phrases for word in phrase.split()})
    counts.update(dict.fromkeys(words, 0))
    for text in texts:
        for part in apart.split(text) if apart else [text]:
            counts.update(" ".join(match.split()) for match in pieces.findall(part))
    return counts


def train_tokenizer(
    texts: Iterable[str],
    special_tags: Sequence[str],
    phrases: Sequence[str] = (),
    max_vocab: int = 4096,
    words: Sequence[str] = (),
) -> PreTrainedTokenizerFast:
    """A word-level tokenizer of the words in `texts`; the commonest ones, if there are too many.

    Words are what stands between blanks. Each of `special_tags` is one token wherever it occurs,
    blanks around it or not; each of `phrases` is one token where it stands as whole words; each of
    `words` is one though no text has it. Of a text without unknown words, decoding gives back its
    tokens with one blank between each.
    """
    _check_pieces(special_tags, phrases)
    tags = list(dict.fromkeys(special_tags))
    pattern = _phrase_pattern(phrases)
    counts = _count_pieces(texts, pattern, tags, phrases, words)
    specials = [PAD, UNKNOWN, END_OF_TURN]
    room = max_vocab - len(specials) - len(tags)
    if room < 1:
        raise ModelError(
            f"max_vocab {max_vocab} leaves no room for words beside {len(specials) + len(tags)} "
            "special tokens and tags; raise it"
        )
    common = sorted(counts, key=lambda word: (-counts[word], word))[:room]
    vocabulary = {word: i for i, word in enumerate([*specials, *tags, *common])}
    backend = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.Split(TokenizerRegex(pattern), "removed", invert=True)
    backend.add_tokens([AddedToken(tag, normalized=False) for tag in tags])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token=UNKNOWN,
        pad_token=PAD,
        eos_token=END_OF_TURN,
        clean_up_tokenization_spaces=False,
    )


def encode_batch(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]
) -> list[Int[np.ndarray, " n"]]:
    """Token ids of many texts, without special tokens around them; the fast path."""
    encodings = tokenizer.backend_tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    return [np.asarray(encoding.ids, np.int32) for encoding in encodings]


def encode_with_offsets(
    tokenizer: PreTrainedTokenizerFast, text: str
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, "n 2"]]:
    """Token ids and the half-open range of characters each covers.

    The tokens of a character that byte-level BPE splits all cover that character.
    """
    encoding = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
    offsets = np.asarray(encoding.offsets, np.int32).reshape(-1, 2)
    return np.asarray(encoding.ids, np.int32), offsets
