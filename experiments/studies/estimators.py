"""Every estimator on the same batches of a real run.

    python -m experiments.studies.estimators RUN_FOLDER [--batches 3] [--save FILE.npz]

Restores a run's policy and critic, collects fresh batches with groups of episodes per task, and
prints their statistics. `--save` keeps the batches' scalars (rewards, values, boundaries: no text).
"""

import argparse
import dataclasses
import pathlib
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hiperjax.learning.credit.compare import compare_estimators, usable_estimators
from hiperjax.learning.credit.types import CreditInputs
from hiperjax.training.build import build_components, restore_run
from hiperjax.training.run_folder import load_config
from hiperjax.training.tasks import choose_tasks

COLUMNS = ("agreement", "correlation", "between_segments", "deviation_low")


def record_batches(folder: pathlib.Path, *, batches: int, group_size: int) -> list[CreditInputs]:
    """Credit inputs of fresh batches under a run's last policy and critic."""
    components, state = restore_run(folder, "last")
    config = dataclasses.replace(
        load_config(folder),
        rollout=dataclasses.replace(components.config.rollout, group_size=group_size),
    )
    components.workers.close()
    components = build_components(config, folder)
    episodes, found = config.rollout.episodes, []
    for i in range(batches):
        tasks = choose_tasks(
            components.suite.tasks("train"), config.seed + 1, i, episodes // group_size
        )
        result = components.rollout.collect(
            state.policy,
            [task for task in tasks for _ in range(group_size)],
            key=jax.random.fold_in(jax.random.key(config.seed), i),
            temperature=config.rollout.temperature,
            top_p=config.rollout.top_p,
        )
        batch, final = components.pack(result.trajectories, seed=i)
        scores, _ = components.learner.score_or_rescore(state, batch, final)
        state, _, inputs, _ = components.learner.assign(state, batch, scores)
        found.append(jax.device_get(inputs))
    components.workers.close()
    return found


def stack(batches: list[CreditInputs]) -> CreditInputs:
    """One batch of all; tasks of different batches stay apart."""
    groups = [np.asarray(b.group_id) + 10_000 * i for i, b in enumerate(batches)]
    states = [np.asarray(b.state_id) for b in batches]
    batches = [
        b._replace(group_id=g, state_id=s) for b, g, s in zip(batches, groups, states, strict=True)
    ]
    return jax.tree.map(lambda *x: np.concatenate(x), *batches)


def save(inputs: CreditInputs, path: pathlib.Path) -> None:
    """The fields that are there, as an npz."""
    fields: dict[str, Any] = {k: v for k, v in inputs._asdict().items() if v is not None}
    np.savez_compressed(path, **fields)


def load(path: pathlib.Path) -> CreditInputs:
    """What `save` wrote."""
    with np.load(path) as file:
        return CreditInputs(**{name: jnp.asarray(file[name]) for name in file.files})


def tabulate(inputs: CreditInputs, **options: Any) -> dict[str, dict[str, float]]:
    """The statistics of `compare_estimators`, by estimator."""
    names = usable_estimators(inputs)
    found = jax.jit(partial(compare_estimators, names=names, **options))(inputs)
    table: dict[str, dict[str, float]] = {name: {} for name in names}
    for key, value in found.items():
        name, statistic = key.split("/")
        table[name][statistic] = float(value)
    return table


def parse_args(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--batches", type=int, default=3)
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--save", type=pathlib.Path)
    return parser.parse_args(words)


def main() -> None:
    """Record, save, print."""
    chosen = parse_args()
    batches = record_batches(chosen.folder, batches=chosen.batches, group_size=chosen.group_size)
    inputs = stack(batches)
    if chosen.save:
        save(inputs, chosen.save)
    credit = load_config(chosen.folder).credit
    table = tabulate(
        jax.tree.map(jnp.asarray, inputs),
        gamma=credit.gamma,
        lambda_segment=credit.lambda_segment,
        lambda_boundary=credit.lambda_boundary,
        success_reward=credit.reward_scale,
    )
    print(f"{int(inputs.mask.sum())} turns; " + ", ".join(COLUMNS))
    for name, row in table.items():
        print(f"{name:24} " + " ".join(f"{row[column]:8.3f}" for column in COLUMNS))


if __name__ == "__main__":
    main()
