"""Optimizer steps of imitation by passes of a micro-batch, and of all a step's sequences at once.

    python -m experiments.benchmarks.imitation RUN [--repeats 5]

Both sides take the same steps from the run's policy on the same episodes of the scripted expert;
their losses must agree before anything is timed. Figures are medians of CPU and wall seconds, and
their ratios.
"""

import argparse
import pathlib
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.common import alternate, describe_machine, format_table
from hiperjax.acting.expert_stream import PortionPlan
from hiperjax.learning.imitation import (
    imitate,
    make_batch,
    make_optimizer,
    measure_loss,
    split_steps,
    start_imitation,
)
from hiperjax.training.build import restore_run

EPISODES = 12


def prepare_steps(run: pathlib.Path) -> tuple[dict[str, Callable[[], float]], int]:
    """What one step costs on either side, what a measurement does, and a step's token slots."""
    components, state = restore_run(run, "last")
    size = components.config.imitation.sequences
    plan = PortionPlan(
        suite=components.suite,
        prompter=components.prompter,
        max_turns=components.max_turns,
        seed=0,
        noise=0.0,
        mistakes=0.0,
        episodes=EPISODES,
    )
    sequences, rows = components.pack_turns(plan.play(0).trajectories)
    batch = jax.tree.map(jnp.asarray, next(split_steps(sequences, rows, size, (0,))))
    held, order = make_batch(sequences, rows), np.arange(size, dtype=np.int32)[None]
    optimizer = make_optimizer(1e-4, 1000)
    calls: dict[str, Callable[[], float]] = {}
    for name, micro in (("passes", components.imitated_at_once), ("at once", size)):
        states = [
            start_imitation(components.model, optimizer, jax.tree.map(jnp.copy, state.policy))
        ]

        def step(states: list = states, micro: int = micro) -> float:
            states[0], loss = imitate(
                states[0], batch, order, config=components.model, optimizer=optimizer, micro=micro
            )
            return float(loss)

        def measure(micro: int = micro) -> float:
            return float(measure_loss(state.policy, held, config=components.model, micro=micro))

        calls |= {f"step, {name}": step, f"held-out loss, {name}": measure}
    for what in ("step", "held-out loss"):
        ours, whole = calls[f"{what}, passes"](), calls[f"{what}, at once"]()
        np.testing.assert_allclose(ours, whole, rtol=1e-4, err_msg=what)
    return calls, size * sequences.tokens.shape[1]


def parse_args(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Steps of imitation, by passes and at once.")
    parser.add_argument("run", type=pathlib.Path)
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args(words)


def main() -> None:
    options = parse_args()
    calls, slots = prepare_steps(options.run)
    timings = alternate(calls, options.repeats)
    print(describe_machine())
    rows = []
    for name, timing in timings.items():
        base = timings[name.replace("passes", "at once")]
        rate = slots / timing.cpu if name.startswith("step") else ""
        rows.append([name, timing.wall, timing.cpu, base.cpu / timing.cpu, rate])
    print(format_table(("what", "wall s", "CPU s", "ratio by CPU", "slots per CPU s"), rows))


if __name__ == "__main__":
    main()
