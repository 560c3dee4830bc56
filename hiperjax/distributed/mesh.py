"""Where arrays live: the device mesh, the rules that place parameters on it, many processes.

Three axes. `data` holds copies of the model, `fsdp` splits parameters, gradients and optimizer
state (gathered layer by layer as they are used), `tensor` splits heads and hidden units. Rows of a
batch are split over `data` and `fsdp` together. In a run of many processes `data` is outermost:
each process then holds a whole copy of the model on its own devices, and `localize` gives it to the
sampler without moving a byte, so that processes roll out on their own and meet in the update.
"""

import contextlib
import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXES = ("data", "fsdp", "tensor")
ROW_AXES = ("data", "fsdp")

RULES: tuple[tuple[str, P], ...] = (
    (r"embedding$", P(("tensor", "fsdp"), None)),
    (r"unembedding\.kernel$", P("fsdp", "tensor")),
    (r"layers\.(attention|mlp)\.(q|k|v|gate|up)\.kernel$", P(None, "fsdp", "tensor")),
    (r"layers\.(attention|mlp)\.(q|k|v|gate|up)\.lora_a$", P(None, "fsdp", None)),
    (r"layers\.(attention|mlp)\.(q|k|v|gate|up)\.lora_b$", P(None, None, "tensor")),
    (r"layers\.attention\.(q|k|v)\.bias$", P(None, "tensor")),
    (r"layers\.(attention|mlp)\.(o|down)\.kernel$", P(None, "tensor", "fsdp")),
    (r"layers\.(attention|mlp)\.(o|down)\.lora_a$", P(None, "tensor", None)),
    (r"layers\.(attention|mlp)\.(o|down)\.lora_b$", P(None, None, "fsdp")),
    (r"norm\.scale$", P()),
)
"""The end of a leaf's dotted path -> how its axes are split. Layers are stacked on axis 0.

An embedding whose vocabulary does not divide, as a small trained one may not, is split by features.

Optimizer state has the same paths below its own names, so it is placed like its parameters. What no
rule names (counters, value heads) is copied to every device.
"""


class MeshError(ValueError):
    """Devices or processes that do not fit together, or not what shall run on them."""


