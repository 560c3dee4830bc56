"""The learning rate over a run: up over the first steps, down to the end over the iterations."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from hiperjax.learning.optimizers import make_policy_optimizer, share_at, warm_up

OPTIONS = dict(beta2=0.99, weight_decay=0.0, grad_clip=1.0)


def test_the_curve_of_a_run():
    """Two steps per iteration, a warm-up of three steps, six iterations down to a fifth."""
    found: list[float] = []
    rate: Any = warm_up(8.0, 3)
    for iteration in range(8):
        share = share_at(jnp.int32(iteration), iterations=6, end=0.2)
        found += [float(rate(2 * iteration + k)) * float(share) for k in range(2)]
    rising, falling = (
        [2, 4, 6, 8, *[8] * 12],
        np.repeat([1, 0.84, 0.68, 0.52, 0.36, 0.2, 0.2, 0.2], 2),
    )
    np.testing.assert_allclose(found, rising * falling, rtol=1e-6)


def test_a_rate_that_does_not_fall():
    for iterations, end in ((0, 0.2), (6, 1.0)):
        assert float(share_at(jnp.int32(4), iterations=iterations, end=end)) == 1.0
    assert float(share_at(jnp.int32(0), iterations=1, end=0.2)) == 1.0, "the only iteration"


def test_the_optimizer_warms_up():
    """Adam's first steps on a constant gradient are as long as the learning rate."""
    optimizer = make_policy_optimizer(learning_rate=8.0, warmup_steps=3, **OPTIONS)
    params, lengths = jnp.zeros(()), []
    state = optimizer.init(params)
    for _ in range(5):
        move, state = optimizer.update(jnp.ones(()), state, params)
        params = optax.apply_updates(params, move)
        lengths.append(-np.asarray(move))
    np.testing.assert_allclose(lengths, [2, 4, 6, 8, 8], rtol=1e-4)
