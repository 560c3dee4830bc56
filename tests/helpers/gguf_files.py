"""Small language models in GGUF files, in every storage."""

import pathlib

import gguf
import numpy as np

from hiperjax.models.byte_level import BYTES

HIDDEN, WIDE, LAYERS, HEADS, KV_HEADS = 256, 512, 2, 4, 2
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
TEMPLATE += "{% endfor %}"
SPELLED = {byte: char for char, byte in BYTES.items()}
MERGES = ["h e", "l l", "he ll", "hell o", "Ġ hello", "t h", "th e", "Ġ the", "1 2", "Ġ 1"]


def spell(text: str) -> str:
    return "".join(SPELLED[byte] for byte in text.encode())


def tokens() -> tuple[list[str], list[int]]:
    """A byte-level vocabulary with control, user-defined and unused tokens, and their kinds."""
    control = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    merged = ["".join(merge.split()) for merge in MERGES]
    missing = ["Ġhell"]
    plain = list(dict.fromkeys([*SPELLED.values(), *missing, *merged]))
    names = [*control, *plain, "<think>", "[PAD1]", "[PAD2]"]
    return names, [3] * 3 + [1] * len(plain) + [4, 5, 5]


def blocks(rng: np.random.Generator, shape: tuple[int, int], kind: str) -> np.ndarray:
    """A tensor in its storage; the package writes no K-blocks, so those are drawn as bytes."""
    storage = gguf.GGMLQuantizationType[kind]
    if kind not in ("Q4_K", "Q6_K"):
        values = rng.normal(size=shape).astype(np.float32) * 0.1
        return gguf.quantize(values, storage)
    block, size = gguf.GGML_QUANT_SIZES[storage]
    raw = rng.integers(0, 256, (shape[0], shape[1] // block, size), np.uint8)
    scales = np.array([1e-4, 5e-4] if kind == "Q4_K" else [1e-5], np.float16).view(np.uint8)
    where = slice(0, 4) if kind == "Q4_K" else slice(size - 2, size)
    raw[..., where] = scales
    return raw.reshape(shape[0], -1)


def write_file(
    path: pathlib.Path,
    kind: str = "F32",
    family: str = "llama",
    *,
    factors: np.ndarray | None = None,
    **changes: object,
) -> pathlib.Path:
    """A small language model in a GGUF file; `changes` set or (None) leave out fields.

    `factors` stretch its rotary frequencies, as files of Llama 3 say it.
    """
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, family)
    names, kinds = tokens()
    fields = {
        f"{family}.embedding_length": HIDDEN,
        f"{family}.feed_forward_length": WIDE,
        f"{family}.block_count": LAYERS,
        f"{family}.attention.head_count": HEADS,
        f"{family}.attention.head_count_kv": KV_HEADS,
        f"{family}.attention.layer_norm_rms_epsilon": 1e-5,
        f"{family}.context_length": 512,
        f"{family}.rope.freq_base": 100_000.0,
        f"{family}.vocab_size": len(names),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": {"llama": "smollm"}.get(family, "qwen2"),
        "tokenizer.ggml.tokens": names,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": MERGES,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": TEMPLATE,
    }
    for name, value in (fields | {key.replace("__", "."): v for key, v in changes.items()}).items():
        add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        add |= {bool: writer.add_bool, list: writer.add_array}
        if value is not None:
            add[type(value)](name, value)

    def add_matrix(name: str, *shape: int) -> None:
        storage = gguf.GGMLQuantizationType[kind]
        writer.add_tensor(name, blocks(rng, shape, kind), raw_dtype=storage)

    def add_vector(name: str, size: int) -> None:
        writer.add_tensor(name, (1 + 0.1 * rng.normal(size=size)).astype(np.float32))

    add_matrix("token_embd.weight", len(names), HIDDEN)
    add_vector("output_norm.weight", HIDDEN)
    narrow = HIDDEN // HEADS * KV_HEADS
    for i in range(LAYERS):
        for name, out, size in (
            ("q", HIDDEN, HIDDEN),
            ("k", narrow, HIDDEN),
            ("v", narrow, HIDDEN),
        ):
            add_matrix(f"blk.{i}.attn_{name}.weight", out, size)
            if family == "qwen2":
                add_vector(f"blk.{i}.attn_{name}.bias", out)
        add_matrix(f"blk.{i}.attn_output.weight", HIDDEN, HIDDEN)
        add_matrix(f"blk.{i}.ffn_gate.weight", WIDE, HIDDEN)
        add_matrix(f"blk.{i}.ffn_up.weight", WIDE, HIDDEN)
        add_matrix(f"blk.{i}.ffn_down.weight", HIDDEN, WIDE)
        for name in ("attn_norm", "ffn_norm"):
            add_vector(f"blk.{i}.{name}.weight", HIDDEN)
    if factors is not None:
        writer.add_tensor("rope_freqs.weight", factors)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
