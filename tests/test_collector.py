"""One contract of rollouts, held by ours, by the distributed one, and by one that has no model."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hiperjax.acting.blocks import TAGS
from hiperjax.acting.collector import RolloutResult
from hiperjax.acting.demonstrations import demonstrate, list_texts, transcribe
from hiperjax.acting.engine import EngineError, load_engine
from hiperjax.acting.lane_sizes import RolloutStats
from hiperjax.acting.lanes import Lane
from hiperjax.acting.prompts import Prompter
from hiperjax.acting.renderers import make_renderer
from hiperjax.acting.rollout import Rollout
from hiperjax.acting.sampler import draw
from hiperjax.distributed.mesh import Placement
from hiperjax.distributed.rollout import DistributedRollout
from hiperjax.envs.registry import make_suite
from hiperjax.envs.workers import EnvFailure, InlineWorkers
from hiperjax.models.tokenizers import train_tokenizer
from hiperjax.models.transformer import TransformerConfig, forward, init_params, logits
from hiperjax.testing import check_collector, check_engine

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


@jax.jit
def next_scores(params, tokens, length):
    hidden = forward(params, MODEL, tokens[None], lengths=length[None])
    return logits(params, MODEL, hidden[0, length - 1])


class PlainEngine:
    """A second engine: one reply after the other, the whole context again for each token."""

    def __init__(self, shape, params, config, key, *, find_stop, temperature, stop_ids, **_):
        self.shape, self.params, self.key = shape, params, key
        self.find_stop, self.temperature, self.stop_ids = find_stop, temperature, stop_ids
        self.owners, self.waiting = [], []

    free = property(lambda self: self.shape.slots - len(self.owners))
    busy = property(lambda self: bool(self.owners))

    def ask(self, owner, prompt, *, number, turn):
        if owner not in self.owners:
            self.owners.append(owner)
        key = jax.random.fold_in(jax.random.fold_in(self.key, number), turn)
        self.waiting.append((owner, list(prompt), key))

    def ask_more(self, owner, more, *, number, turn):
        raise NotImplementedError("this engine keeps no context: prompt.window turn")

    def release(self, owner):
        self.owners.remove(owner)

    def shrink(self):
        pass

    def run(self):
        pass

    def harvest(self):
        if not self.waiting:
            return []
        owner, prompt, key = self.waiting.pop(0)
        ids, logprobs = [], []
        while len(ids) < self.shape.reply and not (ids and ids[-1] in self.stop_ids):
            tokens = np.zeros(80, np.int32)
            tokens[: len(prompt) + len(ids)] = prompt + ids
            scores = next_scores(self.params, tokens, np.int32(len(prompt) + len(ids)))
            index, temperature = jnp.array([len(ids)], jnp.int32), jnp.asarray(self.temperature)
            token, logprob = draw(scores[None], key[None], index, temperature)
            ids.append(int(token[0]))
            logprobs.append(float(logprob[0]))
        stop = self.find_stop(ids, 0)
        found = np.array(ids[:stop], np.int32), np.array(logprobs[:stop], np.float32)
        return [(owner, *found)]


def make_rollout(engine=Lane):
    return Rollout(
        config=MODEL, prompter=PROMPTER, workers=InlineWorkers(SUITE), suite=SUITE, slots=4,
        prompt_length=64, reply_length=6, max_turns=2, decode_chunk=6, lane_factory=engine,
    )  # fmt: skip


@pytest.mark.parametrize("engine", [Lane, PlainEngine])
def test_engines_keep_the_contract(engine):
    check_engine(engine, PARAMS, MODEL, stop_ids=(1,))


def test_a_second_engine_plays_the_same_episodes():
    """Draws are keyed by episode, turn and token: two ways to compute them agree token by token."""
    ours, other = (
        make_rollout(engine).collect(PARAMS, TASKS, key=jax.random.key(1), temperature=1.0)
        for engine in (Lane, load_engine(f"{__name__}:PlainEngine"))
    )
    for a, b in zip(ours.trajectories, other.trajectories, strict=True):
        for s, t in zip(a.turns, b.turns, strict=True):
            np.testing.assert_array_equal(s.reply_ids, t.reply_ids)
            np.testing.assert_allclose(s.behavior_logprobs, t.behavior_logprobs, atol=1e-5)


class Deaf(PlainEngine):
    """Forgets who asks."""

    def ask(self, owner, prompt, *, number, turn):
        self.waiting.append((owner, list(prompt), self.key))


class Wordy(PlainEngine):
    """Gives a log-prob too many."""

    def harvest(self):
        return [(owner, ids, np.append(x, x[:1])) for owner, ids, x in super().harvest()]


@pytest.mark.parametrize(
    ("engine", "message"), [(Deaf, "3 free slots"), (Wordy, "as many of each")]
)
def test_an_engine_that_breaks_the_contract_is_told_how(engine, message):
    with pytest.raises(AssertionError, match=message):
        check_engine(engine, PARAMS, MODEL)


@pytest.mark.parametrize("name", ["vllm_engine", "no.such.module:Engine", "json:Engine", ":", ""])
def test_an_engine_that_cannot_be_imported_is_refused(name):
    with pytest.raises(EngineError, match="expected native, or MODULE:NAME"):
        load_engine(name)


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
