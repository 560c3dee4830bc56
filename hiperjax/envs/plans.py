"""How long the plans of tasks are: buckets, and how far neighbors among them lie apart.

Between horizons that are near each other success at the shorter makes the longer learnable; over a
wide gap there is nothing to learn from for long (arXiv 2602.14872).
"""

from collections import Counter
from collections.abc import Iterable, Mapping

WIDE = 3.0
"""Ratio of neighboring buckets' mean lengths above which the gap between them is called wide."""
NONE = 0.05
"""Success up to which it counts as none."""


def name_bucket(length: int) -> str:
    """Plan lengths by powers of two: `1-2`, `3-4`, `5-8`, `9-16`, ..."""
    high = 2
    while high < length:
        high *= 2
    return f"{high // 2 + 1 if high > 2 else 1}-{high}"


def describe_spectrum(lengths: Iterable[int], success: Mapping[str, float] | None = None) -> str:
    """Histogram of plan lengths, the ratio of each bucket's mean to the one before, and a warning
    where that is wide.

    Args:
      lengths: of the plans of some tasks, at least one.
      success: of a policy by bucket, where it is known.
    """
    counts = Counter(lengths)
    buckets: dict[str, Counter[int]] = {}
    for length, count in sorted(counts.items()):
        buckets.setdefault(name_bucket(length), Counter())[length] += count
    total, most = counts.total(), max(bucket.total() for bucket in buckets.values())
    head = f"{'plan length':>11} {'tasks':>7} {'share':>6} {'mean':>6} {'ratio':>6}"
    lines, warnings, before = [head + ("  success" if success else "")], [], 0.0
    for name, bucket in buckets.items():
        count = bucket.total()
        mean = sum(length * n for length, n in bucket.items()) / count
        ratio = f"{mean / before:.2f}" if before else ""
        won = "" if success is None else f"{success.get(name, float('nan')):9.2f}"
        bar = "#" * max(1, round(24 * count / most))
        lines.append(
            f"{name:>11} {count:>7} {count / total:>6.2f} {mean:>6.1f} {ratio:>6}{won}  {bar}"
        )
        if before and mean / before > WIDE and (success is None or success.get(name, 0.0) <= NONE):
            known = "unknown" if success is None else f"{success.get(name, 0.0):.2f}"
            warnings.append(
                f"wide gap below {name}: plans are {mean / before:.1f} times as long as in the "
                f"bucket before (more than {WIDE:g}), success there is {known}; expect a plateau, "
                "or add tasks in between"
            )
        before = mean
    return "\n".join([*lines, *warnings])
