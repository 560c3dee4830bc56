"""What goes into a credit estimator, what comes out, and what it says of itself."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from jaxtyping import Array, Bool, Float, Int

from hiperjax.options.estimators import EstimatorOptions


class CreditInputs(NamedTuple):
    """Scalars of a batch, `[B, T]` per turn and `[B]` per trajectory; masked slots are ignored.

    The optional fields serve the estimators that name them; a missing one is an error there.
    """

    reward: Float[Array, "B T"]
    """shaped reward of the turn"""
    mask: Bool[Array, "B T"]
    boundary: Bool[Array, "B T"]
    """first turn of a segment"""
    terminated: Bool[Array, " B"]
    """False where the turn limit cut the episode"""
    v_low: Float[Array, "B T"]
    """low head after the subgoal block"""
    v_high: Float[Array, "B T"]
    """high head on the prompt"""
    v_term: Float[Array, "B T"]
    """term head on the prompt"""
    bootstrap_low: Float[Array, " B"]
    """value of the state after the last turn; used where the episode was truncated"""
    bootstrap_high: Float[Array, " B"]
    bootstrap_term: Float[Array, " B"]
    low_value_mask: Bool[Array, "B T"] | None = None
    """turns with a position after the subgoal: elsewhere the term value is the low baseline, and
    the low head is not fitted (a low value read at the prompt paid for malformed replies)"""
    has_subgoal: Bool[Array, "B T"] | None = None
    """turns with subgoal tokens; None: all"""
    has_switch: Bool[Array, "B T"] | None = None
    """turns with switch tokens; None: all"""
    switch_prob: Float[Array, "B T"] | None = None
    """probability of SWITCH under the behavior policy"""
    v_keep: Float[Array, "B T"] | None = None
    """low head read on the prompt, where the old subgoal is still the one in force"""
    success: Bool[Array, " B"] | None = None
    group_id: Int[Array, " B"] | None = None
    """equal for episodes of one task"""
    state_id: Int[Array, "B T"] | None = None
    """identity of the raw observation of the turn"""
    final_state_id: Int[Array, " B"] | None = None
    """identity of the observation after the last action"""
    malformed: Bool[Array, "B T"] | None = None
    """malformed replies, for the estimators that penalize a row's score"""
    num_reply_tokens: Int[Array, "B T"] | None = None
    """reply tokens of the turn: weights of token-level statistics"""
    milestone: Bool[Array, "B T"] | None = None
    """turns whose action completes a milestone"""
    satisfied: Bool[Array, "B T C"] | None = None
    """criteria of the task's checklist that hold after the turn"""
    item_weight: Float[Array, "B C"] | None = None
    """0 where there is no criterion"""
    item_depends: Bool[Array, "B C C"] | None = None
    """the first of two criteria depends on the second"""
    item_request: Int[Array, "B C"] | None = None
    """request that a criterion belongs to"""
    request: Int[Array, "B T"] | None = None
    """request that the turn was taken at"""
    cost: Float[Array, "B T"] | None = None
    """critical steps of the turn; None: 1 each"""
    v_token: Float[Array, "B T R"] | None = None
    """value before each reply token"""
    reply_mask: Bool[Array, "B T R"] | None = None
    """reply tokens"""


class TokenCredit(NamedTuple):
    """Advantage and value target of each reply token; they count where `mask` is True."""

    adv: Float[Array, "B T R"]
    ret: Float[Array, "B T R"]
    value: Float[Array, "B T R"]
    """what `ret` is to replace: the value before the token"""
    mask: Bool[Array, "B T R"]


class Credit(NamedTuple):
    """Raw advantages and value targets of the three streams, zero where their mask is False."""

    adv_low: Float[Array, "B T"]
    adv_high: Float[Array, "B T"]
    adv_term: Float[Array, "B T"]
    ret_low: Float[Array, "B T"]
    ret_high: Float[Array, "B T"]
    ret_term: Float[Array, "B T"]
    mask_low: Bool[Array, "B T"]
    """turns on which the low advantage counts, in whitening and in the loss"""
    mask_high: Bool[Array, "B T"]
    mask_term: Bool[Array, "B T"]
    fit_low: Bool[Array, "B T"]
    """turns at which the low head is fitted to `ret_low`"""
    fit_high: Bool[Array, "B T"]
    fit_term: Bool[Array, "B T"]
    tokens: TokenCredit | None = None
    """credit of token-level estimators, whose turn advantages are the means of their tokens'"""

    def by_turn(self) -> dict[str, Any]:
        """The fields `[B, T]` by name."""
        return {name: x for name, x in self._asdict().items() if name != "tokens"}


@dataclasses.dataclass(frozen=True)
class Estimator:
    """One way to turn rewards into advantages, and what it asks of the rest of the program."""

    name: str
    function: Callable[[CreditInputs, EstimatorOptions], Credit]
    hierarchical: bool = False
    """True: each stream on its own block; False: one advantage on every reply token of the turn"""
    heads: tuple[str, ...] = ()
    """those of the streams low, high, term whose value heads it reads and trains"""
    needs: tuple[str, ...] = ()
    """optional fields of `CreditInputs` it cannot do without"""
    per_token: bool = False
    """True: a value before every reply token, and an advantage for each"""
    scope: Literal["episode", "task", "batch"] = "episode"
    """whose rewards an episode's advantages depend on: its own, its task's, all of them"""
    causal: bool = False
    """True: no advantage depends on a reward of an earlier turn of its episode"""

    def __call__(self, inputs: CreditInputs, options: EstimatorOptions) -> Credit:
        """Raw advantages and value targets of a batch.

        Raises:
          ValueError: a field that it needs is None.
        """
        for need in self.needs:
            require_field(inputs, need, self.name)
        return self.function(inputs, options)

    @property
    def needs_groups(self) -> bool:
        """Whether it compares several episodes of one task."""
        return "group_id" in self.needs

    @property
    def needs_critic(self) -> bool:
        return bool(self.heads)

    @property
    def docs(self) -> str:
        """The estimator's own docstring: recursion, source, special cases."""
        return self.function.__doc__ or ""


def require_field(inputs: CreditInputs, name: str, where: str = "") -> Array:
    """An optional field that has to be there.

    Raises:
      ValueError: it is None.
    """
    field = getattr(inputs, name)
    if field is None:
        raise ValueError(f"{where or 'estimator'}: found {name}=None; pass CreditInputs.{name}")
    return field
