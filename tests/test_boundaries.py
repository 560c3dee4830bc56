"""Boundaries by a rule: segments where it says, nothing of it in a loss, the rest drawn as ever."""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.episodes import make_batch
from helpers.small_runs import BASE, small_run

from hiperjax.acting.blocks import TAGS
from hiperjax.acting.boundaries import LEARNED, BoundaryError, make_boundaries
from hiperjax.acting.demonstrations import demonstrate, list_texts
from hiperjax.acting.prompts import Prompter, WindowMode, WindowRules
from hiperjax.acting.renderers import CompactRenderer
from hiperjax.acting.rollout import Rollout
from hiperjax.cli import main
from hiperjax.config import ConfigError, CreditConfig, CriticConfig, PpoConfig
from hiperjax.envs.registry import make_suite
from hiperjax.envs.workers import InlineWorkers
from hiperjax.learning.batches import measure_mismatch
from hiperjax.learning.learner import Learner
from hiperjax.learning.minibatches import count_minibatch
from hiperjax.learning.objectives import policy_objective
from hiperjax.learning.packing import pack, pack_final_prompts
from hiperjax.models.tokenizers import train_tokenizer
from hiperjax.models.transformer import TransformerConfig, init_params
from hiperjax.training.diagnostics import judge_boundaries, match_boundaries
from hiperjax.training.metrics import METRICS
from hiperjax.training.trainer import train
from hiperjax.validation import validate

SUITE = make_suite("household")
RENDERER = CompactRenderer(hints=SUITE.hints)
DEMOS = demonstrate(SUITE, SUITE.tasks("train")[:30], max_turns=16, seed=0, noise=0.2)
TOKENIZER = train_tokenizer((t for d in DEMOS for t in list_texts(RENDERER, d, grown=True)), TAGS)
MODEL = TransformerConfig(
    vocab_size=len(TOKENIZER), hidden_size=16, intermediate_size=24, num_layers=1, num_heads=2,
    num_kv_heads=1, head_dim=8, embedding_std=0.3,
)  # fmt: skip
PARAMS = init_params(MODEL, jax.random.key(0))
TASKS = SUITE.tasks("train")[100:105]
TURNS, LIMIT, REPLY = 5, 120, 12


def make_prompter(mode: WindowMode = "turn"):
    windows = WindowRules(mode, 400) if mode != "turn" else WindowRules()
    return Prompter(RENDERER, TOKENIZER, LIMIT, windows=windows)


def play(rule, *, slots=5, seed=5, mode: WindowMode = "turn", every=2, rate=0.4, **options):
    prompter = make_prompter(mode)
    rollout = Rollout(
        config=MODEL, prompter=prompter, suite=SUITE, workers=InlineWorkers(SUITE), slots=slots,
        prompt_length=LIMIT, reply_length=REPLY, max_turns=TURNS, decode_chunk=12, **options,
        boundaries=make_boundaries(rule, prompter, every=every, rate=rate, reply_length=REPLY),
    )  # fmt: skip
    result = rollout.collect(PARAMS, TASKS, key=jax.random.key(seed), temperature=1.0)
    assert not result.failures
    return result.trajectories


def switches(trajectories):
    return [[turn.blocks.switch for turn in t.turns] for t in trajectories]


def after_milestones(trajectory):
    return [True, *(turn.milestone for turn in trajectory.turns[:-1])]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("every_k", lambda t: [n % 2 == 0 for n in range(TURNS)]),
        ("always", lambda t: [True] * TURNS),
        ("never", lambda t: [True] + [False] * (TURNS - 1)),
        ("milestone", after_milestones),
    ],
)
def test_segments_begin_where_the_rule_says_however_malformed_the_reply(rule, expected):
    played = play(rule)
    assert switches(played) == [expected(t) for t in played]
    keep, switch = (make_boundaries(rule, make_prompter(), every=2, rate=0.0, reply_length=REPLY)
                    for _ in range(2))  # fmt: skip
    words = {True: switch.switch_ids, False: keep.keep_ids}
    for turn in itertools.chain.from_iterable(t.turns for t in played):
        written = words[turn.blocks.switch]
        assert tuple(turn.reply_ids[: turn.given]) == written and turn.given == len(written)
        assert not turn.behavior_logprobs[: turn.given].any()
        assert turn.behavior_logprobs[turn.given :].all()
        assert turn.given < len(turn.reply_ids) <= REPLY


