"""Every setting of every estimator, declared once: the run's configuration inherits them."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class EstimatorOptions:
    """Settings of the estimators; each reads the ones that its docstring names."""

    gamma: float = 1.0
    """Discount per turn."""
    lambda_turn: float = 1.0
    """Lambda between turns of one segment (and of flat GAE)."""
    lambda_segment: float = 0.95
    """Lambda between segments."""
    lambda_boundary: float = 1.0
    """Lambda across a boundary in the low and switch streams; 0 is the paper's HAE."""
    v_high_targets: Literal["all", "boundaries"] = "all"
    """Turns V_high is fitted on; boundaries is the paper's."""
    critic_targets: Literal["lambda", "one_step"] = "lambda"
    """Value targets: lambda-returns (official code), or one bootstrapped step (paper)."""
    switch_advantage: Literal["return", "two_head"] = "return"
    """hae: the return up to the boundary less V_term (official code), or the paper's
    (switch - its probability) * (V_high - V_low under the old subgoal)."""
    lambda_token: float = 1.0
    """flat_token_gae: lambda between reply tokens."""
    token_layout: Literal["episode", "turn"] = "episode"
    """flat_token_gae: the replies of an episode one after the other, or each a stream of its own
    that ends with the episode's return."""
    group_std: bool = True
    """Group estimators: divide by the group's spread too."""
    group_over: Literal["turns", "episodes"] = "turns"
    """Group estimators: statistics over turn rows (official code), or over episodes (textbook)."""
    keep_singleton_score: bool = False
    """Group estimators: let the raw score of a lone entry through, as the official code does."""
    row_penalty: float = 0.0
    """Group estimators: taken off the score of a malformed turn, on top of malformed_penalty."""
    per_turn_return: bool = False
    """reinforce_pp: each turn's return-to-go instead of the episode's return."""
    step_weight: float = 1.0
    """gigpo, graphgpo, g2po, beacon: weight of the step term beside the episode term."""
    history: int = 2
    """hgpo: past states an anchor may hold."""
    history_exponent: float = 1.0
    """hgpo: level h weighs (h + 2) ** history_exponent."""
    distance_decay: float = 0.1
    """graphgpo: decay per step of distance to the goal."""
    success_reward: float = 10.0
    """graphgpo, g2po: value of the goal; beacon: of a milestone."""
    checklist_latch: bool = False
    """checklist_...: a criterion that held before all it depends on had held pays when that is
    complete; else, as published, it never pays."""
    drop_one_sided: float = 0.0
    """openrs: groups whose mean return is further from 0 than this teach nothing; 0: all teach."""
