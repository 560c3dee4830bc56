"""An episode under way in a rollout: what its recorder does not need to know."""

import dataclasses

from hiperjax.acting.boundaries import NOTHING, Given
from hiperjax.acting.episode import EpisodeRecorder
from hiperjax.acting.windows import Prompt, WindowWriter


@dataclasses.dataclass(kw_only=True)
class PlayedEpisode(EpisodeRecorder):
    """An episode in play."""

    index: int
    """among the tasks asked for"""
    env_slot: int
    """slot of its environment among the workers'"""
    writer: WindowWriter
    prompt: Prompt | None = None
    """prompt of the turn under way"""
    given: Given = NOTHING
    """what of its reply was decided for the policy"""
    planned: int | None = None
    """tokens of its reply that the planner wrote, and that an executor goes on from"""
