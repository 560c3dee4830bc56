"""`verify model` and the two checkpoint formats."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hiperjax.models.convert import convert_hf_to_orbax, convert_orbax_to_hf, load_checkpoint
from hiperjax.models.tensor_files import SINGLE
from hiperjax.models.transformer import TransformerConfig, forward, init_params, logits
from hiperjax.models.weights import save_params
from hiperjax.verification.model import verify_model

CONFIG = TransformerConfig(
    vocab_size=29,
    hidden_size=16,
    intermediate_size=24,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=4,
    embedding_std=0.5,
)


@pytest.fixture
def checkpoint(tmp_path):
    params = init_params(CONFIG, jax.random.key(0))
    save_params(params, CONFIG, tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").write_text("{}")
    return tmp_path / "model", params


@pytest.fixture
def reference(checkpoint, tmp_path):
    """Recorded logits, one row padded left and one right, with junk where the mask is 0."""
    _, params = checkpoint
    tokens = np.random.default_rng(0).integers(0, 29, (2, 9))
    mask = np.ones((2, 9), np.int64)
    mask[0, :3] = 0
    mask[1, 6:] = 0
    hidden = forward(params, CONFIG, jnp.asarray(tokens), token_mask=jnp.asarray(mask, bool))
    scores = np.array(logits(params, CONFIG, hidden))
    scores[mask == 0] = 99.0
    arrays = {"input_ids": tokens, "attention_mask": mask, "logits": scores}
    np.savez(tmp_path / "reference.npz", **arrays)
    return tmp_path / "reference.npz", arrays


def test_the_same_model_passes(checkpoint, reference, capsys):
    assert verify_model(checkpoint[0], reference[0]) == 0
    out = capsys.readouterr().out
    assert "12 tokens x 29 logits" in out and "agrees at 12 of 12" in out


@pytest.mark.parametrize("wrong", [1.0, np.nan])
def test_one_wrong_logit_fails(checkpoint, reference, wrong, capsys):
    path, arrays = reference
    arrays["logits"][1, 2, 3] += wrong
    np.savez(path, **arrays)
    assert verify_model(checkpoint[0], path) == 1
    assert "NOT the same" in capsys.readouterr().out
    if wrong == wrong:
        assert verify_model(checkpoint[0], path, tolerance=1.1) == 0


def test_another_model_fails(reference, tmp_path):
    save_params(init_params(CONFIG, jax.random.key(1)), CONFIG, tmp_path / "other")
    assert verify_model(tmp_path / "other", reference[0]) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("logits"), "no logits"),
        (lambda a: a.update(logits=a["logits"][..., :-1]), "vocabulary is 29"),
        (lambda a: a.update(input_ids=a["input_ids"] + 29), "input_ids up to"),
        (lambda a: a.update(attention_mask=a["attention_mask"] * 0), "nothing to compare"),
    ],
)
def test_bad_references_are_refused(checkpoint, reference, change, message):
    path, arrays = reference
    change(arrays)
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=message):
        verify_model(checkpoint[0], path)


def test_a_file_that_is_no_npz_is_refused(checkpoint, tmp_path):
    (tmp_path / "junk.npz").write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"not an \.npz"):
        verify_model(checkpoint[0], tmp_path / "junk.npz")


def test_orbax_and_back_is_the_same_checkpoint(checkpoint, reference, tmp_path):
    folder, params = checkpoint
    convert_hf_to_orbax(folder, tmp_path / "orbax")
    config, loaded = load_checkpoint(tmp_path / "orbax")
    assert config == CONFIG
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
    assert verify_model(tmp_path / "orbax", reference[0]) == 0
    convert_orbax_to_hf(tmp_path / "orbax", tmp_path / "back")
    assert (tmp_path / "back" / SINGLE).read_bytes() == (folder / SINGLE).read_bytes()
    assert (tmp_path / "back" / "tokenizer.json").is_file()
    with pytest.raises(FileExistsError, match="not empty"):
        convert_orbax_to_hf(tmp_path / "orbax", tmp_path / "back")


def test_orbax_keeps_bfloat16(checkpoint, tmp_path):
    convert_hf_to_orbax(checkpoint[0], tmp_path / "orbax", dtype="bfloat16")
    _, loaded = load_checkpoint(tmp_path / "orbax")
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded)} == {jnp.dtype("bfloat16")}