def start_processes(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Join the other processes of the run; the first thing a process does with JAX.

    On TPU pods and under Slurm or Open MPI every argument is found by itself. Elsewhere give all
    three: `coordinator` is `host:port` of process 0.
    """
    given = (coordinator, num_processes, process_id)
    if any(x is None for x in given) and any(x is not None for x in given):
        raise MeshError(
            f"start_processes: coordinator={coordinator}, num_processes={num_processes}, "
            f"process_id={process_id}; expected all three or none"
        )
    jax.distributed.initialize(coordinator, num_processes, process_id)


def make_mesh(
    data: int = -1, fsdp: int = 1, tensor: int = 1, devices: Sequence[Any] | None = None
) -> Mesh:
    """A mesh over all devices; one size may be -1: whatever is left.

    Raises:
      MeshError: the sizes do not multiply to the number of devices.
    """
    devices = list(devices if devices is not None else jax.devices())
    sizes = [data, fsdp, tensor]
    known = math.prod(size for size in sizes if size != -1)
    if sizes.count(-1) == 1 and known > 0 and len(devices) % known == 0:
        sizes[sizes.index(-1)] = len(devices) // known
    if min(sizes) < 1 or math.prod(sizes) != len(devices):
        raise MeshError(
            f"mesh data={data} fsdp={fsdp} tensor={tensor}; {len(devices)} devices: the sizes must "
            "be positive, their product the number of devices (one may be -1)"
        )
    kinds = (AxisType.Auto,) * len(AXES)
    return jax.make_mesh(tuple(sizes), AXES, kinds, devices=devices)


def check_mesh(
    mesh: Mesh | AbstractMesh, *, num_heads: int, num_kv_heads: int, rows: int, what: str = "rows"
) -> None:
    """Refuse a mesh that does not divide the heads, or the rows of a (micro-)batch."""
    tensor = mesh.shape["tensor"]
    for name, count in (("query heads", num_heads), ("key-value heads", num_kv_heads)):
        if count % tensor:
            raise MeshError(
                f"mesh {_sizes(mesh)}: tensor={tensor} does not divide the model's {count} {name}; "
                "lower tensor and raise fsdp"
            )
    ways = row_ways(mesh)
    if rows % ways:
        raise MeshError(
            f"mesh {_sizes(mesh)}: data x fsdp = {ways} does not divide {rows} {what}; make them a "
            f"multiple of {ways}"
        )


def row_ways(mesh: Mesh | AbstractMesh) -> int:
    """Into how many parts the rows of a batch are split."""
    return _ways(mesh, ROW_AXES)


def _ways(mesh: Mesh | AbstractMesh, axes: str | tuple[str, ...] | None) -> int:
    """Into how many parts these mesh axes together split."""
    names = (axes,) if isinstance(axes, str) else axes or ()
    return math.prod(mesh.shape[name] for name in names)


def _sizes(mesh: Mesh | AbstractMesh) -> str:
    return " ".join(f"{axis}={mesh.shape[axis]}" for axis in AXES)


def _dotted(path: tuple[Any, ...]) -> str:
    """`policy.layers.attention.q.kernel` of a key path through dicts, tuples and records."""
    return ".".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)


def spec_of(path: str) -> P:
    """How the leaf of this dotted path is split."""
    return next((spec for pattern, spec in RULES if re.search(pattern, path)), P())


def shardings(tree: Any, mesh: Mesh | AbstractMesh) -> Any:
    """A `NamedSharding` for every leaf of a tree of arrays or shapes, by the rules.

    Raises:
      MeshError: an axis of a leaf is not divided by the mesh axes that split it.
    """

    def place_leaf(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        name = _dotted(path)
        spec = spec_of(name)
        if name.endswith("embedding") and leaf.shape[0] % _ways(mesh, spec[0]):
            spec = P(*reversed(spec))
        for size, axes in zip(leaf.shape, spec, strict=False):
            ways = _ways(mesh, axes)
            if size % ways:
                raise MeshError(
                    f"mesh {_sizes(mesh)}: {axes}, {ways} ways, does not divide size {size} of "
                    f"{name} {tuple(leaf.shape)}"
                )
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(place_leaf, tree)


def _put(leaf: Any, sharding: NamedSharding) -> jax.Array:
    if jax.process_count() == 1:
        return jax.device_put(leaf, sharding)
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return jax.device_put(leaf, sharding)
    host = np.asarray(leaf)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index or ...])


def place(tree: Any, mesh: Mesh) -> Any:
    """Put parameters or a whole train state on the mesh; every process passes equal values."""
    return jax.tree.map(_put, tree, shardings(tree, mesh))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """A copy of every array on every device; every process passes equal values.

    Plain numbers stay what they are: the host may want to read them.
    """

    def put(leaf: Any) -> Any:
        return leaf if isinstance(leaf, int | float) else _put(leaf, NamedSharding(mesh, P()))

    return jax.tree.map(put, tree)


def place_rows(tree: Any, mesh: Mesh) -> Any:
    """Batch arrays with rows first: each process passes its own, equally many, rows.

    The global batch holds the processes' rows one after another.
    """
    sharding = NamedSharding(mesh, P(ROW_AXES))

    def put(leaf: Any) -> jax.Array:
        return jax.make_array_from_process_local_data(sharding, np.asarray(leaf))

    return jax.tree.map(put, tree)


def local_mesh(mesh: Mesh) -> Mesh:
    """The part of the mesh that is this process's own.

    Raises:
      MeshError: this process's devices do not hold a whole copy of the model.
    """
    mine = np.vectorize(lambda device: device.process_index == jax.process_index())(mesh.devices)
    along = mine.any(axis=(1, 2))
    if not mine[along].all():
        raise MeshError(
            f"mesh {_sizes(mesh)} over {jax.process_count()} processes: fsdp x tensor spans "
            "processes; expected data to be a multiple of the number of processes"
        )
    return Mesh(mesh.devices[along], AXES, axis_types=(AxisType.Auto,) * len(AXES))


def localize(tree: Any, mesh: Mesh) -> Any:
    """Arrays placed by the rules, seen as arrays of this process alone; nothing is copied."""
    own = local_mesh(mesh)

    def view(leaf: jax.Array) -> jax.Array:
        assert isinstance(leaf.sharding, NamedSharding)
        sharding = NamedSharding(own, leaf.sharding.spec)
        parts = [shard.data for shard in leaf.addressable_shards]
        return jax.make_array_from_single_device_arrays(leaf.shape, sharding, parts)

    return jax.tree.map(view, tree)


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where a run's arrays live: on the first device (no mesh), or on a mesh by the rules."""

    mesh: Mesh | None = None

    @property
    def row_axes(self) -> tuple[str, ...]:
        """Axes that the rows of a model's activations are split over."""
        return () if self.mesh is None else ROW_AXES

    @property
    def num_sampler_shards(self) -> int:
        """Into how many parts the slots of this process are split."""
        return 1 if self.mesh is None else row_ways(local_mesh(self.mesh))

    def use_mesh(self) -> contextlib.AbstractContextManager[Any]:
        """The mesh, for the programs that run inside."""
        return contextlib.nullcontext() if self.mesh is None else jax.set_mesh(self.mesh)

    def init_sharded(self, function: Callable[..., Any], *args: Any) -> Any:
        """`function(*args)`, made where it belongs: no device holds more than its part.

        On a mesh the function is compiled, and its arguments are given up to it. Either way the
        result is committed to its devices, as what a checkpoint gives back is: JAX compiles another
        program for arrays that are not.
        """
        if self.mesh is None:
            return jax.device_put(function(*args), jax.local_devices()[0])
        with self.use_mesh():
            targets = shardings(jax.eval_shape(function, *args), self.mesh)
            donated = tuple(range(len(args)))
            return jax.jit(function, out_shardings=targets, donate_argnums=donated)(*args)

    def describe(self, shapes: Any) -> Any:
        """Shapes that say where each leaf belongs."""
        first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        if self.mesh is None:
            targets = jax.tree.map(lambda _: first, shapes)
        else:
            targets = shardings(shapes, self.mesh)
        return jax.tree.map(
            lambda x, target: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=target),
            shapes,
            targets,
        )

    def replicate(self, tree: Any) -> Any:
        """A batch, whole, on every device; every process passes equal values.

        A batch is tokens and a few numbers per token: small beside activations, whose rows the
        model splits. Cutting minibatches from it then needs no communication.
        """
        return tree if self.mesh is None else replicate(tree, self.mesh)
