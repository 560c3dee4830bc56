"""A published language model on this machine: forward, decode and the gradient of adapters.

    python -m experiments.benchmarks.language_model --folder DIR [--rows 4] [--length 512]

Tokens per second of this program and, with torch installed, of `transformers` on the same folder,
timed in turns in one process (medians), beside the rate of a float32 matrix product timed in the
same turns. The share is what a pass must multiply (products with weights, attention included) over
what the machine would have multiplied in that time. Training is the gradient of the mean log-prob
of every token with respect to rank-16 adapters on all projections; the base is frozen on both
sides. On a shared machine only the ratios say something.
"""

import argparse
import functools
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hiperjax_kernels.logprobs import token_logprobs

from experiments.benchmarks.common import Timing, alternate, format_table, verdict
from hiperjax.models.convert import load_checkpoint
from hiperjax.models.lora import add_adapters, combine, partition
from hiperjax.models.transformer import (
    Params,
    TransformerConfig,
    cast_params,
    decode,
    forward,
    init_cache,
    logits,
    output_weights,
)

PRODUCT = (2048, 1536, 1536)
"""Rows, inner and outer size of the matrix product that sets the rate."""
RANK = 16


def count_products(config: TransformerConfig, rows: int, length: int) -> dict[str, float]:
    """Floating-point operations of a forward pass (no logits) and of the adapters' gradient."""
    per_layer = config.hidden_size * (
        2 * config.num_heads * config.head_dim
        + 2 * config.num_kv_heads * config.head_dim
        + 3 * config.intermediate_size
    )
    tokens = rows * length
    attention = 2 * 2 * config.num_heads * config.head_dim * length / 2
    body = config.num_layers * tokens * (2 * per_layer + attention)
    vocabulary = 2 * tokens * config.hidden_size * config.vocab_size
    # Backward: the inputs' gradients (and attention's two products twice); logits are made anew.
    backward = config.num_layers * tokens * (2 * per_layer + 2 * attention) + 2 * vocabulary
    return {"forward": body, "train": body + vocabulary + backward}


def our_calls(folder: pathlib.Path, tokens: np.ndarray, dtype: str) -> dict[str, Callable[[], Any]]:
    """Forward, decode and training of this program, compiled and warm."""
    _, params = load_checkpoint(folder)
    shapes = dict(dtype=dtype, lora_rank=RANK)
    adapted = TransformerConfig.from_hf(folder, **shapes)
    base = cast_params(params, dtype)
    plain = TransformerConfig.from_hf(folder, dtype=dtype)
    adapters, frozen = partition(add_adapters(base, adapted, jax.random.key(0)))
    rows, length = tokens.shape
    lengths, ids = jnp.full(rows, length), jnp.asarray(tokens)

    @jax.jit
    def run_forward(params: Params) -> jax.Array:
        hidden = forward(params, plain, ids, lengths=lengths)
        return logits(params, plain, hidden[:, -1])

    @jax.jit
    def run_train(adapters: Params, frozen: Params) -> Params:
        def loss(adapters: Params) -> jax.Array:
            whole = combine(adapters, frozen)
            hidden = forward(whole, adapted, ids, lengths=lengths)[:, :-1]
            states = hidden.reshape(-1, hidden.shape[-1])
            weights = output_weights(whole, adapted)
            found: Any = token_logprobs(states, weights, ids[:, 1:].reshape(-1))
            return -found[0].mean()

        return jax.grad(loss)(adapters)

    step = jax.jit(functools.partial(_decode_step, config=plain))
    cache = init_cache(plain, rows, length)
    calls = {
        "forward": lambda: run_forward(base),
        "train": lambda: run_train(adapters, frozen),
        "decode": lambda: step(base, ids[:, 0], jnp.full(rows, length - 1), cache),
    }
    for call in calls.values():
        jax.block_until_ready(call())
    return calls


def _decode_step(
    params: Params, token: jax.Array, position: jax.Array, cache: Any, *, config: TransformerConfig
) -> jax.Array:
    hidden, _ = decode(params, config, token, position, cache)
    return logits(params, config, hidden).argmax(axis=-1)


