"""The suite: splits, profiles, what agents see, experts, baselines, Gymnasium, verification."""

import dataclasses
import gzip
import json
import math
import pickle
import random
import re
from collections.abc import Callable
from pathlib import Path

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given
from hypothesis import strategies as st

from hiperjax.acting.blocks import TAGS
from hiperjax.acting.demonstrations import demonstrate, list_texts
from hiperjax.acting.prompts import Prompter, PromptTooLong
from hiperjax.acting.renderers import make_renderer
from hiperjax.commands.terminal import play as play_in_terminal
from hiperjax.envs import gym
from hiperjax.envs.base import Step
from hiperjax.envs.registry import make_suite, parse_options
from hiperjax.envs.webshop import WebShopSuite, make_webshop_suite, wares
from hiperjax.envs.webshop.baseline import (
    FirstHitShopper,
    Outcome,
    buy_perfectly,
    compare_splits,
    play,
    take_evenly,
)
from hiperjax.envs.webshop.expert import list_candidates, read_request
from hiperjax.envs.webshop.profiles import get_profile, write_task_id
from hiperjax.envs.webshop.report import evaluate_scripts
from hiperjax.intervals import bound_mean
from hiperjax.models.tokenizers import train_tokenizer
from hiperjax.types import Observation
from hiperjax.verification.webshop import verify_webshop

STRICT = make_webshop_suite()
HIPER = make_webshop_suite("hiper")
TINY = make_webshop_suite(size="tiny")


def is_invited(action: str, admissible: tuple[str, ...]) -> bool:
    return STRICT.is_admissible(action, Observation("", "", admissible))


def share_won(outcomes: list[Outcome]) -> float:
    return sum(outcome.success for outcome in outcomes) / len(outcomes)


def test_strict_splits_are_disjoint_and_complete():
    disjoint, report = compare_splits(STRICT)
    assert disjoint and "splits are disjoint" in report
    goals = STRICT.shop.list_goals("synthetic", STRICT.seed)
    assert sum(len(STRICT.tasks(split)) for split in STRICT.splits) == len(goals)
    assert all(len(suite.tasks(s)) for suite in (STRICT, TINY) for s in suite.splits)


def test_a_product_keeps_its_split_under_any_seed():
    other = make_webshop_suite(seed=9)
    for split in STRICT.splits:
        asins = {STRICT.get_goal(task).asin for task in STRICT.tasks(split)}
        assert {other.get_goal(task).asin for task in other.tasks(split)} == asins


def test_hiper_splits_leak_and_the_report_says_so():
    disjoint, report = compare_splits(HIPER)
    assert not disjoint and "OVERLAP" in report
    workers = make_webshop_suite("hiper", workers=3)
    assert len(workers.tasks("train")) == 3 * len(HIPER.tasks("train"))
    assert len(HIPER.tasks("validation")) == 500
    seeds = {task.split("-")[0] for task in workers.tasks("train")}
    assert seeds == {"seed0", "seed1", "seed2"}
    assert HIPER.tasks("validation")[0] == "seed1000-goal0"
    assert workers.tasks("train")[len(HIPER.tasks("train"))] == "seed1-goal500"


def test_unknown_names_are_refused_by_name():
    env = STRICT.make_env()
    for task in ("seed233-goal99999", "seed9-goal7", "goal7", "seed233-goalx", ""):
        with pytest.raises(KeyError, match="task"):
            env.reset(task)
    with pytest.raises(KeyError, match="expected train, dev, test"):
        STRICT.tasks("validation")
    with pytest.raises(IndexError, match="expected 0 to"):
        STRICT.tasks("test")[10**6]
    with pytest.raises(ValueError, match="expected one of strict, hiper"):
        get_profile("loose")
    with pytest.raises(ValueError, match="no human goals"):
        make_webshop_suite(size="tiny", goals="human")
    with pytest.raises(ValueError, match="size is 'huge'; expected one of tiny, full"):
        parse_options("webshop", ["size=huge"])
    with pytest.raises(RuntimeError, match="call reset"):
        env.step("click[next >]")


