"""A whole ALFWorld iteration at chosen model shapes: collect, score, update.

    python -m experiments.benchmarks.iteration                                   # tiny, on a CPU
    python -m experiments.benchmarks.iteration --shape qwen2.5-1.5b              # on a GPU
    python -m experiments.benchmarks.iteration --shape qwen2.5-1.5b --dry --device h200

Needs nothing but the repo: weights are random, of the shape asked for; worlds are the native
engine's generated games at full size, 50 turns at most; a scripted expert, half of whose commands
are random, plays them first, so that episodes and replies have the lengths of a run under way (see
`scripted`). Published shapes get the chat prompts, in byte-level BPE trained on those games or in
the tokenizer of `--tokenizer DIR`; the tiny one is alfworld-small-mediocre's, compact prompts too.

Floors are the roofline of the device named, or of this machine as measured here. MFU is operations
by the formula, nothing recomputed or padded, over the peak and the seconds. `--dry` plays the
script, packs it and plans, without a model.
"""

import argparse
import dataclasses
import json
import math
import pathlib
import tempfile
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType
from tokenizers import ByteLevelBPETokenizer
from transformers import PreTrainedTokenizerFast

from experiments.baselines.scripted import follow
from experiments.benchmarks.common import (
    bare_rollout,
    describe_machine,
    format_table,
    peak_memory,
    private_cache,
    verdict,
)
from experiments.benchmarks.roofline import find_device, measure_decode
from hiperjax.acting.demonstrations import (
    Demonstration,
    demonstrate,
    list_texts,
    transcribe,
)
from hiperjax.capacity import (
    Workload,
    decode_step_seconds,
    floors,
    plan,
    render,
)
from hiperjax.config import RunConfig
from hiperjax.devices import Device
from hiperjax.distributed.mesh import AXES
from hiperjax.distributed.rollout import DistributedRollout
from hiperjax.models.tokenizers import END_OF_TURN, PAD
from hiperjax.presets import PRESETS
from hiperjax.training.build import build_components
from hiperjax.training.prompting import make_run_renderer
from hiperjax.training.run import Run, open_run
from hiperjax.training.suites import build_suite
from hiperjax.training.tasks import choose_tasks
from hiperjax.training.trainer import iterate
from hiperjax.training.utilization import Ledger
from hiperjax.training.utilization import render as render_ledger
from hiperjax.types import Trajectory

TINY = "tiny"
PUBLISHED, SMALL = "alfworld-qwen2.5-1.5b", "alfworld-small-mediocre"
"""Presets that everything but the model's shape, the world and the sizes is taken from."""
WORDS = 2000
"""Entries of the byte-level BPE trained here; about one token per word, as Qwen's."""
OFFICIAL_SECONDS, TARGET_SECONDS = 230.0, 60.0
"""An iteration of the published system on four GPUs (1.5B, 128 episodes); ours to be, on one."""


