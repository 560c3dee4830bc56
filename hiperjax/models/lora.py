"""Low-rank adapters: `y = x W + (alpha / rank) x A B`, with `W` frozen (LoRA, arXiv 2106.09685).

Adapters are leaves `lora_a`, `lora_b` of the same parameter tree, beside the kernels they adapt.
`partition` takes them out, so that gradients and optimizer state exist for them alone; a critic
takes the same frozen base with adapters of its own.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from hiperjax.models.transformer import Params, TransformerConfig, cast_params, init_params

ADAPTER_LEAVES = ("lora_a", "lora_b")


def base_config(config: TransformerConfig) -> TransformerConfig:
    """The same model without adapters."""
    return dataclasses.replace(config, lora_rank=0)


def combine(adapters: Params, frozen: Params) -> Params:
    """One tree from the two that `partition` made."""
    both = {**frozen, **adapters}
    for name in adapters.keys() & frozen.keys():
        both[name] = combine(adapters[name], frozen[name])
    return both


def partition(params: Params) -> tuple[Params, Params]:
    """Split into (adapters, everything else); branches without a leaf are left out."""
    adapters: Params = {}
    frozen: Params = {}
    for name, child in params.items():
        if isinstance(child, dict):
            inner, outer = partition(child)
            adapters |= {name: inner} if inner else {}
            frozen |= {name: outer} if outer else {}
        elif name in ADAPTER_LEAVES:
            adapters[name] = child
        else:
            frozen[name] = child
    return adapters, frozen


def split_trained(params: Params, config: TransformerConfig) -> tuple[Params, Params]:
    """What training moves and what stands still: adapters and their base, or everything and {}.

    `combine` of the two gives the parameters back.
    """
    return partition(params) if config.lora_rank else (params, {})


def init_adapters(config: TransformerConfig, key: Key[Array, ""]) -> Params:
    """Fresh adapters: A random, B zero, so that the adapted model starts as the base.

    Compiled, so that the base weights it describes but does not return are never made.
    """
    if not config.lora_rank:
        raise ValueError("init_adapters: config.lora_rank is 0; set the rank of the adapters")
    return jax.jit(lambda key: partition(init_params(config, key))[0])(key)


def add_adapters(params: Params, config: TransformerConfig, key: Key[Array, ""]) -> Params:
    """Base parameters with fresh adapters beside their kernels."""
    return combine(init_adapters(config, key), params)


def _kind_of(config: TransformerConfig) -> tuple[object, ...]:
    """What makes adapters and their base those of one config or of another."""
    return config.lora_rank, config.lora_alpha, config.lora_targets, config.dtype


def adapt(
    params: Params, source: TransformerConfig, config: TransformerConfig, key: Key[Array, ""]
) -> Params:
    """The same function in another shape.

    Adapters that are `config`'s own stay beside their base. Others are merged; with a `lora_rank`,
    `config` makes of it the frozen base, in the compute dtype, of fresh ones: in bfloat16 a part
    of what they had learned is rounded away.
    """
    if config.lora_rank and _kind_of(source) == _kind_of(config):
        return params
    plain = merge_adapters(params, source)
    if not config.lora_rank:
        return plain
    return add_adapters(cast_params(plain, config.dtype), config, key)


def merge_adapters(params: Params, config: TransformerConfig) -> Params:
    """Plain parameters of the same function: each adapter added into its kernel.

    The result belongs to `base_config(config)`: what is exported.
    """
    scale = config.lora_alpha / config.lora_rank if config.lora_rank else 0.0

    def merge(tree: Params) -> Params:
        merged = {
            name: merge(child) if isinstance(child, dict) else child
            for name, child in tree.items()
            if name not in ADAPTER_LEAVES
        }
        if "lora_a" in tree:
            a, b = (tree[name].astype(jnp.float32) for name in ADAPTER_LEAVES)
            kernel = tree["kernel"]
            merged["kernel"] = (kernel.astype(jnp.float32) + scale * (a @ b)).astype(kernel.dtype)
        return merged

    return merge(params)
