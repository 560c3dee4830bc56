"""How long until the longest chain is won half of the time: mixtures of lengths, and curricula.

    python -m experiments.studies.chains [--seeds 5] [--iterations 400]

The world is `ladder/chain-L`: L presses, each right one following from the one before, one reward
at the end. The agent is a table: for each text and its own last press, the odds of either color. So
one skill serves all lengths, success is about (that skill) ** L, and how likely a chain is won is a
product, not a sample. It learns by REINFORCE with the mean of each length as baseline.
"""

import argparse
import dataclasses
import statistics
from collections.abc import Sequence

import numpy as np

from hiperjax.envs.ladder import COLORS, LadderSuite, make_ladder_suite
from hiperjax.options.curriculum import CurriculumConfig
from hiperjax.training.curriculum import make_curriculum
from hiperjax.training.tasks import choose_tasks

EPISODES = 48
STEP = 1.0
"""Size of a gradient step on log-odds."""
WON = 0.5

UNIFORM = CurriculumConfig()
Context = tuple[str, str]
"""What is seen, and the color pressed last."""


@dataclasses.dataclass(frozen=True)
class Arm:
    """Which chains are played, how often each."""

    rung: str
    curriculum: CurriculumConfig = UNIFORM


ARMS = (
    Arm("chain-2-6-18"),
    Arm("chain-2-6-18", CurriculumConfig(kind="edge")),
    Arm("chain-2-6-18", CurriculumConfig(kind="horizon")),
    Arm("chain-2-14"),
    Arm("chain-2-14", CurriculumConfig(kind="edge")),
    Arm("chain-2-14", CurriculumConfig(kind="horizon")),
    Arm("chain-18"),
)


class Agent:
    """Log-odds of the first color by context."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.odds: dict[Context, float] = {}

    def chance(self, context: Context, color: str) -> float:
        """Probability of pressing a color."""
        first = 1 / (1 + np.exp(-self.odds.get(context, 0.0)))
        return first if color == COLORS[0] else 1 - first

    def play(self, suite: LadderSuite, task: str) -> tuple[bool, list[tuple[Context, str]]]:
        """One episode: whether it was won, and every press in its context."""
        env, last, presses = suite.make_env(), "", []
        observation = env.reset(task)
        while True:
            context = (observation.text, last)
            last = COLORS[int(self.rng.random() >= self.chance(context, COLORS[0]))]
            presses.append((context, last))
            step = env.step(f"press {last}")
            if step.terminated:
                return step.success, presses
            observation = step.observation

    def learn(self, batch: Sequence[tuple[float, list[tuple[Context, str]]]]) -> None:
        """One step along the policy gradient: advantage and presses of each episode."""
        moves: dict[Context, float] = {}
        for advantage, presses in batch:
            for context, color in presses:
                score = float(color == COLORS[0]) - self.chance(context, COLORS[0])
                moves[context] = moves.get(context, 0.0) + advantage * score
        for context, move in moves.items():
            self.odds[context] = self.odds.get(context, 0.0) + STEP * move / len(batch)


def measure_longest(suite: LadderSuite, agent: Agent) -> float:
    """Exact success on the longest chains, tasks as they come."""
    tasks = suite.tasks("train")
    longest = max(map(suite.plan_length, tasks))
    found = []
    for task in tasks:
        if suite.plan_length(task) == longest:
            wanted = [scene.wanted or "" for scene in suite.read_script(task).scenes]
            texts = [scene.text for scene in suite.read_script(task).scenes]
            colors = [command.removeprefix("press ") for command in wanted]
            steps = zip(texts, ["", *colors], colors, strict=False)
            found.append(np.prod([agent.chance((text, last), c) for text, last, c in steps]))
    return float(np.mean(found))


def run_arm(arm: Arm, seed: int, iterations: int) -> int | None:
    """Iterations until the longest chain is won half of the time; None: it never was."""
    suite, agent = make_ladder_suite(arm.rung), Agent(seed)
    curriculum = make_curriculum(arm.curriculum, suite, seed)
    for i in range(iterations):
        if curriculum is None:
            tasks = choose_tasks(suite.tasks("train"), seed, i * EPISODES, EPISODES)
        else:
            tasks = curriculum.draw(EPISODES, i, 0)
        played = [(suite.task_type(task), *agent.play(suite, task)) for task in tasks]
        means = {
            kind: statistics.fmean(won for other, won, _ in played if other == kind)
            for kind in {kind for kind, _, _ in played}
        }
        agent.learn([(won - means[kind], presses) for kind, won, presses in played])
        if curriculum is not None:
            curriculum.count((task, won) for task, (_, won, _) in zip(tasks, played, strict=True))
        if measure_longest(suite, agent) >= WON:
            return i + 1
    return None


def main() -> None:
    """Print the table of all arms."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=400)
    options = parser.parse_args()
    print("| lengths | curriculum | iterations to .5 on the longest, by seed | median |")
    print("|---|---|---|---|")
    for arm in ARMS:
        found = [run_arm(arm, seed, options.iterations) for seed in range(1, options.seeds + 1)]
        never = options.iterations + 1
        middle = statistics.median(never if x is None else x for x in found)
        shown = ", ".join("never" if x is None else str(x) for x in found)
        lengths = ", ".join(arm.rung.split("-")[1:])
        median = "never" if middle == never else f"{middle:g}"
        print(f"| {lengths} | {arm.curriculum.kind} | {shown} | {median} |", flush=True)


if __name__ == "__main__":
    main()
