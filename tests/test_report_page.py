"""The page in a real browser: it works, it asks nobody for anything, and no text of it acts."""

import json
import pathlib
import re
import time

import pytest
from helpers.browser import NAMES, browse, find_chromium
from helpers.run_folders import make_episode, make_turn, write_lines, write_run

from hiperjax.commands.report import report
from hiperjax.report.page import embed, render_runs
from hiperjax.report.run_data import read_runs
from hiperjax.report.timelines import build_timelines, recorded_episodes

HOSTILE = (
    "<script>window.hacked = 1</script>",
    "</script><script>window.hacked = 2</script>",
    "</style><script>window.hacked = 3</script>",
    '"><img src="http://127.0.0.1:9/x" onerror="window.hacked = 4">',
    "<svg/onload=window.hacked=5>",
    "{{ 7 * 7 }}{% raw %}",
    "javascript:window.hacked=6",
    "<!--<script>",
    "]]><iframe src=http://127.0.0.1:9></iframe>",
    "\u202eright to left\u202c \u2066isolated",
    "\x00\x07\x1b[2J\x9b31m\ud800",
    "<base href='http://127.0.0.1:9/'><link rel=stylesheet href='//127.0.0.1:9/a.css'>",
)
LONG = "<b>" + "x" * 1_000_000


def write_hostile(folder: pathlib.Path) -> pathlib.Path:
    """A run in which every text tries something."""
    everything = "\n".join(HOSTILE)
    write_run(folder, extra={text: 0.5 for text in HOSTILE} | {f"eval/{HOSTILE[0]}/{t}": 0.5
                                                             for t in HOSTILE})  # fmt: skip
    config = json.loads((folder / "config.json").read_text())
    config |= {text: text for text in HOSTILE} | {"preset": everything, "long": LONG}
    (folder / "config.json").write_text(json.dumps(config))
    episodes = [
        make_episode(1, [make_turn(everything), make_turn(LONG, switch=True)], task=everything,
                     type=HOSTILE[3], why=[HOSTILE[0]], estimator=HOSTILE[2], ending=HOSTILE[1]),
        make_episode(2, [make_turn("needle"), make_turn("hay")], task="plain", solved=False),
        {"iteration": 2, "kind": "subgoals", "segments": 3,
         "rows": [[text, 2, 4, 1, {text: 3}] for text in HOSTILE]},
    ]  # fmt: skip
    write_lines(folder / "episodes.jsonl", episodes)
    return folder


def test_no_text_leaves_its_place(tmp_path):
    runs = read_runs([write_hostile(tmp_path / "<b>&'\"")])
    page = render_runs(runs)
    assert len(page.encode()) < 400_000
    assert page.count("<script") == 2 and page.count("</script>") == 2
    assert page.count("</style>") == 1 and "<img" not in page and "<iframe" not in page
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", page)
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    assert policy[1].startswith("default-src &#39;none&#39;") and "unsafe" not in policy[1]


def test_what_is_embedded_cannot_end_its_element():
    text = "</script><!--<script>\u2028"
    assert not re.search(r"[<>&\u2028]", embed([text])) and json.loads(embed([text])) == [text]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    if find_chromium() is None:
        pytest.skip(f"no browser: found none of {', '.join(NAMES)}")
    with browse(tmp_path_factory.mktemp("profile")) as found:
        yield found


def test_the_page_works_and_runs_nothing_of_its_content(page, tmp_path):
    report((write_hostile(tmp_path / "run"),), out=tmp_path / "page.html")
    address = (tmp_path / "page.html").as_uri()
    page.requests.clear()
    page.messages.clear()
    page.open(address)
    assert page.ask("document.querySelectorAll('#list > li').length") == 2
    assert page.ask("document.querySelectorAll('.chart svg path.line').length") > 5

    page.ask("document.getElementById('search').value = 'needle'")
    page.ask("document.getElementById('filter').dispatchEvent(new Event('input'))")
    assert page.ask("document.getElementById('count').textContent") == "1 of 2 episodes"
    page.press("j")
    page.press("Enter")
    shown = page.ask("document.querySelector('.timeline:not([hidden])').innerText")
    assert "needle" in shown and "-0.250" in shown and "advantage low" in shown
    page.press("c")
    assert page.ask("document.querySelector('tr.context').hidden") is False
    page.press("ArrowRight")
    assert page.ask("document.querySelector('th.at').textContent").startswith("1")
    page.press("Escape")
    assert page.ask("document.querySelectorAll('.timeline:not([hidden])').length") == 0

    page.ask("document.getElementById('search').value = ''")
    page.ask("document.getElementById('filter').dispatchEvent(new Event('input'))")
    page.ask("for (const head of document.querySelectorAll('.head')) head.click()")
    text = page.ask("document.getElementById('list').innerText")
    assert "window.hacked = 4" in text and "⟨U+202E⟩" in text and "1,000,003 characters" in text
    assert page.ask("typeof window.hacked") == "undefined"
    assert page.requests == [address] and page.messages == []


