"""Tokens computed per turn in the three layouts, on one set of expert episodes; no model is run.

    python -m experiments.benchmarks.windows --games DIR [--tokenizer DIR] [--episodes 60]

`--games` is a folder of official ALFWorld games (none: generated ones of full size), `--tokenizer`
a Hugging Face folder for the chat style (none: the compact style alone). The same episodes are
written as turns, as windows of a subgoal and as windows of an episode. Rollout: tokens prefilled,
beside a shared prefix that is encoded once, and tokens decoded. Training: tokens of the packed
sequences, with one copy of the prefix in each; padding is what is left of their places. A loop is
an episode whose last twenty commands are at most six different ones: here of the expert, with
noise.
"""

import argparse
import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.benchmarks.common import format_table, verdict
from hiperjax.acting.blocks import TAGS
from hiperjax.acting.demonstrations import Demonstration, demonstrate, list_texts, transcribe
from hiperjax.acting.prompts import Prompter, WindowMode, WindowRules
from hiperjax.acting.renderers import Renderer, make_renderer
from hiperjax.envs.base import Suite
from hiperjax.envs.registry import make_suite
from hiperjax.learning.packing import pack
from hiperjax.models.tokenizers import load_tokenizer, train_tokenizer
from hiperjax.types import Trajectory

LAYOUTS: tuple[WindowMode, ...] = ("turn", "subgoal", "episode")
TARGETS = {"compact": 0.45, "chat": 0.60}
"""Tokens of `episode` over those of `turn`, at most, in rollout and in training."""
PADDING = 0.05
"""Share of the places of packed sequences that hold nothing, at most."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Lengths in tokens that go with a style."""

    prompt: int
    window: int
    sequence: int


SIZES = {"compact": Sizes(320, 1024, 2048), "chat": Sizes(2048, 8192, 16384)}


@dataclasses.dataclass(frozen=True)
class Cost:
    """Tokens per turn of one layout."""

    prefill: float
    decode: float
    training: float
    padding: float
    """share of the places in packed sequences"""
    windows: float
    """per episode"""

    @property
    def rollout(self) -> float:
        return self.prefill + self.decode


