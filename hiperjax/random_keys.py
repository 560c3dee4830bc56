"""Keys of a run: its seed, folded with what the draw is for."""

import enum

import jax
from jaxtyping import Array, Key


class Stream(enum.IntEnum):
    """What a draw of a run is for; each stream is independent of the others."""

    PARAMS = 0
    """initial parameters of the policy"""
    STATE = 1
    """the rest of the initial training state: heads, random features, the critic's adapters"""
    IMITATION = 2
    """order of the demonstrations"""
    ROLLOUT = 3
    """sampled tokens of an iteration"""
    UPDATE = 4
    """order of an iteration's minibatches"""
    EVALUATION = 5
    """sampled tokens of an evaluation"""
    ADAPTERS = 6
    """initial adapters of the policy"""
    ROUNDS = 7
    """tasks and sampled tokens of an iteration's rounds after its first"""
    CURRICULUM = 8
    """tasks drawn by a curriculum"""


def derive_key(seed: int, stream: Stream, *numbers: int) -> Key[Array, ""]:
    """The key of one stream of a run's seed, folded further with `numbers` (an iteration, say)."""
    key = jax.random.key(seed)
    for number in (stream, *numbers):
        key = jax.random.fold_in(key, int(number))
    return key
