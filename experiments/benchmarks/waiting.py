"""A world that waits, on threads and one call after the other.

    python -m experiments.benchmarks.waiting [--slots 32] [--turns 4] [--shortest 0.2] [--longest 2]

Every step of a household game sleeps a while that its task and turn decide. A tiny transformer with
random weights plays one episode per slot, with as many threads as slots and with one; the episodes
must be the same, whatever came first. Prints turns per second, and the share of the time in which
there was no reply to write: everything waited for the world.
"""

import argparse
import dataclasses
import random
import time

import jax

from experiments.benchmarks.common import describe_machine, format_table, verdict
from hiperjax.acting.blocks import TAGS
from hiperjax.acting.collector import RolloutResult
from hiperjax.acting.demonstrations import demonstrate, list_texts
from hiperjax.acting.prompts import Prompter
from hiperjax.acting.renderers import CompactRenderer
from hiperjax.acting.rollout import Rollout
from hiperjax.envs.alfworld.suites import HouseholdSuite
from hiperjax.envs.base import Step, TextEnv
from hiperjax.envs.workers import make_workers
from hiperjax.models.tokenizers import train_tokenizer
from hiperjax.models.transformer import Params, TransformerConfig, init_params
from hiperjax.types import Observation

TARGET = 8.0
"""Times as many turns per second with threads."""


class WaitingEnv(TextEnv):
    """A household game whose steps take their time."""

    def __init__(self, env: TextEnv, shortest: float, longest: float) -> None:
        self._env, self._limits = env, (shortest, longest)

    def reset(self, task_id: str) -> Observation:
        self._random = random.Random(task_id)
        return self._env.reset(task_id)

    def step(self, action: str) -> Step:
        time.sleep(self._random.uniform(*self._limits))
        return self._env.step(action)


class WaitingSuite(HouseholdSuite):
    """Household games that wait."""

    shortest, longest = 0.2, 2.0

    def make_env(self) -> TextEnv:
        return WaitingEnv(super().make_env(), self.shortest, self.longest)


def make_player(suite: WaitingSuite, args: argparse.Namespace) -> tuple[Rollout, Params]:
    """A rollout of a tiny transformer, without workers of its own."""
    renderer = CompactRenderer(hints=suite.hints)
    demos = demonstrate(
        HouseholdSuite(), suite.tasks("train")[:30], max_turns=16, seed=0, noise=0.2
    )
    tokenizer = train_tokenizer((t for d in demos for t in list_texts(renderer, d)), TAGS)
    model = TransformerConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=24, num_layers=1,
        num_heads=2, num_kv_heads=1, head_dim=8,
    )  # fmt: skip
    rollout = Rollout(
        config=model, prompter=Prompter(renderer, tokenizer, 120), suite=suite,
        workers=make_workers(suite), slots=args.slots, prompt_length=120, reply_length=12,
        max_turns=args.turns, decode_chunk=12, refill=4,
    )  # fmt: skip
    return rollout, init_params(model, jax.random.key(0))


def play(rollout: Rollout, params: Params, threads: int, slots: int) -> tuple[RolloutResult, float]:
    """One episode per slot, and the seconds it took."""
    workers = make_workers(rollout.suite, "threads", threads)
    variant = dataclasses.replace(rollout, workers=workers)
    tasks = list(rollout.suite.tasks("train")[:slots])
    started = time.perf_counter()
    result = variant.collect(params, tasks, key=jax.random.key(1), temperature=1.0)
    seconds = time.perf_counter() - started
    workers.close()
    return result, seconds


def main() -> None:
    """Measure both, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--shortest", type=float, default=0.2, help="seconds of a step")
    parser.add_argument("--longest", type=float, default=2.0)
    args = parser.parse_args()
    suite = WaitingSuite()
    suite.shortest, suite.longest = args.shortest, args.longest
    rollout, params = make_player(suite, args)
    play(rollout, params, args.slots, args.slots)  # compiles
    rows, rates, texts = [], [], []
    for threads in (args.slots, 1):
        result, seconds = play(rollout, params, threads, args.slots)
        turns = sum(len(t.turns) for t in result.trajectories)
        rates.append(turns / seconds)
        texts.append([[u.reply_ids.tolist() for u in t.turns] for t in result.trajectories])
        idle = result.seconds["environment"] / seconds
        rows.append((f"{threads} threads", turns, f"{rates[-1]:.2f}", f"{idle:.0%}"))
    assert texts[0] == texts[1], "episodes depend on the order in which the world answered"
    print(describe_machine())
    print(format_table(("", "turns", "turns per second", "waiting for the world"), rows))
    times = rates[0] / rates[1]
    print(f"{times:.1f} times as many turns per second; {verdict(times, TARGET)}")


if __name__ == "__main__":
    main()
