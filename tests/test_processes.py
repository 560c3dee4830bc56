"""Many devices, many processes, one run: the episodes and what is learned from them are the same.

`hiperjax train` itself runs here, in processes of its own: how many CPU devices there are must be
settled before JAX wakes.
"""

import dataclasses
import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from hiperjax.acting.collector import RolloutResult
from hiperjax.acting.lane_sizes import RolloutStats
from hiperjax.config import MeshConfig, RunConfig
from hiperjax.distributed.mesh import AXES, MeshError, Placement, make_mesh
from hiperjax.distributed.processes import allgather_objects, is_first, share_of
from hiperjax.distributed.rollout import merge_results
from hiperjax.envs.workers import EnvFailure
from hiperjax.models.shapes import SHAPES
from hiperjax.training.build import check_placement, make_placement, restore_run
from hiperjax.training.metrics import METRICS, read_lines
from hiperjax.training.run_folder import load_config

SETTINGS = {
    "iterations": 2,
    "env.max-turns": 5,
    "rollout.episodes": 6,
    "rollout.slots": 4,
    "rollout.temperature": 1.0,
    "model.hidden-size": 16,
    "model.intermediate-size": 24,
    "model.num-layers": 1,
    "model.num-heads": 2,
    "model.num-kv-heads": 1,
    "ppo.minibatch-sequences": 16,
    "ppo.micro-sequences": 8,
    "ppo.kl-coefficient": 0.01,
    "critic.kind": "shared",
    "critic.warmup-epochs": 1,
    "eval.every": 2,
    "eval.max-tasks": 4,
    "imitation.episodes": 60,
    "imitation.steps": 100,
    "imitation.learning-rate": 1e-2,
    "imitation.check-every": 50,
}
"""One layer of width 16; imitation until most replies are well-formed, and not all."""
COSTS = {field.name for field in dataclasses.fields(RolloutStats)} - {"reply_tokens"}
"""How well slots are filled depends on who shares them, and each process reads the prefix."""


def start(out, devices, *extra):
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
    }
    command = [sys.executable, "-m", "hiperjax.cli", "train", "household-tiny", "--out", str(out)]
    flags = [word for name, value in SETTINGS.items() for word in (f"--{name}", str(value))]
    return subprocess.Popen(
        [*command, *flags, *map(str, extra)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def finish(*processes):
    outputs = []
    for process in processes:
        outputs.append(process.communicate(timeout=540)[0])
        assert process.returncode == 0, outputs[-1][-3000:]
    return outputs


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """A run on one device."""
    out = tmp_path_factory.mktemp("one") / "run"
    finish(start(out, 1))
    return out


def assert_same(left, right):
    left, right = read_lines(left / METRICS), read_lines(right / METRICS)
    assert len(left) == len(right) == 3
    assert left[1]["malformed_share"] < 0.5 and left[1]["grad_norm"] > 0.01, "something is learned"
    for ours, theirs in zip(left, right, strict=True):
        names, others = ([key for key in record if not key.startswith("waste/")]
                         for record in (ours, theirs))  # fmt: skip
        assert names == others
        for name in (key for key in names if key not in COSTS):
            np.testing.assert_allclose(theirs[name], ours[name], rtol=1e-3, atol=2e-5, err_msg=name)


def test_four_devices_train_like_one(one, tmp_path):
    """Copies and splits of the model, imitation included; and the run can be looked at without."""
    out = tmp_path / "four"
    finish(start(out, 4, "--mesh.data", 2, "--mesh.fsdp", 2))
    assert_same(one, out)
    assert load_config(out).mesh == MeshConfig(data=2, fsdp=2)
    ours, theirs = (restore_run(path, "last")[1].policy for path in (one, out))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)


def test_two_processes_train_like_one(one, tmp_path):
    """Each with two devices and environments of its own; one of them writes and speaks."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    out = tmp_path / "two"
    mesh = ["--mesh.data", -1, "--mesh.fsdp", 2, "--init", one]
    mesh += ["--mesh.coordinator", f"localhost:{port}", "--mesh.num-processes", 2]
    running = [start(out, 2, *mesh, "--mesh.process-id", i) for i in range(2)]
    first, second = finish(*running)
    assert_same(one, out)
    assert "iteration   2/2" in first and "iteration" not in second
    assert load_config(out).mesh == MeshConfig(data=-1, fsdp=2), "who one was is not kept"


# -- the parts -------------------------------------------------------------------------------------


def test_alone_nothing_is_exchanged():
    said = {"a": np.arange(3)}
    assert allgather_objects(said)[0] is said and is_first()
    assert list(share_of(5)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("count", [0, 1, 7, 128])
@pytest.mark.parametrize("processes", [1, 3, 8])
def test_shares_are_disjoint_complete_and_even(monkeypatch, count, processes):
    monkeypatch.setattr(jax, "process_count", lambda: processes)
    parts = []
    for index in range(processes):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        parts.append(share_of(count))
    assert [i for part in parts for i in part] == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_results_are_joined_in_the_order_of_processes():
    def result(name, tokens):
        stats = RolloutStats(reply_tokens=tokens)
        return RolloutResult([], [EnvFailure(name, "x")], stats, {"device": float(tokens)})

    both = merge_results([result("a", 3), result("b", 4)])
    assert both.seconds == {"device": 4.0}, "the slowest one's"
    assert [failure.task_id for failure in both.failures] == ["a", "b"]
    assert both.stats.reply_tokens == 7


def test_the_default_is_no_mesh():
    assert make_placement(MeshConfig()) == Placement()
    tree = {"x": np.arange(3)}
    assert Placement().replicate(tree) is tree
    made = Placement().init_sharded(lambda x: x, tree)
    np.testing.assert_array_equal(made["x"], tree["x"])
    assert made["x"].committed, "as what a checkpoint gives back"


def run_config(**rollout):
    base = RunConfig()
    return dataclasses.replace(base, rollout=dataclasses.replace(base.rollout, **rollout))


@pytest.mark.parametrize(
    ("shape", "config", "message"),
    [
        ((1, 1, 8), run_config(), "tensor=8 does not divide the model's 12 query heads"),
        ((5, 1, 1), run_config(slots=60), "5 does not divide 48 sequences of ppo.micro_sequences"),
        ((4, 1, 1), run_config(slots=6), "4 does not divide 6 rollout.slots of each process"),
    ],
)
def test_a_mesh_that_does_not_divide_is_refused_before_memory_is_taken(shape, config, message):
    mesh = jax.sharding.AbstractMesh(shape, AXES)
    before = len(jax.live_arrays())
    with pytest.raises(MeshError, match=message):
        check_placement(config, SHAPES["qwen2.5-1.5b"], mesh)
    assert len(jax.live_arrays()) == before


def test_more_devices_than_there_are_is_an_error():
    with pytest.raises(MeshError, match=r"data=3 .* 1 devices"):
        make_placement(MeshConfig(data=3))


def test_a_mesh_of_one_device_is_a_mesh():
    placement = Placement(make_mesh(devices=jax.devices()[:1]))
    made = placement.init_sharded(lambda x: {"embedding": 2 * x}, np.ones((4, 2), np.float32))
    assert made["embedding"].sharding.mesh == placement.mesh
    assert placement.replicate({"n": 3, "x": np.ones(2)})["n"] == 3
