"""The suite checks types as conftest.py says: a hook that sees nothing would pass every test."""

import jax.numpy as jnp
import jaxtyping
import pytest
from beartype.roar import BeartypeCallHintParamViolation
from hiperjax_kernels.gae import discounted_returns

from hiperjax.envs.alfworld.game import speak


def test_shapes_are_checked_where_files_name_them():
    rewards, mask = jnp.ones((1, 3)), jnp.ones((1, 4), bool)
    with pytest.raises(jaxtyping.TypeCheckError):
        discounted_returns(rewards, mask, gamma=0.9)


def test_plain_types_are_checked_elsewhere():
    with pytest.raises(BeartypeCallHintParamViolation):
        speak("a game", "move")
