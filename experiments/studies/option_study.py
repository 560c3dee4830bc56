"""What HAE's theorems need, and what they give: answered by enumeration, not by sampling.

(a) The expected gradient. With exact critics HAE equals the true policy gradient at *any* lambdas;
    with wrong critics only lambda 1 everywhere, `lambda_boundary` included, keeps it.
(b) The variance against flat GAE, by horizon, share of switches and how much subgoals tell.
(c) Which `lambda_boundary` errs least, by the error of the critic.
(d) What a price of switching buys: return and length of segments of the policy that HAE's expected
    gradient climbs to, by `credit.switch_cost`.

    python -m experiments.studies.option_study
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from experiments.studies.option_mdp import (
    Advantages,
    Policy,
    Study,
    flat_estimate,
    gradients,
    hae_estimate,
    make_mdp,
    make_policy,
)
from hiperjax.learning.credit.shaping import charge_switches


def whitened(study: Study, advantages: Advantages) -> Advantages:
    """Each stream whitened by the mean and std of all turns: the limit of large batches."""
    x = study.trajectories
    weights = (x.mask, x.mask & x.switch, x.mask)
    out = []
    for adv, counted in zip(advantages, weights, strict=True):
        w = x.prob[:, None] * counted
        mean = (w * adv).sum() / w.sum()
        out.append((adv - mean) / np.sqrt((w * (adv - mean) ** 2).sum() / w.sum()))
    return out[0], out[1], out[2]


def turn_index_whitened(study: Study) -> tuple[Advantages, np.ndarray]:
    """Rewards centered by their mean at the same turn index, then summed to the episode's end.

    The construction of verl-project/verl#7244: the baseline has one term for every turn still to
    come, and how many come is the policy's own choice. Returns the advantages and the means.
    """
    x = study.trajectories
    w = x.prob[:, None] * x.mask
    mean = (w * x.reward).sum(0) / w.sum(0)
    centered = np.where(x.mask, x.reward - mean, 0.0)
    to_go = np.flip(np.cumsum(np.flip(centered, 1), 1), 1)
    return (to_go, to_go, to_go), mean


def pair_whitened(study: Study, advantages: Advantages) -> np.ndarray:
    """Expected gradient where each stream is centered by the mean over a batch of two episodes.

    Exact: all pairs. An episode's own length and advantages enter its baseline, so the baseline
    depends on the action; the departure shrinks with the batch.
    """
    x, expected = study.trajectories, np.zeros_like(study.truth)
    ones, zero = np.ones_like(x.reward), np.zeros_like(x.reward)
    for stream, counted in enumerate((x.mask, x.mask & x.switch, x.mask)):
        only = [zero, zero, zero]
        only[stream] = advantages[stream]
        g = gradients(x, study.scores, (only[0], only[1], only[2]))
        only[stream] = ones
        score = gradients(x, study.scores, (only[0], only[1], only[2]))
        total, count = (counted * advantages[stream]).sum(1), counted.sum(1)
        baseline = np.array(
            [x.prob @ ((total + s) / (count + c)) for s, c in zip(total, count, strict=True)]
        )
        expected += x.prob @ (g - baseline[:, None] * score)
    return expected


def charged(study: Study, advantages: Advantages, cost: float) -> Advantages:
    """The same with each decision to switch charged, by the shipped function."""
    x, (low, high, term) = study.trajectories, advantages
    with jax.enable_x64(True):
        paid = charge_switches(jnp.asarray(term), jnp.asarray(x.switch), jnp.asarray(x.mask), cost)
    return low, high, np.asarray(paid)


def climb(study: Study, cost: float, *, steps: int, rate: float = 2.0) -> Study:
    """The same world after gradient ascent on the policy by HAE's expected gradient, exact critics,
    all lambdas 1, each decision to switch charged."""
    for _ in range(steps):
        advantages = charged(study, study.advantages(partial(hae_estimate, boundary=1.0)), cost)
        step, moved, at = study.moments(advantages).mean, [], 0
        for table in study.policy:
            part = step[at : at + table.size].reshape(table.shape)
            moved.append(np.asarray(table) + rate * part)
            at += table.size
        with jax.enable_x64(True):
            policy = Policy(*map(jnp.asarray, moved))
        study = Study(study.mdp, policy, study.horizon)
    return study


def describe_policy(study: Study) -> dict[str, float]:
    """Expected return, turns of a segment, and share of decisions that switch."""
    x = study.trajectories
    turns, later = x.prob @ x.mask.sum(1), x.prob @ x.mask[:, 1:].sum(1)
    switched = x.prob @ (x.switch & x.mask)[:, 1:].sum(1)
    return {
        "return": float(x.prob @ (x.reward * x.mask).sum(1)),
        "segment length": float(turns / (1 + switched)),
        "switch share": float(switched / later),
    }


COSTS = (0.0, 0.01, 0.03, 0.1, 0.3)


def cost_sweep(
    costs: tuple[float, ...] = COSTS, *, horizon: int = 4, steps: int = 60
) -> dict[float, dict[str, float]]:
    """What each price leads to, from one start."""
    start = Study(make_mdp(), make_policy(), horizon)
    return {cost: describe_policy(climb(start, cost, steps=steps)) for cost in costs}


LAMBDAS = (0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 1.0)
ERRORS = (0.0, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)


def boundary_curve(
    study: Study, *, kind: str, batch: int, draws: int = 4, errors: tuple[float, ...] = ERRORS
) -> dict[str, np.ndarray]:
    """Bias, standard error and their sum over lambda_boundary (rows) and critic error (columns)."""
    table = {k: np.zeros((len(LAMBDAS), len(errors))) for k in ("bias", "deviation", "rms")}
    for j, error in enumerate(errors):
        seeds = range(draws if kind == "noise" and error else 1)
        for i, boundary in enumerate(LAMBDAS):
            estimate = partial(hae_estimate, boundary=boundary)
            found = [study.moments(study.advantages(estimate, study.wrong_critic(error, kind, s)))
                     for s in seeds]  # fmt: skip
            norm = np.linalg.norm(study.truth)
            table["bias"][i, j] = np.sqrt(np.mean([study.bias(m) ** 2 for m in found]))
            table["deviation"][i, j] = np.sqrt(np.mean([m.variance for m in found]) / batch) / norm
            table["rms"][i, j] = np.sqrt(np.mean([study.rms_error(m, batch) ** 2 for m in found]))
    return table


def variance_grid(
    horizons: tuple[int, ...], switches: tuple[float, ...], informative: tuple[float, ...]
) -> dict[tuple[int, float, float], dict[str, float]]:
    """Variance over flat GAE's (lambda 1, exact critics), for each kind of world.

    "advantage, ..." is the mean square of the action's advantage: never above flat GAE's, since the
    baseline knows the subgoal. "gradient, ..." is the total variance of the gradient of an episode,
    which weighs and correlates the decisions, and may be above.
    """
    grid = {}
    for horizon in horizons:
        for switch in switches:
            for bend in informative:
                study = Study(make_mdp(), make_policy(switch=switch, informative=bend), horizon)
                flat = study.advantages(flat_estimate)
                estimates = {
                    "HAE": hae_estimate,
                    "HAE, lambda_boundary 1": partial(hae_estimate, boundary=1.0),
                    "flat, lambda 0": partial(flat_estimate, turn=0.0),
                }
                row = {}
                for name, estimate in estimates.items():
                    found = study.advantages(estimate)
                    row[f"advantage, {name}"] = mean_square(study, found) / mean_square(study, flat)
                    ratio = study.moments(found).variance / study.moments(flat).variance
                    row[f"gradient, {name}"] = ratio
                grid[horizon, switch, bend] = row
    return grid


def mean_square(study: Study, advantages: Advantages) -> float:
    """Mean square of the action's advantage over all turns."""
    x = study.trajectories
    return float((x.prob[:, None] * x.mask * advantages[0] ** 2).sum())