def walk(suite: WebShopSuite) -> tuple[list[Observation], Step]:
    """Buy a goal's own product with its options, by what the pages show."""
    task = next(t for t in suite.tasks(suite.splits[0]) if len(suite.get_goal(t).options) == 2)
    goal = suite.get_goal(task)
    env = suite.make_env()
    seen = [env.reset(task)]
    title = f"search[{goal.title}]"
    buy = [f"click[{value}]" for value in goal.option_values] + ["click[buy now]"]
    for action in (title, f"click[{goal.asin}]", *buy):
        step = env.step(action)
        seen.append(step.observation)
    return seen, step


def test_rewards_and_observations_of_the_profiles():
    seen, step = walk(STRICT)
    assert (step.reward, step.success, step.score) == (1.0, True, 1.0)
    assert seen[0].text == "'Search'" and seen[0].admissible == ("search[<your query>]",)
    assert seen[0].task.startswith("Find me ") and seen[0].task not in seen[1].text
    assert seen[4].pinned.startswith("Selected options: ") and not seen[2].pinned
    assert seen[4].text == seen[4].pinned + seen[2].text
    assert {"r_type", "r_att", "r_option", "r_price"} <= set(step.info["parts"])
    seen, step = walk(HIPER)
    assert (step.reward, step.success) == (10.0, True)
    assert seen[0].admissible == ("search[<your query>]", "click[search]")
    assert "Selected" not in seen[4].text and len(step.info["selected"]) == 2


def test_a_wrong_purchase_pays_only_under_strict():
    for suite, pays in ((STRICT, True), (HIPER, False)):
        task = next(t for t in suite.tasks(suite.splits[0]) if suite.get_goal(t).options)
        goal = suite.get_goal(task)
        env = suite.make_env()
        env.reset(task)
        env.step(f"search[{goal.title}]")
        env.step(f"click[{goal.asin}]")
        step = env.step("click[buy now]")
        assert step.terminated and not step.truncated and not step.success
        assert step.score is not None and 0 < step.score < 1
        assert step.reward == (step.score if pays else 0.0)


def test_environments_are_independent():
    tasks = STRICT.tasks("train")
    first, second = STRICT.make_env(), STRICT.make_env()
    first.reset(tasks[0])
    before = second.reset(tasks[1])
    first.step("search[tea]")
    after = second.step("click[nothing]")
    assert after.observation == before and after.info["known_action"] is False


def test_searches_are_invited_where_there_is_a_bar():
    assert is_invited("search[red mug]", ("search[<your query>]",))
    assert not is_invited("search[red mug]", ("click[next >]",))
    assert not is_invited("search[]", ("search[<your query>]",))
    assert is_invited("click[next >]", ("click[next >]",))


def test_requests_are_taken_apart():
    text = "Find me low sugar, non gmo teas with rich aroma for cold evenings with color: black"
    text += " with white, and pack: pack of 3, and price lower than 40.00 dollars"
    request = read_request(text)
    assert request.what == "low sugar, non gmo teas with rich aroma for cold evenings"
    assert (request.options, request.cap) == (("black with white", "pack of 3"), 40.0)
    plain = read_request("i need a mug")
    assert (plain.what, plain.options, plain.cap) == ("i need a mug", (), math.inf)


def test_candidates_are_read_off_a_page():
    text = "'Back to Search' [SEP] 'Next >' [SEP] 'A1' [SEP] 'It's $5 off' [SEP] '$9.5 to $12.0'"
    actions = ("click[back to search]", "click[next >]", "click[a1]", "click[a2]")
    found = list_candidates(Observation(f"{text} [SEP] 'A2' [SEP] '$3.0'", "", actions))
    assert found == {"a1": 9.5, "a2": 3.0}


def test_the_ceiling_is_reached_under_strict():
    tasks = take_evenly(STRICT.tasks("test"), 60)
    assert share_won([buy_perfectly(STRICT, task) for task in tasks]) == 1.0


