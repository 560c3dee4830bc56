"""Two stages of a reply: a frozen executor acts, the planner learns, neither moves the other."""

import dataclasses
import itertools
import json
import pathlib

import jax
import numpy as np
import pytest
from helpers.small_runs import BASE, small_run

from hiperjax.acting.blocks import ABSENT, CLOSING_SUBGOAL, find_stop
from hiperjax.acting.two_stage import Executor, go_on
from hiperjax.cli import main
from hiperjax.config import ConfigError
from hiperjax.envs.registry import make_suite
from hiperjax.learning.packing import pack
from hiperjax.models.tokenizers import train_tokenizer
from hiperjax.models.transformer import init_params
from hiperjax.options.planning import BASE as BASE_WEIGHTS
from hiperjax.training.build import restore_run
from hiperjax.training.executor import EXECUTOR, hold_executor, load_executor, show_subgoal
from hiperjax.training.trainer import train
from hiperjax.validation import validate

AGENT = pathlib.Path("agent:household")
TURNS, EPISODES = 4, 4


@pytest.fixture(scope="module")
def agent():
    components, state = restore_run(AGENT)
    return components, state.policy


def play(agent, executor, *, temperature=1.0, policy=None):
    components, own = agent
    rollout = dataclasses.replace(
        components.rollout, slots=EPISODES, pipeline_groups=1, max_turns=TURNS, executor=executor
    )
    tasks = components.suite.tasks("unseen")[:EPISODES]
    result = rollout.collect(
        own if policy is None else policy, tasks, key=jax.random.key(3), temperature=temperature
    )
    assert not result.failures
    return result.trajectories


def turns_of(trajectories):
    return [turn for trajectory in trajectories for turn in trajectory.turns]


def test_the_policy_as_its_own_executor_plays_as_ever(agent):
    executor = Executor(lambda policy: policy, agent[0].model, frozen=False)
    plain, staged = (turns_of(play(agent, x, temperature=0.0)) for x in (None, executor))
    for ours, theirs in zip(plain, staged, strict=True):
        np.testing.assert_array_equal(ours.reply_ids, theirs.reply_ids)
        np.testing.assert_allclose(ours.behavior_logprobs, theirs.behavior_logprobs, atol=1e-4)
        assert ours.blocks == theirs.blocks


@pytest.fixture(scope="module")
def frozen(agent):
    """The same planner over itself, and over a network that knows nothing."""
    components, own = agent
    ignorant = init_params(components.model, jax.random.key(9))
    return [play(agent, Executor(lambda _, p=p: p, components.model)) for p in (own, ignorant)]


def test_what_the_planner_draws_does_not_depend_on_the_executor(frozen):
    compared = 0
    for ours, theirs in zip(*frozen, strict=True):
        for a, b in zip(ours.turns, theirs.turns, strict=False):
            if not np.array_equal(a.prompt_ids, b.prompt_ids):
                break  # their worlds differ from here on
            np.testing.assert_array_equal(a.reply_ids, b.reply_ids)
            np.testing.assert_array_equal(a.behavior_logprobs, b.behavior_logprobs)
            compared += 1
    assert compared >= EPISODES
    actions = [[turn.blocks.action for turn in turns_of(played)] for played in frozen]
    assert actions[0] != actions[1]


def test_what_the_executor_writes_is_in_no_batch_and_undoes_no_decision(agent, frozen):
    pieces = agent[0].rollout.pieces
    for played in frozen:
        for turn in turns_of(played):
            ids = turn.reply_ids.tolist()
            assert find_stop(pieces, ids, closing=CLOSING_SUBGOAL) == len(ids)
            assert turn.blocks.well_formed and turn.blocks.action_span == ABSENT
        batch = pack(played, max_turns=TURNS, length=200, per_sequence=1, reply_length=24)
        assert not batch.rows.action_mask.any()
        assert batch.rows.reply_mask.sum() == sum(len(t.reply_ids) for t in turns_of(played))
    assert sum(turn.admissible for turn in turns_of(frozen[0])) > TURNS
    assert any(not turn.admissible for turn in turns_of(frozen[1]))


def test_a_planner_that_never_hands_over_has_a_malformed_reply_of_its_own(agent):
    components, own = agent
    policy = init_params(components.model, jax.random.key(9))
    played = play(agent, Executor(lambda _: own, components.model), policy=policy)
    alone = [turn for turn in turns_of(played) if turn.blocks.subgoal_span == ABSENT]
    assert alone
    for turn in alone:
        assert 0 < len(turn.reply_ids) <= components.config.prompt.reply_length
        assert not turn.blocks.well_formed and not turn.blocks.action


def test_an_executor_can_be_shown_the_subgoal_alone(agent):
    prompter = agent[0].prompter
    shown = []

    def note(episode, plan):
        shown.append((episode.observation.task, prompter.tokenizer.decode(context(episode, plan))))
        return context(episode, plan)

    context = show_subgoal(prompter)
    played = play(agent, Executor(lambda policy: policy, agent[0].model, note), temperature=0.0)
    assert len(shown) == len(turns_of(played))
    said = {turn.blocks.subgoal for turn in turns_of(played)}
    for task, text in shown:
        opening, _, reply = text.partition("<switch>")
        assert reply.startswith(" KEEP </switch> <subgoal>") and reply.endswith("</subgoal>")
        assert any(f"task {each} goal {each} now" in opening for each in said), opening
        assert " then " not in opening and task.lower().rstrip(".") not in opening


