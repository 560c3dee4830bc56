"""Checks of a part that somebody else wrote: call one from a test of your own.

    from hiperjax.testing import check_estimator
    check_estimator(my_estimator)

A check returns nothing, or raises an `AssertionError` that says what was found, what was expected
and where. Our own tests run the same checks over everything that comes with this package.
"""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hiperjax.acting.checks import check_collector, check_engine
from hiperjax.envs.checks import check_suite
from hiperjax.learning.credit.types import Credit, CreditInputs, Estimator
from hiperjax.options.estimators import EstimatorOptions
from hiperjax.types import STREAMS

__all__ = ["check_collector", "check_engine", "check_estimator", "check_suite", "example_inputs"]

Estimate = Callable[[CreditInputs], Credit]
TOLERANCE = 1e-4


def check_estimator(
    estimator: Estimator, *, options: EstimatorOptions | None = None, seed: int = 0
) -> None:
    """Hold an estimator to what the learner takes for granted.

    Its docstring names its options and it says truly which heads it trains and which fields it
    needs; every number is finite and stands on a live turn; padding, whatever it holds, and the
    order of the episodes change nothing; an episode is moved by no other than `scope` says; and
    where it calls itself `causal`, no advantage has a derivative by an earlier reward.

    Args:
      estimator: what to check; it need not be registered.
      options: what to check it under; default: a discount of 0.95.
      seed: Seed of the made-up batches.

    Raises:
      AssertionError: the first thing that does not hold.
    """
    chosen = options or EstimatorOptions(gamma=0.95)
    function = jax.jit(lambda inputs: estimator(inputs, chosen))
    inputs = example_inputs(seed)
    _check_words(estimator, inputs, chosen)
    credit = function(inputs)
    _check_shapes(estimator, credit, inputs)
    _check_heads(estimator, credit)
    _check_padding(estimator, function, inputs, credit)
    _check_order(estimator, function, inputs, credit)
    _check_scope(estimator, function, inputs, credit)
    if estimator.causal:
        _check_causality(estimator, function, inputs)