def test_expert_beats_first_hit_and_noise_costs():
    tasks = take_evenly(STRICT.tasks("dev"), 60)
    script = share_won([play(STRICT, FirstHitShopper(), task) for task in tasks])
    expert = share_won([play(STRICT, STRICT.make_expert(0), task) for task in tasks])
    noisy = share_won([play(STRICT, STRICT.make_expert(0, 0.5), task) for task in tasks])
    assert noisy < expert > script and expert > 0.8
    every = [task for split in TINY.splits for task in TINY.tasks(split)]
    assert share_won([play(TINY, TINY.make_expert(0), task) for task in every]) == 1.0


def test_plans_name_a_subgoal_and_switch_with_it():
    suite = make_webshop_suite(grain="fine")
    env, expert = suite.make_env(), suite.make_expert(0)
    for task in take_evenly(suite.tasks("dev"), 10):
        observation = env.reset(task)
        expert.reset(observation)
        subgoal, named = "", set()
        for _ in range(STRICT.max_turns):
            decision = expert.decide(observation)
            assert decision.subgoal and decision.switch == (decision.subgoal != subgoal)
            assert is_invited(decision.action, observation.admissible)
            subgoal = decision.subgoal
            named.add(subgoal)
            step = env.step(decision.action)
            observation = step.observation
            if step.terminated:
                break
        assert {"find candidates", "open a candidate", "buy the product"} <= named


@pytest.mark.parametrize("suite", [STRICT, TINY])
def test_errands_last_several_turns_and_say_what_is_wanted(suite: WebShopSuite):
    demos = list(
        demonstrate(suite, take_evenly(suite.tasks("dev"), 60), max_turns=15, seed=0, noise=0.0)
    )
    decisions = [decision for demo in demos for decision in demo.decisions]
    assert len(decisions) > 2 * sum(decision.switch for decision in decisions)
    for demo in demos:
        goal = suite.get_goal(demo.task_id)
        assert (
            demo.decisions[0].subgoal.startswith("find ")
            and goal.query in demo.decisions[0].subgoal
        )
        assert demo.decisions[-1].subgoal.startswith("buy it")
        assert all(value in demo.decisions[-1].subgoal for value in goal.option_values)


@pytest.mark.parametrize("style", ["chat", "compact"])
def test_a_cut_prompt_keeps_the_chosen_options(style: str):
    renderer = make_renderer(style, role=STRICT.role, history_length=2, hints=STRICT.hints)
    tasks = take_evenly(STRICT.tasks("train"), 20)
    demos = list(demonstrate(STRICT, tasks, max_turns=15, seed=0, noise=0.0))
    texts = [text for demo in demos for text in list_texts(renderer, demo)]
    prompter = Prompter(renderer, train_tokenizer(texts, TAGS), 10_000, trims=True)
    chosen = [seen for demo in demos for seen in demo.observations if seen.pinned]
    assert len(chosen) > 10
    for seen in chosen:
        whole, _ = prompter.encode(seen, [], "buy it")
        bare, _ = prompter.encode(dataclasses.replace(seen, text=seen.pinned + "..."), [], "buy it")
        for limit in (len(bare), len(whole) - 1):
            ids, cuts = dataclasses.replace(prompter, limit=limit).encode(seen, [], "buy it")
            told = prompter.tokenizer.decode(ids).replace("* ", "")
            values = [
                renderer.render_subgoal(part.split(": ")[1])
                for part in seen.pinned.strip().split(", ")
            ]
            assert cuts.tokens > 0 and len(ids) <= limit
            assert all(f" {value}" in told.split("elected options")[1] for value in values)
        with pytest.raises(PromptTooLong):
            dataclasses.replace(prompter, limit=len(bare) - 1).encode(seen, [], "buy it")


def test_words_of_a_held_out_tiny_product_are_known_from_training():
    """Its title, its identifier's two parts: only their combination is new."""

    def list_words(split: str) -> set[str]:
        goals = [TINY.get_goal(task) for task in TINY.tasks(split)]
        named = " ".join(f"{goal.title} {goal.asin.lower()}" for goal in goals)
        return set(re.findall(r"[a-z]+|[0-9]+", named))

    assert len(TINY.shop.products) == len(wares.TINY_NOUNS) * len(wares.TINY_ADJECTIVES)
    assert len(TINY.tasks("test")) >= 100
    assert list_words("test") | list_words("dev") <= list_words("train")


