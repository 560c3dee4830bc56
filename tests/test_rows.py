"""Attention on rows of one window each is attention by a mask: values, gradients, any layout."""

import dataclasses
import functools
import pathlib
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hiperjax_kernels.causal import attend_causal
from hiperjax_kernels.rows import attend_rows, from_rows, map_rows, to_rows
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AbstractMesh, AxisType

from hiperjax.learning.layout import lay_out_rows
from hiperjax.models import attention
from hiperjax.models.transformer import (
    KeyValues,
    TransformerConfig,
    abstract_params,
    forward,
    init_params,
    prefill,
)

CONFIG = TransformerConfig(
    vocab_size=23,
    hidden_size=8,
    intermediate_size=12,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=4,
    embedding_std=0.5,
)
TOKENS = 14


def lay(prefix, windows, tokens=TOKENS, multiple=4):
    """Arrays of sequences whose windows have these lengths, the prefix in front."""
    shape = (len(windows), tokens)
    segment, position = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    mask = np.zeros(shape, bool)
    for i, sizes in enumerate(windows):
        if not sizes:  # a sequence that is not in use
            continue
        mask[i, :prefix], position[i, :prefix] = True, np.arange(prefix)
        at = prefix
        for k, size in enumerate(sizes, start=1):
            segment[i, at : at + size], mask[i, at : at + size] = k, True
            position[i, at : at + size] = prefix + np.arange(size)
            at += size
    rows = lay_out_rows(segment, mask, multiple=multiple)
    return {"token_mask": mask, "positions": position, "segments": segment}, rows


def tokens_of(mask, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.integers(0, CONFIG.vocab_size, mask.shape), jnp.int32)


@functools.partial(jax.jit, static_argnums=1)
def value_and_gradient(params, config, tokens, rows, packed):
    """A weighted sum of the real tokens' hidden states, its gradient, and those states."""

    def loss(params):
        hidden = forward(params, config, tokens, rows=rows, **packed)
        hidden = jnp.where(packed["token_mask"][..., None], hidden, jnp.zeros_like(hidden))
        weight = jnp.cos(jnp.arange(hidden.size, dtype=jnp.float32)).reshape(hidden.shape)
        return jnp.sum(weight * hidden), hidden

    return jax.value_and_grad(loss, has_aux=True)(params)


def both_ways(prefix, windows, config=CONFIG):
    """By the mask, and by rows: of the one shape that all layouts but those of one window have."""
    packed, rows = lay(prefix, windows, multiple=16)
    if rows.shape[1] > 1:
        rows = np.pad(rows, ((0, 0), (0, 4 - rows.shape[1]), (0, 0)))
    packed = jax.tree.map(jnp.asarray, packed)
    params = init_params(config, jax.random.key(1))
    tokens = tokens_of(packed["token_mask"])
    masked = value_and_gradient(params, config, tokens, None, packed)
    return masked, value_and_gradient(params, config, tokens, jnp.asarray(rows), packed)


LAYOUTS = {
    "uneven turns, padding, a row slot to spare": (3, [[5, 2, 3], [4], [1, 9]]),
    "no prefix": (0, [[5, 2, 3], [4], []]),
    "one window": (2, [[6], [12], [1]]),
    "a lone turn as long as its sequence": (0, [[14], [4, 4], [6]]),
}


@pytest.mark.parametrize(("prefix", "windows"), LAYOUTS.values(), ids=LAYOUTS.keys())
def test_rows_give_values_and_gradients_of_the_mask(prefix, windows):
    masked, by_rows = both_ways(prefix, windows)
    chex.assert_trees_all_close(by_rows, masked, rtol=1e-5, atol=1e-4)  # leaves of magnitude 10


def test_a_band_reaches_as_far_back_as_windowed_layers_do():
    config = dataclasses.replace(CONFIG, sliding_window=3, windowed_layers=(1,))
    masked, by_rows = both_ways(2, [[5, 3], [1, 9], [12]], config)
    chex.assert_trees_all_close(by_rows, masked, rtol=1e-5, atol=1e-4)  # leaves of magnitude 10


HEADS = {"query": 4, "key": 2, "value": 2}


@jax.jit
def attend_packed(heads, packed, rows):
    row_map = map_rows(rows, packed["segments"], packed["positions"], packed["token_mask"])
    causal = functools.partial(attend_causal, implementation="xla")
    return attend_rows(heads["query"], heads["key"], heads["value"], row_map, causal)


