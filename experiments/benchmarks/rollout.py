"""Our rollout against lock step, and against `transformers` where torch is installed.

    python -m experiments.benchmarks.rollout [--slots 64] [--episodes 128] [--run RUN_FOLDER]
        [--width 4]

All sides play with the same weights. The lock-step baseline draws the same tokens by the same keys,
so its episodes must be ours, token by token; that is checked before anything is timed.
`transformers` is given the prompts of those episodes, batched with left padding, in lock step.

A dead slot-step is one that drew no token of a reply, idle or without an episode; the tail is
when no more episodes wait. Policy: the preset's, after a short imitation of the scripted expert.
"""

import argparse
import dataclasses
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from experiments.baselines.lockstep import lock_step
from experiments.benchmarks.common import (
    Timing,
    alternate,
    bare_rollout,
    clock,
    describe_machine,
    format_table,
    pick_tasks,
    prepare,
    verdict,
    widen,
)
from experiments.benchmarks.metered import METER, MeteredLane
from hiperjax.acting.collector import RolloutResult
from hiperjax.acting.lane_sizes import RolloutStats
from hiperjax.acting.rollout import Rollout
from hiperjax.commands.convert import spell_out
from hiperjax.models.transformer import Params
from hiperjax.random_keys import Stream, derive_key
from hiperjax.types import Trajectory


@dataclasses.dataclass(frozen=True)
class Game:
    """What every side plays."""

    params: Params
    tasks: list[str]
    temperature: float
    seed: int = 0

    def play(self, rollout: Rollout) -> RolloutResult:
        """One collection by this rollout."""
        return rollout.collect(
            self.params,
            self.tasks,
            key=derive_key(self.seed, Stream.ROLLOUT, 0),
            temperature=self.temperature,
        )


def count_equal(ours: Sequence[Trajectory], theirs: Sequence[Trajectory]) -> int:
    """Episodes whose every prompt and reply is the same on both sides."""
    return sum(
        len(a.turns) == len(b.turns)
        and all(
            np.array_equal(x.reply_ids, y.reply_ids) and np.array_equal(x.prompt_ids, y.prompt_ids)
            for x, y in zip(a.turns, b.turns, strict=True)
        )
        for a, b in zip(ours, theirs, strict=True)
    )


def summarize(name: str, result: RolloutResult, timing: Timing, ours: Timing) -> list[Any]:
    """A row of the table."""
    s, turns = result.stats, sum(len(t.turns) for t in result.trajectories)
    pad = (s.prefill_row_pad + s.prefill_bucket_pad) / max(1, s.prefill_slots)
    dead = 1 - s.decode_tokens / max(1, s.decode_slots)
    by_wall, by_cpu = timing.over(ours)
    return [
        name, timing.wall, timing.cpu, by_wall, by_cpu, turns / timing.wall,
        s.reply_tokens / timing.wall, s.prompt_tokens / timing.wall, f"{dead:.1%}", f"{pad:.1%}",
    ]  # fmt: skip


HEADER = (
    "rollout", "wall s", "CPU s", "x ours", "(CPU)", "turns/s", "reply tok/s", "prompt tok/s",
    "dead", "prompt pad",
)  # fmt: skip


