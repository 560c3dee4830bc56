"""Replay recorded outputs of the official HAE through the public pipeline.

Format: an object with `examples`, or a bare list, of `{name?, config, input, expected}`. `input`
holds columns over rows (one row per turn, any order): traj, turn, rewards, switch, dones, v_low,
v_high, v_term, valid, subgoal_tokens, switch_block_present. `expected` holds adv_* (null where the
block is absent), ret_* and shaped_reward, by row.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hiperjax.learning.credit.endings import bootstrap_last_turn
from hiperjax.learning.credit.registry import estimate
from hiperjax.learning.credit.shaping import shape_rewards
from hiperjax.learning.credit.tokens import whiten
from hiperjax.learning.credit.types import CreditInputs
from hiperjax.verification.arrange import arrange, check_credit
from hiperjax.verification.recordings import RecordingError, read_recording, reading

TOLERANCE = 1e-4
COLUMNS = ("rewards", "switch", "dones", "v_low", "v_high", "v_term", "valid")


def verify_hae(path: pathlib.Path) -> int:
    """Print each example's largest differences; 1 if one is refused or beyond 1e-4 relative."""
    examples = load_examples(path)
    failed = 0
    print(f"{'example':36} {'largest absolute':>17} {'largest relative':>17}")
    for number, example in enumerate(examples):
        name = str(example.get("name", f"example {number}"))
        try:
            with reading(f"{path}, {name}"):
                absolute, relative = compare(example)
        except ValueError as refusal:
            defect = name.startswith("DEFECT")
            print(f"{name:36} refused{', as it must be' if defect else ''}: {refusal}")
            failed += not defect
            continue
        wrong = not relative <= TOLERANCE
        print(f"{name:36} {absolute:17.2e} {relative:17.2e}{'  WRONG' if wrong else ''}")
        failed += wrong
    print(f"{len(examples) - failed} of {len(examples)} as expected")
    return 1 if failed or not examples else 0


def load_examples(path: pathlib.Path) -> list[dict[str, Any]]:
    """The examples of a file, in either form."""
    data = read_recording(path)
    examples = data.get("examples") if isinstance(data, dict) else data
    if not isinstance(examples, list):
        raise RecordingError(f"{path}: no list of examples; expected one, or an object that has it")
    for number, example in enumerate(examples):
        fields = example if isinstance(example, dict) else {}
        missing = {"config", "input", "expected"} - set(fields)
        if missing:
            raise RecordingError(
                f"{path}, example {number}: found no {sorted(missing)}; expected all"
            )
    return examples


def compare(example: dict[str, Any]) -> tuple[float, float]:
    """Largest absolute and relative difference of one example over everything it expects.

    Relative to the expected value, or to 0.1 where that is smaller: the records are float32.
    """
    found = replay(example["input"], example["config"])
    absolute = relative = 0.0
    for name, column in example["expected"].items():
        for row, value in enumerate(column):
            if value is None:
                continue
            difference = abs(float(found[name][row]) - float(value))
            absolute = max(absolute, difference)
            relative = max(relative, difference / max(0.1, abs(float(value))))
    return absolute, relative


def replay(rows: dict[str, list], config: dict[str, Any]) -> dict[str, np.ndarray]:
    """Everything the examples expect, by row, with the official behavior selected."""
    columns = {name: np.asarray(rows[name], np.float32) for name in COLUMNS}
    columns |= {
        "has_subgoal": np.array([bool(tokens) for tokens in rows["subgoal_tokens"]]),
        "has_switch": np.asarray(rows["switch_block_present"], bool),
    }
    row, grid = arrange(rows["traj"], rows["turn"], columns)
    inputs = credit_inputs(row, grid, rows["subgoal_tokens"], config)
    credit = estimate(
        "hae_paper",
        inputs,
        gamma=config["gamma"],
        lambda_turn=config["lam_turn"],
        lambda_segment=config["lam_seg"],
    )
    mode = "standard" if config["norm_adv"] else "none"
    fields: dict[str, Any] = credit.by_turn()
    for stream in ("low", "high", "term"):
        fields[f"adv_{stream}"] = whiten(fields[f"adv_{stream}"], fields[f"mask_{stream}"], mode)
    fields |= {"boundary": inputs.boundary, "shaped_reward": inputs.reward}
    by_row = np.argsort(row[row >= 0])
    return {name: np.asarray(jax.device_get(x))[row >= 0][by_row] for name, x in fields.items()}


def credit_inputs(
    row: np.ndarray, grid: dict[str, np.ndarray], tokens: list, config: dict[str, Any]
) -> CreditInputs:
    """The official reading of one batch: turn 0 may be a KEEP, tails continue from old values."""
    mask = row >= 0
    switch = grid["switch"] == 1
    first = np.arange(mask.shape[1])[None] == 0
    keep = mask & ~switch
    violation = np.zeros_like(mask)
    for b, turns in enumerate(row):
        live = turns[turns >= 0]
        violation[b, : len(live)] = token_violations(
            [tokens[r] for r in live],
            keep[b, : len(live)].tolist(),
            requires_both=config["keep_consistency_requires_both"],
        )
    reward, _ = shape_rewards(
        jnp.asarray(grid["rewards"]),
        jnp.asarray(mask),
        jnp.asarray(keep),
        malformed=jnp.asarray(grid["valid"] == 0),
        keep_violation=jnp.asarray(violation),
        malformed_penalty=config["invalid_action_penalty_coef"],
        keep_penalty=-config["keep_penalty"],
        keep_penalty_mode=config["keep_penalty_mode"],
        consistency_penalty=-config["keep_consistency_penalty"],
    )
    last = mask & (np.arange(mask.shape[1])[None] == mask.sum(1, keepdims=True) - 1)
    ended = (last & (grid["dones"] == 1)).any(axis=1)
    none = jnp.zeros(len(mask))
    inputs = CreditInputs(
        reward=reward,
        mask=jnp.asarray(mask),
        boundary=jnp.asarray(mask & (switch | first)),
        terminated=jnp.asarray(ended),
        v_low=jnp.asarray(grid["v_low"]),
        v_high=jnp.asarray(grid["v_high"]),
        v_term=jnp.asarray(grid["v_term"]),
        bootstrap_low=none,
        bootstrap_high=none,
        bootstrap_term=none,
        has_subgoal=jnp.asarray(grid["has_subgoal"]),
        has_switch=jnp.asarray(grid["has_switch"]),
    )
    check_credit(inputs)
    return bootstrap_last_turn(inputs) if config["bootstrap_truncated"] else inputs


def token_violations(
    blocks: Sequence[Sequence[int]], keep: Sequence[bool], *, requires_both: bool = True
) -> list[bool]:
    """The official rule: on KEEP, the subgoal block's token ids differ from the previous turn's.

    Args:
      blocks: token ids of each turn's subgoal block, tags included; empty where it is absent.
      requires_both: a missing block on either side is no violation.
    """
    found = []
    for t, kept in enumerate(keep):
        before, now = list(blocks[t - 1]) if t else [], list(blocks[t])
        comparable = (bool(before) and bool(now)) or not requires_both
        found.append(bool(t and kept and comparable and before != now))
    return found
