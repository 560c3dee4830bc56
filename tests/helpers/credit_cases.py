"""Random batches of turns for the tests of the estimators."""

import jax
import jax.numpy as jnp
import numpy as np
from hiperjax_kernels.hae import HaeInputs
from hypothesis import strategies as st

lambdas = st.fixed_dictionaries(
    {name: st.sampled_from([0.0, 0.3, 0.95, 1.0]) for name in
     ("lambda_turn", "lambda_segment", "lambda_boundary")}
)  # fmt: skip
seeds = st.integers(0, 2**16)


def random_inputs(
    seed: int, b: int = 4, t: int = 7, dtype: type = np.float32, switch_share: float = 0.4
) -> HaeInputs:
    """Numpy inputs `[B, T]`: lengths 0 to T, terminal and truncated tails, NaN in the pads."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(dtype)

    length = rng.integers(0, t + 1, b)
    mask = np.arange(t) < length[:, None]
    boundary = rng.random((b, t)) < switch_share
    boundary[:, 0] = True
    discount = np.full((b, t), 0.9, dtype)
    ended = (length > 0) & (rng.random(b) < 0.5)
    discount[ended, length[ended] - 1] = 0.0
    values = [np.where(mask, normal(b, t), np.nan).astype(dtype) for _ in range(4)]
    reward, v_low, v_high, v_term = values
    return HaeInputs(reward, discount, v_low, v_high, v_term, boundary, mask, normal(b), normal(b))  # pyright: ignore[reportArgumentType]


def to_jax(tree):
    """The same tree of jax arrays."""
    return jax.tree.map(jnp.asarray, tree)


def live(inputs: HaeInputs) -> HaeInputs:
    """Every slot live, every value finite."""
    filled = {
        name: np.nan_to_num(getattr(inputs, name))
        for name in ("reward", "v_low", "v_high", "v_term")
    }
    return inputs._replace(mask=np.ones_like(inputs.mask), **filled)
