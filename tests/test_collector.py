"""One contract of rollouts, held by ours, by the distributed one, and by one that has no model."""

import dataclasses

import jax
import numpy as np
import pytest

from hiperjax.acting.blocks import TAGS
from hiperjax.acting.collector import RolloutResult
from hiperjax.acting.demonstrations import demonstrate, list_texts, transcribe
from hiperjax.acting.lane_sizes import RolloutStats
from hiperjax.acting.prompts import Prompter
from hiperjax.acting.renderers import make_renderer
from hiperjax.acting.rollout import Rollout
from hiperjax.distributed.mesh import Placement
from hiperjax.distributed.rollout import DistributedRollout
from hiperjax.envs.registry import make_suite
from hiperjax.envs.workers import EnvFailure, InlineWorkers
from hiperjax.models.tokenizers import train_tokenizer
from hiperjax.models.transformer import TransformerConfig, init_params
from hiperjax.testing import check_collector

SUITE = make_suite("ladder/switch")
TASKS = SUITE.tasks("train")[:3]
RENDERER = make_renderer("compact", role=SUITE.role, history_length=1, hints=SUITE.hints)
DEMOS = list(demonstrate(SUITE, TASKS, max_turns=8, seed=0, noise=0.0))
TOKENIZER = train_tokenizer((text for d in DEMOS for text in list_texts(RENDERER, d)), TAGS)
PROMPTER = Prompter(RENDERER, TOKENIZER, 64)
MODEL = TransformerConfig(
    vocab_size=len(TOKENIZER), hidden_size=16, intermediate_size=24, num_layers=1, num_heads=2,
    num_kv_heads=1, head_dim=8,
)  # fmt: skip
PARAMS = init_params(MODEL, jax.random.key(0))


class Script:
    """Plays the expert: a collector in a dozen lines. `spoil` changes what it returns."""

    def __init__(self, spoil=lambda result: result):
        self.spoil = spoil

    def collect(self, params, task_ids, *, key, temperature, top_p=1.0):
        known = [task for task in task_ids if task in SUITE.tasks("train")]
        demos = list(demonstrate(SUITE, known, max_turns=8, seed=0, noise=0.0))
        failures = [EnvFailure(task, "no such task") for task in task_ids if task not in known]
        played = transcribe(PROMPTER, demos)
        return self.spoil(RolloutResult(played, failures, RolloutStats(), {"device": 0.0}))


def make_rollout():
    return Rollout(
        config=MODEL, prompter=PROMPTER, workers=InlineWorkers(SUITE), suite=SUITE, slots=4,
        prompt_length=64, reply_length=6, max_turns=2, decode_chunk=6,
    )  # fmt: skip


@pytest.mark.parametrize(
    "make",
    [make_rollout, lambda: DistributedRollout(make_rollout(), Placement()), Script],
    ids=["rollout", "distributed", "script"],
)
def test_collectors_keep_the_contract(make):
    check_collector(make(), PARAMS, TASKS)


def _spoil_turn(result, **changes):
    for number, trajectory in enumerate(result.trajectories):
        turn = dataclasses.replace(trajectory.turns[0], **changes)
        turns = (turn, *trajectory.turns[1:])
        result.trajectories[number] = dataclasses.replace(trajectory, turns=turns)
    return result


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda r: dataclasses.replace(r, failures=[]), "is no failure"),
        (lambda r: dataclasses.replace(r, trajectories=r.trajectories[:-1]), "each of .* once"),
        (lambda r: dataclasses.replace(r, trajectories=r.trajectories[::-1]), "as asked for"),
        (lambda r: _spoil_turn(r, behavior_logprobs=np.zeros(1, np.float32)), "per token"),
        (lambda r: _spoil_turn(r, prompt_ids=np.zeros(3, np.int64)), "prompt_ids is int64"),
    ],
)
def test_a_collector_that_breaks_it_is_told_how(spoil, message):
    with pytest.raises(AssertionError, match=message):
        check_collector(Script(spoil), PARAMS, TASKS)


def test_a_collector_must_repeat_itself():
    calls = iter(range(100))

    def spoil(result):
        return _spoil_turn(result, prompt_ids=np.full(3, next(calls), np.int32))

    with pytest.raises(AssertionError, match="other replies at the same key"):
        check_collector(Script(spoil), PARAMS, TASKS)
