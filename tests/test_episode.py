"""The recorder: what a turn keeps of the world, and how an episode may end."""

import numpy as np
import pytest

from hiperjax.acting.blocks import TAGS
from hiperjax.acting.demonstrations import demonstrate, list_texts, transcribe
from hiperjax.acting.episode import EpisodeRecorder
from hiperjax.acting.prompts import Prompter
from hiperjax.acting.renderers import make_renderer
from hiperjax.envs.base import Step
from hiperjax.envs.registry import make_suite
from hiperjax.models.tokenizers import train_tokenizer
from hiperjax.types import Blocks, Ending, Observation

SUITE = make_suite("ladder/action")
LAMP = Observation("A red lamp glows.", "press", ("press red", "press blue"))
BLOCKS = Blocks(True, "press it", "press red", (0, 1), (1, 2), (2, 3), True)
REPLY, LOGPROBS = np.arange(3, dtype=np.int32), np.zeros(3, np.float32)


def recorded(step: Step) -> EpisodeRecorder:
    episode = EpisodeRecorder(SUITE, "red", LAMP)
    episode.record([1, 2], REPLY, LOGPROBS, BLOCKS, step)
    return episode


def test_a_turn_keeps_what_the_world_said():
    hum = Observation("It hums.", "press", ())
    episode = recorded(Step(hum, 0.5, False, False, milestone=True))
    (turn,) = episode.turns
    assert (turn.observation, turn.reward, turn.milestone) == (LAMP.text, 0.5, True)
    assert turn.admissible and turn.prompt_ids.tolist() == [1, 2]
    assert (episode.subgoal, episode.observation) == ("press it", hum)
    assert episode.past[0].action == "press red" and episode.past[0].number == 1
    assert episode.is_over(1) and not episode.is_over(2)


def test_an_end_is_terminal_or_has_a_prompt_to_be_valued_at():
    ended = recorded(Step(LAMP, 1.0, True, False, success=True)).finish(None)
    assert (ended.ending, ended.success, ended.score) == (Ending.TERMINATED, True, None)
    cut = recorded(Step(LAMP, 0.0, False, True)).finish([7])
    assert cut.ending is Ending.TRUNCATED and cut.final_prompt_ids is not None
    for step, final in ((Step(LAMP, 1.0, True, False), [7]), (Step(LAMP, 0.0, False, False), None)):
        with pytest.raises(ValueError, match=r"task red after 1 turns: found .* final prompt"):
            recorded(step).finish(final)
    with pytest.raises(ValueError, match="after 0 turns"):
        EpisodeRecorder(SUITE, "red", LAMP).finish([7])


def test_demonstrations_carry_scores_and_milestones():
    """They were left out of demonstrations once, which wrote their trajectories themselves."""
    suite = make_suite("webshop", size="tiny")
    renderer = make_renderer("compact", role=suite.role, history_length=1)
    demos = list(demonstrate(suite, suite.tasks("train")[:6], max_turns=15, seed=0, noise=0.0))
    texts = (text for demo in demos for text in list_texts(renderer, demo))
    prompter = Prompter(renderer, train_tokenizer(texts, TAGS), 500)
    for demo, episode in zip(demos, transcribe(prompter, demos), strict=True):
        assert episode.score == demo.steps[-1].score is not None
        assert [t.milestone for t in episode.turns] == [s.milestone for s in demo.steps]
    assert any(t.milestone for t in episode.turns)
