"""Is this WebShop the original? Compared with recordings of the original, to the letter.

Formats, JSON or gzipped JSON:

    goals     {seed: {"n": count, "sha256": hash, "first3": [[asin, instruction], ...]}}, the hash
              over `json.dumps(goals, sort_keys=True)` of the shuffled list in official field names
    search    {"queries": [{"q": words, "hits": [[asin, score], ...]}],
               "doc_tokens": {asin: [term, ...]}}
    episodes  {"note": "... seed=N ...", "episodes": [{"goal_index", "goal", "steps"}]}; a step has
              "action" (but for the first), "obs", "avail", and at the purchase "reward", "info",
              "asin", "options"

`title_score` and `r_type` depend on the tagger of nouns: they are compared only when the
recording's own tagger is passed in; otherwise its `r_type` enters the comparison of the reward.
"""

import hashlib
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hiperjax.envs.webshop.analysis import analyze
from hiperjax.envs.webshop.catalogue import CatalogueError, describe
from hiperjax.envs.webshop.files import load_shop
from hiperjax.envs.webshop.goals import GoalList
from hiperjax.envs.webshop.nouns import Tagger, find_nouns
from hiperjax.envs.webshop.pages import (
    Page,
    Session,
    act,
    list_clickables,
    render,
    render_receipt,
)
from hiperjax.envs.webshop.reward import Reward, score_purchase
from hiperjax.envs.webshop.shop import Shop
from hiperjax.verification.recordings import RecordingError, read_recording, reading

SMALL_PRODUCTS, SMALL_GOALS = 1000, 6910
_TOP_50_SHARE = 0.995
_SHOWN = 5
"""differences printed of each kind"""


def verify_webshop(
    data: str | Path,
    goals: str | Path | None = None,
    search: str | Path | None = None,
    episodes: str | Path | None = None,
    tagger: Tagger | None = None,
) -> int:
    """Compare with recordings; prints counts and differences, returns the exit code."""
    shop = load_shop(Path(data))
    differences = list(_check_counts(shop))
    if goals is not None:
        with reading(goals):
            differences += _check_goals(shop, _read(goals))
    if search is not None:
        recorded = _read(search)
        with reading(search):
            differences += _check_terms(shop, recorded.get("doc_tokens", {}))
            differences += _check_rankings(shop, recorded.get("queries", []))
    if episodes is not None:
        with reading(episodes):
            differences += _check_episodes(shop, _read(episodes), Path(episodes), tagger)
    print(f"{len(differences)} differences" if differences else "no difference")
    return 1 if differences else 0


def _read(path: str | Path) -> dict[str, Any]:
    value = read_recording(Path(path))
    if not isinstance(value, dict):
        raise RecordingError(f"{path}: found a JSON {type(value).__name__}, expected an object")
    return value


def _tell(title: str, equal: int, total: int, differences: list[str]) -> list[str]:
    """Print one line of counts and the first differences."""
    print(f"{title}: {equal} of {total} equal")
    for difference in differences[:_SHOWN]:
        print(f"  {difference}")
    if len(differences) > _SHOWN:
        print(f"  ... and {len(differences) - _SHOWN} more")
    return differences


def _check_counts(shop: Shop) -> list[str]:
    products, goals = len(shop.products), len(shop.list_goals("synthetic", 0))
    print(f"{shop.name}: {products} products, {goals} synthetic goals")
    if products == SMALL_PRODUCTS and goals != SMALL_GOALS:
        difference = f"{goals} synthetic goals of {products} products, expected {SMALL_GOALS}"
        return _tell("goal count", 0, 1, [difference])
    return []


def _check_goals(shop: Shop, recorded: dict[str, Any]) -> list[str]:
    differences: list[str] = []
    for seed, expected in recorded.items():
        goals = shop.list_goals("synthetic", int(seed))
        text = json.dumps([goal.to_official() for goal in goals], sort_keys=True)
        found = hashlib.sha256(text.encode()).hexdigest()
        if found == expected["sha256"] and len(goals) == expected["n"]:
            continue
        difference = f"seed {seed}: {len(goals)} goals, hash {found[:12]}; expected"
        difference += f" {expected['n']}, {expected['sha256'][:12]}"
        for place, first in enumerate(expected.get("first3", [])):
            own = [goals[place].asin, goals[place].instruction] if place < len(goals) else []
            if own != first:
                difference += f"; goal {place}: {own}, expected {first}"
                break
        differences.append(difference)
    return _tell("goal lists", len(recorded) - len(differences), len(recorded), differences)


def _check_terms(shop: Shop, recorded: dict[str, list[str]]) -> list[str]:
    differences: list[str] = []
    for asin, expected in recorded.items():
        found = analyze(describe(shop.get(asin))) if asin in shop.places else []
        if found != expected:
            differences.append(f"terms of {asin}: {_contrast(found, expected)}")
    return _tell("documents' terms", len(recorded) - len(differences), len(recorded), differences)