def test_where_the_planner_decides_nothing_is_given():
    assert make_boundaries("learned", make_prompter(), every=2, rate=0.0, reply_length=1) is LEARNED
    assert all(turn.given == 0 for t in play("learned") for turn in t.turns)


def test_random_boundaries_depend_on_the_key_and_not_on_what_is_played_beside():
    played = play("random")
    assert switches(play("random", slots=2, pipeline_groups=2)) == switches(played)
    assert switches(play("random", seed=6)) != switches(played)
    flags = [flag for each in switches(played) for flag in each[1:]]
    assert 0 < sum(flags) < len(flags)
    assert switches(play("random", rate=0.0)) == switches(play("never"))
    assert switches(play("random", rate=1.0)) == switches(play("always"))


def make_learner(**credit):
    return Learner(
        MODEL,
        credit=CreditConfig(gamma=0.9, reward_scale=1.0, **credit),
        critic=CriticConfig(kind="features", random_features=8),
        ppo=PpoConfig(minibatch_sequences=4, kl_coefficient=0.1, entropy_coefficient=0.1),
        score_sequences=4,
    )


def pack_all(trajectories, *, grown=False):
    batch = pack(trajectories, max_turns=TURNS, length=160, per_sequence=2, capacity=8, multiple=4,
                 reply_length=16, grown=grown)  # fmt: skip
    return batch, None if grown else pack_final_prompts(trajectories, length=LIMIT)


@pytest.mark.parametrize("mode", ["turn", "episode"])
def test_the_rest_of_a_reply_is_drawn_after_what_is_given(mode):
    """Sampler and learner agree on every token that counts, and on which those are."""
    played = play("every_k", mode=mode)
    batch, final = pack_all(played, grown=mode != "turn")
    learner = make_learner()
    state = learner.init(jax.tree.map(jnp.copy, PARAMS), jax.random.key(1))
    scores = learner.score(state, batch, final, np.int32(batch.count))
    assert measure_mismatch(batch, scores)[0] < 1e-4
    turns = [turn for t in played for turn in t.turns]
    assert batch.rows.reply_mask.sum() == sum(len(t.reply_ids) - t.given for t in turns)
    assert batch.grid.reply_tokens.sum() == batch.rows.reply_mask.sum()


def give_switches(trajectories, flags):
    """The same episodes, their switch blocks decided by a rule."""
    flags = iter(flags)

    def give(turn, first):
        switch = first or next(flags)
        blocks = dataclasses.replace(turn.blocks, switch=switch)
        return dataclasses.replace(turn, blocks=blocks, given=blocks.switch_span[1])

    return [
        dataclasses.replace(t, turns=tuple(give(u, i == 0) for i, u in enumerate(t.turns)))
        for t in trajectories
    ]


@pytest.mark.parametrize("estimator", ["hae", "flat_gae"])
def test_what_is_given_carries_no_loss_and_no_decision(estimator):
    """The gradient of the loss by the log-prob of a given token is exactly zero, of others not."""
    rng = np.random.default_rng(0)
    trajectories = give_switches(make_batch(5, [3, 5, 2, 4]), (rng.random(20) < 0.5).tolist())
    batch, final = pack_all(trajectories)
    learner = make_learner(estimator=estimator)
    state = learner.init(jax.tree.map(jnp.copy, PARAMS), jax.random.key(1))
    scores = learner.score(state, batch, final, np.int32(batch.count))
    state, prepared, inputs, metrics = learner.assign(state, batch, scores)
    assert not inputs.has_switch.any()
    np.testing.assert_array_equal(inputs.switch_prob, inputs.boundary)
    credit = learner.credit_of(inputs)
    if estimator == "hae":
        assert not credit.mask_term.any() and not credit.adv_term.any()
        expected = [turn.blocks.switch for t in trajectories for turn in t.turns]
        assert inputs.boundary[batch.grid.mask].tolist() == expected
        np.testing.assert_array_equal(credit.mask_high, inputs.boundary & inputs.mask)
    assert all(math.isfinite(float(x)) for x in metrics.values())

    def loss(logprobs):
        found = policy_objective(
            logprobs, -logprobs, prepared, count_minibatch(prepared), clip=0.2, dual_clip=3.0,
            kl_coefficient=0.1, entropy_coefficient=0.1, switch_rate_coefficient=0.0,
            switch_rate_target=0.2,
        )  # fmt: skip
        return found.loss

    gradient = np.asarray(jax.grad(loss)(prepared.old_logprobs - 0.01))
    gradient = gradient.reshape(-1, gradient.shape[-1])
    for b, trajectory in enumerate(trajectories):
        for t, turn in enumerate(trajectory.turns):
            row = gradient[batch.grid.row[b, t]]
            assert not row[: turn.given].any()
            first, end = turn.blocks.action_span
            assert row[first:end].all()


