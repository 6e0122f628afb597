"""Confidence intervals of a metric over seeds and over clips, and of differences between two networks."""

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

    `low` and `high` are None for a single seed, which says nothing about the spread.
    """

    mean: float
    low: float | None
    high: float | None
    level: float
    n: int
    method: str

    @property
    def half(self) -> float | None:
        """Half the width of the interval; None without an interval."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


def _checked(values: ArrayLike, level: float) -> Array:
    array = np.asarray(values, np.float64).ravel()
    if not len(array) or not np.isfinite(array).all():
        raise TrainingError(f"an interval needs at least one finite value; given {array[:5].tolist()}")
    if not 0 < level < 1:
        raise TrainingError(f"level = {level}: a confidence lies between 0 and 1, such as 0.95")
    return array


def over_seeds(values: ArrayLike, level: float = 0.95) -> Interval:
    """Mean of one value per seed, with Student's t interval (n - 1 degrees of freedom).

    Raises:
        TrainingError: no value, or one that is not finite.
    """
    from scipy.stats import t

    array = _checked(values, level)
    mean, n = float(array.mean()), len(array)
    if n == 1:
        return Interval(mean, None, None, level, 1, "one seed")
    half = float(t.ppf((1 + level) / 2, n - 1)) * float(array.std(ddof=1)) / n**0.5
    return Interval(mean, mean - half, mean + half, level, n, "t over seeds")


def paired(first: ArrayLike, second: ArrayLike, level: float = 0.95) -> Interval:
    """Interval of first - second over the same seeds. The two differ where the interval excludes 0.

    Raises:
        TrainingError: the two have different numbers of values.
    """
    a, b = _checked(first, level), _checked(second, level)
    if len(a) != len(b):
        raise TrainingError(f"paired values need the same seeds; given {len(a)} and {len(b)}")
    difference = over_seeds(a - b, level)
    return Interval(difference.mean, difference.low, difference.high, level, difference.n, "t over paired seeds")


def bootstrap(
    values: ArrayLike,
    statistic: Callable[[Array], float] | None = None,
    groups: Sequence[object] | None = None,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap over clips (Efron 1979): the values that other clips of the same kind would give.

    Args:
        values: (N,) or (N, Q), one row per clip: hits for an accuracy, differences of hits for a paired comparison.
        statistic: computes one number of resampled rows. Default: the mean of (N,) values.
        groups: (N,) the video or person of each clip. With groups, whole groups are resampled.
        level: confidence in (0, 1).
        draws: number of resamples.
        seed: of the random number generator; the same seed gives the same interval.

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
        statistics = np.empty(draws)
        for n in range(draws):
            chosen = rng.integers(len(members), size=len(members))
            statistics[n] = sums[chosen].sum() / sizes[chosen].sum()
        mean = float(rows.mean())
    else:
        resampled_rows = (
            np.concatenate([members[m] for m in rng.integers(len(members), size=len(members))]) for _ in range(draws)
        )
        statistics = np.array([statistic(rows[chosen]) for chosen in resampled_rows])
        mean = float(statistic(rows))
    low, high = np.nanpercentile(statistics, [50 * (1 - level), 50 * (1 + level)])
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
    """Interval of the proportion of `right` clips among `total` clips of one run (Wilson 1927).

    Raises:
        TrainingError: no clips, or more right clips than clips.
    """
    from scipy.stats import norm

    if not 0 <= right <= total or not total:
        raise TrainingError(f"{right} right of {total} clips is no share")
    z = float(norm.ppf((1 + level) / 2))
    proportion = right / total
    centre = (proportion + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z / (1 + z**2 / total) * (proportion * (1 - proportion) / total + z**2 / (4 * total**2)) ** 0.5
    low, high = max(centre - half, 0.0), min(centre + half, 1.0)
    return Interval(proportion, min(low, proportion), max(high, proportion), level, total, "Wilson over clips")
