"""Is this the model it was converted from? Its logits against recorded ones.

The reference is an `.npz` of `input_ids [N, L]` (integers), `attention_mask [N, L]` (1 where a
token is real, padding on either side) and `logits [N, L, V]` (any float). Logits are compared where
the mask is 1.
"""

import functools
import pathlib
import zipfile

import jax
import jax.numpy as jnp
import numpy as np

from hiperjax.models.convert import load_checkpoint
from hiperjax.models.transformer import Params, TransformerConfig, forward, logits

FIELDS = ("input_ids", "attention_mask", "logits")


class ReferenceFileError(ValueError):
    """Recorded logits that cannot be compared with."""


def _read_reference(path: pathlib.Path, vocab_size: int) -> dict[str, np.ndarray]:
    """The arrays of a reference file, their names and shapes checked."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected an .npz of {', '.join(FIELDS)}")
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, zipfile.BadZipFile, EOFError) as error:
        raise ReferenceFileError(f"{path}: not an .npz file ({error})") from error
    if missing := set(FIELDS) - arrays.keys():
        raise ReferenceFileError(f"{path}: no {', '.join(sorted(missing))}; found {sorted(arrays)}")
    shape = arrays["input_ids"].shape
    if len(shape) != 2:
        raise ReferenceFileError(f"{path}: input_ids has shape {shape}; expected [N, L]")
    expected = {"input_ids": shape, "attention_mask": shape, "logits": (*shape, vocab_size)}
    for name, wanted in expected.items():
        if arrays[name].shape != wanted:
            raise ReferenceFileError(
                f"{path}: {name} has shape {arrays[name].shape}; expected {wanted} (the "
                f"checkpoint's vocabulary is {vocab_size})"
            )
    if not arrays["attention_mask"].any():
        raise ReferenceFileError(f"{path}: attention_mask is zero everywhere; nothing to compare")
    largest = int(arrays["input_ids"].max())
    if largest >= vocab_size or arrays["input_ids"].min() < 0:
        raise ReferenceFileError(
            f"{path}: input_ids up to {largest}; the vocabulary is {vocab_size}"
        )
    return arrays


@functools.partial(jax.jit, static_argnames="config")
def _score(params: Params, config: TransformerConfig, tokens: jax.Array, mask: jax.Array):
    return logits(params, config, forward(params, config, tokens, token_mask=mask))


def verify_model(
    checkpoint: str | pathlib.Path, reference: str | pathlib.Path, *, tolerance: float = 1e-3
) -> int:
    """Compare logits, computed in float32; print the differences, return the exit code.

    0 if the largest absolute difference is within `tolerance`, else 1.
    """
    config, params = load_checkpoint(checkpoint, dtype="float32")
    arrays = _read_reference(pathlib.Path(reference), config.vocab_size)
    largest, total, count, agree = 0.0, 0.0, 0, 0
    rows = zip(*(arrays[name] for name in FIELDS), strict=True)
    for tokens, mask, expected in rows:
        real = mask.astype(bool)
        got = np.asarray(_score(params, config, jnp.asarray(tokens)[None], jnp.asarray(real)[None]))
        difference = np.abs(got[0][real] - expected[real].astype(np.float32))
        agree += int((got[0][real].argmax(-1) == expected[real].argmax(-1)).sum())
        # NaN is a difference too: it must not lose against a number.
        largest = float(np.max([largest, difference.max(initial=0.0)]))
        total, count = total + float(difference.sum(dtype=np.float64)), count + difference.size
    within = largest <= tolerance
    tokens = count // config.vocab_size
    print(f"{checkpoint}: {tokens} tokens x {config.vocab_size} logits")
    print(f"largest difference {largest:.3g}, mean {total / count:.3g}, tolerance {tolerance:g}")
    print(f"most likely token agrees at {agree} of {tokens} tokens")
    print("the same model" if within else "NOT the same model, or not to this precision")
    return 0 if within else 1