def attend_in_loops(heads, packed):
    """Token by token in float64."""
    out = np.zeros(heads["query"].shape)
    for n, c in zip(*np.nonzero(packed["token_mask"]), strict=True):
        segment = packed["segments"][n]
        seen = (segment == segment[c]) | (segment == 0)
        seen &= packed["token_mask"][n] & (np.arange(TOKENS) <= c)
        for h in range(4):
            keys, values = (heads[name][n, seen, h // 2] for name in ("key", "value"))
            scores = keys @ heads["query"][n, c, h] / np.sqrt(keys.shape[-1])
            weights = np.exp(scores - scores.max())
            out[n, c, h] = weights @ values / weights.sum()
    return out


sizes = st.lists(st.integers(1, 6), min_size=0, max_size=4).map(tuple)


@given(st.integers(0, 4), st.lists(sizes, min_size=3, max_size=3), st.integers(0, 99))
def test_any_layout_gives_what_loops_do(prefix, windows, seed):
    """Of the arrays that are traced once: 4 rows of 16 columns hold every layout drawn."""
    windows = [w[: next(k for k in range(len(w), -1, -1) if sum(w[:k]) <= 10)] for w in windows]
    packed, rows = lay(prefix, windows, multiple=16)
    room = ((0, 0), (0, 4 - rows.shape[1]), (0, 0))
    rng = np.random.default_rng(seed)
    heads = {name: rng.normal(size=(3, TOKENS, count, 4)) for name, count in HEADS.items()}
    narrow = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), heads)
    found = attend_packed(narrow, jax.tree.map(jnp.asarray, packed), jnp.pad(rows, room))
    real = packed["token_mask"]
    np.testing.assert_allclose(
        np.asarray(found)[real], attend_in_loops(heads, packed)[real], rtol=1e-5, atol=1e-5
    )


def test_gradients_equal_finite_differences_of_the_loops():
    packed, rows = lay(2, [[5, 3], [1, 9]])
    rng = np.random.default_rng(3)
    heads = {name: rng.normal(size=(2, TOKENS, count, 4)) for name, count in HEADS.items()}
    weight = rng.normal(size=heads["query"].shape) * packed["token_mask"][..., None, None]

    def loss(narrow):
        given = jax.tree.map(jnp.asarray, packed)
        return jnp.sum(jnp.asarray(weight, jnp.float32) * attend_packed(narrow, given, rows))

    gradient = jax.grad(loss)(jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), heads))
    for name, x in heads.items():
        for _ in range(5):
            at = tuple(rng.integers(0, size) for size in x.shape)
            step = np.zeros_like(x)
            step[at] = 1e-5
            ends = [
                (attend_in_loops(heads | {name: x + sign * step}, packed) * weight).sum()
                for sign in (1, -1)
            ]
            slope = (ends[0] - ends[1]) / 2e-5
            np.testing.assert_allclose(gradient[name][at], slope, atol=3e-5, err_msg=name)


def test_both_ways_and_their_gradients_are_gathers():
    packed, rows = lay(3, [[5, 2, 3], [4]])
    row_map = map_rows(*(jnp.asarray(x) for x in (rows, packed["segments"], packed["positions"],
                                                  packed["token_mask"])))  # fmt: skip
    x = jnp.ones((2, TOKENS, 2, 4))
    laid = to_rows(x, row_map)
    for move, parts in ((to_rows, x), (from_rows, laid)):
        program = jax.make_jaxpr(jax.grad(lambda y, move=move: move(y, row_map).sum()))(parts)
        assert "gather" in str(program) and "scatter" not in str(program)


def test_splash_interpreted_is_the_triangle():
    """jax's TPU kernel, run by the interpreter in bfloat16, against ours."""
    rng = np.random.default_rng(0)
    shapes = {"query": (1, 100, 4, 8), "key": (1, 100, 2, 8), "value": (1, 100, 2, 8)}
    x = [jnp.asarray(rng.normal(size=shape), jnp.bfloat16) for shape in shapes.values()]
    run = functools.partial(attend_causal, *x, jnp.array([100]), interpret=True)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        found = [np.asarray(run(implementation=name), np.float32) for name in ("splash", "xla")]
    np.testing.assert_allclose(*found, rtol=2e-2, atol=2e-3)


# -- what a machine without an accelerator can tell: the programs it would be given ----------------

SHAPES = {"head_dim": 64, "num_layers": 2, "dtype": "bfloat16", "remat": "full"}
LONG, ROW, PREFIX = 512, 256, 40  # splash keeps [R 128] in float32, lanes of a sum


def shape_of(*shape, dtype=jnp.int32):
    return jax.ShapeDtypeStruct(shape, dtype)


def lower(function, platform, *args):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return jax.jit(function).trace(*args).lower(lowering_platforms=(platform,)).as_text()


