"""Rubrics: scores of a comparison, both orders, pairs, gates, and what an episode is paid."""

import dataclasses
import http.server
import json
import threading

import jax.numpy as jnp
import numpy as np
import pytest
from helpers.episodes import make_trajectory
from hypothesis import given
from hypothesis import strategies as st

from hiperjax.judging.base import Failed, Verdict, check_marks, transcribe_episode
from hiperjax.judging.http import HttpJudge
from hiperjax.judging.pairwise import (
    FactJudge,
    Pairing,
    choose_pairs,
    compare_groups,
    list_facts,
)
from hiperjax.judging.rubric import (
    DEFAULT,
    RubricError,
    RubricItem,
    aggregate,
    decide,
    load_rubric,
)
from hiperjax.learning.credit.registry import estimate
from hiperjax.learning.credit.types import CreditInputs
from hiperjax.options.judging import RubricConfig
from hiperjax.training.rubrics import FLOOR, RubricStage
from hiperjax.training.scored import Scored
from hiperjax.types import Checklist, Criterion, Ending, Trajectory

RUBRIC = (
    RubricItem("right", "?", "core", "score"),
    RubricItem("kind", "?", "important", "score"),
    RubricItem("nice", "?", "highlight", "score"),
    RubricItem("whole", "?", "core", "score"),
    RubricItem("safe", "?", "fatal", "score"),
)
SHORT = (RubricItem("brief", "Which is shorter?", "core", "turns", "lower", 1.0),)


def play(turns: int, task: str = "one", seed: int = 0, **changes) -> Trajectory:
    made = make_trajectory(np.random.default_rng(seed), turns, task=task)
    return dataclasses.replace(made, task=task, **changes)


def show(*episodes: Trajectory):
    return [dataclasses.replace(transcribe_episode(t), facts=list_facts(t)) for t in episodes]


def score_rubric(*marks: int) -> float:
    return aggregate({i.name: float(m) for i, m in zip(RUBRIC, marks, strict=True)}, RUBRIC)


def test_scores_weigh_by_importance_and_a_fatal_one_outweighs_all():
    assert score_rubric(1, -2, 0, 2, 0) == pytest.approx(11 / 12)
    assert score_rubric(1, -2, 0, 2, -1) == -1
    assert score_rubric(0, 0, 0, 0, 0) == 0


@given(st.lists(st.integers(-2, 2), min_size=5, max_size=5))
def test_a_comparison_turned_round_scores_the_opposite(marks):
    assert score_rubric(*marks) == -score_rubric(*[-mark for mark in marks])


@pytest.mark.parametrize(
    ("forward", "backward", "margin", "verdict"),
    [
        (1.0, -1.0, 0.0, 1), (-1.0, 1.0, 0.0, -1), (1.0, 1.0, 0.0, 0), (-1.0, -1.0, 0.0, 0),
        (0.5, 0.0, 0.0, 1), (0.0, 0.0, 0.0, 0), (0.5, -0.5, 0.5, 0), (0.6, -0.5, 0.5, 1),
        (0.6, -0.4, 0.5, 0),
    ],
)  # fmt: skip
def test_both_orders_must_agree(forward, backward, margin, verdict):
    assert decide(forward, backward, margin) == verdict


def test_whom_all_are_compared_with_is_drawn_and_always_the_same():
    pairs = choose_pairs(5, "random", "7/3/one")
    assert pairs == choose_pairs(5, "random", "7/3/one") and len(pairs) == 4
    (drawn,) = {j for _, j in pairs}
    assert [i for i, _ in pairs] == [i for i in range(5) if i != drawn]
    every = {choose_pairs(5, "random", f"7/{n}/one")[0][1] for n in range(40)}
    assert every == set(range(5)), "all have their turn"
    assert choose_pairs(3, "all", "") == [(0, 1), (0, 2), (1, 2)]


def compare(judge, episodes, **options):
    (found,) = compare_groups(judge, Pairing(SHORT, **options), [show(*episodes)], ["x"])
    return found