def example_inputs(
    seed: int = 0, *, episodes: int = 8, turns: int = 6, reply: int = 3
) -> CreditInputs:
    """A made-up batch with all that any estimator may ask for; NaN in its padding.

    Tasks have two episodes and more. Lengths run from 0 to `turns`, tails are terminal or cut.
    """
    rng = np.random.default_rng(seed)
    shape = (episodes, turns)
    mask = np.arange(turns) < rng.integers(0, turns + 1, episodes)[:, None]

    def numbers(*more: int) -> np.ndarray:
        live = mask.reshape(*shape, *(1 for _ in more))
        return np.where(live, rng.normal(size=(*shape, *more)), np.nan).astype(np.float32)

    def flags(share: float) -> np.ndarray:
        return rng.random(shape) < share

    boundary = flags(0.4)
    boundary[:, 0] = True
    heads: dict[str, Any] = {f"v_{name}": numbers() for name in (*STREAMS, "keep")}
    tails: dict[str, Any] = {f"bootstrap_{name}": rng.normal(size=episodes) for name in STREAMS}
    fields: dict[str, Any] = dict(
        reward=numbers(), mask=mask, boundary=boundary, terminated=rng.random(episodes) < 0.5,
        low_value_mask=flags(0.8), has_subgoal=flags(0.9), has_switch=flags(0.9),
        switch_prob=rng.random(shape).astype(np.float32),
        success=rng.random(episodes) < 0.5, group_id=rng.permutation(episodes) % (episodes // 2),
        state_id=rng.integers(0, 4, shape), final_state_id=rng.integers(0, 4, episodes),
        malformed=flags(0.2), num_reply_tokens=rng.integers(1, 9, shape), milestone=flags(0.3),
        **_example_checklist(rng, shape),
        v_token=numbers(reply), reply_mask=rng.random((*shape, reply)) < 0.8,
    )  # fmt: skip
    fields["cost"] = rng.integers(1, 9, mask.shape) * 1.0
    inputs = CreditInputs(**fields, **heads, **tails)
    return jax.tree.map(jnp.asarray, inputs)


def _example_checklist(rng: np.random.Generator, shape: tuple[int, int], items: int = 3) -> dict:
    """Criteria of two requests, each of which depends on the one before or on none."""
    episodes, _ = shape
    weight = rng.random((episodes, items)) + 0.1
    weight[:, -1] = np.where(rng.random(episodes) < 0.3, 0.0, weight[:, -1])
    depends = np.zeros((episodes, items, items), bool)
    depends[:, 1:, :-1] = np.eye(items - 1, dtype=bool) & (rng.random((episodes, 1, 1)) < 0.6)
    request = np.sort(rng.integers(0, 2, shape), axis=1)
    return dict(
        satisfied=rng.random((*shape, items)) < 0.4, item_weight=weight.astype(np.float32),
        item_depends=depends, item_request=rng.integers(0, 2, (episodes, items)), request=request,
    )  # fmt: skip


def _require(holds: Any, estimator: Estimator, message: str) -> None:
    if not holds:
        raise AssertionError(f"estimator {estimator.name}: {message}")


def _check_words(estimator: Estimator, inputs: CreditInputs, options: EstimatorOptions) -> None:
    """What it says of itself: options that exist, fields that exist and are asked for."""
    _, found, named = estimator.docs.partition("Options:")
    _require(found, estimator, "its docstring has no line 'Options: ...'; expected their names")
    known = {field.name for field in dataclasses.fields(EstimatorOptions)}
    plain = re.sub(r"\(.*?\)", "", named.partition("\n\n")[0])
    unknown = set(re.findall(r"[a-z_]+", plain)) - known - {"none"}
    _require(
        not unknown,
        estimator,
        f"found options {sorted(unknown)} in its docstring; expected fields of EstimatorOptions, "
        "or none",
    )
    for need in estimator.needs:
        _require(need in CreditInputs._fields, estimator, f"needs {need}: no field of CreditInputs")
        try:
            estimator(inputs._replace(**{need: None}), options)
        except ValueError as error:
            _require(need in str(error), estimator, f"without {need} it says: {error}")
        else:
            _require(False, estimator, f"works without {need}; expected a ValueError")


def _check_shapes(estimator: Estimator, credit: Credit, inputs: CreditInputs) -> None:
    """Shapes of the grid, finite, and zero where nothing counts."""
    mask = np.asarray(inputs.mask)
    for name, x in credit.by_turn().items():
        _require(
            x.shape == mask.shape, estimator, f"{name} has shape {x.shape}; expected {mask.shape}"
        )
        allowed = mask
        if name.startswith("adv_"):
            allowed = mask & np.asarray(getattr(credit, name.replace("adv", "mask")))
        values = np.asarray(x)
        _require(np.isfinite(values).all(), estimator, f"{name} is not finite")
        _require(not values[~allowed].any(), estimator, f"{name} is not zero where nothing counts")
    if credit.tokens is not None:
        expected = None if inputs.v_token is None else inputs.v_token.shape
        for name, x in credit.tokens._asdict().items():
            _require(x.shape == expected, estimator, f"tokens.{name}: shape {x.shape}")
            counted = np.where(np.asarray(credit.tokens.mask), np.asarray(x), 0)
            _require(np.isfinite(counted).all(), estimator, f"tokens.{name} is not finite")


def _check_heads(estimator: Estimator, credit: Credit) -> None:
    """The heads it says it trains are the ones it fits, and it is flat if it says so."""
    trained = {name for name in STREAMS if np.asarray(getattr(credit, f"fit_{name}")).any()}
    if credit.tokens is not None:
        trained.add("term")
    _require(
        trained == set(estimator.heads),
        estimator,
        f"fits {sorted(trained)}; expected its heads, {sorted(estimator.heads)}",
    )
    tokens = credit.tokens is not None
    _require(tokens == estimator.per_token, estimator, f"per_token is {estimator.per_token}")
    same = (credit.adv_low == credit.adv_high) & (credit.adv_low == credit.adv_term)
    flat = bool(np.asarray(same).all())
    streams = "equal" if flat else "different"
    _require(
        flat != estimator.hierarchical,
        estimator,
        f"its streams are {streams}, hierarchical {estimator.hierarchical}",
    )


def _check_padding(
    estimator: Estimator, function: Estimate, inputs: CreditInputs, credit: Credit
) -> None:
    """Two more turns and two more episodes of nothing, and other things in dead slots."""
    b, t = inputs.mask.shape
    rng = np.random.default_rng(1)

    def pad(name: str, x: Any) -> Any:
        grid = x.ndim > 1 and not name.startswith("item_")
        width = [(0, 2)] * (1 + grid) + [(0, 0)] * (x.ndim - 1 - grid)
        padded = np.pad(np.asarray(x), width)
        dead = np.ones(padded.shape[: 1 + grid], bool)
        dead[(slice(b), slice(t))[: 1 + grid]] = ~np.asarray(inputs.mask) if grid else False
        junk = rng.integers(0, 4, padded.shape)
        padded[dead] = np.where(padded.dtype.kind == "f", np.nan, junk)[dead].astype(padded.dtype)
        return jnp.asarray(padded)

    padded = CreditInputs(**{name: pad(name, x) for name, x in inputs._asdict().items()})
    live = np.zeros((b + 2, t + 2), bool)
    live[:b, :t] = inputs.mask
    found = function(padded._replace(mask=jnp.asarray(live)))
    _require_equal(
        estimator, jax.tree.map(lambda x: x[:b, :t], found), credit, "padding changes {}"
    )


def _check_order(
    estimator: Estimator, function: Estimate, inputs: CreditInputs, credit: Credit
) -> None:
    """Episodes in another order get the same credit in that order."""
    order = np.random.default_rng(2).permutation(inputs.mask.shape[0])
    found = function(jax.tree.map(lambda x: x[order], inputs))
    expected = jax.tree.map(lambda x: x[order], credit)
    _require_equal(estimator, found, expected, "the order of the episodes changes {}")


def _check_scope(
    estimator: Estimator, function: Estimate, inputs: CreditInputs, credit: Credit
) -> None:
    """Other rewards and values of one task's episodes leave those beyond the scope alone."""
    if estimator.scope == "batch":
        return
    tasks = np.asarray(inputs.group_id)
    touched = tasks == tasks[0] if estimator.scope == "task" else np.arange(len(tasks)) % 2 == 0
    changed = {}
    for name in ("reward", "v_low", "v_high", "v_term", "v_keep", "v_token", "bootstrap_low",
                 "bootstrap_high", "bootstrap_term"):  # fmt: skip
        x = getattr(inputs, name)
        changed[name] = jnp.where(touched.reshape(-1, *(1,) * (x.ndim - 1)), 2 * x + 1, x)
    found = function(inputs._replace(**changed))
    moved, kept = (jax.tree.map(lambda x: x[~touched], tree) for tree in (found, credit))
    message = f"an episode moves {{}} of another beyond its scope, {estimator.scope!r}"
    _require_equal(estimator, moved, kept, message)


def _check_causality(estimator: Estimator, function: Estimate, inputs: CreditInputs) -> None:
    """By derivative: what a turn's reward moves stands at that turn or before it."""

    def advantages(reward: jax.Array) -> jax.Array:
        credit = function(inputs._replace(reward=reward))
        return jnp.stack([getattr(credit, f"adv_{name}") for name in STREAMS])

    turns = inputs.mask.shape[1]
    reward = jnp.nan_to_num(inputs.reward)
    for turn in range(turns - 1):
        tangent = jnp.zeros_like(reward).at[:, turn].set(1.0)
        moved = jax.jvp(advantages, (reward,), (tangent,))[1]
        later = np.abs(np.asarray(moved[..., turn + 1 :])).max(initial=0)
        _require(
            later == 0,
            estimator,
            f"the reward of turn {turn} moves a later advantage by {later:.3g}; expected 0, since "
            "it calls itself causal",
        )


def _require_equal(estimator: Estimator, found: Credit, expected: Credit, message: str) -> None:
    fields = found.by_turn() | (found.tokens._asdict() if found.tokens is not None else {})
    others = expected.by_turn()
    others |= expected.tokens._asdict() if expected.tokens is not None else {}
    for name, x in fields.items():
        near = np.allclose(x, others[name], rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)
        _require(near, estimator, message.format(name))
