"""GGUF files as Hugging Face folders: files made here, in every storage, whole and damaged."""

import contextlib
import json
import pathlib
from typing import Any

import gguf
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.gguf_files import KV_HEADS, LAYERS, tokens, write_file

from hiperjax.cli import main
from hiperjax.models.errors import ModelError
from hiperjax.models.gguf import convert_gguf_to_hf, read_architecture, split_pairs
from hiperjax.models.gguf_file import KINDS, read_gguf
from hiperjax.models.gguf_tokenizer import build_tokenizer
from hiperjax.models.rope import RopeScaling, frequencies
from hiperjax.models.tokenizers import load_tokenizer
from hiperjax.models.transformer import TransformerConfig, forward, logits
from hiperjax.models.weights import load_params

TEXT = """In 2024, 1,234,567 people paid $99.95 on 2024-11-26. It's 10x better!
def f(x1, y22):
\treturn x1**2 + y22 // 3  # comment

日本語のテキスト 123 と 漢字。 中文,数字４５６。 한국어 🙂🚀👩‍👧 1️⃣ naïve café …
<|im_start|>user
hello there<|im_end|>
"""


def test_the_header_is_what_the_package_reads(tmp_path):
    path = write_file(tmp_path / "model.gguf", "Q8_0")
    ours, theirs = read_gguf(path), gguf.GGUFReader(path)
    for name, field in theirs.fields.items():
        if not name.startswith("GGUF."):
            assert np.array_equal(ours.fields[name], field.contents()), name
    assert set(ours.tensors) == {tensor.name for tensor in theirs.tensors}
    for tensor in theirs.tensors:
        expected = gguf.dequantize(tensor.data, tensor.tensor_type)
        np.testing.assert_array_equal(ours.tensors[tensor.name].read(), expected)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("family", "kind"), [*(("llama", kind) for kind in KINDS), ("qwen2", "Q8_0"), ("qwen2", "F16")]
)
def test_parity_with_transformers_reading_the_same_file(family, kind, tmp_path):
    """Theirs undoes the permutation and the blocks in its own code; ours goes through a folder."""
    torch = pytest.importorskip("torch", reason="compares with transformers on torch: absent")
    pytest.importorskip("accelerate", reason="transformers reads GGUF files with it: absent")
    from transformers import AutoModelForCausalLM

    path = write_file(tmp_path / "model.gguf", kind, family)
    theirs = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="model.gguf", dtype=torch.float32, attn_implementation="eager"
    )
    convert_gguf_to_hf(path, tmp_path / "folder")
    assert_alike(tmp_path / "folder", theirs)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_a_converted_folder_is_the_same_model_in_transformers(family, tmp_path):
    pytest.importorskip("torch", reason="compares with transformers on torch: absent")
    from transformers import AutoModelForCausalLM

    convert_gguf_to_hf(write_file(tmp_path / "model.gguf", "Q8_0", family), tmp_path / "folder")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "folder", attn_implementation="eager")
    assert_alike(tmp_path / "folder", theirs)


def assert_alike(folder: pathlib.Path, model: Any) -> None:
    """Our logits of a folder are those of a torch model."""
    import torch

    config = TransformerConfig.from_hf(folder)
    ids = np.random.default_rng(1).integers(0, config.vocab_size, (2, 16))
    hidden = forward(load_params(folder, config), config, jnp.asarray(ids), lengths=jnp.full(2, 16))
    with torch.no_grad():
        expected = model.eval()(torch.asarray(ids)).logits.numpy()
    ours = logits(load_params(folder, config), config, hidden)
    np.testing.assert_allclose(ours, expected, atol=2e-5, rtol=0)


def test_pairs_are_split_as_they_were_interleaved():
    """The converter of llama.cpp writes `[heads, 2, d / 2]` rows as `[heads, d / 2, 2]`."""
    weight = np.random.default_rng(0).normal(size=(3 * 8, 5)).astype(np.float32)
    written = weight.reshape(3, 2, 4, 5).swapaxes(1, 2).reshape(24, 5)
    assert not np.array_equal(written, weight)
    np.testing.assert_array_equal(split_pairs(written, 3), weight)


