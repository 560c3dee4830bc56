"""Speed and memory of WebShop: `python -m experiments.benchmarks.envs webshop [--data DIR]`.

Two catalogues, one after the other: 1000 products (the official files of `--data DIR`, else
generated ones in files of the same schema) against the targets; then a generated one of 100,000
products through stream and disk cache, for the growth.

Start-up and memory are those of a fresh process, imports included; times of steps are medians over
the searches and clicks an expert makes. Times are CPU times, so that a busy machine does not show
in them.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from hiperjax.envs.webshop import WebShopSuite, make_webshop_suite
from hiperjax.envs.webshop.baseline import take_evenly
from hiperjax.envs.webshop.generator import generate

_COUNT = 1000
TARGETS = {
    "search, ms": 1.5,
    "click with text and actions, ms": 0.2,
    "start-up, s": 2.0,
    "memory of 128 environments, MB": 150.0,
}
# Of the process alone (Linux): what getrusage reports a child inherits from its parent.
_PEAK = """
def read_peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))
"""
_FRESH = """
import json, sys, time
from hiperjax.envs.webshop import make_webshop_suite
suite = make_webshop_suite(data=json.loads(sys.argv[1]))
tasks = suite.tasks("train")
environments = [suite.make_env() for _ in range(128)]
observations = [e.reset(tasks[i % len(tasks)]) for i, e in enumerate(environments)]
ready = time.process_time()
for environment, observation in zip(environments, observations):
    expert = suite.make_expert(0)
    expert.reset(observation)
    for _ in range(suite.max_turns):
        step = environment.step(expert.decide(observation).action)
        observation = step.observation
        if step.terminated:
            break
print(json.dumps([ready, read_peak()]))
"""


def time_steps(suite: WebShopSuite, episodes: int) -> tuple[list[float], list[float]]:
    """Milliseconds of each search and of each click but the purchase, played by the expert."""
    searches: list[float] = []
    clicks: list[float] = []
    env = suite.make_env()
    for task in take_evenly(suite.tasks("train"), episodes):
        expert = suite.make_expert(0)
        observation = env.reset(task)
        expert.reset(observation)
        for _ in range(suite.max_turns):
            action = expert.decide(observation).action
            start = time.process_time()
            step = env.step(action)
            elapsed = 1000 * (time.process_time() - start)
            if step.terminated:
                break
            (searches if action.startswith("search") else clicks).append(elapsed)
            observation = step.observation
    return searches, clicks


def measure_fresh(data: str) -> tuple[float, float]:
    """Start-up in seconds and peak memory in MB of a new process that plays 128 episodes."""
    command = [sys.executable, "-c", _PEAK + _FRESH, json.dumps(data)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    ready, memory = json.loads(done.stdout)
    return ready, memory


def bench_suite(data: str, label: str, episodes: int) -> bool:
    """Print the figures beside their targets; returns whether all are met."""
    searches, clicks = time_steps(make_webshop_suite(data=data), episodes)
    ready, memory = measure_fresh(data)
    found = (statistics.median(searches), statistics.median(clicks), ready, memory)
    print(f"{label}: {len(searches)} searches, {len(clicks)} clicks")
    for (name, target), value in zip(TARGETS.items(), found, strict=True):
        verdict = "met" if value <= target else "MISSED"
        print(f"  {name:<34} {value:8.3f}   target {target:g}   {verdict}")
    print(f"  95th percentile: search {_rank(searches):.3f} ms, click {_rank(clicks):.3f} ms")
    return all(value <= target for value, target in zip(found, TARGETS.values(), strict=True))


def _rank(values: list[float]) -> float:
    return sorted(values)[int(0.95 * (len(values) - 1))]


_GROWTH = """
import json, statistics, sys, time
from pathlib import Path
from hiperjax.envs.webshop.files import find_files, load_cached_shop
folder = Path(sys.argv[1])
start = time.process_time()
shop = load_cached_shop(find_files(folder), folder / "cache")
loaded = time.process_time() - start
goals = shop.list_goals("synthetic", 0)
listed = time.process_time() - start - loaded
times = []
for place in range(200):
    query = goals[place * len(goals) // 200].instruction
    start = time.process_time()
    shop.index.search(query)
    times.append(1000 * (time.process_time() - start))
print(json.dumps([loaded, listed, len(goals), statistics.median(times), read_peak()]))
"""


def write_generated(count: int, folder: Path) -> None:
    """A generated catalogue as official files."""
    catalogue = generate(count)
    for name, part in (("items_shuffle", "products"), ("items_ins_v2", "attributes")):
        (folder / f"{name}.json").write_text(json.dumps(catalogue[part]))


def bench_growth(count: int) -> None:
    """A generated catalogue of `count` products through files, stream and cache."""
    with tempfile.TemporaryDirectory() as folder:
        write_generated(count, Path(folder))
        for turn in ("writing the cache", "from the cache"):
            command = [sys.executable, "-c", _PEAK + _GROWTH, folder]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            loaded, listed, goals, search, memory = json.loads(done.stdout)
            print(
                f"{count} products, {goals} goals, {turn}: loaded in {loaded:.2f} s, goals listed"
                f" in {listed:.2f} s, search {search:.2f} ms, peak memory {memory:.0f} MB"
            )


def parse_args(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.envs webshop",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, help="folder of the official files")
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--growth", type=int, default=100_000, help="products; 0 leaves it out")
    return parser.parse_args(words)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0 if every target was met."""
    options = parse_args(argv)
    if options.data:
        met = bench_suite(str(options.data), f"official files in {options.data}", options.episodes)
    else:
        with tempfile.TemporaryDirectory() as folder:
            write_generated(_COUNT, Path(folder))
            met = bench_suite(folder, f"{_COUNT} generated products", options.episodes)
    if options.growth:
        bench_growth(options.growth)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
