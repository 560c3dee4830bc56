"""Credit-assignment and sequence kernels in JAX; knows arrays and nothing of hiperjax.

    from hiperjax_kernels import gae, grpo, hae
    advantages, returns = gae(reward, discount, value, mask, bootstrap, lambda_turn=0.95)

`hae` and `gae` take one trajectory (`hae_batch` and `gae_batch` a batch, `hae_packed` a stream of
many); the estimators that compare episodes of one task take a batch. `help(hae)` has the arguments,
the docstrings of the modules of the same names the recursions. All of it is imported at once: a
name that is looked up later would find the module (`hae`, `gae`) where the function is meant.
"""

from hiperjax_kernels.anchors import beacon, g2po, gagpo, gigpo, graphgpo, hgpo
from hiperjax_kernels.attention import attend
from hiperjax_kernels.gae import GaeOutputs, discounted_returns, gae, gae_batch
from hiperjax_kernels.groups import grpo, reinforce_pp, reinforce_pp_baseline, rloo
from hiperjax_kernels.hae import HaeInputs, HaeOutputs, hae, hae_batch
from hiperjax_kernels.logprobs import token_logprobs
from hiperjax_kernels.packed import hae_packed, pack_stream

__all__ = [
    "GaeOutputs",
    "HaeInputs",
    "HaeOutputs",
    "attend",
    "beacon",
    "discounted_returns",
    "g2po",
    "gae",
    "gae_batch",
    "gagpo",
    "gigpo",
    "graphgpo",
    "grpo",
    "hae",
    "hae_batch",
    "hae_packed",
    "hgpo",
    "pack_stream",
    "reinforce_pp",
    "reinforce_pp_baseline",
    "rloo",
    "token_logprobs",
]
