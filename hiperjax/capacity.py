"""Before anything is launched: does a run fit its devices, and how fast could it be at best?

Memory of parameters and optimizer state is counted leaf by leaf under the mesh's own rules.
Activations are estimated from what the backward pass keeps. Times are floors: the roofline of the
device, nothing lost to latency, padding or communication.
"""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from hiperjax_kernels.logprobs import CHUNK
from jax.sharding import AbstractMesh, AxisType

from hiperjax.devices import MEMORY_FRACTION, Device, PlanError, parse_device
from hiperjax.distributed import mesh as meshes
from hiperjax.models.lora import partition, split_trained
from hiperjax.models.transformer import TransformerConfig, abstract_params

Critic = Literal["features", "shared", "separate", "lora"]


RANDOM_FEATURES, MOMENTS = 192, 6
"""Of the least-squares critic by default: features beside the hidden state, batches remembered."""


@dataclasses.dataclass(frozen=True)
class Workload:
    """One iteration, by its sizes."""

    turns: int
    """Turns collected and learned from."""
    prompt_tokens: int
    """Mean prompt of a turn; of a growing context, what is new in it."""
    reply_tokens: int
    """Mean reply of a turn."""
    prompt_limit: int
    """Longest prompt; with the longest reply, the length of a cache slot."""
    reply_limit: int
    slots: int
    """Episodes decoded side by side, on all devices together."""
    minibatch_rows: int
    """Rows of an optimizer step: packed sequences of turns."""
    micro_rows: int
    """Rows of one forward and backward pass, on all devices together."""
    row_length: int = 0
    """Tokens of a row; 0: the longest prompt with the longest reply, one turn per row."""
    row_replies: int = 0
    """Reply tokens of a row; 0: the longest reply."""
    epochs: int = 1
    context_tokens: int = 0
    """Mean context of a turn, its reply included; 0: its own prompt and reply, nothing grows."""
    context_limit: int = 0
    """Longest context before a reply; 0: the longest prompt."""

    @property
    def context(self) -> int:
        """Tokens a decode step, and a row's attention, look back on."""
        return self.context_tokens or self.prompt_tokens + self.reply_tokens

    @property
    def slot_length(self) -> int:
        """Tokens of a slot's cache."""
        return max(self.context_limit, self.prompt_limit) + self.reply_limit


class Item(NamedTuple):
    """One line of a plan."""

    name: str
    amount: float
    why: str


@dataclasses.dataclass(frozen=True)
class CapacityPlan:
    """What a run takes of each device, and its floors."""

    title: str
    held: tuple[Item, ...]
    """Bytes per device all through an iteration."""
    rollout: tuple[Item, ...]
    """Bytes per device beside them while episodes are collected."""
    update: tuple[Item, ...]
    """Bytes per device beside them while the policy learns."""
    available: float
    """Bytes that a device can give."""
    times: tuple[Item, ...]
    """Seconds per iteration, at best."""

    @property
    def memory(self) -> tuple[Item, ...]:
        """Every line."""
        return (*self.held, *self.rollout, *self.update)

    @property
    def total(self) -> float:
        """Bytes per device at most: rollout and update are not there together."""
        return _sum(self.held) + max(_sum(self.rollout), _sum(self.update))

    @property
    def fits(self) -> bool:
        return self.total <= self.available

    @property
    def seconds(self) -> float:
        return _sum(self.times)


def _sum(items: Iterable[Item]) -> float:
    return sum(item.amount for item in items)


# -- sizes -----------------------------------------------------------------------------------------


