"""One PPO update and one sampling run on a mesh; run by test_mesh.py in processes of its own.

    python mesh_program.py OUT.npz DATA FSDP TENSOR [DATA FSDP TENSOR ...]
    python mesh_program.py OUT.npz DATA FSDP TENSOR --processes PORT COUNT INDEX

How many CPU devices there are must be settled before JAX wakes, so the pytest process cannot do it.
Each mesh takes the first devices it needs. Results are written under `MESH/LEAF`.
"""

import argparse
import dataclasses
import pathlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from hiperjax.acting import sampler
from hiperjax.config import CreditConfig, CriticConfig, PpoConfig
from hiperjax.distributed import mesh as meshes
from hiperjax.learning.learner import Learner, LearnerBatch
from hiperjax.models.transformer import TransformerConfig, init_params
from hiperjax.types import Sequences

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
SEQUENCES, TURNS, TURN_LENGTH, REPLY, SLOTS = 16, 2, 12, 5, 8


def make_batch() -> LearnerBatch:
    """Random sequences, two turns of different lengths in each; the same in every process."""
    rng = np.random.default_rng(0)
    length, turns = TURNS * TURN_LENGTH, (SEQUENCES, TURNS)
    prompts = rng.integers(3, TURN_LENGTH - REPLY, turns).astype(np.int32)
    reply_at = prompts + TURN_LENGTH * np.arange(TURNS, dtype=np.int32)[None]
    position = np.tile(np.arange(TURN_LENGTH, dtype=np.int32), (SEQUENCES, TURNS))
    turn = np.repeat(np.arange(TURNS), TURN_LENGTH)
    real = position < (prompts + REPLY)[:, turn]
    tokens = rng.integers(0, 32, (SEQUENCES, length)).astype(np.int32)
    segment = np.where(real, turn[None] + 1, 0).astype(np.int32)
    at = reply_at[..., None] + np.arange(REPLY)[None, None]
    place = np.tile(np.arange(TURNS * REPLY, dtype=np.int32), (SEQUENCES, 1))
    small = partial(rng.normal, size=(*turns, REPLY))
    return LearnerBatch(
        sequences=Sequences(tokens, real, segment, position, place),
        reply=np.take_along_axis(tokens, at.reshape(SEQUENCES, -1), axis=1).reshape(at.shape),
        reply_at=reply_at,
        advantage=small().astype(np.float32),
        loss_mask=rng.random((*turns, REPLY)) < 0.8,
        old_logprobs=(-3.4 + 0.2 * small()).astype(np.float32),
        ref_logprobs=(-3.4 + 0.2 * small()).astype(np.float32),
        block=np.zeros((*turns, REPLY), np.int8),
        switched=rng.random(turns) < 0.5,
        chose=np.ones(turns, bool),
        value_at=reply_at[..., None] + np.arange(3, dtype=np.int32)[None, None],
        value_target=rng.normal(size=(*turns, 3)).astype(np.float32),
        value_mask=rng.random((*turns, 3)) < 0.8,
        old_value=np.zeros((*turns, 3), np.float32),
    )


def update(mesh, config, policy):
    """Two minibatches of one update, from a state placed by the rules."""
    learner = Learner(
        config,
        credit=CreditConfig(),
        critic=CriticConfig(kind="shared"),
        ppo=PpoConfig(learning_rate=1e-2, minibatch_sequences=8, switch_rate_coefficient=1.0),
    )
    state = learner.init(policy, jax.random.key(1))
    expected = meshes.shardings(state, mesh)
    state = meshes.place(state, mesh)
    share = SEQUENCES // jax.process_count()
    first = share * jax.process_index()
    own = jax.tree.map(lambda x: x[first : first + share], make_batch())
    order = np.random.default_rng(1).permutation(SEQUENCES).reshape(2, 8).astype(np.int32)
    batch = meshes.place_rows(own, mesh)
    order, steps = meshes.replicate((order, np.int32(2)), mesh)
    state, metrics = learner.update(state, batch, order, steps)
    same = jax.tree.map(lambda x, s: x.sharding.is_equivalent_to(s, x.ndim), state, expected)
    assert all(jax.tree.leaves(same.policy)), same.policy
    assert all(jax.tree.leaves(same.optimizer)), same.optimizer
    return {"state": state, "metrics": metrics}


def sample(mesh, config, policy):
    """This process's slots, on this process's devices."""
    own = meshes.local_mesh(mesh)
    params = meshes.localize(meshes.place(policy, mesh), mesh)
    first = SLOTS * jax.process_index() // jax.process_count()
    count = SLOTS // jax.process_count()
    rng = np.random.default_rng(2)
    prompts = rng.integers(0, 32, (SLOTS, 6)).astype(np.int32)[first : first + count]
    lengths = rng.integers(2, 7, SLOTS).astype(np.int32)[first : first + count]
    options = {
        "config": config,
        "temperature": 1.0,
        "top_p": 1.0,
        "stop_ids": (0,),
    }
    with jax.set_mesh(own):
        state = sampler.init_state(config, count, 6, 8)
        slots = jnp.arange(count, dtype=jnp.int32)
        opening = sampler.start(
            params, prompts, lengths, jax.random.key(3), slots + first, slots * 0,
            room=6 + 8, **options,
        )  # fmt: skip
        state = sampler.insert(state, opening, slots)
        rest = jnp.int32(count)
        split = meshes.row_ways(own) * own.shape["tensor"]
        assert state.cache.k.addressable_shards[0].data.size == state.cache.k.size // split
        state = sampler.advance(params, state, jnp.zeros(count, bool), rest, steps=8, **options)
        assert state.cache.k.addressable_shards[0].data.size == state.cache.k.size // split
    return {"reply": state.reply, "logprobs": state.logprobs}


def fetch(tree):
    """Every leaf by its path, whole, on the host."""
    from jax.experimental import multihost_utils

    def whole(leaf):
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            leaf = multihost_utils.process_allgather(leaf, tiled=True)
        return np.asarray(leaf)

    return {
        jax.tree_util.keystr(path): whole(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("sizes", type=int, nargs="+")
    parser.add_argument("--processes", type=int, nargs=3)
    args = parser.parse_args()
    if args.processes:
        port, count, index = args.processes
        meshes.start_processes(f"localhost:{port}", count, index)
    results = {}
    for i in range(0, len(args.sizes), 3):
        sizes = args.sizes[i : i + 3]
        devices = jax.devices()[: int(np.prod(sizes))]
        mesh = meshes.make_mesh(*sizes, devices=devices)
        config = dataclasses.replace(MODEL, row_axes=meshes.ROW_AXES)
        policy = jax.tree.map(np.asarray, init_params(config, jax.random.key(0)))
        with jax.set_mesh(mesh):
            result = update(mesh, config, policy)
        name = "x".join(map(str, sizes))
        results |= {f"{name}/{key}": value for key, value in fetch(result).items()}
        sampled = fetch(sample(mesh, config, policy))
        results |= {f"{name}/sample{key}": value for key, value in sampled.items()}
    np.savez(args.out, **results)


if __name__ == "__main__":
    main()
