"""Estimators by name: ours, and other people's through the entry point group `hiperjax.estimators`.

An entry point of that group is an `Estimator`; its name is the estimator's own. What becomes of a
batch: `shape_rewards` (shaping.py) -> `estimate` -> `whiten` each stream over its own turns ->
`spread` onto the tokens (tokens.py). Every function is pure, of arrays `[B, T]`, and may be jitted.
"""

from typing import Any

from hiperjax.config import ConfigError
from hiperjax.entry_points import list_names, load_all
from hiperjax.learning.credit.checklist import CHECKLIST_ESTIMATORS
from hiperjax.learning.credit.endings import bootstrap_last_turn
from hiperjax.learning.credit.flat_gae import FLAT_ESTIMATORS
from hiperjax.learning.credit.group import GROUP_ESTIMATORS
from hiperjax.learning.credit.hae import HAE_ESTIMATORS
from hiperjax.learning.credit.shaping import charge_switches
from hiperjax.learning.credit.types import Credit, CreditInputs, Estimator
from hiperjax.options.estimators import EstimatorOptions

ENTRY_POINT_GROUP = "hiperjax.estimators"
ESTIMATORS: dict[str, Estimator] = {
    estimator.name: estimator
    for estimator in (*HAE_ESTIMATORS, *FLAT_ESTIMATORS, *GROUP_ESTIMATORS, *CHECKLIST_ESTIMATORS)
}
"""The ones that come with this package."""


def list_estimators() -> tuple[str, ...]:
    """Every name `find_estimator` takes."""
    return tuple(dict.fromkeys((*ESTIMATORS, *list_names(ENTRY_POINT_GROUP))))


def find_estimator(name: str) -> Estimator:
    """The estimator of a name.

    Raises:
      ConfigError: there is none, or its entry point holds something else.
    """
    if name in ESTIMATORS:
        return ESTIMATORS[name]
    for value, found in load_all(ENTRY_POINT_GROUP, name):
        if not isinstance(found, Estimator) or found.name != name:
            raise ConfigError(
                f"entry point {name} of {ENTRY_POINT_GROUP} is {value}, found "
                f"{getattr(found, 'name', found)!r}; expected an Estimator called {name}"
            )
        return found
    known = ", ".join(sorted(list_estimators()))
    raise ConfigError(f"credit.estimator is {name!r}; expected one of {known}")


def check_choice(
    name: str,
    *,
    group_size: int,
    critic: str,
    switch_cost: float = 0.0,
    milestones_of: str | None = None,
) -> Estimator:
    """The estimator of a name, if a run can train with it.

    Args:
      name: Name of the estimator.
      group_size: episodes of one task.
      critic: kind of critic.
      switch_cost: what a decision to switch costs.
      milestones_of: name of a suite that reports no milestones; None: it reports them.

    Raises:
      ConfigError: names the setting that does not go with it, and what would.
    """
    estimator = find_estimator(name)
    if estimator.needs_groups and group_size < 2:
        raise ConfigError(
            f"credit.estimator {name} compares episodes of one task; rollout.group_size is "
            f"{group_size}, expected at least 2"
        )
    if estimator.per_token and critic == "features":
        raise ConfigError(
            f"critic.kind is features, fitted at three positions per turn; credit.estimator {name} "
            "needs a value at every token: critic.kind separate or shared"
        )
    if switch_cost and not estimator.hierarchical:
        raise ConfigError(
            f"credit.switch_cost is {switch_cost} with credit.estimator {name}, which judges a "
            "reply as a whole; expected 0, or an estimator with a switch stream (hae, hae_paper)"
        )
    if "milestone" in estimator.needs and milestones_of is not None:
        raise ConfigError(
            f"credit.estimator {name} needs milestones, which the suite {milestones_of} does not "
            "report; choose a suite that does (household, alfworld, webshop, desk, errands), or "
            "another estimator"
        )
    return estimator


def assign_credit(
    name: str, inputs: CreditInputs, *, bootstrap: str, switch_cost: float, **options: Any
) -> Credit:
    """What a run is credited with: `estimate`, its bootstraps as asked for, switches charged.

    Args:
      name: Name of the estimator.
      inputs: the batch, bootstraps and all.
      bootstrap: "last_turn": in place of those, values of turns already acted.
      switch_cost: what a decision to switch costs (`charge_switches`).
      options: fields of `EstimatorOptions`.
    """
    if bootstrap == "last_turn":
        inputs = bootstrap_last_turn(inputs)
    credit = estimate(name, inputs, **options)
    if not switch_cost:
        return credit
    charged = charge_switches(credit.adv_term, inputs.boundary, credit.mask_term, switch_cost)
    return credit._replace(adv_term=charged)


def estimate(name: str, inputs: CreditInputs, **options: Any) -> Credit:
    """Raw advantages and value targets by the estimator called `name`.

    Args:
      name: one of `list_estimators()`.
      inputs: the batch.
      options: fields of `EstimatorOptions`; an estimator ignores those its docstring does not name.

    Raises:
      ConfigError: no such estimator.
      TypeError: no such option.
      ValueError: the estimator needs a field of `inputs` that is None.
    """
    return find_estimator(name)(inputs, EstimatorOptions(**options))
