"""The tokenizer that a GGUF file describes, rebuilt as a fast tokenizer.

Only byte-level BPE. Vocabulary and merges stand in the file; how text is split before merging it
only names, so every name known here is a row of a table.
"""

import dataclasses
from typing import Any

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from hiperjax.models.byte_level import BYTES
from hiperjax.models.errors import ModelError
from hiperjax.models.gguf_file import GgufFile

CONTROL, USER_DEFINED, UNUSED = 3, 4, 5
SPECIAL_TOKENS = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}
ENDINGS = ("eos_token_id", "eot_token_id", "eom_token_id")
"""Tokens that end a reply."""
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclasses.dataclass(frozen=True)
class Splitting:
    """What happens to a text before its pieces are merged."""

    pattern: str | None = None
    """Pieces; `None` is GPT-2's own pattern."""
    digits: bool = False
    """Every digit stands alone."""
    compose: bool = False
    """Unicode NFC first."""
    ignore_merges: bool = False
    """A piece that is a token is one, however its merges run."""
    add_bos: bool = False
    """Unless the file says."""


_QWEN2 = Splitting(WORDS.replace("DIGITS", ""), compose=True)
_LLAMA3 = Splitting(WORDS.replace("DIGITS", "{1,3}"), ignore_merges=True, add_bos=True)
SPLITTINGS = {
    "gpt-2": Splitting(),
    "smollm": Splitting(digits=True),
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
}
"""By `tokenizer.ggml.pre`."""


def build_tokenizer(file: GgufFile) -> PreTrainedTokenizerFast:
    """The file's tokenizer, with its special tokens and chat template.

    Raises:
      ModelError: it is no byte-level BPE, or splits text in a way not known here.
    """
    model = file.need("tokenizer.ggml.model", str)
    if model != "gpt2":
        hint = " (SentencePiece)" if model == "llama" else ""
        raise ModelError(
            f"{file.path}: tokenizer {model!r}{hint}; expected 'gpt2', a byte-level BPE"
        )
    name = file.get("tokenizer.ggml.pre", str)
    if name not in SPLITTINGS:
        raise ModelError(
            f"{file.path}: tokenizer.ggml.pre {name!r}; expected one of {', '.join(SPLITTINGS)}"
        )
    splitting, tokens = SPLITTINGS[name], file.need("tokenizer.ggml.tokens", list)
    file.need("tokenizer.ggml.eos_token_id", int)
    backend = _build_backend(file, tokens, splitting)
    special = {ours: _token(file, tokens, theirs) for ours, theirs in SPECIAL_TOKENS.items()}
    if special["bos_token"] and _adds_bos(file, splitting):
        bos = special["bos_token"]
        backend.post_processor = TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, tokens.index(bos))]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        clean_up_tokenization_spaces=False,
        **{ours: token for ours, token in special.items() if token is not None},
    )
    tokenizer.chat_template = file.get("tokenizer.chat_template", str)
    return tokenizer


def generation_config(file: GgufFile) -> dict[str, Any]:
    """Content of a `generation_config.json`: what starts a text, pads it and ends a reply."""
    found = (file.get(f"tokenizer.ggml.{name}", int) for name in ENDINGS)
    ends = list(dict.fromkeys(index for index in found if index is not None))
    ids = {"eos_token_id": ends if len(ends) > 1 else ends[0]} if ends else {}
    for ours, theirs in (("bos_token_id", "bos_token_id"), ("pad_token_id", "padding_token_id")):
        index = file.get(f"tokenizer.ggml.{theirs}", int)
        ids |= {} if index is None else {ours: index}
    return ids


def _adds_bos(file: GgufFile, splitting: Splitting) -> bool:
    return file.get("tokenizer.ggml.add_bos_token", bool, splitting.add_bos)


def _token(file: GgufFile, tokens: list[str], key: str) -> str | None:
    index = file.get(f"tokenizer.ggml.{key}", int)
    if index is None:
        return None
    if not 0 <= index < len(tokens):
        raise ModelError(f"{file.path}: {key} {index!r}; the file has {len(tokens)} tokens")
    return tokens[index]


def _build_backend(file: GgufFile, tokens: list[str], splitting: Splitting) -> Tokenizer:
    kinds = file.need("tokenizer.ggml.token_type", np.ndarray)
    merges = [tuple(merge.split(" ")) for merge in file.need("tokenizer.ggml.merges", list)]
    if len(kinds) != len(tokens):
        raise ModelError(f"{file.path}: {len(tokens)} tokens, but {len(kinds)} token types")
    # Files fill the vocabulary up to the model's with unused tokens that stand for no text.
    used = {token: i for i, token in enumerate(tokens) if kinds[i] != UNUSED}
    lost = next(
        (part for merge in merges for part in (*merge, "".join(merge)) if part not in used), None
    )
    if lost is not None or any(len(merge) != 2 for merge in merges):
        raise ModelError(f"{file.path}: merges of {lost!r}, which is no token; damaged?")
    backend = Tokenizer(BPE(used, merges, ignore_merges=splitting.ignore_merges))
    backend.normalizer = normalizers.NFC() if splitting.compose else None
    backend.pre_tokenizer = _pre_tokenizer(splitting)
    backend.decoder = decoders.ByteLevel()
    for i, token in enumerate(tokens):
        if kinds[i] in (CONTROL, USER_DEFINED):
            added = AddedToken(token, normalized=False, special=kinds[i] == CONTROL)
            add = backend.add_special_tokens if added.special else backend.add_tokens
            add([added])
        elif kinds[i] != UNUSED and not set(token) <= BYTES.keys():
            raise ModelError(f"{file.path}: token {i} {token!r} is not written in bytes; damaged?")
    return backend


def _pre_tokenizer(splitting: Splitting) -> pre_tokenizers.PreTokenizer:
    if splitting.pattern is not None:
        split = pre_tokenizers.Split(Regex(splitting.pattern), "isolated")
        bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        return pre_tokenizers.Sequence([split, bytes_only])
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if not splitting.digits:
        return plain
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), plain])