def test_the_policy_stops_what_should_never_get_in(page, tmp_path):
    """The second wall: markup added behind the first one does nothing."""
    html = render_runs(read_runs([write_run(tmp_path / "run")]))
    attack = "<script>window.hacked = 1</script><img src=http://127.0.0.1:9/x onerror=hacked=2>"
    (tmp_path / "page.html").write_text(html.replace("<main>", f"<main>{attack}"))
    address = (tmp_path / "page.html").as_uri()
    page.requests.clear()
    page.open(address)
    assert page.ask("typeof window.hacked") == "undefined"
    assert page.requests == [address, *page.blocked] and len(page.blocked) == 1


@pytest.mark.parametrize("width", [400, 1400])
def test_nothing_is_wider_than_the_window(page, tmp_path, width):
    report((write_hostile(tmp_path / "run"),), out=tmp_path / "page.html")
    page.call("Emulation.setDeviceMetricsOverride", width=width, height=800,
              deviceScaleFactor=1, mobile=False)  # fmt: skip
    page.open((tmp_path / "page.html").as_uri())
    page.ask("for (const head of document.querySelectorAll('.head')) head.click()")
    assert page.ask("document.documentElement.scrollWidth") <= width


def test_a_long_run_makes_a_small_page_soon(tmp_path):
    scalars = {f"scalar_{n}": n / 7 for n in range(60)}
    rates = [((7 * i) % 100) / 100 for i in range(151)]
    folder = write_run(tmp_path / "run", rates, trials=100, extra=scalars)
    turns = [make_turn("the drawer is closed, as ever. " * 60, reward=0.1) for _ in range(16)]
    episodes = [make_episode(i, turns, episode=n) for i in range(0, 151, 5) for n in range(5)]
    write_lines(folder / "episodes.jsonl", episodes)
    start = time.process_time()
    html = render_runs(read_runs([folder]))
    assert time.process_time() - start < 5
    assert len(html.encode()) < 3_000_000
    assert "left out of this page" in html


def test_a_page_keeps_the_last_episodes_and_drops_contexts_first(tmp_path):
    folder = write_run(tmp_path / "run")
    episodes = [make_episode(i, [make_turn("y" * 1000)]) for i in range(6)]
    write_lines(folder / "episodes.jsonl", episodes)
    chosen = recorded_episodes(read_runs([folder]))
    whole, notes = build_timelines(chosen)
    assert len(whole) == 6 and notes == []
    bare, notes = build_timelines(chosen, budget=30_000)
    kept = [bool(e["turns"][0]["context"]) for e in bare]
    assert len(kept) == 6 and kept == sorted(kept) and set(kept) == {False, True}
    few, notes = build_timelines(chosen, budget=12_000)
    assert len(few) < 6 and few[-1]["iteration"] == 5
    assert len(notes) == 2


BROKEN = [
    {"turns": []},
    {"turns": "many"},
    {"turns": [3]},
    {"turns": [{}]},
    {"turns": [{"values": "x", "advantages": [1], "seen": 7, "reward": "much"}]},
    {"why": "because", "task": None, "type": 3, "estimator": [], "bootstrap": 3},
]


@pytest.mark.parametrize("change", BROKEN)
def test_episodes_of_another_shape_are_shown_as_far_as_they_go(tmp_path, change):
    folder = write_run(tmp_path / "run")
    record = make_episode(1, [make_turn("fine")], ending="truncated") | change
    write_lines(folder / "episodes.jsonl", [record, {"iteration": 1, "kind": "subgoals"}])
    assert render_runs(read_runs([folder]))