@pytest.mark.slow  # four runs, each of which compiles what it needs
def test_an_interrupted_run_with_random_boundaries_goes_on_to_the_bit(tmp_path):
    """Where segments begin follows from the seed, the iteration, the episode and the turn."""
    plan = dataclasses.replace(BASE.plan, boundaries="random", switch_rate=0.5)
    start = train(small_run(tmp_path / "start", {}, iterations=0))
    parts = {"ppo": {"learning_rate_end": 1.0}}  # else it falls over the iterations

    def make(name, iterations):
        return small_run(tmp_path / name, parts, iterations=iterations, plan=plan, init=start)

    whole, cut = train(make("whole", 2)), train(make("cut", 1))
    train(make("cut", 1), resume=cut, iterations=2)
    ours, theirs = ((folder / METRICS).read_text().splitlines() for folder in (whole, cut))
    assert ours[2] == theirs[2] and '"boundary_f1"' in ours[2]


def test_f1_by_hand():
    """Milestones at turns 1 and 4 call for boundaries at 2 and 5; found 1, 3 and 6."""
    (trajectory,) = make_batch(0, [8])
    flags = [t in (0, 1, 3, 6) for t in range(8)], [t in (1, 4, 7) for t in range(8)]
    turns = tuple(
        dataclasses.replace(
            turn, milestone=done, blocks=dataclasses.replace(turn.blocks, switch=switch)
        )
        for turn, switch, done in zip(trajectory.turns, *flags, strict=True)
    )
    trajectory = dataclasses.replace(trajectory, turns=turns)
    # 1 is near 2, 3 would be as well but 2 is taken, 6 is near 5; the milestone of turn 7 is last
    assert match_boundaries(trajectory) == (2, 3, 2)
    assert judge_boundaries([trajectory]) == {
        "boundary_precision": 2 / 3, "boundary_recall": 1.0, "boundary_f1": 4 / 5,
    }  # fmt: skip
    none = dataclasses.replace(trajectory, turns=trajectory.turns[:1])
    assert set(judge_boundaries([none]).values()) == {0.0}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(credit=dict(keep_penalty=0.3)), "credit.keep_penalty is 0.3 with plan.boundaries"),
        (dict(ppo=dict(switch_rate_coefficient=1.0)), "ppo.switch_rate_coefficient is 1.0 with"),
    ],
)
def test_what_means_nothing_under_a_rule_is_refused(settings, message):
    plan = dataclasses.replace(BASE.plan, boundaries="never")
    changed = {n: dataclasses.replace(getattr(BASE, n), **c) for n, c in settings.items()}
    validate(dataclasses.replace(BASE, **changed))
    with pytest.raises(ConfigError, match=message):
        validate(dataclasses.replace(BASE, plan=plan, **changed))


def test_milestones_where_there_are_none_are_one_line_and_code_two(capsys, tmp_path):
    settings = ["--env.suite", "ladder/switch", "--eval.splits", "train", "--env.task-types"]
    rule = ["--plan.boundaries", "milestone", "--out", str(tmp_path / "run")]
    with pytest.raises(SystemExit) as stop:
        main(["train", "household-tiny", *settings, *rule])
    said = capsys.readouterr()
    assert stop.value.code == 2 and said.out == "" and said.err.count("\n") == 1
    assert "the suite ladder/switch reports no milestones" in said.err


def test_a_block_that_cannot_be_written_is_refused():
    with pytest.raises(BoundaryError, match="reply_length is 3; raise it"):
        make_boundaries("always", make_prompter(), every=1, rate=0.0, reply_length=3)
    poor = train_tokenizer(["task go", "<switch>SWITCH</switch>"], TAGS)
    with pytest.raises(BoundaryError, match="knows both words"):
        make_boundaries(
            "always", Prompter(RENDERER, poor, LIMIT), every=1, rate=0.0, reply_length=9
        )
