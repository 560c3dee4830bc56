"""Our scores and update against a padded one with full logits, in JAX and in torch.

    python -m experiments.benchmarks.update [--episodes 64] [--hidden 64] [--layers 3] [--vocab 0]

The rows are turns of a real rollout; the model has random weights (its size is an option, and the
time does not depend on them). All sides have the same rows, loss, optimizer and number of steps,
and a KL term to a reference, as the paper has. Before anything is timed, loss and gradient of one
minibatch must agree. The baselines run with our micro-batches or with whole minibatches, whichever
is faster.

MFU: floating-point operations that the rows need, by the formula (no padding, logits at reply
tokens only), over those of a large matrix product on this machine, measured here.
"""

import argparse
import dataclasses
import pathlib
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.baselines.padded_update import PaddedRows, PaddedUpdate, unpack
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
)
from experiments.benchmarks.roofline import measure_peak
from hiperjax.capacity import forward_flops
from hiperjax.learning.batches import LearnerBatch
from hiperjax.learning.learner import Learner
from hiperjax.learning.minibatches import accumulate, make_order, split_into_minibatches
from hiperjax.learning.state import TrainState
from hiperjax.models.transformer import Params, TransformerConfig, init_params
from hiperjax.random_keys import Stream, derive_key
from hiperjax.training.build import make_learner
from hiperjax.training.components import RunComponents
from hiperjax.training.utilization import count_pass
from hiperjax.types import PackedBatch, Trajectory


@dataclasses.dataclass
class Ours:
    """Our side: one batch, scored and ready, and a state that is donated from call to call."""

    learner: Learner
    state: TrainState
    batch: PackedBatch
    final: Any
    prepared: LearnerBatch
    order: Any
    steps: Any

    def step(self) -> Any:
        """Score, and all minibatches of the update."""
        scores = self.learner.score(self.state, self.batch, self.final, np.int32(self.batch.count))
        self.state, metrics = self.learner.update(self.state, self.prepared, self.order, self.steps)
        return scores, metrics

    @property
    def turns(self) -> int:
        return int(self.batch.rows.row_mask.sum())

    @property
    def tokens(self) -> int:
        """Of prompts and replies, a prefix that is shared counted every time."""
        b = self.batch.sequences
        shared = int((b.token_mask & (b.segment == 0)).sum(axis=1).max())
        return int((b.segment > 0).sum()) + shared * self.turns

    @property
    def padding(self) -> float:
        """Share of the update's token slots: ends of sequences, and what fills micro-batches."""
        p = self.learner.ppo
        sizes = split_into_minibatches(self.batch.count, p.minibatch_sequences, p.micro_sequences)
        slots = count_pass(self.batch, 0, p.micro_sequences or p.minibatch_sequences, sizes)
        return (slots.bucket_pad + slots.row_pad) / sum(slots)


def build_ours(components: RunComponents, learner: Learner, episodes: list[Trajectory]) -> Ours:
    """Pack, score and prepare a batch."""
    batch, final = components.pack(episodes, seed=0)
    state = learner.init(
        init_params(learner.model, derive_key(0, Stream.PARAMS)), derive_key(0, Stream.STATE)
    )
    state = state._replace(reference=jax.tree.map(lambda x: x * 1.01, state.policy))
    scores = learner.score(state, batch, final, np.int32(batch.count))
    scores = scores._replace(rescored=jnp.asarray(True))  # no model of this shape sampled them
    state, prepared, _, _ = learner.assign(state, batch, scores)
    p, total = learner.ppo, len(batch.sequences.tokens)
    order, steps = make_order(
        derive_key(0, Stream.IMITATION),
        sizes=split_into_minibatches(batch.count, p.minibatch_sequences, p.micro_sequences),
        room=p.minibatch_sequences,
        total=total,
        epochs=1,
    )
    return Ours(learner, state, batch, final, prepared, order, steps)


def our_gradient(ours: Ours) -> Params:
    """Gradient of the policy over the first minibatch."""
    part = jax.tree.map(lambda x: x[ours.order[0]], ours.prepared)
    loss = partial(ours.learner._policy_loss, {})
    micro = ours.learner.ppo.micro_sequences
    run = jax.jit(lambda policy, part: accumulate(loss, (policy, None), part, micro)[0][0])
    return run(ours.state.policy, part)


def rows_of_first(ours: Ours, rows: PaddedRows, micro: int) -> np.ndarray:
    """The same minibatch's turns among the padded rows."""
    found = np.flatnonzero(np.isin(rows.sequence, ours.order[0]))
    room = -(-len(found) // micro) * micro
    return np.concatenate([found, np.full(room - len(found), len(rows.sequence) - 1)])


def loss_options(learner: Learner) -> dict[str, float]:
    """What `ppo_loss` wants to know."""
    names = ("clip", "dual_clip", "kl_coefficient", "entropy_coefficient")
    return {name: getattr(learner.ppo, name) for name in names}


def largest_gap(ours: Params, theirs: Params) -> float:
    """Largest difference of two gradients, relative to the largest entry."""
    gaps = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), ours, theirs)
    top = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(ours))
    return max(map(float, jax.tree.leaves(gaps))) / top