def report_bias(study: Study) -> None:
    """Table (a): departure of the expected gradient from the true one."""
    lines: dict[str, float] = {}
    for turn, segment, boundary in ((1, 1, 0), (1, 1, 1), (0.5, 0.5, 0.5), (1, 0.95, 0)):
        estimate = partial(hae_estimate, turn=turn, segment=segment, boundary=boundary)
        for critic, error in (("exact", 0.0), ("noise 0.2", 0.2), ("noise 1", 1.0), ("cold", 1.0)):
            kind = "cold" if critic == "cold" else "noise"
            moments = study.moments(study.advantages(estimate, study.wrong_critic(error, kind)))
            lines[f"lambdas {turn}, {segment}, {boundary}; critic {critic}"] = study.bias(moments)
    exact = study.advantages(hae_estimate)
    white = study.moments(whitened(study, exact)).mean
    index, _ = turn_index_whitened(study)
    pair = pair_whitened(study, exact)
    norm = np.linalg.norm(study.truth)
    for name, g in (("whole-batch whitening", white), ("pairs, centered", pair)):
        cosine = g @ study.truth / norm / np.linalg.norm(g)
        lines[f"{name}: 1 - cosine"] = float(1 - cosine)
    lines["pairs, centered"] = float(np.linalg.norm(pair - study.truth) / norm)
    lines["rewards centered by turn index"] = study.bias(study.moments(index))
    print("\nexpected gradient: distance from the true one, relative")
    for name, value in lines.items():
        print(f"  {name:48} {value:10.2e}")


def main() -> None:
    """Print the study."""
    study = Study(make_mdp(), make_policy(), 4)
    total = study.trajectories.prob.sum()
    print(f"{len(study.trajectories.prob)} trajectories, of total probability {total:.15f}")
    report_bias(study)
    for kind in ("noise", "cold"):
        table = boundary_curve(study, kind=kind, batch=128)
        print(f"\nrms error of a batch of 128, by lambda_boundary and critic error ({kind})")
        print("  lambda " + " ".join(f"{e:7.2f}" for e in ERRORS))
        for lam, row in zip(LAMBDAS, table["rms"], strict=True):
            print(f"  {lam:6.2f} " + " ".join(f"{x:7.3f}" for x in row))
    print("\nvariance over flat GAE's at lambda 1, exact critics")
    for key, row in variance_grid((3, 4), (0.1, 0.4, 0.8), (0.0, 1.0, 3.0)).items():
        print("  horizon {}, switch {}, informative {}".format(*key))
        for name, value in row.items():
            print(f"    {name:36} {value:.3f}")
    print("\nafter 60 steps of ascent, by credit.switch_cost")
    for cost, row in cost_sweep().items():
        said = "  ".join(f"{name} {value:.3f}" for name, value in row.items())
        print(f"  {cost:5.2f}   {said}")


if __name__ == "__main__":
    main()
