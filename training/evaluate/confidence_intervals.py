"""How sure a figure is: over seeds, over clips, and of differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from dataengine.core.errors import TrainingError
from training.data.types import Array


@dataclass(frozen=True)
class Interval:
    """A mean and the interval that holds it with the confidence `level`.

    `low` and `high` are None where one figure alone says nothing about the spread (a single seed).
    """

    mean: float
    low: float | None
    high: float | None
    level: float
    n: int
    method: str

    @property
    def half(self) -> float | None:
        """Half the width."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


def _checked(values: ArrayLike, level: float) -> Array:
    found = np.asarray(values, np.float64).ravel()
    if not len(found) or not np.isfinite(found).all():
        raise TrainingError(f"an interval wants one finite value or more; given {found[:5].tolist()}")
    if not 0 < level < 1:
        raise TrainingError(f"level = {level}: a confidence lies between 0 and 1, such as 0.95")
    return found


def over_seeds(values: ArrayLike, level: float = 0.95) -> Interval:
    """Mean of one figure a seed, with Student's t interval (n - 1 degrees of freedom).

    Raises:
        TrainingError: no value, or one that is not finite.
    """
    from scipy.stats import t

    found = _checked(values, level)
    mean, n = float(found.mean()), len(found)
    if n == 1:
        return Interval(mean, None, None, level, 1, "one seed")
    half = float(t.ppf((1 + level) / 2, n - 1)) * float(found.std(ddof=1)) / n**0.5
    return Interval(mean, mean - half, mean + half, level, n, "t over seeds")


def paired(first: ArrayLike, second: ArrayLike, level: float = 0.95) -> Interval:
    """Interval of first - second over the same seeds; where it leaves out 0, the two differ.

    Raises:
        TrainingError: not one value a seed in both.
    """
    a, b = _checked(first, level), _checked(second, level)
    if len(a) != len(b):
        raise TrainingError(f"paired figures are of the same seeds; given {len(a)} and {len(b)}")
    found = over_seeds(a - b, level)
    return Interval(found.mean, found.low, found.high, level, found.n, "t over paired seeds")


def bootstrap(
    values: ArrayLike,
    statistic: Callable[[Array], float] | None = None,
    groups: Sequence[object] | None = None,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap over clips (Efron 1979): which figures other clips of the same kind would give.

    Args:
        values: (N,) or (N, Q), a row a clip: hits for an accuracy, differences of hits for a paired comparison.
        statistic: takes drawn rows and gives one number; without, the mean of (N,) values.
        groups: (N,) what clips come from (a video, a person); whole groups are drawn then.
        level: confidence.
        draws: how often clips are drawn.
        seed: of the draws; the same seed gives the same interval.

    Raises:
        TrainingError: no clip.
    """
    rows = np.asarray(values, np.float64)
    _checked(rows, level)
    if statistic is None and rows.ndim != 1:
        raise TrainingError(f"without a statistic values are (clips,); given {rows.shape}")
    members = [np.array([n]) for n in range(len(rows))] if groups is None else _members(groups, len(rows))
    rng = np.random.default_rng(seed)
    if statistic is None:
        sums, sizes = np.array([rows[m].sum() for m in members]), np.array([len(m) for m in members], np.float64)
        found = np.empty(draws)
        for n in range(draws):
            drawn = rng.integers(len(members), size=len(members))
            found[n] = sums[drawn].sum() / sizes[drawn].sum()
        mean = float(rows.mean())
    else:
        drawn_rows = (
            np.concatenate([members[m] for m in rng.integers(len(members), size=len(members))]) for _ in range(draws)
        )
        found = np.array([statistic(rows[drawn]) for drawn in drawn_rows])
        mean = float(statistic(rows))
    low, high = np.nanpercentile(found, [50 * (1 - level), 50 * (1 + level)])
    return Interval(
        mean,
        float(low),
        float(high),
        level,
        len(members),
        "bootstrap over clips" if groups is None else "bootstrap over groups",
    )


def _members(groups: Sequence[object], num_rows: int) -> list[Array]:
    if len(groups) != num_rows:
        raise TrainingError(f"groups name the group of every clip; given {len(groups)} for {num_rows} clips")
    by_group: dict[object, list[int]] = {}
    for n, group in enumerate(groups):
        by_group.setdefault(group, []).append(n)
    return [np.array(rows) for rows in by_group.values()]


def wilson(right: int, total: int, level: float = 0.95) -> Interval:
    """Interval of a share of one run (Wilson 1927): `right` of `total` clips.

    Raises:
        TrainingError: no clips, or more right than there are.
    """
    from scipy.stats import norm

    if not 0 <= right <= total or not total:
        raise TrainingError(f"{right} right of {total} clips is no share")
    z = float(norm.ppf((1 + level) / 2))
    share = right / total
    middle = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z / (1 + z**2 / total) * (share * (1 - share) / total + z**2 / (4 * total**2)) ** 0.5
    low, high = max(middle - half, 0.0), min(middle + half, 1.0)
    return Interval(share, min(low, share), max(high, share), level, total, "Wilson over clips")
