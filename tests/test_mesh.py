"""The mesh: sizes and rules, and one update that is the same on every mesh and on two processes."""

import dataclasses
import os
import pathlib
import re
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from hiperjax.distributed import mesh as meshes
from hiperjax.distributed.mesh import MeshError
from hiperjax.models.shapes import SHAPES
from hiperjax.models.transformer import TransformerConfig, abstract_params, init_params
from hiperjax.models.weights import load_params, save_params

MODEL = TransformerConfig(
    vocab_size=32,
    hidden_size=16,
    intermediate_size=32,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    embedding_std=0.3,
)
"""The model of mesh_program.py."""
PROGRAM = pathlib.Path(__file__).parent / "helpers" / "mesh_program.py"
ONE = (1, 1, 1)
TOLERANCE = 3e-5
"""Adam steps of 1e-2 were taken: a wrong gradient moves parameters a hundred times more."""


def _start(out, sizes, devices, *extra):
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_NUMPY_RANK_PROMOTION": "allow",
    }
    numbers = [str(size) for shape in sizes for size in shape]
    command = [sys.executable, str(PROGRAM), str(out), *numbers, *map(str, extra)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def _finish(processes, timeout=540):
    for process in processes:
        output, _ = process.communicate(timeout=timeout)
        assert process.returncode == 0, output[-3000:]


def _run(out, sizes, devices):
    _finish([_start(out, sizes, devices)])
    return dict(np.load(out))


def _result(results, shape):
    name = "x".join(map(str, shape))
    return {key.split("/", 1)[1]: x for key, x in results.items() if key.startswith(f"{name}/")}


def _assert_same(left, right):
    assert left.keys() == right.keys() and len(left) > 50
    for name in left:
        if name.startswith("sample['reply']"):
            np.testing.assert_array_equal(left[name], right[name])
        np.testing.assert_allclose(left[name], right[name], atol=TOLERANCE, err_msg=name)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    out = tmp_path_factory.mktemp("mesh") / "eight.npz"
    return _run(out, [ONE, (2, 2, 1), (2, 2, 2)], 8)


def test_the_update_moves_parameters(simulated):
    """Guards the comparisons below: an update that does nothing agrees with itself anywhere."""
    before = init_params(MODEL, jax.random.key(0))["layers"]["mlp"]["up"]["kernel"]
    after = _result(simulated, ONE)["['state'].policy['layers']['mlp']['up']['kernel']"]
    assert np.abs(after - before).max() > 1e-3


@pytest.mark.parametrize("shape", [(2, 2, 1), (2, 2, 2)])
def test_update_and_samples_agree_across_meshes(simulated, shape):
    _assert_same(_result(simulated, ONE), _result(simulated, shape))


@pytest.mark.slow
def test_update_and_samples_agree_across_more_meshes(tmp_path):
    shapes = [(8, 1, 1), (1, 8, 1), (4, 1, 2), (1, 2, 2)]
    results = _run(tmp_path / "more.npz", [ONE, *shapes], 8)
    for shape in shapes:
        _assert_same(_result(results, ONE), _result(results, shape))


def test_two_processes_agree_with_one(simulated, tmp_path):
    """Each feeds its own rows and samples its own slots; gloo carries the gradients."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shape = (2, 2, 1)
    outs = [tmp_path / f"{i}.npz" for i in range(2)]
    _finish(
        [_start(out, [shape], 2, "--processes", port, 2, i) for i, out in enumerate(outs)],
    )
    first, second = (_result(dict(np.load(out)), shape) for out in outs)
    both = {
        name: np.concatenate([first[name], second[name]]) if name.startswith("sample") else x
        for name, x in first.items()
    }
    _assert_same(_result(simulated, ONE), both)
    _assert_same(
        {k: v for k, v in first.items() if not k.startswith("sample")},
        {k: v for k, v in second.items() if not k.startswith("sample")},
    )


# -- sizes and rules -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["qwen2.5-1.5b", "qwen2.5-7b", "qwen3-1.7b"])
def test_every_matrix_of_a_published_model_has_a_rule(name):
    config = dataclasses.replace(SHAPES[name], lora_rank=8)
    for path, leaf in jax.tree_util.tree_leaves_with_path(abstract_params(config)):
        dotted = ".".join(key.key for key in path)
        matched = [pattern for pattern, _ in meshes.RULES if re.search(pattern, dotted)]
        assert matched, dotted
        spec = meshes.spec_of(dotted)
        assert len(spec) in (0, leaf.ndim), dotted
        if leaf.size > 2e7:
            assert "fsdp" in str(spec), dotted


def test_optimizer_state_is_placed_like_its_parameters():
    assert meshes.spec_of("optimizer.1.0.mu.layers.attention.q.kernel") == P(None, "fsdp", "tensor")
    assert meshes.spec_of("critic.heads.kernel") == P()


def test_sizes_multiply_to_the_devices():
    devices = jax.devices()[:1]
    assert dict(meshes.make_mesh(devices=devices).shape) == {"data": 1, "fsdp": 1, "tensor": 1}
    for sizes in [(2, 1, 1), (-1, 2, 1), (-1, -1, 1), (0, 1, 1), (-1, 0, 1)]:
        with pytest.raises(ValueError, match="1 devices"):
            meshes.make_mesh(*sizes, devices=devices)


def test_meshes_that_do_not_divide_are_refused():
    mesh = jax.sharding.AbstractMesh((2, 2, 2), meshes.AXES)
    leaf = {"embedding": jax.ShapeDtypeStruct((6, 5), np.float32)}
    with pytest.raises(MeshError, match=r"4 ways, does not divide size 5 of embedding"):
        meshes.shardings(leaf, mesh)
    leaf = {"embedding": jax.ShapeDtypeStruct((6, 4), np.float32)}
    assert meshes.shardings(leaf, mesh)["embedding"].spec == P(None, ("tensor", "fsdp"))
    model = {"num_heads": 12, "num_kv_heads": 3}
    with pytest.raises(ValueError, match="3 key-value heads"):
        meshes.check_mesh(mesh, **model, rows=8)
    with pytest.raises(ValueError, match="4 does not divide 6 rows"):
        meshes.check_mesh(mesh, num_heads=4, num_kv_heads=2, rows=6)


def test_processes_are_named_wholly_or_not_at_all():
    with pytest.raises(ValueError, match="all three or none"):
        meshes.start_processes("localhost:1", 2)


def test_a_checkpoint_loads_straight_onto_the_mesh(tmp_path):
    params = init_params(MODEL, jax.random.key(0))
    save_params(params, MODEL, tmp_path)
    mesh = meshes.make_mesh(devices=jax.devices()[:1])
    wanted = meshes.shardings(abstract_params(MODEL), mesh)
    loaded = load_params(tmp_path, MODEL, shardings=wanted)
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
    assert jax.tree.map(lambda x: x.sharding, loaded) == wanted


FIT = """
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from hiperjax.learning.least_squares import Moments, solve
rows = jax.random.normal(jax.random.key(0), (4, 3, 65, 65))
memory = Moments(rows @ rows.swapaxes(-1, -2), jnp.ones((4, 3, 65)))
everywhere = NamedSharding(jax.make_mesh((2,), ("data",)), PartitionSpec())
fit, memory = jax.jit(lambda m: solve(m, 1.0)), jax.device_put(memory, everywhere)
for _ in range(50):
    jax.block_until_ready(fit(memory))
"""


def test_the_critic_is_fitted_on_as_many_devices_as_threads():
    """A batched solve on CPU waits for a thread of the pool; here all of them run a device."""
    crowded = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2", "NPROC": "2"}
    subprocess.run([sys.executable, "-c", FIT], env=crowded, timeout=120, check=True)
