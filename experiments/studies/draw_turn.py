"""One turn as a picture: the prompt, the three blocks of the reply, the three advantages.

    python -m experiments.studies.draw_turn [--run RUN_FOLDER]

With `--run` an episode is played by that run's last policy on a held-out task, valued by its own
critic, credited by the HAE kernel, and written to `experiments/results/turn.json`. Without, the
picture is drawn from that file. Nothing in it is made up.
"""

import argparse
import html
import json
import pathlib
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from hiperjax_kernels import hae_batch

from hiperjax.learning.credit.hae import hae_inputs
from hiperjax.training.build import restore_run
from hiperjax.training.components import RunComponents
from hiperjax.types import Trajectory

ROOT = pathlib.Path(__file__).resolve().parents[2]
RECORD = ROOT / "experiments" / "results" / "turn.json"
PICTURE = ROOT / "docs" / "img" / "turn.svg"
STREAMS = ("term", "high", "low")
"""In the order of the reply's blocks."""
ROLES = {
    "term": "planner: keep the subgoal or switch it?",
    "high": "planner: the subgoal in force",
    "low": "executor: the command sent to the world",
}
COLORS = {"term": "#7c3aed", "high": "#b45309", "low": "#0369a1"}
INK, FAINT, LINE = "#1f2937", "#6b7280", "#d1d5db"
SEGMENTS, LONGEST = 3, 12
"""What makes an episode worth a picture: at least so many segments, at most so many turns."""


# -- the record ----------------------------------------------------------------------------------


def play_episode(components: RunComponents, policy: Any, seed: int) -> Trajectory:
    """The first successful episode on held-out tasks that has enough segments to look at.

    Raises:
      ValueError: this policy has none such among the first hundred.
    """
    tasks = components.suite.tasks("unseen")[:100]
    rollout = components.config.rollout
    result = components.rollout.collect(
        policy, list(tasks), key=jax.random.key(seed), temperature=rollout.temperature
    )
    for episode in result.trajectories:
        segments = sum(turn.blocks.switch for turn in episode.turns)
        well_formed = all(turn.blocks.well_formed for turn in episode.turns)
        short = len(episode.turns) <= LONGEST
        if episode.success and well_formed and short and segments >= SEGMENTS:
            return episode
    raise ValueError(f"found no success in at least {SEGMENTS} segments; expected a trained run")


def record_turn(folder: pathlib.Path, seed: int = 0) -> dict[str, Any]:
    """An episode of a run as numbers and texts: values of its critic, advantages of the kernel."""
    components, state = restore_run(folder, "last")
    episode = play_episode(components, state.policy, seed)
    batch, final = components.pack([episode], seed=0)
    learner, credit = components.learner, components.config.credit
    scores, _ = learner.score_or_rescore(state, batch, final)
    state = state._replace(critic=state.critic._replace(memory=None))  # as it is, not refitted
    inputs = hae_inputs(learner.assign(state, batch, scores)[2], credit.gamma)
    components.workers.close()
    lambdas = {
        name: getattr(credit, name) for name in ("lambda_turn", "lambda_segment", "lambda_boundary")
    }
    advantages = hae_batch(inputs, **lambdas)
    numbers = {
        name: np.asarray(x)[0] for name, x in {**inputs._asdict(), **advantages._asdict()}.items()
    }
    decode = components.prompter.tokenizer.decode
    turns = [
        {
            "prompt": decode(turn.prompt_ids),
            "reply": decode(turn.reply_ids),
            "subgoal": turn.blocks.subgoal,
            "action": turn.blocks.action,
            **{
                name: round(float(numbers[name][t]), 4)
                for name in ("reward", "boundary", "v_low", "v_high", "v_term",
                             *(f"adv_{s}" for s in STREAMS))
            },
        }
        for t, turn in enumerate(episode.turns)
    ]  # fmt: skip
    boundaries = [t for t, turn in enumerate(turns) if turn["boundary"]]
    return {
        "task": episode.task_id,
        "gamma": credit.gamma,
        **lambdas,
        "turn": boundaries[1],
        "turns": turns,
    }


# -- the picture ---------------------------------------------------------------------------------


def text(
    x: float, y: float, words: str, *, size: int = 13, color: str = INK, extra: str = ""
) -> str:
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{color}" {extra}>'
        f"{html.escape(words)}</text>"
    )


def box(x: float, y: float, w: float, h: float, *, line: str = LINE, fill: str = "#ffffff") -> str:
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="6" fill="{fill}" '
        f'stroke="{line}" />'
    )


def arrow(x: float, y: float, to: float, color: str) -> str:
    return (
        f'<path d="M{x:g} {y:g} H{to - 7:g}" stroke="{color}" stroke-width="2" fill="none" />'
        f'<path d="M{to:g} {y:g} l-8 -5 v10 z" fill="{color}" />'
    )


def split_blocks(reply: str) -> list[str]:
    """The reply's three blocks, tags included."""
    parts = [part + ">" for part in reply.replace("> <", "><").split(">") if part]
    pairs = ["".join(parts[i : i + 2]) for i in range(0, 6, 2)]
    return [" ".join(pair.split()) for pair in pairs]


def draw_prompt(turn: dict[str, Any]) -> Iterator[str]:
    """Left: what the model reads."""
    yield text(20, 30, "prompt", color=FAINT)
    yield box(20, 40, 330, 250)
    for i, line in enumerate(textwrap.wrap(turn["prompt"], 40)[:14]):
        yield text(32, 64 + 17 * i, line, size=12, extra='class="m"')
    yield arrow(352, 165, 384, FAINT)