def test_the_program_prefers_by_facts():
    episodes = [play(2), play(3), play(6)]
    found = compare(FactJudge(SHORT), episodes, against="all")
    assert found.worth == (1, 0, -1) and (found.disagreed, found.pairs) == (0, 3)
    assert len(found.answers) == 6
    graded = compare(FactJudge(SHORT), episodes, against="all", grade="score", both_orders=False)
    assert graded.worth == (1.5, 0.5, -2) and len(graded.answers) == 3
    with pytest.raises(RubricError, match="no fact"):
        FactJudge((RubricItem("a", "?", "core"),))
    unknown = FactJudge((dataclasses.replace(SHORT[0], fact="beauty"),))
    lost = compare(unknown, episodes)
    assert [a.reason[:17] for a in lost.answers if isinstance(a, Failed)] == [
        "no fact 'beauty';"
    ] * 4


class FirstIsBest:
    """Prefers whoever comes first; breaks down where the second has six turns."""

    def verdicts(self, requests) -> list[Verdict | Failed]:
        return [
            Failed("no answer") if r.other is not None and len(r.other.turns) == 6
            else check_marks(r, {"brief": 2})
            for r in requests
        ]  # fmt: skip


def test_a_judge_that_prefers_a_place_says_nothing_and_failures_take_episodes_out():
    found = compare(FirstIsBest(), [play(2), play(3), play(6)], against="all")
    assert found.worth == (None, None, None) and found.disagreed == 1
    fine = compare(FirstIsBest(), [play(2), play(3), play(4)], against="all")
    assert fine.worth == (0, 0, 0) and fine.disagreed == 3
    tricked = compare(FirstIsBest(), [play(2), play(3)], both_orders=False)
    assert sorted(x for x in tricked.worth if x is not None) == [0, 1]


def make_stage(**options) -> RubricStage:
    chosen = RubricConfig(reward="replace", **options)
    pairing = Pairing(SHORT, chosen.against, chosen.grade, chosen.margin, chosen.both_orders)
    return RubricStage(FactJudge(SHORT), pairing, chosen)


def apply(stage: RubricStage, *episodes: Trajectory) -> Scored:
    scored = Scored(list(episodes), {})
    stage.apply(scored, iteration=3)
    return scored


def test_what_an_episode_is_worth_is_paid_with_its_last_turn():
    episodes = [play(2), play(4), play(3, "two"), play(3, "two", seed=1), play(5, "alone")]
    scored = apply(make_stage(against="all"), *episodes)
    assert [t.task for t in scored.trajectories] == ["one", "one", "two", "two"]
    assert [[turn.reward for turn in t.turns] for t in scored.trajectories[:2]] == [
        [0, 1], [0, 0, 0, -1]
    ]  # fmt: skip
    assert [t.judged["rubric"] for t in scored.trajectories] == [1, -1, 0, 0]
    assert scored.metrics["rubric/even"] == 0.5 and scored.metrics["judge/verdicts"] == 4
    added = dataclasses.replace(
        make_stage(), options=RubricConfig(reward="add"), pairing=Pairing(SHORT, "all")
    )
    paid = apply(added, *episodes[:2]).trajectories[0].turns[-1].reward
    assert paid == episodes[0].turns[-1].reward + 1


def test_a_gate_outweighs_every_preference():
    gate = Checklist((Criterion("safe", "?", 1.0, gate=True),))
    short = play(2, checklist=gate, ending=Ending.TRUNCATED)
    long = play(4, checklist=gate, ending=Ending.TERMINATED)
    long = dataclasses.replace(
        long,
        turns=(
            *long.turns[:-1],
            dataclasses.replace(long.turns[-1], satisfied=frozenset({"safe"})),
        ),
    )
    for options, worths in (
        ({}, [1, -1]),
        ({"check_gates": True}, [FLOOR, -1]),
        ({"allow_truncated": False}, [FLOOR, -1]),
        ({"max_inadmissible": 0.5}, [1, -1]),
    ):
        scored = apply(make_stage(against="all", **options), short, long)
        assert [t.judged["rubric"] for t in scored.trajectories] == worths
        assert scored.metrics["rubric/gated"] == (0.5 if options and worths[0] < 0 else 0)
    turns = tuple(dataclasses.replace(t, admissible=False) for t in short.turns)
    wild = dataclasses.replace(short, turns=turns)
    scored = apply(make_stage(against="all", max_inadmissible=0.5), wild, long)
    assert [t.judged["rubric"] for t in scored.trajectories] == [FLOOR, -1]