@given(
    st.lists(st.binary(max_size=30) | st.sampled_from([b"search[soft mug]", b"click[soft1mug]"])),
    st.sampled_from([TINY, STRICT, HIPER]),
)
def test_any_bytes_are_an_action(actions: list[bytes], suite: WebShopSuite):
    env = suite.make_env()
    seen = env.reset(suite.tasks(suite.splits[0])[0])
    for raw in actions:
        action = raw.decode("utf-8", "surrogateescape")
        admissible = suite.is_admissible(action, seen)
        step = env.step(action)
        assert step.reward == 0 and not step.terminated and not step.success
        assert step.info["known_action"] or (step.observation == seen and not admissible)
        seen = step.observation


def test_gymnasium_accepts_it():
    check_env(gym.make_env("webshop", size="tiny"), skip_render_check=True)
    env = gymnasium.make("hiperjax/webshop-v0")
    text, info = env.reset(seed=0)
    assert text == "'Search'" and info["admissible"] == ("search[<your query>]",)
    for turn in range(1, 16):
        _, reward, terminated, truncated, info = env.step("click[nothing of the kind]")
        assert (reward, terminated, truncated) == (0.0, False, turn == 15)
        assert info["known_action"] is False


def test_the_shop_is_played_in_the_terminal():
    shown: list[str] = []
    task = TINY.tasks("test")[0]
    recording = play_in_terminal(TINY, task, TINY.make_expert(0), write=shown.append)
    assert recording.success and "Selected options: " in "".join(shown)


def test_pure_noise_acts_admissibly_and_repeatably():
    def act_out(seed: int) -> list[str]:
        env, expert = STRICT.make_env(), STRICT.make_expert(seed, noise=1.0)
        observation = env.reset(STRICT.tasks("train")[0])
        expert.reset(observation)
        actions = []
        for _ in range(15):
            actions.append(expert.decide(observation).action)
            assert is_invited(actions[-1], observation.admissible)
            step = env.step(actions[-1])
            observation = step.observation
            if step.terminated:
                break
        return actions

    assert act_out(1) == act_out(1)
    assert len({tuple(act_out(seed)) for seed in range(5)}) > 1


