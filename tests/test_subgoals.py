"""The study of what subgoals mean: contexts it pretends, whom it swaps, and what it measures."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.studies.subgoals import (
    Note,
    Seen,
    at_turn,
    choose_subgoals,
    main,
    measure_kl,
    write_context,
)
from hiperjax.acting.blocks import TAGS
from hiperjax.acting.demonstrations import demonstrate, list_texts, transcribe
from hiperjax.acting.prompts import Prompter
from hiperjax.acting.renderers import CompactRenderer, PastTurn
from hiperjax.envs.registry import make_suite
from hiperjax.models.tokenizers import train_tokenizer
from hiperjax.models.transformer import TransformerConfig, forward, init_params, logits

SUITE = make_suite("household")
RENDERER = CompactRenderer(hints=SUITE.hints)
DEMOS = list(demonstrate(SUITE, SUITE.tasks("train")[:3], max_turns=4, seed=0, noise=0.0))
TOKENIZER = train_tokenizer((t for d in DEMOS for t in list_texts(RENDERER, d)), TAGS)
PROMPTER = Prompter(RENDERER, TOKENIZER, 160)
MODEL = TransformerConfig(
    vocab_size=len(TOKENIZER), hidden_size=16, intermediate_size=24, num_layers=1, num_heads=2,
    num_kv_heads=1, head_dim=8, embedding_std=0.5,
)  # fmt: skip
OWN = [[RENDERER.render_subgoal(decision.subgoal) for decision in demo.decisions] for demo in DEMOS]


def list_seen():
    found = {}
    for number, (demo, played) in enumerate(zip(DEMOS, transcribe(PROMPTER, DEMOS), strict=True)):
        for t, turn in enumerate(played.turns):
            past = tuple(
                PastTurn(i + 1, demo.observations[i].text, demo.actions[i]) for i in range(t)
            )
            first, end = turn.blocks.action_span
            ids = tuple(turn.reply_ids.tolist())
            found[number, t] = Seen(
                Note(demo.observations[t], past, OWN[number][t - 1] if t else ""), OWN[number][t],
                tuple(turn.prompt_ids.tolist()), ids[:first], ids[first:end],
            )  # fmt: skip
    return found


def test_a_context_that_pretends_nothing_is_the_policys_own():
    for seen in list_seen().values():
        written = write_context(PROMPTER, *seen.at, seen.subgoal)
        assert written == [*seen.prompt, *seen.reply]


def test_whose_subgoals_are_whose():
    swapped, shuffled, blank = (
        choose_subgoals(OWN, arm, 0) for arm in ("swapped", "shuffled", "blank")
    )
    assert sorted(swapped) == sorted(OWN)
    tagged = [[f"{i}"] for i in range(7)]
    assert all(a != b for a, b in zip(choose_subgoals(tagged, "swapped", 3), tagged, strict=True))
    for ours, theirs in zip(OWN, shuffled, strict=True):
        assert collections.Counter(ours) == collections.Counter(theirs)
    assert {text for each in blank for text in each} == {"None"}
    assert [at_turn(["a", "b"], t) for t in range(4)] == ["a", "b", "b", "b"]


def test_the_divergence_is_zero_under_the_same_subgoals_and_by_hand_under_others():
    params, seen = init_params(MODEL, jax.random.key(0)), list_seen()
    assert measure_kl(params, MODEL, PROMPTER, seen, OWN, length=200) == pytest.approx(0, abs=1e-5)
    others = choose_subgoals(OWN, "swapped", 0)
    found = measure_kl(params, MODEL, PROMPTER, seen, others, length=200)
    by_hand = []
    for (episode, turn), s in seen.items():
        old = at_turn(others[episode], turn - 1) if turn else ""
        new = at_turn(others[episode], turn)
        other = write_context(PROMPTER, s.at.observation, s.at.past, old, new)
        by_hand.append(diverge(params, [*s.prompt, *s.reply], other, s.action))
    assert found == pytest.approx(np.mean(by_hand), rel=1e-4) and found > 1e-4


def diverge(params, ours, theirs, action):
    """KL of the tokens of one action after two contexts, one forward pass each."""
    scores = []
    for context in (ours, theirs):
        ids = np.zeros((1, 200), np.int32)
        whole = [*context, *action]
        ids[0, : len(whole)] = whole
        hidden = forward(params, MODEL, jnp.asarray(ids), lengths=jnp.array([len(whole)]))
        found = jax.nn.log_softmax(logits(params, MODEL, hidden))[0]
        scores.append(np.asarray(found[len(context) - 1 : len(whole) - 1]))
    p, q = scores
    return float((np.exp(p) * (p - q)).sum())


@pytest.mark.slow  # a shipped agent plays five times
def test_the_shipped_agent_is_deceived(capsys):
    found = main(["agent:household", "--max-tasks", "5"])
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said] == ["subgoals", *found]
    assert set(found) == {"own", "swapped", "shuffled", "blank", "expert"}
    kls = {arm: kl for arm, (_, kl) in found.items() if kl is not None}
    assert set(kls) == {"swapped", "shuffled", "blank"} and min(kls.values()) > 0
