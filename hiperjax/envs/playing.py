"""An episode as an expert plays it: what suites report baselines by."""

from hiperjax.envs.base import Expert, Step, Suite
from hiperjax.stop import REQUEST


def play_expert(suite: Suite, expert: Expert, task: str, *, max_turns: int) -> list[Step]:
    """The steps of one episode, until it ends or so many were taken; at least one."""
    env = suite.make_env()
    seen = env.reset(task)
    expert.reset(seen)
    steps: list[Step] = []
    while len(steps) < max_turns and not (steps and (steps[-1].terminated or steps[-1].truncated)):
        REQUEST.check()
        steps.append(env.step(expert.decide(seen).action))
        seen = steps[-1].observation
    return steps