def their_calls(folder: pathlib.Path, tokens: np.ndarray) -> dict[str, Callable[[], Any]]:
    """The same in torch, float32; nothing where it is not installed."""
    try:
        import torch
        from transformers import AutoModelForCausalLM
    except ImportError:
        print("torch is not installed: this program alone is measured")
        return {}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model.requires_grad_(False)
    ids = torch.asarray(tokens)

    def run_forward() -> float:
        with torch.no_grad():
            return float(model(ids, logits_to_keep=1).logits[0, 0, 0])

    with torch.no_grad():
        cache = model(ids[:, :-1], logits_to_keep=1).past_key_values

    def run_decode() -> float:
        with torch.no_grad():
            out = model(ids[:, -1:], past_key_values=cache).logits
        cache.crop(-1)
        return float(out.argmax(-1)[0, 0])

    calls: dict[str, Callable[[], Any]] = {"forward": run_forward, "decode": run_decode}
    for call in calls.values():
        call()
    adapted = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    adapted.requires_grad_(False)
    factors = _add_torch_adapters(torch, adapted)

    def run_train() -> float:
        for factor in factors:
            factor.grad = None
        loss = adapted(ids, labels=ids).loss
        loss.backward()
        return float(loss.detach())

    run_train()
    return calls | {"train": run_train}


def _add_torch_adapters(torch: Any, model: Any) -> list[Any]:
    """Low-rank adapters on every projection of the layers, as hooks; their factors."""
    factors = []
    for name, module in model.named_modules():
        if name.endswith("_proj"):
            down = torch.randn(RANK, module.in_features) / math.sqrt(module.in_features)
            pair = down.requires_grad_(), torch.zeros(module.out_features, RANK).requires_grad_()
            factors += pair

            def add(module: Any, inputs: Any, output: Any, pair: Any = pair) -> Any:
                return output + inputs[0] @ pair[0].T @ pair[1].T

            module.register_forward_hook(add)
    return factors


def product_call() -> Callable[[], Any]:
    """One float32 matrix product, warm."""
    rows, inner, outer = PRODUCT
    left, right = jnp.ones((rows, inner)), jnp.ones((inner, outer))
    call = functools.partial(jax.jit(jnp.matmul), left, right)
    jax.block_until_ready(call())
    return call


def report(
    times: Mapping[str, Timing], config: TransformerConfig, rows: int, length: int, dtype: str
) -> str:
    """The table, and the two targets."""
    rate = 2 * math.prod(PRODUCT) / times["product"].wall
    products = count_products(config, rows, length)
    tokens = {"forward": rows * length, "train": rows * length, "decode": rows}
    table, lines = [], []
    for name, count in tokens.items():
        ours = times[f"ours {name}"].wall
        share = products[name] / ours / rate if name in products else math.nan
        theirs = times.get(f"theirs {name}")
        ratio = theirs.wall / ours if theirs else math.nan
        row = (count / ours, count / theirs.wall if theirs else math.nan, ratio, share)
        table.append((name, *row))
        if name in products:
            lines.append(f"{name}: share of the product rate {share:.2f} ({verdict(share, 0.6)})")
        if theirs and name in products:
            lines.append(f"{name}: times transformers {ratio:.2f} ({verdict(ratio, 1.2)})")
    header = (f"{rows} x {length}, {dtype}", "tokens/s", "transformers", "ratio", "share")
    return "\n".join([format_table(header, table), f"product: {rate / 1e9:.0f} GFLOP/s", *lines])


def parse_args(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", default="float32")
    return parser.parse_args(words)


def main() -> None:
    """Print the table."""
    wish = parse_args()
    config = TransformerConfig.from_hf(wish.folder)
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, config.vocab_size, (wish.rows, wish.length))
    calls = {"product": product_call()}
    ours = our_calls(wish.folder, tokens.astype(np.int32), wish.dtype)
    theirs = their_calls(wish.folder, tokens)
    calls |= {f"ours {name}": call for name, call in ours.items()}
    calls |= {f"theirs {name}": call for name, call in theirs.items()}
    print(report(alternate(calls, wish.repeats), config, wish.rows, wish.length, wish.dtype))


if __name__ == "__main__":
    main()
