"""Every estimator holds what the learner takes for granted, and one that does not is found out."""

import dataclasses
import importlib.metadata
import pathlib
import re

import jax.numpy as jnp
import pytest

from hiperjax.config import ConfigError
from hiperjax.learning.credit.group import uniform_credit
from hiperjax.learning.credit.registry import (
    ENTRY_POINT_GROUP,
    ESTIMATORS,
    estimate,
    find_estimator,
    list_estimators,
)
from hiperjax.learning.credit.types import CreditInputs, Estimator
from hiperjax.options.estimators import EstimatorOptions
from hiperjax.testing import check_estimator, example_inputs


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_is_sound(name):
    check_estimator(ESTIMATORS[name])


def test_every_setting_is_some_estimators():
    """A setting that no docstring names is dead, or a secret."""
    named = " ".join(estimator.docs.partition("Options:")[2] for estimator in ESTIMATORS.values())
    settings = {field.name for field in dataclasses.fields(EstimatorOptions)}
    assert settings <= set(re.findall(r"\w+", named))


def toy_credit(inputs: CreditInputs, options: EstimatorOptions):
    """The reward of the turn and what follows at a discount. Options: gamma."""
    follows = jnp.pad(jnp.where(inputs.mask, inputs.reward, 0)[:, 1:], ((0, 0), (0, 1)))
    adv = jnp.where(inputs.mask, inputs.reward + options.gamma * follows, 0)
    return uniform_credit(adv, inputs)


TOY = Estimator("toy", toy_credit, causal=True)


def changed(change):
    """The toy with its advantage changed before it is spread."""

    def function(inputs, options):
        credit = toy_credit(inputs, options)
        return uniform_credit(change(credit.adv_low, inputs), inputs)

    function.__doc__ = toy_credit.__doc__
    return dataclasses.replace(TOY, function=function)


def undocumented(inputs, options):
    return toy_credit(inputs, options)


def misdocumented(inputs, options):
    """Options: gama."""
    return toy_credit(inputs, options)


FAULTS = {
    "has no line 'Options": dataclasses.replace(TOY, function=undocumented),
    "found options \\['gama'\\]": dataclasses.replace(TOY, function=misdocumented),
    "needs magic: no field": dataclasses.replace(TOY, needs=("magic",)),
    "fits \\[\\]; expected its heads, \\['low'\\]": dataclasses.replace(TOY, heads=("low",)),
    "per_token is True": dataclasses.replace(TOY, per_token=True),
    "are equal, hierarchical True": dataclasses.replace(TOY, hierarchical=True),
    "adv_low has shape": changed(lambda adv, _: adv[:, :2]),
    "adv_low is not finite": changed(lambda adv, x: adv + x.reward * jnp.inf),
    "adv_low is not zero where nothing counts": changed(lambda adv, _: adv + 1),
    "padding changes adv_low": changed(lambda adv, x: jnp.where(x.mask, adv / adv.shape[1], 0)),
    "the order of the episodes changes adv_low": changed(
        lambda adv, x: adv * jnp.arange(len(adv))[:, None]
    ),
    "of another beyond its scope, 'episode'": changed(
        lambda adv, x: jnp.where(x.mask, adv - adv.sum() / x.mask.sum(), 0)
    ),
    "the reward of turn 0 moves a later": changed(
        lambda adv, x: jnp.where(x.mask, jnp.cumsum(adv, axis=1), 0)
    ),
}


@pytest.mark.parametrize("message", FAULTS)
def test_a_fault_is_found(message):
    check_estimator(TOY)
    with pytest.raises(AssertionError, match=f"estimator toy: .*{message}"):
        check_estimator(FAULTS[message])


def test_estimators_of_other_packages(monkeypatch):
    points = importlib.metadata.EntryPoints(
        importlib.metadata.EntryPoint(name, f"test_estimators:{value}", ENTRY_POINT_GROUP)
        for name, value in (("toy", "TOY"), ("odd", "toy_credit"))
    )
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **kw: points.select(**kw))
    assert "toy" in list_estimators()
    assert find_estimator("toy").needs_groups is False
    inputs = example_inputs()
    found = estimate("toy", inputs, gamma=0.5)
    assert (found.adv_low == toy_credit(inputs, EstimatorOptions(gamma=0.5)).adv_low).all()
    with pytest.raises(ConfigError, match="expected an Estimator called odd"):
        find_estimator("odd")
    with pytest.raises(ConfigError, match=r"is 'toi'; expected one of .*odd, .*toy"):
        find_estimator("toi")


def test_the_documented_estimator_is_sound():
    """The page's own code, in order: an estimator, and its check."""
    page = (pathlib.Path(__file__).parents[1] / "docs" / "estimators.md").read_text()
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(block, names)
    assert isinstance(names["ONE_TURN"], Estimator)
    rows = re.findall(r"^\| `(\w+)` \|.*\|.*\|.*\|.*\|$", page, re.MULTILINE)
    assert set(rows) == set(ESTIMATORS), "one row each in the table"