class Padded:
    """The padded baseline with rows in place."""

    def __init__(self, ours: Ours, rows: PaddedRows, micro: int):
        learner = ours.learner
        self.padded = PaddedUpdate(
            learner.model,
            learner.optimizer,
            temperature=learner.temperature,
            micro=micro,
            **loss_options(learner),
        )
        self.rows = jax.tree.map(jnp.asarray, rows)
        self.params = jax.tree.map(jnp.copy, ours.state.policy)
        self.reference = jax.tree.map(jnp.copy, ours.state.reference)  # ours are donated
        self.optimizer = learner.optimizer.init(self.params)
        self.order = jnp.asarray(
            self.padded.split_into_minibatches(len(rows.tokens) - 1, int(ours.steps))
        )

    def step(self) -> Any:
        """Old log-probs, values, reference, update."""
        old = self.padded.logprobs(self.params, self.rows)
        values = self.padded.values(self.params, self.rows)
        reference = self.padded.logprobs(self.reference, self.rows)
        (self.params, self.optimizer), loss = self.padded.update(
            self.params, self.optimizer, self.rows, self.order
        )
        return old, values, reference, loss


def check_padded(ours: Ours, rows: PaddedRows, baseline: Padded) -> None:
    """Refuse to time two sides that do not compute the same."""
    index = jnp.asarray(rows_of_first(ours, rows, baseline.padded.micro))
    _, theirs = baseline.padded.gradient(baseline.params, baseline.rows, index)
    gap = largest_gap(our_gradient(ours), theirs)
    print(f"gradient of one minibatch, ours and padded: largest relative difference {gap:.1e}")
    if gap > (1e-3 if ours.learner.model.dtype == "float32" else 0.1):
        raise SystemExit("the two sides compute different gradients: no ratio means anything")


def make_torch(ours: Ours, rows: PaddedRows, micro: int) -> Any:
    """The torch baseline, checked against our gradient; None without torch."""
    try:
        from experiments.baselines.torch_baselines import TorchUpdate
    except ImportError as error:
        print(f"torch: not measured ({error})")
        return None
    p, learner = ours.learner.ppo, ours.learner
    baseline = TorchUpdate(
        ours.state.policy, learner.model, rows, micro=micro, temperature=learner.temperature,
        learning_rate=p.learning_rate, beta2=p.beta2, weight_decay=p.weight_decay,
        grad_clip=p.grad_clip, **loss_options(learner),
    )  # fmt: skip
    baseline.gradient(rows_of_first(ours, rows, micro))
    theirs = baseline.model.model.embed_tokens.weight.grad.numpy()
    own = np.asarray(our_gradient(ours)["embedding"])
    gap = float(np.abs(theirs - own).max() / np.abs(own).max())
    print(f"gradient of the embedding, ours and torch's: largest relative difference {gap:.1e}")
    if gap > 1e-3:
        raise SystemExit("torch computes a different gradient: no ratio means anything")
    order = Padded(ours, rows, micro).order

    def step() -> None:
        baseline.sweep()
        baseline.update(np.asarray(order))

    return step


def temporaries(ours: Ours, baseline: Padded) -> list[list[Any]]:
    """Largest temporaries and compile time of the two updates; forgets what is compiled."""
    jax.clear_caches()
    found = []
    for name, lower in (
        ("ours", lambda: Learner.update.lower(  # type: ignore[attr-defined]
            ours.learner, ours.state, ours.prepared, ours.order, ours.steps)),
        ("padded", lambda: baseline.padded.update.lower(
            baseline.params, baseline.optimizer, baseline.rows, baseline.order)),
    ):  # fmt: skip
        started = time.perf_counter()
        compiled = lower().compile()
        spent = time.perf_counter() - started
        memory = compiled.memory_analysis()
        found.append([name, getattr(memory, "temp_size_in_bytes", 0) / 1e6, spent])
    return found


