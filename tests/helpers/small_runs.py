"""The quick start, much smaller, for tests that train."""

import dataclasses
import pathlib
from typing import Any

import pytest

from hiperjax.config import RunConfig
from hiperjax.presets import PRESETS
from hiperjax.training import trainer

BASE = PRESETS["household-tiny"][1]
PARTS: dict[str, dict[str, Any]] = {
    "model": dict(hidden_size=16, intermediate_size=24, num_layers=1, num_heads=2, num_kv_heads=1),
    "rollout": dict(episodes=6, slots=4),
    "ppo": dict(minibatch_sequences=16),
    "critic": dict(random_features=8),
    "eval": dict(every=2, max_tasks=4),
    "env": dict(max_turns=5),
    "imitation": dict(steps=20, episodes=20, check_every=10),
}


def small_run(out: pathlib.Path, parts: dict[str, dict[str, Any]], **changes: Any) -> RunConfig:
    """One block of width 16, six episodes per iteration; `parts` go into groups of settings."""
    nested = {
        name: dataclasses.replace(getattr(BASE, name), **(PARTS[name] | parts.get(name, {})))
        for name in PARTS
    }
    return dataclasses.replace(BASE, **({"out": out} | nested | changes))


class Killed(BaseException):
    """What nothing catches."""


def train_until_killed(config: RunConfig, iterations: int, monkeypatch) -> None:
    """Train, and die after so many iterations."""
    whole, done = trainer.iterate, []

    def die_on_the_way(run):
        if len(done) == iterations:
            raise Killed
        done.append(run.iteration)
        return whole(run)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "iterate", die_on_the_way)
        with pytest.raises(Killed):
            trainer.train(config)