def count_tokens(
    episodes: Sequence[Trajectory], prefix: Sequence[int], *, sequence: int, max_turns: int
) -> Cost:
    """What a layout computes for these episodes."""
    turns = [turn for episode in episodes for turn in episode.turns]
    # A turn that goes on feeds the last reply token too, which decoding left out of the cache.
    prefill = sum(
        len(t.prompt_ids) - len(prefix) if t.opens else len(t.prompt_ids) + 1 for t in turns
    )
    batch = pack(
        episodes,
        max_turns=max_turns,
        length=sequence,
        per_sequence=max(8, sequence // 16),
        prefix=prefix,
        grown=True,
    )
    used = batch.sequences.token_mask[: batch.count]
    return Cost(
        prefill=(prefill + len(prefix)) / len(turns),
        decode=sum(len(t.reply_ids) - 1 for t in turns) / len(turns),
        training=used.sum() / len(turns),
        padding=float(1 - used.mean()),
        windows=sum(t.opens for t in turns) / len(episodes),
    )


def make_prompters(renderer: Renderer, tokenizer: Any, sizes: Sizes) -> dict[WindowMode, Prompter]:
    """One for each layout; everything but the windows is the same."""
    return {
        mode: Prompter(
            renderer, tokenizer, sizes.prompt, trims=True, windows=WindowRules(mode, sizes.window)
        )
        for mode in LAYOUTS
    }


def compare_layouts(
    style: str,
    suite: Suite,
    demos: Sequence[Demonstration],
    tokenizer: Any,
    *,
    sizes: Sizes,
    max_turns: int,
) -> dict[str, Cost]:
    """The costs of a style's three layouts."""
    renderer = make_renderer(style, role=suite.role, history_length=2, hints=suite.hints)
    if tokenizer is None:
        texts = (text for demo in demos for text in list_texts(renderer, demo, grown=True))
        tokenizer = train_tokenizer(texts, TAGS, phrases=renderer.phrases)
    return {
        mode: count_tokens(
            transcribe(prompter, demos),
            prompter.shared_prefix,
            sequence=sizes.sequence,
            max_turns=max_turns,
        )
        for mode, prompter in make_prompters(renderer, tokenizer, sizes).items()
    }


def count_loops(demos: Sequence[Demonstration]) -> int:
    """Episodes whose last twenty commands are at most six different ones."""
    last = [[d.action for d in demo.decisions[-20:]] for demo in demos]
    return sum(len(actions) == 20 and len(set(actions)) <= 6 for actions in last)


def tabulate(found: dict[str, Cost]) -> str:
    """Layouts below each other, with ratios to the first."""
    base = found["turn"]
    return format_table(
        ("layout", "windows/episode", "prefill", "decode", "rollout", "ratio", "training", "ratio",
         "padding"),
        [
            [name, c.windows, c.prefill, c.decode, c.rollout, c.rollout / base.rollout, c.training,
             c.training / base.training, f"{c.padding:.1%}"]
            for name, c in found.items()
        ],
    )  # fmt: skip


def tell(style: str, found: dict[str, Cost]) -> int:
    """Print a style's table; 1 where a target is missed."""
    print(f"\n{style} style: tokens computed per turn")
    print(tabulate(found))
    last, base, target = found["episode"], found["turn"], TARGETS[style]
    ratios = {"rollout": last.rollout / base.rollout, "training": last.training / base.training}
    lines = [f"{name} {x:.3f}, {verdict(x, target, at_most=True)}" for name, x in ratios.items()]
    lines.append(f"padding {last.padding:.3f}, {verdict(last.padding, PADDING, at_most=True)}")
    print(f"episode over turn: {'; '.join(lines)}")
    return int(any("MISSED" in line for line in lines))


def parse_args(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Tokens per turn in the three layouts.")
    parser.add_argument("--games", type=pathlib.Path, help="official games; default: generated")
    parser.add_argument("--split", default="valid_seen", help="of official games")
    parser.add_argument("--tokenizer", type=pathlib.Path, help="folder, for the chat style")
    parser.add_argument("--episodes", type=int, default=60)
    parser.add_argument("--max-turns", type=int, default=50)
    parser.add_argument("--noise", type=float, default=0.3, help="random share of the expert")
    parser.add_argument("--out", type=pathlib.Path, help="also write the figures as JSON")
    return parser.parse_args(words)


def main() -> int:
    """Count and print; 1 where a target is missed."""
    args = parse_args()
    if args.games is None:
        suite, split = make_suite("household", size="full"), "train"
    else:
        suite, split = make_suite("alfworld", games=args.games), args.split
    tasks = suite.tasks(split)[: args.episodes]
    demos = list(demonstrate(suite, tasks, max_turns=args.max_turns, seed=0, noise=args.noise))
    lengths = [len(demo.decisions) for demo in demos]
    print(
        f"{len(demos)} episodes of {suite.name}, {sum(lengths)} turns, longest {max(lengths)}; "
        f"expert with {args.noise:.0%} noise; {count_loops(demos)} end in a loop"
    )
    code, kept = 0, {}
    for style, tokenizer in (("compact", None), ("chat", args.tokenizer)):
        if style == "chat" and tokenizer is None:
            continue
        loaded = None if tokenizer is None else load_tokenizer(tokenizer)
        sizes, turns = SIZES[style], args.max_turns
        found = compare_layouts(style, suite, demos, loaded, sizes=sizes, max_turns=turns)
        code |= tell(style, found)
        kept[style] = {name: dataclasses.asdict(cost) for name, cost in found.items()}
    if args.out:
        kept |= {"episodes": len(demos), "turns": int(np.sum(lengths))}
        args.out.write_text(json.dumps(kept, indent=1) + "\n")
    return code


if __name__ == "__main__":
    raise SystemExit(main())