def test_the_estimator_takes_returns_as_they_are_and_drops_one_sided_groups():
    ones, mask = jnp.ones((4, 2)), jnp.array([[True, True], [True, False]] * 2)
    zero = jnp.zeros((4, 2))
    inputs = CreditInputs(
        reward=jnp.array([[0.0, 1.0], [-1.0, 9.0], [1.0, 0.0], [1.0, 0.0]]), mask=mask,
        boundary=mask, terminated=jnp.ones(4, bool), v_low=zero, v_high=zero, v_term=zero,
        bootstrap_low=ones[:, 0], bootstrap_high=ones[:, 0], bootstrap_term=ones[:, 0],
        group_id=jnp.array([0, 0, 5, 5]),
    )  # fmt: skip
    all_teach = estimate("openrs", inputs).adv_low
    np.testing.assert_array_equal(all_teach, [[1, 1], [-1, 0], [1, 1], [1, 0]])
    fair = estimate("openrs", inputs, drop_one_sided=0.8).adv_low
    np.testing.assert_array_equal(fair, [[1, 1], [-1, 0], [0, 0], [0, 0]])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "expected a JSON list"),
        ("[]", "expected a JSON list"),
        ("[3]", "criterion 1: found 3; expected an object"),
        ('[{"name": "a", "question": "?"}]', "importance is None; expected one of core"),
        ('[{"name": "a", "weight": 3}]', "found 'weight'; expected name, question"),
        ('[{"name": "a", "question": "?", "importance": "big"}]', "importance is 'big'; expected"),
        ('[{"name": "a", "question": "?", "importance": "core", "step": 0}]', "step is 0; exp"),
        ('[{"name": "", "question": "?", "importance": "core"}]', "name is ''; expected a text"),
        ('[{"name": "a", "question": 3, "importance": "core"}]', "question is 3; expected a text"),
        (json.dumps([{"name": "a", "question": "?", "importance": "core"}] * 2), "each once"),
    ],
)
def test_a_rubric_that_nobody_can_judge_by_is_refused(tmp_path, text, complaint):
    path = tmp_path / "rubric.json"
    path.write_text(text)
    with pytest.raises(RubricError, match=complaint):
        load_rubric(path)


def test_a_rubric_comes_from_a_file(tmp_path):
    path = tmp_path / "rubric.json"
    path.write_text(json.dumps([dataclasses.asdict(item) for item in RUBRIC]))
    assert load_rubric(path) == RUBRIC and load_rubric(None) == DEFAULT


class Comparer(http.server.BaseHTTPRequestHandler):
    """Prefers the shorter of two episodes, and quotes its first action; lies about four turns."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = body["messages"][1]["content"]
        record = json.loads(text[text.index("BEGIN") + 5 : text.rindex("END")])
        a, b = record["A"], record["B"]
        better = "A" if len(a) < len(b) else "B"
        entry = {
            "score": 1 if better == "A" else -1, "of": better, "turn": 1,
            "quote": "never said" if len(record[better]) == 4 else record[better][0]["action"],
        }  # fmt: skip
        answer = json.dumps({"criteria": {"brief": entry}})
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"choices": [{"message": {"content": answer}}]}).encode())

    def log_message(self, *args: object) -> None:
        """Nothing."""


def test_a_language_model_compares_through_its_address():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Comparer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    judge = HttpJudge(f"http://127.0.0.1:{server.server_address[1]}", "m", concurrency=2)
    try:
        found = compare(judge, [play(2), play(3)], against="all")
        assert found.worth == (1, -1) and found.disagreed == 0
        lied = compare(judge, [play(4), play(5)], against="all")
        assert lied.worth == (0, 0)
        assert [a.ungrounded for a in lied.answers if isinstance(a, Verdict)] == [("brief",)] * 2
    finally:
        judge.close()
        server.shutdown()
        server.server_close()
        thread.join()