def measure_growth(game: Game, rollout: Rollout, whole: int) -> list[list[Any]]:
    """Cost of a turn at an eighth, a quarter, half and all of the episodes."""
    rows = []
    for count in (whole // 8, whole // 4, whole // 2, whole):
        part = dataclasses.replace(game, tasks=game.tasks[:count])
        result = part.play(rollout)
        timing = alternate({"": lambda part=part: part.play(rollout)}, 3)[""]
        turns = sum(len(t.turns) for t in result.trajectories)
        rows.append([f"{count} episodes", turns, timing.wall, timing.cpu, 1e3 * timing.cpu / turns])
    return rows


def parse_args(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Rollout against its baselines.")
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--episodes", type=int, default=128)
    parser.add_argument("--shape", default="household-tiny", help="preset of the policy played")
    parser.add_argument("--run", type=pathlib.Path, help="a trained run instead of imitation")
    parser.add_argument("--imitation", type=int, default=400, help="steps before the rollout")
    parser.add_argument(
        "--max-turns",
        type=int,
        default=50,
        help="turn limit of an episode; 50 is ALFWorld's, 0 the preset's",
    )
    parser.add_argument(
        "--width", type=int, default=1, help="times the width of the policy's model"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-torch", action="store_true")
    parser.add_argument("--no-growth", action="store_true")
    return parser.parse_args(words)


def main() -> int:
    """Print the tables; 1 where a target is missed."""
    args = parse_args()
    print("machine:", describe_machine())
    components, policy = prepare(
        args.run,
        preset=args.shape,
        slots=args.slots,
        episodes=args.episodes,
        imitation=args.imitation,
    )
    params, model = widen(*spell_out(policy, components.model), args.width)
    ours = bare_rollout(components)
    max_turns = args.max_turns or ours.max_turns
    ours = dataclasses.replace(ours, config=model, max_turns=max_turns)
    tasks = pick_tasks(components, args.episodes)
    game = Game(jax.device_put(params), tasks, components.config.rollout.temperature)
    return report(game, ours, args)


def report(game: Game, ours: Rollout, args: argparse.Namespace) -> int:
    """Play, compare, time, print."""
    theirs = lock_step(ours)
    cold = {name: clock(lambda r=r: game.play(r).stats and None)[0]
            for name, r in (("ours", ours), ("lock step", theirs))}  # fmt: skip
    a, b = game.play(ours), game.play(theirs)
    equal = count_equal(a.trajectories, b.trajectories)
    print(
        f"episodes equal to the lock-step baseline's, token by token: {equal} of {len(game.tasks)}"
    )
    if jax.default_backend() == "cpu" and equal < len(game.tasks):
        raise SystemExit("the two sides played different episodes: no ratio of them means anything")
    calls = {"ours": lambda: game.play(ours).stats and None,
             "lock step": lambda: game.play(theirs).stats and None}  # fmt: skip
    generate = None
    if not args.no_torch:
        generate = make_generate(game, ours, a.trajectories)
        if generate is not None:
            calls["transformers"] = generate
    times = alternate(calls, args.repeats)
    rows = [summarize("ours", a, times["ours"], times["ours"]),
            summarize("lock step, padded", b, times["lock step"], times["ours"])]  # fmt: skip
    if generate is not None:
        rows.append(["transformers generate", *_plain(a, times["transformers"], times["ours"])])
    print(format_table(HEADER, rows))
    lengths = [len(t.turns) for t in a.trajectories]
    replies = [len(x.reply_ids) for t in a.trajectories for x in t.turns]
    prompts = [len(x.prompt_ids) for t in a.trajectories for x in t.turns]
    print(
        f"success {np.mean([t.success for t in a.trajectories]):.2f}; means: "
        f"{np.mean(lengths):.1f} turns per episode (longest {max(lengths)}), prompt "
        f"{np.mean(prompts):.0f} tokens (limit {ours.prompter.limit}), reply "
        f"{np.mean(replies):.1f} (limit {ours.shape.reply})"
    )
    print("first call, compilation included:", {k: round(v, 1) for k, v in cold.items()}, "s")
    print("seconds of ours:", {k: round(v, 2) for k, v in a.seconds.items()})
    dead = profile(game, ours)
    tell_bound(a.stats, b.stats)
    if not args.no_growth:
        growth = measure_growth(game, ours, len(game.tasks))
        print(format_table(("growth", "turns", "wall s", "CPU s", "CPU ms per turn"), growth))
    return _judge(times, dead)


def profile(game: Game, ours: Rollout) -> dict[str, float]:
    """Where our seconds go, every call waited for; returns shares of dead slot-steps."""
    METER.clear()
    started = time.perf_counter()
    result = game.play(dataclasses.replace(ours, lane_factory=MeteredLane))
    whole = time.perf_counter() - started
    s = result.stats
    parts = METER.seconds | {"environment": result.seconds["environment"]}
    parts["host"] = whole - sum(parts.values())
    slots = {"prefill": s.prefill_slots, "decode": s.decode_slots}
    rows = [
        [name, seconds, f"{seconds / whole:.0%}", METER.calls.get(name, ""), slots.get(name, ""),
         1e6 * seconds / slots[name] if name in slots else ""]
        for name, seconds in parts.items()
    ]  # fmt: skip
    print(format_table(("ours, taken apart", "s", "share", "calls", "slots", "us per slot"), rows))
    dead = METER.dead_shares()
    print("dead slot-steps of ours:", {k: f"{v:.1%}" for k, v in dead.items()})
    return dead


def tell_bound(ours: RolloutStats, theirs: RolloutStats) -> None:
    """What a schedule alone could gain over the baseline: its token slots for each useful one."""
    useful = ours.prompt_tokens - ours.shared_tokens + ours.decode_tokens
    spent = theirs.prefill_slots + theirs.decode_slots
    own = ours.prefill_slots + ours.decode_slots
    print(
        f"token slots for each useful token: lock step {spent / useful:.2f}, ours "
        f"{own / useful:.2f}; no schedule beats it by more than {spent / useful:.1f} times on the "
        "device, where a slot costs the same"
    )


def _plain(result: RolloutResult, timing: Timing, ours: Timing) -> list[Any]:
    row = summarize("", result, timing, ours)
    return [*row[1:8], "", ""]


def _judge(times: dict[str, Timing], dead: dict[str, float]) -> int:
    ratio = times["lock step"].over(times["ours"])
    lines = [f"lock step / ours {ratio[0]:.1f} ({ratio[1]:.1f} CPU), {verdict(ratio[0], 5)}"]
    if "transformers" in times:
        against = times["transformers"].over(times["ours"])
        lines.append(f"generate / ours {against[0]:.1f} ({against[1]:.1f} CPU), "
                     f"{verdict(against[0], 3)}")  # fmt: skip
    lines.append(f"dead, whole {dead['whole']:.1%}, {verdict(dead['whole'], 0.05, at_most=True)}")
    print("\n".join(lines))
    return int(any("MISSED" in line for line in lines))


def make_generate(game: Game, ours: Rollout, episodes: Sequence[Trajectory]) -> Any:
    """A call that replays the episodes' prompts through `transformers`; None without torch."""
    try:
        from experiments.baselines.torch_baselines import Generate
    except ImportError as error:
        print(f"transformers generate: not measured ({error})")
        return None
    started = time.perf_counter()
    baseline = Generate(game.params, ours.config, stop_ids=ours.stop_ids, reply=ours.shape.reply)
    first = [t.turns[0] for t in episodes[: ours.slots]]
    greedy = dataclasses.replace(game, tasks=game.tasks[: ours.slots], temperature=0.0)
    expected = [t.turns[0].reply_ids for t in greedy.play(ours).trajectories]
    found = baseline.reply([turn.prompt_ids for turn in first], temperature=0.0)
    same = sum(np.array_equal(x, y) for x, y in zip(expected, found, strict=True))
    print(f"greedy first replies equal to transformers': {same} of {len(first)} "
          f"(set-up {time.perf_counter() - started:.1f} s)")  # fmt: skip
    if same < 0.95 * len(first):
        raise SystemExit("transformers replies otherwise: not the same weights")
    return lambda: baseline.replay(episodes, batch=ours.slots, temperature=game.temperature)


if __name__ == "__main__":
    raise SystemExit(main())
