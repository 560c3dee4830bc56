"""Advantages of recorded episodes under other estimators, from the recorded rewards and values."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hiperjax.report.run_data import Record, RunData, as_number
from hiperjax.report.timelines import Advantages, Chosen
from hiperjax.types import STREAMS

FLAGS = ("low_value_mask", "has_switch", "has_subgoal")


def add_estimators(episodes: Sequence[Chosen], names: Sequence[str]) -> list[Chosen]:
    """The same episodes with advantages of the estimators asked for.

    An estimator that looks beyond one episode, or at more than the record holds, is named in the
    episode's notes instead; so is every one asked for where a record lacks values or rewards, or
    holds only the beginning of its episode.

    Raises:
      ConfigError: there is no such estimator.
    """
    from hiperjax.learning.credit.registry import find_estimator

    known = {name: find_estimator(name) for name in names}
    possible = [n for n, e in known.items() if e.heads and not e.needs_groups and not e.per_token]
    beyond = tuple(
        f"{name}: not computable from this record, which holds single episodes and one value of "
        "each stream per turn"
        for name in names
        if name not in possible
    )
    found: dict[int, Advantages] = {}
    for run in {id(chosen.run): chosen.run for chosen in episodes}.values():
        whole = [n for n, c in enumerate(episodes) if c.run is run and _is_complete(c.record)]
        found |= _estimate_all(possible, run, {n: episodes[n].record for n in whole})
    return [_join(chosen, found.get(n), possible, beyond) for n, chosen in enumerate(episodes)]


def _join(
    chosen: Chosen, found: Advantages | None, names: Sequence[str], beyond: tuple[str, ...]
) -> Chosen:
    others = [name for name in names if name != chosen.record.get("estimator")]
    notes = (*chosen.notes, *beyond)
    if found is None and others:
        notes = (*notes, f"rewards, values or turns are missing here: no {', '.join(others)}")
    table = {name: found[name] for name in others} if found else {}
    return dataclasses.replace(chosen, others=table, notes=notes)


def _is_complete(record: Record) -> bool:
    turns = record["turns"]
    triples = [turn.get("values") for turn in turns] + [record.get("bootstrap")]
    if not all(isinstance(values, list) and len(values) == 3 for values in triples):
        return False
    numbers = [turn.get("shaped") for turn in turns] + [v for three in triples for v in three]
    return record.get("length") == len(turns) and None not in map(as_number, numbers)


def _estimate_all(
    names: Sequence[str], run: RunData, records: Mapping[int, Record]
) -> dict[int, Advantages]:
    """By number of the episode: one call for each estimator and all episodes of a run."""
    if not names or not records:
        return {}
    from hiperjax.learning.credit.registry import estimate

    inputs = _build_inputs(list(records.values()), str(run.settings.get("credit.bootstrap")))
    tables: dict[int, dict[str, list[list[float | None]]]] = {number: {} for number in records}
    for name in names:
        credit = estimate(name, inputs, **_options(run.settings))
        adv, live = (
            np.stack([np.asarray(getattr(credit, f"{kind}_{s}")) for s in STREAMS], axis=-1)
            for kind in ("adv", "mask")
        )
        for row, (number, record) in enumerate(records.items()):
            tables[number][name] = [
                [round(float(x), 6) if on else None for x, on in zip(a, m, strict=True)]
                for a, m, _ in zip(adv[row], live[row], record["turns"], strict=False)
            ]
    return dict(tables)


def _options(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The run's own settings of estimators, as far as this version knows them."""
    from hiperjax.options.estimators import EstimatorOptions

    fields = (field.name for field in dataclasses.fields(EstimatorOptions))
    named = {name: settings.get(f"credit.{name}") for name in fields}
    return {name: value for name, value in named.items() if value is not None}


def _build_inputs(records: Sequence[Record], bootstrap: str) -> Any:
    """The records as a batch, padded to the longest."""
    import jax.numpy as jnp

    from hiperjax.learning.credit.endings import bootstrap_last_turn
    from hiperjax.learning.credit.types import CreditInputs

    shape = len(records), max(len(record["turns"]) for record in records)

    def grid(read: Any, dtype: type) -> Any:
        out = np.zeros(shape, dtype)
        for row, record in enumerate(records):
            for t, turn in enumerate(record["turns"]):
                out[row, t] = read(turn)
        return jnp.asarray(out)

    mask = grid(lambda turn: True, bool)
    values = [grid(lambda turn, n=n: turn["values"][n], np.float32) for n in range(3)]
    ends = [jnp.array([r["bootstrap"][n] for r in records], jnp.float32) for n in range(3)]
    boundary = grid(lambda turn: turn.get("switch") is True, bool)
    boundary = boundary.at[:, 0].set(True)
    costs = any("cost" in turn for record in records for turn in record["turns"])
    flags = {name: grid(lambda t, k=name: t.get(k) is not False, bool) & mask for name in FLAGS}
    inputs = CreditInputs(
        grid(lambda turn: turn["shaped"], np.float32),
        mask,
        boundary,
        jnp.array([record.get("ending") == "terminated" for record in records]),
        *values,
        *ends,
        **flags,
        switch_prob=grid(_switch_probability, np.float32),
        v_keep=grid(lambda turn: as_number(turn.get("v_keep")) or 0.0, np.float32),
        cost=grid(lambda turn: as_number(turn.get("cost")) or 1.0, np.float32) if costs else None,
    )
    return bootstrap_last_turn(inputs) if bootstrap == "last_turn" else inputs


def _switch_probability(turn: Record) -> float:
    """As sampled, where the record does not tell."""
    chance = as_number(turn.get("switch_prob"))
    return float(turn.get("switch") is True) if chance is None else chance