def make_config(args: argparse.Namespace) -> RunConfig:
    """The preset on generated games of full size, at the shape and the sizes asked for."""
    tiny = args.shape == TINY
    config = PRESETS[SMALL if tiny else PUBLISHED][1]
    model, prompt = config.model, config.prompt
    if not tiny:
        model = dataclasses.replace(
            model, shape=args.shape, random_weights=True, attention=args.attention
        )
        prompt = dataclasses.replace(prompt, reply_length=args.reply_length)
    window = args.window_length or max(prompt.prompt_length, config.prompt.window_length)
    prompt = dataclasses.replace(prompt, window=args.window, window_length=window)
    micro = args.micro or config.ppo.micro_sequences
    size = -(-config.ppo.minibatch_sequences // micro) * micro
    episodes = args.episodes or config.rollout.episodes
    slots = args.slots or min(episodes, config.rollout.slots)
    world = dataclasses.replace(
        config.env, suite="household", size="full", max_turns=args.max_turns
    )
    return dataclasses.replace(
        config,
        iterations=10**9,
        env=world,
        model=model,
        prompt=prompt,
        imitation=dataclasses.replace(config.imitation, steps=0),
        rollout=dataclasses.replace(
            config.rollout, episodes=episodes, slots=slots, pipeline_groups=args.pipeline_groups
        ),
        critic=dataclasses.replace(config.critic, kind=args.critic or config.critic.kind),
        ppo=dataclasses.replace(config.ppo, micro_sequences=micro, minibatch_sequences=size),
        eval=dataclasses.replace(config.eval, every=10**9, splits=("unseen",)),
    )


def train_bpe(config: RunConfig, folder: pathlib.Path) -> None:
    """A byte-level BPE of the games' prompts and replies, as an ordinary tokenizer folder."""
    suite = build_suite(config, new=True)
    renderer = make_run_renderer(config, suite)
    demos = demonstrate(suite, suite.tasks("train")[-64:], max_turns=20, seed=0, noise=0.2)
    made = ByteLevelBPETokenizer()
    texts = (text for demo in demos for text in list_texts(renderer, demo))
    made.train_from_iterator(
        texts, vocab_size=WORDS, special_tokens=[PAD, END_OF_TURN], show_progress=False
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=made._tokenizer, pad_token=PAD, eos_token=END_OF_TURN
    )
    fast.save_pretrained(folder)


# -- what is played --------------------------------------------------------------------------------


def write_script(run: Run, iteration: int, noise: float) -> list[Trajectory]:
    """The episodes of one iteration, by the expert."""
    components = run.components
    tasks = choose_tasks(
        components.suite.tasks("train"),
        components.config.seed,
        iteration * components.config.rollout.episodes,
        components.config.rollout.episodes,
    )
    seed, turns = 1 + iteration, components.max_turns
    demos = list(demonstrate(components.suite, tasks, max_turns=turns, seed=seed, noise=noise))
    script = transcribe(components.prompter, demos)
    return [quote(*pair) for pair in zip(script, demos, strict=True)]


def quote(episode: Trajectory, demo: Demonstration) -> Trajectory:
    """Let each turn act in the expert's own words, also where the tokenizer lacks one."""
    turns = [
        dataclasses.replace(turn, blocks=dataclasses.replace(turn.blocks, action=decision.action))
        for turn, decision in zip(episode.turns, demo.decisions, strict=True)
    ]
    return dataclasses.replace(episode, turns=tuple(turns))


def obey(run: Run, script: Sequence[Trajectory]) -> None:
    """Let the run's next episodes follow the script."""
    plain = follow(bare_rollout(run.components), script)
    shared = run.components.rollout
    if isinstance(shared, DistributedRollout):
        plain = dataclasses.replace(shared, rollout=plain)
    run.components.rollout = plain


def measure(run: Run, args: argparse.Namespace) -> tuple[list[Trajectory], list[Ledger]]:
    """Iterations: a first one that compiles, then those that count."""
    script: list[Trajectory] = []
    ledgers = []
    for iteration in range(1 + args.iterations):
        script = write_script(run, iteration, args.noise)
        obey(run, script)
        ledgers.append(iterate(run))
    return script, ledgers


# -- what it could cost ----------------------------------------------------------------------------


def describe_load(run: Run, episodes: Sequence[Trajectory]) -> Workload:
    """An iteration's sizes, counted."""
    c = run.components.config
    turns = [turn for t in episodes for turn in t.turns]
    return Workload(
        turns=len(turns),
        prompt_tokens=round(float(np.mean([len(turn.prompt_ids) for turn in turns]))),
        reply_tokens=round(float(np.mean([len(turn.reply_ids) for turn in turns]))),
        prompt_limit=c.prompt.prompt_length,
        reply_limit=c.prompt.reply_length,
        slots=c.rollout.slots,
        minibatch_rows=c.ppo.minibatch_sequences,
        micro_rows=c.ppo.micro_sequences,
        row_length=c.ppo.sequence_length,
        epochs=c.ppo.epochs,
    )


def list_floors(run: Run, load: Workload, device: Device) -> dict[str, float]:
    """Seconds at the roofline of one device, by phase."""
    c, one = run.components.config, AbstractMesh((1, 1, 1), AXES, (AxisType.Auto,) * 3)
    reference = c.ppo.kl_coefficient != 0
    items = floors(run.components.model, device, one, load, c.critic.kind, reference)
    return {item.name: item.amount for item in items}


# -- tables ----------------------------------------------------------------------------------------


def tabulate(ledgers: Sequence[Ledger], bound: dict[str, float]) -> list[list[Any]]:
    """Phases of a mean iteration beside their floors."""
    count = len(ledgers)

    def mean(*kinds: str) -> float:
        return sum(b.seconds[k] for b in ledgers for k in kinds) / count

    work = {name: sum(b.device[name] for b in ledgers) / count for name in ("rollout", "update")}
    pairs = {
        "rollout, device": (work["rollout"], bound["prefill"] + bound["decode"]),
        "scores and update": (work["update"], bound["score"] + bound["update"]),
        "environments": (mean("environment"), 0.0),
        "host": (mean("host"), 0.0),
        "compile": (mean("compile"), 0.0),
    }
    whole = sum(sum(b.seconds.values()) for b in ledgers) / count
    pairs["iteration"] = (whole, sum(bound.values()))
    return [
        [name, seconds, floor, f"{floor / seconds:.1%}" if floor and seconds else ""]
        for name, (seconds, floor) in pairs.items()
    ]


def summarize(
    run: Run, script: Sequence[Trajectory], ledgers: Sequence[Ledger], device: Device
) -> dict[str, Any]:
    """The figures that a results file keeps."""
    load = describe_load(run, script)
    bound = list_floors(run, load, device)
    timed = ledgers[1:]
    table = tabulate(timed, bound)
    seconds = {row[0]: row[1] for row in table}
    context = load.prompt_tokens + load.reply_tokens
    shape = bare_rollout(run.components).shape
    step = measure_decode(run.state.policy, run.components.model, shape, context)
    least = decode_step_seconds(run.components.model, device, load.slots, context)
    return {
        "episodes": len(script),
        "critic": run.components.config.critic.kind,
        "load": dataclasses.asdict(load),
        "parameters": sum(math.prod(x.shape) for x in jax.tree.leaves(run.state.policy)),
        "seconds": seconds,
        "floors": bound,
        "table": table,
        "tokens_per_second": load.turns * context / seconds["iteration"],
        "reply_tokens_per_second": load.turns * load.reply_tokens / seconds["rollout, device"],
        "decode_step": step,
        "decode_floor": least,
        "decode_share": least / step,
        # The floor of scores and update is their operations over the peak, one forward pass more
        # where layers are recomputed; MFU does not count that one.
        "mfu": _without_remat(run, bound) / seconds["scores and update"],
        "compile_cold": ledgers[0].seconds["compile"],
        "peak_memory": peak_memory(),
    }


def _without_remat(run: Run, bound: dict[str, float]) -> float:
    factor = 2 if run.components.model.lora_rank else 3
    again = run.components.model.remat == "full"
    return bound["score"] + bound["update"] * factor / (factor + again)


def measure_warm_compile(run: Run, args: argparse.Namespace) -> float:
    """Seconds that compiling takes when the persistent cache holds the programs already."""
    jax.clear_caches()
    obey(run, write_script(run, run.iteration, args.noise))
    return iterate(run).seconds["compile"]


def tell(found: dict[str, Any], ledgers: Sequence[Ledger], where: str, args: Any) -> int:
    """Print the tables; 1 where a target that applies is missed."""
    load = found["load"]
    print(
        f"{args.shape}, {found['parameters'] / 1e6:,.1f} M parameters; {found['episodes']} "
        f"episodes, {load['turns']} turns, prompt {load['prompt_tokens']} tokens, reply "
        f"{load['reply_tokens']}; critic {found['critic']}; floors: {where}"
    )
    print(format_table(("phase", "seconds", "floor", "of roofline"), found["table"]))
    print(render_ledger(list(ledgers[1:])))
    memory = found["peak_memory"]
    print(
        f"{found['tokens_per_second']:,.0f} tokens/s, {found['reply_tokens_per_second']:,.0f} "
        f"reply tokens/s in the rollout; compile {found['compile_cold']:.1f} s cold, "
        f"{found['compile_warm']:.1f} s from the persistent cache; peak memory "
        + (f"{memory / 1e9:.1f} GB" if memory else "unknown: this device does not say")
    )
    lines = [
        f"decode step {1e3 * found['decode_step']:.2f} ms at {load['slots']} slots, "
        f"{found['decode_share']:.1%} of the roofline",
        f"MFU of scores and update {found['mfu']:.1%}",
    ]
    if args.shape == "qwen2.5-1.5b" and found["episodes"] == 128:
        seconds = found["seconds"]["iteration"]
        lines[0] += f", {verdict(found['decode_share'], 0.5)}"
        lines[1] += f", {verdict(found['mfu'], 0.45)}"
        lines.append(
            f"iteration {seconds:.0f} s ({OFFICIAL_SECONDS:.0f} s published, on four GPUs), "
            + verdict(seconds, TARGET_SECONDS, at_most=True)
        )
    print("\n".join(lines))
    return int(any("MISSED" in line for line in lines))


def dry(run: Run, args: argparse.Namespace) -> int:
    """The script packed, and the plan: no model is run."""
    script = write_script(run, 0, args.noise)
    load = describe_load(run, script)
    lengths = [len(t.turns) for t in script]
    print(
        f"{load.turns} turns, {np.mean(lengths):.1f} an episode (longest {max(lengths)}); prompt "
        f"{load.prompt_tokens} tokens, reply {load.reply_tokens}; shared prefix "
        f"{len(run.components.prompter.shared_prefix)}"
    )
    batch, _ = run.components.pack(script, seed=0)
    used = batch.sequences.token_mask[: batch.count]
    print(f"{batch.count} packed sequences, {1 - used.mean():.1%} of their token slots padding")
    c, model, device = run.components.config, run.components.model, args.device or "h200"
    reference, kind = c.ppo.kl_coefficient != 0, c.critic.kind
    print(render(plan(model, device, load, critic=kind, reference=reference, title=args.shape)))
    return 0


def parse_args(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="A whole iteration, and where it goes.")
    parser.add_argument("--shape", default=TINY, help="tiny, or a published shape")
    parser.add_argument("--episodes", type=int, help="default: the preset's, 128; tiny: 48")
    parser.add_argument("--slots", type=int, help="default: the preset's, 128; tiny: 24")
    parser.add_argument("--pipeline-groups", type=int, default=1)
    parser.add_argument("--max-turns", type=int, default=50)
    parser.add_argument("--reply-length", type=int, default=128, help="tokens; tiny: 24")
    parser.add_argument("--window", default="turn", help="turn, subgoal or episode")
    parser.add_argument("--window-length", type=int, help="tokens; default: the preset's")
    parser.add_argument("--noise", type=float, default=0.5, help="random share of the expert")
    parser.add_argument("--iterations", type=int, default=2, help="after one that compiles")
    parser.add_argument("--critic", help="separate (published shapes), shared, features (tiny)")
    parser.add_argument("--attention", default="auto", help="auto, xla, ... (published shapes)")
    parser.add_argument("--micro", type=int, help="sequences of a forward pass")
    parser.add_argument("--tokenizer", type=pathlib.Path, help="folder; default: made here")
    parser.add_argument("--device", help="for floors and plans: h200, a100, ...")
    parser.add_argument("--dry", action="store_true", help="play, pack and plan without a model")
    parser.add_argument("--out", type=pathlib.Path, help="also write the figures as JSON")
    return parser.parse_args(words)


def open_bench(args: argparse.Namespace, folder: pathlib.Path) -> Run:
    """The run to measure, in a folder of its own."""
    config = dataclasses.replace(make_config(args), out=folder / "run")
    if args.shape != TINY:
        tokenizer = args.tokenizer or folder / "tokenizer"
        if args.tokenizer is None:
            train_bpe(config, tokenizer)
        model = dataclasses.replace(config.model, tokenizer=tokenizer)
        config = dataclasses.replace(config, model=model)
    if args.dry:
        return DryRun(build_components(config))  # type: ignore[return-value]
    return open_run(config, None)


@dataclasses.dataclass
class DryRun:
    """What a dry run needs of a run: no state, no memory."""

    components: Any


def main() -> int:
    """Measure and print; 1 where a target is missed."""
    args = parse_args()
    print("machine:", describe_machine())
    with tempfile.TemporaryDirectory() as name, private_cache():
        run = open_bench(args, pathlib.Path(name))
        if args.dry:
            return dry(run, args)
        device, where = find_device(args.device)
        script, ledgers = measure(run, args)
        found = summarize(run, script, ledgers, device)
        found["compile_warm"] = measure_warm_compile(run, args)
        run.close()
    code = tell(found, ledgers, where, args)
    if args.out:
        kept = found | {"machine": describe_machine(), "roofline": where}
        kept["arguments"] = {k: str(v) for k, v in vars(args).items() if k != "out"}
        args.out.write_text(json.dumps(kept, indent=1) + "\n")
    return code


if __name__ == "__main__":
    raise SystemExit(main())
