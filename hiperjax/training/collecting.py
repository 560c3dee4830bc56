"""The episodes of an iteration: tasks are drawn, played, and where a group agrees, drawn anew."""

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence

from hiperjax.acting.collector import RolloutResult
from hiperjax.random_keys import Stream, derive_key
from hiperjax.stop import REQUEST
from hiperjax.training.run import Run, save
from hiperjax.training.stopped import TrainingStopped
from hiperjax.training.tasks import choose_others, choose_tasks
from hiperjax.training.timer import Timer
from hiperjax.types import Trajectory

SAME_SCORE = 1e-6
"""Returns that differ by no more agree."""


@dataclasses.dataclass(frozen=True)
class Collected:
    """What an iteration played, and what of it is learned from."""

    result: RolloutResult
    """all of it"""
    kept: list[Trajectory]
    metrics: dict[str, float]

    @property
    def played(self) -> list[Trajectory]:
        return self.result.trajectories


PlayFn = Callable[[Sequence[str], int], RolloutResult]
"""(tasks, number of the round) -> an episode of each"""
DrawFn = Callable[[int, int, Collection[str]], list[str]]
"""(how many, number of the round, tasks not to be drawn) -> at most so many tasks"""


def collect(run: Run, timer: Timer) -> Collected:
    """One iteration's episodes.

    Raises:
      TrainingStopped: a larger share of them failed than the config allows.
    """
    config, i = run.components.config, run.iteration
    r = config.rollout

    def play(tasks: Sequence[str], number: int) -> RolloutResult:
        first = derive_key(config.seed, Stream.ROLLOUT, i)
        return run.components.rollout.collect(
            run.state.policy,
            [task for task in tasks for _ in range(r.group_size)],
            key=derive_key(config.seed, Stream.ROUNDS, i, number) if number else first,
            temperature=r.temperature,
            top_p=r.top_p,
        )

    def draw(count: int, number: int, played: Collection[str]) -> list[str]:
        if run.curriculum is not None:
            return run.curriculum.draw(count, i, number, played)
        tasks = run.components.suite.tasks("train")
        if number == 0:
            return choose_tasks(tasks, config.seed, i * count, count)
        return choose_others(tasks, (config.seed, Stream.ROUNDS, i, number), count, played)

    doing = (
        f"giving up the episodes of iteration {i + 1}, which a resumed run plays again, and saving"
    )
    with timer.phase("rollout"), REQUEST.during(doing):
        groups = r.episodes // r.group_size
        collected = play_rounds(play, draw, groups=groups, rounds=r.rounds)
    if r.group_size > 1:
        collected.metrics["curriculum/dead_groups"] = measure_dead_groups(collected.played)
    if run.curriculum is not None:
        collected.metrics.update(run.curriculum.metrics())
    failures = collected.result.failures
    run.progress.lost(failures)
    played = len(collected.played) + len(failures)
    too_many = len(failures) > config.env.max_failure_rate * played
    if too_many or not collected.kept:
        save(run, best=False)
        raise TrainingStopped(
            f"iteration {i}: {len(failures)} of {played} episodes failed; expected at "
            f"most a share of env.max_failure_rate {config.env.max_failure_rate}; the errors stand "
            f"above, the state is saved in {run.folder}"
        )
    return collected


def play_rounds(play: PlayFn, draw: DrawFn, *, groups: int, rounds: int) -> Collected:
    """Play `groups` tasks; in up to `rounds` rounds, groups that agree are replaced by others.

    With one round all is kept. With more, the batch holds the groups whose returns differ, in the
    order they were played, and is short where the rounds or the tasks ran out. Where all groups
    agreed, those of the first round are kept: a batch cannot be empty.
    """
    results = [play(draw(groups, 0, ()), 0)]
    if rounds == 1:
        return Collected(results[0], results[0].trajectories, {})
    kept: list[Trajectory] = []
    missing, dropped, seen = groups, 0, set[str]()
    while True:
        found = group_by_task(results[-1].trajectories)
        apart = {task: group for task, group in found.items() if not agree(group)}
        kept += [episode for group in apart.values() for episode in group]
        missing, dropped = missing - len(apart), dropped + len(found) - len(apart)
        seen |= {*found, *(failure.task_id for failure in results[-1].failures)}
        others = draw(missing, len(results), seen) if missing > 0 and len(results) < rounds else []
        if not others:
            break
        results.append(play(others, len(results)))
    whole = add_results(results)
    first = results[0]
    extra = sum(len(result.trajectories) + len(result.failures) for result in results[1:])
    metrics = {"dropped_groups": dropped, "extra_episodes": extra, "rounds": len(results)}
    named = {f"dynamic/{name}": float(count) for name, count in metrics.items()}
    return Collected(whole, kept or first.trajectories, named)


def group_by_task(trajectories: Sequence[Trajectory]) -> Mapping[str, list[Trajectory]]:
    """The episodes of each task, in the order of their first ones."""
    groups = defaultdict[str, list[Trajectory]](list)
    for trajectory in trajectories:
        groups[trajectory.task_id].append(trajectory)
    return groups


def measure_dead_groups(trajectories: Sequence[Trajectory]) -> float:
    """Share of the tasks whose episodes have nothing to compare."""
    groups = group_by_task(trajectories).values()
    return sum(map(agree, groups)) / max(1, len(groups))


def agree(group: Sequence[Trajectory]) -> bool:
    """Whether a group has nothing to compare: its returns are equal, or it is a single episode."""
    returns = [sum(turn.reward for turn in trajectory.turns) for trajectory in group]
    return max(returns) - min(returns) <= SAME_SCORE


def add_results(results: Sequence[RolloutResult]) -> RolloutResult:
    """Results of rounds played one after the other as one."""
    if len(results) == 1:
        return results[0]
    stats = [result.stats for result in results]
    names = [field.name for field in dataclasses.fields(stats[0])]
    return RolloutResult(
        [trajectory for result in results for trajectory in result.trajectories],
        [failure for result in results for failure in result.failures],
        type(stats[0])(**{name: sum(getattr(part, name) for part in stats) for name in names}),
        {name: sum(r.seconds[name] for r in results) for name in results[0].seconds},
    )