def useful_flops(ours: Ours, model: TransformerConfig) -> float:
    """Of scores (policy and reference) and update, by the formula, without padding."""
    replies = int(np.asarray(ours.batch.rows.reply_mask).sum())
    passes = 3 + 1 + bool(ours.learner.ppo.kl_coefficient)
    return passes * forward_flops(model, ours.tokens, ours.tokens // ours.turns, replies)


def describe(name: str, time_: Timing, base: Timing, ours: Ours, pad: float, peak: float) -> list:
    """A row of the table."""
    by_wall, by_cpu = time_.over(base)
    mfu = useful_flops(ours, ours.learner.model) / peak / time_.wall
    return [
        name, time_.wall, time_.cpu, by_wall, by_cpu, ours.tokens / time_.wall, f"{mfu:.1%}",
        f"{pad:.1%}",
    ]  # fmt: skip


HEADER = ("update", "wall s", "CPU s", "x ours", "(CPU)", "tokens/s", "MFU", "padding")


def report(
    components: RunComponents, learner: Learner, episodes: list[Trajectory], args: Any
) -> int:
    """Check, time, print."""
    prompt = components.config.prompt
    ours = build_ours(components, learner, episodes)
    rows = unpack(ours.batch, ours.prepared, prompt.prompt_length + prompt.reply_length)
    print(f"{ours.turns} turns, {ours.tokens} tokens, {ours.batch.count} packed sequences, "
          f"{int(ours.steps)} optimizer steps, {learner.model.vocab_size} words")  # fmt: skip
    whole = -(-ours.turns // int(ours.steps))
    micros = sorted({learner.ppo.micro_sequences or whole, whole})
    padded = [Padded(ours, rows, micro) for micro in micros]
    check_padded(ours, rows, padded[0])
    clock(ours.step)
    speeds = [(clock(p.step), clock(p.step))[1][1] for p in padded]
    best = int(np.argmin(speeds))
    calls = {"ours": ours.step, "padded": padded[best].step}
    torch_step = None if args.no_torch else make_torch(ours, rows, micros[best])
    if torch_step is not None:
        clock(torch_step)
        calls["torch"] = torch_step
    times = alternate(calls, args.repeats)
    peak = measure_peak(jnp.dtype(learner.model.dtype))
    pad = 1 - ours.tokens / (ours.turns * rows.tokens.shape[1])
    shares = {"ours": ours.padding, "padded": pad, "torch": pad}
    table = [describe(n, t, times["ours"], ours, shares[n], peak) for n, t in times.items()]
    print(format_table(HEADER, table))
    print(f"measured peak {peak / 1e9:.0f} GFLOP/s; baselines run {micros[best]} rows at once")
    if not args.no_growth:
        print(format_table(("growth", "turns", "wall s", "CPU s", "CPU ms per turn"),
                           measure_growth(components, learner, episodes)))  # fmt: skip
    print(format_table(("update program", "temporaries MB", "compile s"),
                       temporaries(ours, padded[best])))  # fmt: skip
    return judge(times, ours.padding)


def measure_growth(
    components: RunComponents, learner: Learner, episodes: list[Trajectory]
) -> list[list[Any]]:
    """Cost of a turn at an eighth, a quarter, half and all of the episodes."""
    table = []
    for count in (len(episodes) // 8, len(episodes) // 4, len(episodes) // 2, len(episodes)):
        part = build_ours(components, learner, episodes[:count])
        clock(part.step)
        t = alternate({"": part.step}, 3)[""]
        row = [f"{count} episodes", part.turns, t.wall, t.cpu, 1e3 * t.cpu / part.turns]
        table.append(row)
    return table


def judge(times: dict[str, Timing], padding: float) -> int:
    """Ratios beside their targets."""
    ratio = times["padded"].over(times["ours"])
    lines = [f"padded / ours {ratio[0]:.1f} ({ratio[1]:.1f} CPU), {verdict(ratio[0], 3)}"]
    if "torch" in times:
        against = times["torch"].over(times["ours"])
        lines.append(
            f"torch / ours {against[0]:.1f} ({against[1]:.1f} CPU), {verdict(against[0], 1)}"
        )
    lines.append(f"padding of ours {padding:.1%}, {verdict(padding, 0.05, at_most=True)}")
    print("\n".join(lines))
    return int(any("MISSED" in line for line in lines))


def parse_args(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Score and update against their baselines.")
    parser.add_argument("--episodes", type=int, default=64)
    parser.add_argument("--preset", default="household-tiny")
    parser.add_argument("--run", type=pathlib.Path, help="a trained run instead of imitation")
    parser.add_argument("--imitation", type=int, default=150, help="steps before the rollout")
    parser.add_argument("--hidden", type=int, default=0, help="width; default: the preset's")
    parser.add_argument("--layers", type=int, default=0)
    parser.add_argument("--vocab", type=int, default=0, help="entries, the tokenizer's at least")
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
        preset=args.preset,
        slots=min(64, args.episodes),
        episodes=args.episodes,
        imitation=args.imitation,
    )
    played = bare_rollout(components).collect(
        policy,
        pick_tasks(components, args.episodes),
        key=derive_key(0, Stream.ROLLOUT, 0),
        temperature=components.config.rollout.temperature,
    )
    width = args.hidden or components.model.hidden_size
    learner = resized_learner(components, width, args.layers, args.vocab)
    return report(components, learner, played.trajectories, args)


def resized_learner(components: RunComponents, width: int, layers: int, vocab: int) -> Learner:
    """The run's learner of another size, with a KL term, and an embedding that torch knows."""
    old = components.model
    model = dataclasses.replace(
        old,
        hidden_size=width,
        intermediate_size=old.intermediate_size * width // old.hidden_size,
        head_dim=width // old.num_heads,
        num_layers=layers or old.num_layers,
        vocab_size=max(vocab, old.vocab_size),
        embedding_scale=False,
    )
    ppo = dataclasses.replace(components.config.ppo, kl_coefficient=0.01, entropy_coefficient=0.001)
    return make_learner(dataclasses.replace(components.config, ppo=ppo), model)


if __name__ == "__main__":
    raise SystemExit(main())
