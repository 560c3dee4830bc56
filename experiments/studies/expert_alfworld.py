"""How good the scripted expert is, by task type.

python -m experiments.studies.expert_alfworld --games DIR --split valid_seen
python -m experiments.studies.expert_alfworld --size tiny --split unseen --noise 0.1
"""

import argparse
import collections
import statistics
from collections.abc import Sequence
from pathlib import Path

from hiperjax.envs.alfworld.problem import DIALECTS
from hiperjax.envs.alfworld.scenes import SIZES
from hiperjax.envs.base import Suite
from hiperjax.envs.registry import make_suite
from hiperjax.intervals import wilson_interval


def play_split(
    suite: Suite, split: str, *, limit: int, noise: float, seed: int, count: int | None = None
) -> tuple[dict[str, list[int | None]], float]:
    """By task type, the length of each episode (None where it failed); and turns per segment."""
    env, expert = suite.make_env(), suite.make_expert(seed, noise)
    lengths: dict[str, list[int | None]] = collections.defaultdict(list)
    turns = segments = 0
    for task_id in suite.tasks(split)[:count]:
        observation = env.reset(task_id)
        expert.reset(observation)
        length = None
        for turn in range(1, limit + 1):
            decision = expert.decide(observation)
            turns, segments = turns + 1, segments + decision.switch
            step = env.step(decision.action)
            observation = step.observation
            if step.terminated:
                length = turn
                break
        lengths[suite.task_type(task_id)].append(length)
    return lengths, turns / segments


def format_table(lengths: dict[str, list[int | None]]) -> str:
    """One line per task type: solved, rate with 95 % interval, turns of solved episodes."""
    everything = [length for group in lengths.values() for length in group]
    lines = [f"{'task type':<34}{'solved':>10}  rate [95 % interval]     turns mean, median, most"]
    for name, group in [*sorted(lengths.items()), ("all", everything)]:
        solved = [length for length in group if length is not None]
        low, high = wilson_interval(len(solved), len(group))
        rate = f"{len(solved) / len(group):.3f} [{low:.3f}, {high:.3f}]"
        turns = f"{statistics.mean(solved):.1f}, {statistics.median(solved):g}, {max(solved)}"
        lines.append(f"{name:<34}{f'{len(solved)}/{len(group)}':>10}  {rate:<24}{turns:>14}")
    return "\n".join(lines)


def parse_args(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--games", type=Path, help="folder of official games; none: generated")
    parser.add_argument("--size", choices=SIZES, default="tiny", help="size of generated games")
    parser.add_argument("--dialect", choices=DIALECTS, help="dialect of official games")
    parser.add_argument("--split", default="seen")
    parser.add_argument("--limit", type=int, default=50, help="turns per episode")
    parser.add_argument("--noise", type=float, default=0.0, help="share of random commands")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, help="only the first so many tasks")
    return parser.parse_args(words)


def main() -> None:
    """Print the table, and what it was measured on."""
    args = parse_args()
    if args.games:
        suite = make_suite("alfworld", games=args.games, dialect=args.dialect)
    else:
        suite = make_suite("household", size=args.size)
    lengths, segment = play_split(
        suite, args.split, limit=args.limit, noise=args.noise, seed=args.seed, count=args.count
    )
    print(
        f"{suite.name}, split {args.split}, dialect {getattr(suite, 'dialect', 'move')}, tasks in"
        f" sorted order, limit {args.limit} turns, noise {args.noise:g}, seed {args.seed}"
    )
    print(format_table(lengths))
    print(f"turns per segment: {segment:.2f}")


if __name__ == "__main__":
    main()