def test_bootstrap_resamples_whole_products():
    values = [1.0] * 50 + [0.0] * 50
    alone = bound_mean(values, [str(number) for number in range(100)])
    together = bound_mean(values, [str(number // 25) for number in range(100)])
    assert alone[0] < 0.5 < alone[1]
    assert together[1] - together[0] > 2 * (alone[1] - alone[0])


def test_the_report_states_what_a_result_needs():
    report = evaluate_scripts(TINY)
    for part in ("profile strict", "seed 233", "at most 15 turns", "ceiling", "first hit"):
        assert part in report
    assert "splits are disjoint" in report


def test_tasks_are_a_sequence():
    tasks = make_webshop_suite("hiper", workers=2).tasks("train")
    assert tasks[:3] == [tasks[0], tasks[1], tasks[2]]
    assert tasks[:None] == list(tasks) and tasks[len(tasks) - 1 :] == [list(tasks)[-1]]
    assert len(set(tasks)) == len(tasks)


def test_another_process_gets_the_same_suite():
    task = STRICT.tasks("test")[0]
    copy = pickle.loads(pickle.dumps(STRICT))
    assert list(copy.tasks("test")) == list(STRICT.tasks("test"))
    assert play(copy, copy.make_expert(0), task) == play(STRICT, STRICT.make_expert(0), task)


def test_the_registry_makes_it():
    suite = make_suite("webshop", profile="hiper", size="tiny")
    assert isinstance(suite, WebShopSuite) and suite.profile.name == "hiper"


def test_memory_is_shared():
    """An environment is a record: all of them look at one catalogue."""
    environments = [STRICT.make_env() for _ in range(8)]
    for env, task in zip(environments, STRICT.tasks("train"), strict=False):
        env.reset(task)
    assert len({id(env.session.shop) for env in environments if env.session}) == 1
    assert make_webshop_suite(max_turns=3).shop is STRICT.shop


def test_verification_finds_the_recordings_equal(shared, capsys: pytest.CaptureFixture):
    folder = shared("data/webshop")
    episodes = shared("data/webshop/recorded_episodes_seed6.json.gz")
    goals = shared("data/webshop/goal_fixtures.json")
    assert verify_webshop(folder, goals, None, episodes) == 0
    printed = capsys.readouterr().out
    assert "goal lists: 2 of 2 equal" in printed and "episodes: 30 of 30 equal" in printed


def test_verification_finds_differences(
    shared: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture
):
    """One letter, one rank, one reward, one hash: each is seen, and told where."""
    folder = shared("data/webshop")
    with gzip.open(shared("data/webshop/recorded_episodes_seed6.json.gz"), "rt") as file:
        episodes = json.load(file)
    episodes["episodes"] = episodes["episodes"][:3]
    episodes["episodes"][0]["steps"][2]["obs"] += "!"
    episodes["episodes"][1]["steps"][1]["avail"]["clickables"].pop()
    episodes["episodes"][2]["steps"][-1]["reward"] += 0.1
    with gzip.open(shared("data/webshop/lucene_top50.json.gz"), "rt") as file:
        search = json.load(file)
    search["queries"] = search["queries"][:2]
    search["queries"][0]["hits"].reverse()
    asin = next(iter(search["doc_tokens"]))
    search["doc_tokens"] = {asin: [*search["doc_tokens"][asin], "more"]}
    goals = {"0": {"n": 6910, "sha256": "0" * 64, "first3": [["B00", "Find me"]]}}
    paths = []
    for name, value in (("goals", goals), ("search", search), ("episodes", episodes)):
        paths.append(tmp_path / f"{name}.json")
        paths[-1].write_text(json.dumps(value))
    assert verify_webshop(folder, *paths) == 1
    printed = capsys.readouterr().out
    for told in ("goal lists: 0 of 1", "terms: 0 of 1", "top-10 lists: 1 of 2", "episodes: 0 of 3"):
        assert told in printed
    assert "episode 0, step 2" in printed and "reward" in printed and "goal 0:" in printed


def test_a_random_purchase_is_scored_like_any_other():
    """Scores stay in [0, 1], and 1 is success, whatever is bought with whatever is chosen."""
    rng = random.Random(0)
    for task in take_evenly(STRICT.tasks("train"), 100):
        product = rng.choice(STRICT.shop.products)
        chosen = {name: rng.choice(values) for name, values in product.options}
        result = STRICT.score(task, product.asin, chosen)
        assert 0.0 <= result.score <= 1.0
        assert result.attribute_matches <= result.attributes
        assert result.option_matches <= result.options


@pytest.mark.slow
def test_the_originals_ceiling(shared: Callable[[str], Path]):
    """458 of the original's 6910 goals cannot be met by their own product; ours all can."""
    folder = shared("data/webshop")
    for profile, misses in (("hiper", 458), ("strict", 0)):
        suite = make_webshop_suite(profile, data=folder, seed=6)
        tasks = [write_task_id(6, number) for number in range(6910)]
        assert sum(not buy_perfectly(suite, task).success for task in tasks) == misses


def test_milestones_are_listing_page_options_and_purchase_each_once():
    counted = 0
    for task in TINY.tasks("train")[:40]:
        env, expert = TINY.make_env(), TINY.make_expert(0)
        observation = env.reset(task)
        expert.reset(observation)
        reported, done = [], False
        while not done and len(reported) < 20:
            step = env.step(expert.decide(observation).action)
            observation, done = step.observation, step.terminated
            reported.append(step.milestone)
        if done and step.success and step.info["bought"] == TINY.get_goal(task).asin:
            counted += 1
            options = bool(TINY.get_goal(task).option_values)
            assert sum(reported) == 3 + options and reported[-1]
    assert counted > 10