@pytest.mark.parametrize(("kind", "levels"), [("Q8_0", 254), ("Q4_0", 15), ("Q4_1", 15)])
def test_blocks_stand_for_what_was_stored(kind, levels, tmp_path):
    """Within half a step of the block's range."""
    values = np.random.default_rng(0).normal(size=(4, 256)).astype(np.float32)
    writer = gguf.GGUFWriter(tmp_path / "one.gguf", "llama")
    storage = gguf.GGMLQuantizationType[kind]
    writer.add_tensor("w", gguf.quantize(values, storage), raw_dtype=storage)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    read = read_gguf(tmp_path / "one.gguf").tensors["w"].read()
    step = 2 * np.abs(values).reshape(-1, 32).max(axis=1) / levels
    assert (np.abs(read - values).reshape(-1, 32) <= 1.1 * step[:, None]).all()


@pytest.mark.oracle
@pytest.mark.parametrize("pre", ["smollm", "qwen2", "llama-bpe", "gpt-2"])
def test_the_tokenizer_is_what_transformers_reads_from_the_file(pre, tmp_path):
    pytest.importorskip("torch", reason="transformers reads GGUF files with it: absent")
    from transformers import AutoTokenizer

    path = write_file(tmp_path / "model.gguf", tokenizer__ggml__pre=pre)
    convert_gguf_to_hf(path, tmp_path / "folder")
    ours = load_tokenizer(tmp_path / "folder")
    theirs = AutoTokenizer.from_pretrained(tmp_path, gguf_file="model.gguf")
    text = TEXT.replace("1", "7") if pre == "smollm" else TEXT  # theirs merges digits: next test
    assert ours.encode(text, add_special_tokens=False) == theirs.encode(
        text, add_special_tokens=False
    )
    assert ours.eos_token == theirs.eos_token == "<|im_end|>"
    assert ours.chat_template == theirs.chat_template
    assert ours.decode(ours.encode(text)) == text


def test_digits_stand_alone_where_the_model_learned_them_so(tmp_path):
    ids = {}
    for pre in ("smollm", "gpt-2"):
        path = write_file(tmp_path / f"{pre}.gguf", tokenizer__ggml__pre=pre)
        convert_gguf_to_hf(path, tmp_path / pre)
        tokenizer = load_tokenizer(tmp_path / pre)
        ids[pre] = tokenizer.convert_ids_to_tokens(tokenizer.encode(" 12 hello"))
    assert ids == {"smollm": ["Ġ", "1", "2", "Ġhello"], "gpt-2": ["Ġ", "12", "Ġhello"]}


def test_a_converted_folder_says_all_that_the_file_says(tmp_path):
    path = write_file(tmp_path / "model.gguf", tokenizer__ggml__eot_token_id=0)
    convert_gguf_to_hf(path, tmp_path / "folder", dtype="float16")
    config = TransformerConfig.from_hf(tmp_path / "folder")
    assert (config.num_layers, config.num_kv_heads, config.head_dim) == (LAYERS, KV_HEADS, 64)
    assert (config.norm_eps, config.rope_theta, config.max_position) == (1e-5, 100_000.0, 512)
    assert config.tie_embeddings and not config.qkv_bias
    generation = json.loads((tmp_path / "folder" / "generation_config.json").read_text())
    assert generation == {"eos_token_id": [2, 0], "bos_token_id": 1, "pad_token_id": 0}
    tokenizer = load_tokenizer(tmp_path / "folder")
    assert tokenizer.encode("<think>hello", add_special_tokens=False) == [
        tokenizer.convert_tokens_to_ids("<think>"),
        tokenizer.convert_tokens_to_ids("hello"),
    ]
    assert tokenizer.encode("x<|im_end|>", add_special_tokens=False)[-1] == 2


def test_bos_stands_first_where_the_file_wants_it(tmp_path):
    path = write_file(tmp_path / "model.gguf", tokenizer__ggml__add_bos_token=True)
    convert_gguf_to_hf(path, tmp_path / "folder")
    tokenizer = load_tokenizer(tmp_path / "folder")
    assert tokenizer.encode("hello")[0] == 1
    assert tokenizer.encode("hello", add_special_tokens=False)[0] != 1