def _count(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _count_on_device(tree: Any, mesh: AbstractMesh) -> int:
    """Numbers of a tree that one device holds under the rules."""
    targets = meshes.shardings(tree, mesh)
    parts = jax.tree.map(lambda leaf, target: target.shard_shape(leaf.shape), tree, targets)
    return sum(math.prod(shape) for shape in jax.tree.leaves(parts, is_leaf=_is_shape))


def _is_shape(x: Any) -> bool:
    return isinstance(x, tuple)


def layer_parameters(config: TransformerConfig) -> int:
    """Weights of all layers: what every token meets."""
    return _count(abstract_params(config)["layers"])


def head_parameters(config: TransformerConfig) -> int:
    """Weights of the output projection: met only where logits are wanted."""
    return config.vocab_size * config.hidden_size


def matmul_parameters(config: TransformerConfig) -> int:
    """Weights a decode step reads: all but an embedding that is only looked up."""
    return layer_parameters(config) + head_parameters(config)


def cache_bytes_per_token(config: TransformerConfig) -> int:
    width = config.num_kv_heads * config.head_dim
    return 2 * config.num_layers * width * jnp.dtype(config.dtype).itemsize


def activation_bytes(
    config: TransformerConfig, rows: int, length: int, reply: int, tensor: int = 1
) -> float:
    """What one device keeps between the forward and the backward pass of `rows` rows.

    Each layer keeps its input, normed copies (also in float32), projections before and after
    rotation and six wide arrays of the MLP; XLA's attention keeps scores and weights of every head
    and pair of tokens, cuDNN's does not. With `remat="full"` only inputs of layers are kept and one
    layer at a time is recomputed, beside a third of it in gradients; `dots` keeps projections too.
    Logits exist at reply positions and for a chunk of the vocabulary at a time, in float32:
    themselves, their exponentials, their gradient.
    """
    size = jnp.dtype(config.dtype).itemsize
    heads, width = config.num_heads / tensor, config.num_heads * config.head_dim / tensor
    projected = width + 2 * config.num_kv_heads * config.head_dim / tensor
    wide = config.intermediate_size / tensor
    token = config.hidden_size * (4 * size + 8) + (2 * projected + width + 6 * wide) * size
    if config.attention == "xla":
        token += heads * length * (4 + size)
    tokens = rows * length
    boundary = config.num_layers * tokens * config.hidden_size * size
    dots = config.num_layers * tokens * (projected + 2 * wide) * size
    layers = {
        "none": config.num_layers * tokens * token,
        "full": boundary + 1.3 * tokens * token,
        "dots": boundary + dots + 1.3 * tokens * token,
    }[config.remat]
    return layers + 3 * 4 * rows * reply * min(config.vocab_size, CHUNK) / tensor


# -- floors ----------------------------------------------------------------------------------------


def decode_step_seconds(
    config: TransformerConfig, device: Device, slots: int | float, context: int, tensor: int = 1
) -> float:
    """Least time of one decode step: weights read once, or multiplied; then the cache read."""
    weights = matmul_parameters(config) / tensor
    size = jnp.dtype(config.dtype).itemsize
    products = max(size * weights / device.bandwidth, 2 * weights * slots / device.flops)
    cache = slots * context * cache_bytes_per_token(config) / tensor
    return products + cache / device.bandwidth


def forward_flops(
    config: TransformerConfig, tokens: int | float, context: int, logit_positions: int | float
) -> float:
    """Operations of a forward pass over rows of `context` tokens; causal attention is half full."""
    attention = 2 * config.num_layers * config.num_heads * config.head_dim * context
    linear = 2 * layer_parameters(config)
    head = 2 * head_parameters(config) * logit_positions
    return float(tokens * (linear + attention) + head)


def floors(
    config: TransformerConfig,
    device: Device,
    mesh: AbstractMesh,
    load: Workload,
    critic: Critic,
    reference: bool,
) -> tuple[Item, ...]:
    """Least seconds of each phase of an iteration, no prefix shared."""
    devices, context = math.prod(mesh.shape.values()), load.context
    tensor, own_slots = mesh.shape["tensor"], load.slots / meshes.row_ways(mesh)
    step = decode_step_seconds(config, device, own_slots, context, tensor)
    steps = load.turns * load.reply_tokens / load.slots
    rate = device.flops * devices
    prompts, replies = load.turns * load.prompt_tokens, load.turns * load.reply_tokens
    rows = forward_flops(config, prompts + replies, context, replies)
    trunk = forward_flops(config, prompts + replies, context, 0)
    second = critic in ("separate", "lora")
    # The sampler's log-probs serve as the old ones; a critic on the policy's trunk reads its pass.
    score = reference * rows + (trunk if second else rows)
    # Frozen weights need no gradient of their own; recomputation is one more forward pass.
    factor = (2 if config.lora_rank else 3) + (config.remat == "full")
    update = load.epochs * factor * (rows + (trunk if second else 0))
    return (
        Item("prefill", forward_flops(config, prompts, context, load.turns) / rate, "prompts"),
        Item("decode", steps * step, f"{steps:,.0f} steps of {1e3 * step:.2f} ms, no idle slot"),
        Item(
            "score",
            score / rate,
            "values" + ", and log-probs under the reference" * reference,
        ),
        Item("update", update / rate, f"{load.epochs} epochs, {factor} x forward"),
    )


# -- the plan --------------------------------------------------------------------------------------


def _weights(config: TransformerConfig, mesh: AbstractMesh, frozen_size: int) -> list[Item]:
    """The policy and what its optimizer keeps."""
    params = abstract_params(config)
    if config.lora_rank:
        adapters, base = partition(params)
        trained, held = _count_on_device(adapters, mesh), _count_on_device(base, mesh)
        items = [Item("frozen weights", frozen_size * held, f"{_count(base) / 1e9:.3f} B")]
        what = f"adapters, {_count(adapters) / 1e6:.1f} M"
    else:
        trained, items = _count_on_device(params, mesh), []
        what = f"{_count(params) / 1e9:.3f} B"
    size = jnp.dtype(config.dtype).itemsize
    items.append(Item("policy, float32", 4.0 * trained, what))
    if size < 4 and not config.lora_rank:
        items.append(Item("compute copy", float(size * trained), f"{config.dtype}, one per update"))
    items.append(Item("Adam moments", 8.0 * trained, "two float32 per trained parameter"))
    return items


class _Phases(NamedTuple):
    """What comes beside the policy, its optimizer and its reference."""

    held: Item
    rollout: Item
    update: tuple[Item, Item]


def _others(
    config: TransformerConfig, mesh: AbstractMesh, load: Workload, critic: Critic
) -> _Phases:
    """Critic, cache, gradients and activations."""
    params = abstract_params(config)
    trained = _count_on_device(partition(params)[0] if config.lora_rank else params, mesh)
    ways, tensor = meshes.row_ways(mesh), mesh.shape["tensor"]
    length = load.slot_length
    row, replies = load.row_length or length, load.row_replies or load.reply_limit
    whole = _count_on_device(abstract_params(dataclasses.replace(config, lora_rank=0)), mesh)
    fitted = config.hidden_size + RANDOM_FEATURES + 1
    amounts = {
        "separate": (12.0 * whole, "a network of its own: float32 and Adam"),
        "lora": (12.0 * trained, "adapters of its own on the frozen weights, and Adam"),
        "shared": (12.0 * 3 * config.hidden_size, "heads on the policy's trunk"),
        "features": (4.0 * MOMENTS * 3 * fitted**2, "heads fitted by least squares: moments"),
    }
    amount, why = amounts[critic]
    largest = max(trained, whole) if critic == "separate" else trained
    copies = 2 if load.micro_rows < load.minibatch_rows else 1
    own_slots, own_rows = load.slots / ways, max(1, load.micro_rows // ways)
    cache = own_slots * length * cache_bytes_per_token(config) / tensor
    activations = activation_bytes(config, own_rows, row, replies, tensor)
    return _Phases(
        Item(f"critic: {critic}", amount, why),
        Item("cache", cache, f"{own_slots:g} slots of {length} tokens"),
        (
            Item("gradients", 4.0 * copies * largest, "float32" + ", and their sum" * (copies > 1)),
            Item("activations", activations, f"{own_rows} rows of {row}, remat {config.remat}"),
        ),
    )


def plan(
    config: TransformerConfig,
    device: str,
    load: Workload,
    *,
    critic: Critic = "separate",
    reference: bool = True,
    reference_dtype: str | None = None,
    frozen_dtype: str | None = None,
    fsdp: int = 1,
    tensor: int = 1,
    title: str = "",
) -> CapacityPlan:
    """Memory per device and lower bounds of time for one iteration; takes no device.

    Args:
      config: the policy; `lora_rank` says whether it is trained by adapters.
      device: name and count, such as `h200` or `v5e-8`; `data` takes what fsdp and tensor leave.
      load: sizes of an iteration.
      critic: what the value heads stand on.
      reference: whether a KL term keeps what the policy started from (adapters: a copy of them).
      reference_dtype: Dtype of that copy; default: the compute dtype.
      frozen_dtype: Dtype of the base below adapters; default: the compute dtype.

    Raises:
      PlanError: an unknown device, a mesh that does not divide, adapters asked of a plain policy.
    """
    if critic == "lora" and not config.lora_rank:
        raise PlanError("critic 'lora' shares the policy's frozen base; set lora_rank")
    kind, count = parse_device(device)
    if count % (fsdp * tensor):
        raise PlanError(f"{device}: fsdp={fsdp} x tensor={tensor} does not divide {count} devices")
    sizes = (count // (fsdp * tensor), fsdp, tensor)
    mesh = AbstractMesh(sizes, meshes.AXES, (AxisType.Auto,) * 3)
    meshes.check_mesh(
        mesh,
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
        rows=load.micro_rows,
        what="sequences of ppo.micro_sequences",
    )
    reference_dtype, frozen_dtype = reference_dtype or config.dtype, frozen_dtype or config.dtype
    memory = _weights(config, mesh, jnp.dtype(frozen_dtype).itemsize)
    if reference:
        held = _count_on_device(split_trained(abstract_params(config), config)[0], mesh)
        amount = float(jnp.dtype(reference_dtype).itemsize * held)
        memory.append(Item("reference", amount, f"{reference_dtype}, for the KL term"))
    others = _others(config, mesh, load, critic)
    times = floors(config, kind, mesh, load, critic, reference)
    axes = " ".join(f"{axis}={size}" for axis, size in zip(meshes.AXES, sizes, strict=True))
    return CapacityPlan(
        title=f"{title} on {device} ({axes})",
        held=(*memory, others.held),
        rollout=(others.rollout,),
        update=others.update,
        available=kind.memory * MEMORY_FRACTION,
        times=times,
    )


def render(plan: CapacityPlan) -> str:
    """The plan as a table."""
    lines = [plan.title]
    for about, items in (
        ("memory per device, all through", plan.held),
        ("beside it in a rollout", plan.rollout),
        ("beside it in an update", plan.update),
    ):
        lines += ["", about]
        lines += [f"  {x.name:<20}{x.amount / 1e9:>9.2f} GB   {x.why}" for x in items]
    share = f"{plan.total / plan.available:.0%} of {plan.available / 1e9:.1f} GB to give"
    lines += ["", f"  {'at most together':<20}{plan.total / 1e9:>9.2f} GB   {share}"]
    advice = "DOES NOT FIT: more fsdp, adapters (lora), a shared trunk, or fewer micro_rows"
    verdict = "fits" if plan.fits else advice
    lines += [f"  {verdict}", "", "an iteration, at the roofline"]
    lines += [f"  {x.name:<20}{x.amount:>9.2f} s    {x.why}" for x in plan.times]
    lines.append(
        f"  {'together':<20}{plan.seconds:>9.2f} s    a floor: no padding, no communication (nor "
        "any prefix shared)"
    )
    return "\n".join(lines)