def test_weights_that_moved_are_refused(agent, tmp_path):
    own = agent[1]
    executor = Executor(lambda policy: policy, agent[0].model)
    for _ in range(2):
        hold_executor(tmp_path, AGENT, executor, own, writes=True)
    assert json.loads((tmp_path / EXECUTOR).read_text())["source"] == str(AGENT)
    moved = jax.tree.map(lambda x: x, own)
    leaf = next(iter(moved))
    moved[leaf] = jax.tree.map(lambda x: x + 1e-3, moved[leaf])
    with pytest.raises(ConfigError, match="those that the run began with"):
        hold_executor(tmp_path, AGENT, executor, moved, writes=True)
    hold_executor(tmp_path / "none", None, None, own, writes=True)
    assert not (tmp_path / "none").exists()


def load(agent, *, suite=None, tokenizer=None):
    components = agent[0]
    plan = dataclasses.replace(components.config.plan, executor=AGENT)
    config = dataclasses.replace(components.config, plan=plan)
    prompter = components.prompter
    if tokenizer is not None:
        prompter = dataclasses.replace(prompter, tokenizer=tokenizer)
    return load_executor(config, suite or components.suite, prompter, components.model, restore_run)


def test_an_executor_of_another_world_or_vocabulary_is_refused(agent):
    found = load(agent)
    assert found is not None and found.context is go_on and found.frozen
    with pytest.raises(ConfigError, match="the suite household-tiny; expected ladder/switch"):
        load(agent, suite=make_suite("ladder/switch"))
    with pytest.raises(ConfigError, match="vocabulary is not this run's"):
        load(agent, tokenizer=train_tokenizer(["task go"], ["<action>"]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["--prompt.history-length", "2"], "trained with prompt.history_length 1; expected 2"),
        (["--env.suite", "webshop"], "trained with env.suite household; expected webshop"),
        (["--plan.executor", "agent:nobody"], "agent:nobody: no such agent; expected one of"),
        (["--plan.executor", "nowhere"], "nowhere: no config.json; expected a run folder"),
    ],
)
def test_an_executor_that_cannot_be_is_one_line_and_code_two(settings, message, capsys, tmp_path):
    given = {"--plan.executor": str(AGENT)} if "--plan.executor" not in settings else {}
    webshop = ["--env.task-types", "--eval.splits", "test"] if "webshop" in settings else []
    argv = [*itertools.chain(*given.items()), *settings, *webshop, "--credit.train", "planner"]
    with pytest.raises(SystemExit) as stop:
        main(["train", "household-tiny", *argv, "--out", str(tmp_path / "run")])
    said = capsys.readouterr()
    assert stop.value.code == 2 and said.out == "" and said.err.count("\n") == 1
    assert message in said.err


@pytest.mark.parametrize(
    ("plan", "changes", "message"),
    [
        (dict(executor=AGENT), dict(credit=dict(train="all")), "credit.train is all with plan.ex"),
        (dict(executor=AGENT), dict(prompt=dict(window="episode")), "prompt.window is episode"),
        (dict(executor=BASE_WEIGHTS), {}, "plan.executor is base with model.lora_rank 0"),
        (dict(executor=AGENT), dict(mesh=dict(data=2)), "expected one process and one device"),
        (dict(context="subgoal"), {}, "plan.context is subgoal without plan.executor"),
    ],
)
def test_what_does_not_go_with_an_executor_is_refused(plan, changes, message):
    def change(given):
        parts = {"credit": {"train": "planner"}, "plan": plan} | given
        parts = {name: dataclasses.replace(getattr(BASE, name), **p) for name, p in parts.items()}
        return dataclasses.replace(BASE, **parts)

    if plan.get("executor") == AGENT:
        validate(change({}))
    with pytest.raises(ConfigError, match=message):
        validate(change(changes))


@pytest.mark.slow  # a run over the shipped agent, which compiles two networks
def test_a_planner_is_trained_over_a_frozen_agent(tmp_path):
    config = small_run(tmp_path / "run", {}, iterations=1)
    config = dataclasses.replace(
        config,
        init=AGENT,
        plan=dataclasses.replace(config.plan, executor=AGENT),
        credit=dataclasses.replace(  # five turns solve nothing: something has to be paid for
            config.credit, train="planner", keep_penalty=0.3, keep_penalty_mode="fixed"
        ),
    )
    folder = train(config)
    assert len(json.loads((folder / EXECUTOR).read_text())["sha256"]) == 64
    components, state = restore_run(folder, "last")
    start = restore_run(folder, "start")[1].policy
    assert components.executor is not None
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), state.policy, start)
    assert any(jax.tree.leaves(moved)), "the planner learned"
    hold_executor(folder, AGENT, components.executor, state.policy, writes=False)