def lower_update(attention, platform):
    """Forward and backward pass over packed sequences."""
    config = dataclasses.replace(CONFIG, attention=attention, **SHAPES)

    def loss(params, tokens, segments, positions, mask, rows):
        hidden = forward(
            params, config, tokens,
            token_mask=mask, segments=segments, positions=positions, rows=rows,
        )  # fmt: skip
        return hidden.astype(jnp.float32).sum()

    packed = [shape_of(2, LONG)] * 3 + [shape_of(2, LONG, dtype=bool), shape_of(2, 3, ROW)]
    return lower(jax.grad(loss), platform, abstract_params(config), *packed)


@pytest.fixture
def cudnn(monkeypatch):
    """A version of cuDNN, which jax asks for where it lowers."""
    fused = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    if not hasattr(fused, "check_cudnn_version"):
        pytest.skip("this JAX asks for cuDNN's version elsewhere")
    monkeypatch.setattr(fused, "check_cudnn_version", lambda: 91200)


def test_rows_lower_to_cudnns_causal_kernel_and_keep_no_scores(cudnn):
    text = lower_update("cudnn", "cuda")
    assert "__cudnn$fmhaSoftmax(" in text and "__cudnn$fmhaSoftmaxBackward(" in text
    assert "mask_type\\22: \\22PADDING_CAUSAL" in text
    assert not re.search(rf"x({ROW}x{ROW}|{LONG}x{LONG})xf32", text)


def test_rows_lower_to_splash_and_keep_no_scores():
    text = lower_update("splash", "tpu")
    assert text.count("tpu_custom_call") >= 3
    assert not re.search(rf"x({ROW}x{ROW}|{LONG}x{LONG})xf32", text)


def test_a_prefill_behind_a_prefix_is_one_causal_kernel(cudnn):
    """The prefix stands in front of every row: nothing is merged by a log-sum-exp in bfloat16."""
    config = dataclasses.replace(CONFIG, attention="cudnn", **SHAPES)
    part = shape_of(2, 1, 2, PREFIX, 64, dtype=jnp.bfloat16)

    def run(params, tokens, lengths, prefix):
        return prefill(params, config, tokens, lengths, prefix=prefix)

    text = lower(
        run, "cuda", abstract_params(config), shape_of(4, 80), shape_of(4), KeyValues(part, part)
    )
    assert text.count("__cudnn$fmhaSoftmax(") == 1  # in the loop over layers
    root = pathlib.Path(__file__).resolve().parents[1]
    for path in (*root.glob("kernels/**/*.py"), *root.glob("hiperjax/**/*.py")):
        assert "return_residual" not in path.read_text(encoding="utf-8"), path


def test_a_prefix_in_front_of_the_rows_is_a_shared_one():
    """What accelerators compute of a prefill, by our own triangle."""
    config = dataclasses.replace(CONFIG, sliding_window=6, windowed_layers=(1,))
    params = init_params(config, jax.random.key(1))
    tokens, lengths = tokens_of(np.zeros((3, 9))), jnp.array([9, 4, 1])
    prefix = prefill(params, config, tokens[:1, :5], jnp.array([5]))[1]
    real = np.arange(9)[None] < np.asarray(lengths)[:, None]
    hidden, kept = jax.jit(prefill, static_argnums=1)(
        params, config, tokens, lengths, prefix=prefix
    )
    triangle = functools.partial(attend_causal, implementation="xla")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "attend_causal", lambda *x, implementation, **k: triangle(*x, **k))
        rows = dataclasses.replace(config, attention="splash")
        found, held = jax.jit(prefill, static_argnums=1)(
            params, rows, tokens, lengths, prefix=prefix
        )
    np.testing.assert_allclose(np.asarray(found)[real], np.asarray(hidden)[real], atol=2e-5)
    for a, b in zip(held, kept, strict=True):
        a, b = (np.asarray(x).swapaxes(2, 3)[:, real] for x in (a, b))
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_on_a_mesh_each_device_calls_the_kernel_on_its_own_rows_and_heads():
    sizes = {"data": 2, "fsdp": 2, "tensor": 2}
    mesh = AbstractMesh(tuple(sizes.values()), tuple(sizes), (AxisType.Auto,) * 3)
    config = dataclasses.replace(CONFIG, attention="splash", row_axes=("data", "fsdp"), **SHAPES)

    def run(params, tokens, lengths):
        return forward(params, config, tokens, lengths=lengths)

    with jax.sharding.use_abstract_mesh(mesh):
        text = lower(run, "tpu", abstract_params(config), shape_of(8, ROW), shape_of(8))
    call = next(line for line in text.splitlines() if "tpu_custom_call" in line)
    assert f"tensor<2x2x{ROW}x64xbf16>" in call  # a quarter of the rows, half of the heads