def test_the_stretching_of_llama_3_is_read_from_its_factors(tmp_path):
    scaling = RopeScaling("llama3", 32.0, 8192)
    plain, stretched = (frequencies(64, 100_000.0, s)[0] for s in (None, scaling))
    factors = plain / stretched
    path = write_file(tmp_path / "model.gguf", factors=factors)
    assert read_architecture(read_gguf(path))[0].rope_scaling == scaling
    factors[len(factors) // 2] *= 1.1
    path = write_file(tmp_path / "other.gguf", factors=factors)
    with pytest.raises(ValueError, match=r"rope_freqs\.weight does not stretch"):
        read_architecture(read_gguf(path))


def refused(capsys, path: pathlib.Path, target: pathlib.Path) -> str:
    """One line, code 2, and nothing left beside the file."""
    before = sorted(target.parent.iterdir())
    with pytest.raises(SystemExit) as stop:
        main(["convert", "gguf-to-hf", str(path), str(target)])
    lines = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and len(lines) == 1, lines
    assert sorted(target.parent.iterdir()) == before
    return lines[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"general__architecture": "gemma"}, "architecture 'gemma'; expected one of llama, qwen2"),
        ({"llama__expert_count": 8}, "expert_count is 8"),
        ({"llama__block_count": 3}, "no tensor blk.2.attn_k.weight"),
        ({"llama__block_count": None}, "no field llama.block_count"),
        (
            {"llama__feed_forward_length": 128},
            "has shape (256, 512); the fields make it (256, 128)",
        ),
        ({"llama__rope__dimension_count": 32}, "rope.dimension_count is 32; expected 64"),
        ({"llama__rope__scaling__type": "longrope"}, "rope.scaling.type 'longrope'"),
        ({"llama__rope__scaling__type": "yarn"}, "yarn without rope.scaling.factor"),
        ({"tokenizer__ggml__model": "llama"}, "tokenizer 'llama' (SentencePiece)"),
        ({"llama__attention__head_count_kv": 0}, "num_kv_heads is 0"),
        ({"llama__context_length": "long"}, "llama.context_length holds str; expected int"),
        ({"tokenizer__ggml__pre": "viking"}, "tokenizer.ggml.pre 'viking'"),
        ({"tokenizer__ggml__eos_token_id": 999}, "eos_token_id 999; the file has"),
        ({"tokenizer__ggml__eos_token_id": None}, "no field tokenizer.ggml.eos_token_id"),
        ({"tokenizer__ggml__merges": ["q z"]}, "merges of 'qz', which is no token"),
    ],
)
def test_files_we_cannot_convert_are_refused_in_one_line(changes, message, tmp_path, capsys):
    path = write_file(tmp_path / "model.gguf", **changes)
    assert message in refused(capsys, path, tmp_path / "folder")


def test_another_storage_is_refused(tmp_path, capsys):
    path = write_file(tmp_path / "model.gguf", "Q5_0")
    assert "is stored as Q5_0; expected one of F32, F16" in refused(capsys, path, tmp_path / "f")


def test_a_vocabulary_larger_than_the_model_is_refused(tmp_path, capsys):
    names, kinds = tokens()
    more = {"tokenizer__ggml__tokens": [*names, "<extra>"]}
    path = write_file(tmp_path / "model.gguf", **more, tokenizer__ggml__token_type=[*kinds, 3])
    assert "embeddings; use the tokenizer of the same checkpoint" in refused(
        capsys, path, tmp_path / "folder"
    )


def test_files_cut_anywhere_are_refused(tmp_path):
    path = write_file(tmp_path / "model.gguf", "Q8_0")
    whole = path.read_bytes()
    header = min(tensor.offset for tensor in read_gguf(path).tensors.values())
    cuts = [*range(0, 64), *range(64, header, 97), header, header + 1, len(whole) - 1]
    for cut in cuts:
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=r"truncated|damaged"):
            convert_gguf_to_hf(path, tmp_path / "folder")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.gguf"]


def test_bytes_changed_in_the_header_never_end_in_a_fault_of_the_program(tmp_path):
    path = write_file(tmp_path / "model.gguf", "Q8_0")
    whole = bytearray(path.read_bytes())
    header = min(tensor.offset for tensor in read_gguf(path).tensors.values())
    rng = np.random.default_rng(0)
    for at in rng.integers(0, header, 60):
        changed = bytearray(whole)
        changed[at] ^= int(rng.integers(1, 256))
        path.write_bytes(changed)
        with contextlib.suppress(ModelError):
            file = read_gguf(path)
            read_architecture(file)
            build_tokenizer(file)
