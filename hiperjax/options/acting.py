"""Settings of what the model is shown and how episodes are collected."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class PromptConfig:
    """What the model is shown."""

    style: str = "chat"
    """chat (for language models), brief (half the tokens, for small ones), compact (few words, for
    tiny models from random weights), or an installed format."""
    example: bool = False
    """Show the suite's worked example after the rules: small models need one to hold the format."""
    history_length: int = 2
    """Past turns shown."""
    recall_length: int = 0
    """Older turns still searched: compact shows the commands that met a thing of the task, chat all
    of them without their observations."""
    mark_tried: bool = False
    """Mark the commands in the list that the episode has sent before (style compact)."""
    merge_refused: bool = False
    """History: a turn after a command that was not in the list is shown as one with the turn it was
    sent at. A refusal shows nothing new; what was seen last stays in view."""
    prompt_length: int = 2048
    """Tokens a prompt may have; beyond, its oldest history is dropped, and counted."""
    overlong: Literal["discard", "trim"] = "trim"
    """A prompt too long even without history: cut the end of the observation's text, or discard the
    episode. Both are counted; task, subgoal, actions and chosen options are never cut."""
    reply_length: int = 512
    """Tokens a reply may have; beyond, it is cut and counts as malformed."""
    window: Literal["turn", "subgoal", "episode"] = "turn"
    """Turns that share one growing context: each by itself (the paper's), all until the turn after
    a switch, or the whole episode. Later turns of a window append what has changed."""
    window_length: int = 4096
    """Tokens a growing context may have before a reply, the prefix that all share left out; beyond,
    the next turn opens a new one, which is counted. Packed sequences are made as long as that
    takes, and fewer in each optimizer step."""
    strict_format: bool = True
    """Refuse text outside the three blocks."""
    rewrite_on_keep: bool = False
    """The official code's behavior: text written on KEEP replaces the subgoal in force."""


@dataclasses.dataclass(frozen=True)
class RolloutConfig:
    """How episodes are collected."""

    episodes: int = 128
    """Episodes per iteration."""
    group_size: int = 1
    """Episodes of one task, for estimators that compare within a group."""
    rounds: int = 1
    """Rounds of episodes per iteration at most: after each, groups whose returns are all equal are
    dropped, and others played in their place (DAPO's dynamic sampling); 1: all are kept."""
    slots: int = 64
    """Episodes that decode side by side."""
    decode_chunk: int = 16
    """Tokens decoded under one dispatch at most."""
    refill: int = 0
    """A dispatch ends as soon as so many slots have finished their reply; 0: an eighth of them, at
    least 4 and at most 8."""
    prefill_rows: int = 4
    """Prompts of a prefill, of similar length; on a CPU 4 stay in the cache."""
    pipeline_groups: int = 1
    """Slot groups: the device decodes one while the host steps another's environments. 2 pays where
    the device is fast, and on a CPU of two cores and more."""
    engine: str = "native"
    """What decodes replies: native, or MODULE:NAME of what makes engines (docs/extending.md)."""
    temperature: float = 1.0
    """Sampling temperature in training; the policy that learns is the tempered one."""
    top_p: float = 1.0
    """Nucleus mass kept in training; 1 keeps everything."""