def draw_reply(turn: dict[str, Any]) -> Iterator[str]:
    """Middle and right: each block of the reply, and the advantage on its tokens."""
    yield text(386, 30, "reply: planner (switch, subgoal) and executor (action)", color=FAINT)
    yield text(740, 30, "advantage of these tokens", color=FAINT)
    for i, (stream, block) in enumerate(zip(STREAMS, split_blocks(turn["reply"]), strict=True)):
        y, color = 40 + 88 * i, COLORS[stream]
        yield box(386, y, 314, 74, line=color)
        for j, line in enumerate(textwrap.wrap(block, 38, break_on_hyphens=False)[:3]):
            yield text(398, y + 24 + 18 * j, line, size=12, color=color, extra='class="m"')
        yield text(398, y + 62, ROLES[stream], size=11, color=FAINT)
        yield arrow(702, y + 37, 738, color)
        yield box(740, y, 200, 74, line=color)
        yield text(752, y + 30, f"A_{stream} = {turn[f'adv_{stream}']:+.3f}", size=18,
                   color=color)  # fmt: skip
        value = turn[f"v_{stream}"]
        yield text(752, y + 54, f"return {value + turn[f'adv_{stream}']:.3f} - value {value:.3f}",
                   size=12, color=FAINT)  # fmt: skip


def draw_episode(turns: Sequence[dict[str, Any]], chosen: int) -> Iterator[str]:
    """Below: the same three numbers at every turn of the episode, and the segments."""
    width = 820 / len(turns)
    top = max(abs(turn[f"adv_{s}"]) for turn in turns for s in STREAMS)
    yield text(20, 325, "the whole episode, turn by turn", color=FAINT)
    for row, stream in enumerate(STREAMS):
        zero = 360 + 46 * row
        yield text(20, zero + 4, f"A_{stream}", color=COLORS[stream])
        yield f'<path d="M100 {zero} H940" stroke="{LINE}" />'
        for t, turn in enumerate(turns):
            height = 20 * turn[f"adv_{stream}"] / top
            x, y = 100 + width * (t + 0.15), min(zero, zero - height)
            shown = stream != "high" or turn["boundary"]
            if shown:
                yield (
                    f'<rect x="{x:.1f}" y="{y:.1f}" width="{0.7 * width:.1f}" '
                    f'height="{max(abs(height), 1):.1f}" fill="{COLORS[stream]}" '
                    f'opacity="{1 if t == chosen else 0.45}" />'
                )
    for t, turn in enumerate(turns):
        lines = textwrap.wrap(turn["action"], max(8, int(width / 5.6)))[:2]
        for i, line in enumerate(lines):
            yield text(100 + width * (t + 0.15), 484 + 12 * i, line, size=10)
    yield from draw_segments(turns, width)
    yield (
        f'<rect x="{100 + width * chosen:.1f}" y="334" width="{width:.1f}" height="168" rx="4" '
        f'fill="none" stroke="{INK}" stroke-dasharray="3 3" />'
    )


def draw_segments(turns: Sequence[dict[str, Any]], width: float) -> Iterator[str]:
    """One band per segment with its subgoal, and the episode's reward at the end."""
    starts = [t for t, turn in enumerate(turns) if turn["boundary"]]
    for start, end in zip(starts, [*starts[1:], len(turns)], strict=True):
        x, w = 100 + width * start + 2, width * (end - start) - 4
        yield box(x, 508, w, 24, fill="#f3f4f6")
        subgoal = textwrap.shorten(turns[start]["subgoal"], max(8, int(w / 6)), placeholder="...")
        yield text(x + 8, 524, subgoal, size=12)
    reward = sum(turn["reward"] for turn in turns)
    yield text(20, 488, "action", color=FAINT)
    yield text(20, 524, "subgoal", color=FAINT)
    yield text(940, 551, f"reward {reward:g} at the last turn", size=12, color=FAINT,
               extra='text-anchor="end"')  # fmt: skip


def draw(record: dict[str, Any]) -> str:
    """The picture as SVG."""
    turns, chosen = record["turns"], record["turn"]
    parts = [*draw_prompt(turns[chosen]), *draw_reply(turns[chosen]), *draw_episode(turns, chosen)]
    return "\n".join(
        [
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 960 560" width="960" '
            'height="560" font-family="Helvetica, Arial, sans-serif">',
            "<title>One turn: prompt, three blocks, three advantages</title>",
            "<style>.m { font-family: ui-monospace, Menlo, Consolas, monospace }</style>",
            '<rect width="960" height="560" fill="#ffffff" />',
            *parts,
            "</svg>\n",
        ]
    )


def parse_args(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="One turn as a picture.")
    parser.add_argument("--run", type=pathlib.Path, help="play an episode with this run's policy")
    parser.add_argument("--seed", type=int, default=0, help="seed of that episode")
    parser.add_argument("--out", type=pathlib.Path, default=PICTURE)
    return parser.parse_args(words)


def main() -> None:
    """Record, if asked to, and draw."""
    args = parse_args()
    if args.run is not None:
        RECORD.write_text(json.dumps(record_turn(args.run, args.seed), indent=1) + "\n")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(draw(json.loads(RECORD.read_text())))
    print(args.out)


if __name__ == "__main__":
    main()