def _check_rankings(shop: Shop, queries: list[dict[str, Any]]) -> list[str]:
    heads, wholes, margin = [], [], 0.0
    for query in queries:
        hits = shop.index.search(query["q"])
        found, expected = [hit[0] for hit in hits], [hit[0] for hit in query["hits"]]
        if found != expected:
            wholes.append(f"{query['q'][:60]!r}: {_contrast(found, expected)}")
        if found[:10] != expected[:10]:
            heads.append(wholes[-1])
        for own, other in zip(hits, query["hits"], strict=False):
            margin = max(margin, abs(own[1] - other[1]))
    _tell("top-10 lists", len(queries) - len(heads), len(queries), heads)
    _tell("top-50 lists", len(queries) - len(wholes), len(queries), wholes)
    print(f"  scores of like ranks differ by at most {margin:.1e}")
    if len(queries) - len(wholes) < _TOP_50_SHARE * len(queries):
        return wholes
    return heads


def _contrast(found: list[str], expected: list[str]) -> str:
    """Where two lists part."""
    place = next(
        (i for i, pair in enumerate(zip(found, expected, strict=False)) if pair[0] != pair[1]),
        min(len(found), len(expected)),
    )
    return (
        f"place {place} of {len(found)} (expected {len(expected)}): "
        f"{found[place : place + 3]}, expected {expected[place : place + 3]}"
    )


def _check_episodes(
    shop: Shop, recorded: dict[str, Any], path: Path, tagger: Tagger | None
) -> list[str]:
    goals = shop.list_goals("synthetic", _read_seed(recorded, path))
    differences: list[str] = []
    same, steps, purchases = 0, 0, 0
    for number, episode in enumerate(recorded["episodes"]):
        found = [f"episode {number}, {text}" for text in _replay(shop, goals, episode, tagger)]
        same += not found
        steps += len(episode["steps"])
        purchases += sum("info" in step for step in episode["steps"])
        differences += found
    _tell("episodes", same, len(recorded["episodes"]), differences)
    compared = "compared" if tagger else "not compared: pass the recording's own tagger"
    print(f"  {steps} steps, {purchases} purchases; title_score and r_type {compared}")
    return differences


def _read_seed(recorded: dict[str, Any], path: Path) -> int:
    """The seed of recorded episodes: a field, or named in the note or the file name."""
    if "seed" in recorded:
        return int(recorded["seed"])
    named = re.search(r"seed=?(\d+)", f"{recorded.get('note', '')} {path.name}")
    if named is None:
        raise CatalogueError(f"{path}: no seed; expected a field, or 'seed=N' in the note")
    return int(named[1])


def _replay(
    shop: Shop, goals: GoalList, episode: dict[str, Any], tagger: Tagger | None
) -> Iterator[str]:
    """Differences of one episode, step by step."""
    goal = goals[episode["goal_index"]]
    if goal.to_official() != episode["goal"]:
        yield f"goal {episode['goal_index']}: {goal.to_official()}, expected {episode['goal']}"
        return
    session = Session(shop, goal, quirks=True, rng=random.Random(0))
    for number, step in enumerate(episode["steps"]):
        if "action" in step:
            act(session, step["action"])
        where = f"step {number} ({step.get('action', 'reset')!r})"
        if session.page is Page.DONE:
            yield from (f"{where}: {text}" for text in _settle(session, goals, step, tagger))
            return
        text = render(session)
        if text != step["obs"]:
            yield f"{where}: {_contrast(text.split(' [SEP] '), step['obs'].split(' [SEP] '))}"
        available = {
            "has_search_bar": session.has_search_bar,
            "clickables": list_clickables(session),
        }
        if available != step["avail"]:
            yield f"{where}: {available}, expected {step['avail']}"
        if step.get("done") or step.get("reward"):
            yield f"{where}: goes on, expected the end with reward {step.get('reward')}"


def _settle(
    session: Session, goals: GoalList, step: dict[str, Any], tagger: Tagger | None
) -> Iterator[str]:
    """Differences at the purchase."""
    expected = step.get("info")
    if session.product is None or expected is None:
        yield "bought, expected the episode to go on"
        return
    bought, goal = session.product, session.goal
    price = float(goals.prices[session.shop.places[bought.asin]])
    target, nouns = session.shop.get(goal.asin), tagger or find_nouns
    result = score_purchase(bought, price, session.chosen, goal, target, nouns, "pair")
    found = result.to_info()
    by_tagger = () if tagger else ("r_type", "title_score")
    for part in sorted({*found, *expected} - set(by_tagger)):
        if found.get(part) != expected.get(part):
            yield f"{part} {found.get(part)}, expected {expected.get(part)}"
    score = result.score if tagger else _rescore(result, expected["r_type"])
    if score != step["reward"]:
        yield f"reward {score}, expected {step['reward']}"
    if (bought.asin, session.chosen) != (step["asin"], step["options"]):
        yield f"bought {bought.asin} {session.chosen}, expected {step['asin']} {step['options']}"
    receipt = render_receipt(session, score)
    if receipt != step["obs"]:
        yield _contrast(receipt.split(" [SEP] "), step["obs"].split(" [SEP] "))


def _rescore(result: Reward, r_type: float) -> float:
    """The score with the type reward of another tagger."""
    matched = result.attribute_matches + result.option_matches + result.price_match
    return matched / result.parts * r_type
