"""Ranking of clips by how well the first of them stand for all: what to annotate first.

`facility_location` greedily takes the clip that brings all clips nearest to a picked one, on average: clips from where
many are, and not twice from one place.
`k_centres` is exact greedy k-centre selection (Gonzalez 1985), also called farthest point sampling: each pick is the
clip farthest from all picks before it. `by_classifier` is Algorithm 1 of Motion-R3: a classifier learns to tell ranked
clips from the others, and the clip that is surest to be none of the ranked is picked. `by_k_means` takes the clips
nearest to the centres of k-means, those of large clusters first.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.cluster.vq import kmeans2
from torch import Tensor, nn

from dataengine.core.errors import TrainingError
from training.data.types import Array, Numbers
from training.evaluate.logistic import unit

HIDDEN = 64
"""Width of the classifier's two hidden layers; the paper names three linear layers and no width."""
FIRST_STEPS, NEXT_STEPS = 100, 40
"""Steps of the optimiser from random weights, and from the weights of the pick before."""
KEPT = 0.3
"""Share of the last weights with which a warm classifier goes on; the rest are random (shrink and perturb, Ash and
Adams 2020). Going on from them whole, it stays sure of what it once took for unranked: on eight groups of uneven size
eight picks hit 6.0 groups so, 7.5 with this share, 7.75 from random weights alone, 4 by chance."""
BATCH = 128
"""Clips of each kind in a step."""
RATE = 3e-3
ITERATIONS = 50
"""Of Lloyd's algorithm."""
REFERENCES = 4096
"""Clips that `facility_location` covers at most."""
TRIED = 256
"""Clips whose gain is computed at a time."""
LARGEST = 4.0
"""Squared distance of opposite rows of unit length, which no pick is worse than."""
BLOCK = 16384
"""Clips whose scores or distances are in memory at once."""


@dataclass(frozen=True)
class Ranking:
    """Clips in the order of their rank.

    Attributes:
        order: (n,) int64 index of each ranked clip, the first first.
        radius: (n,) float64, the distance from the farthest clip to the nearest of the first 1..n ranked clips (and of
            those known before): how much is not yet covered. Between rows of unit length, in [0, 2].
    """

    order: Numbers
    radius: Array


def _checked(features: ArrayLike, count: int | None, known: Sequence[int]) -> tuple[Array, int, Numbers]:
    """Rows of unit length, the number of picks, and the clips known before.

    Raises:
        TrainingError: see `k_centres`.
    """
    rows = unit(features)
    given = np.unique(np.asarray(known, np.int64))
    if len(given) and (given[0] < 0 or given[-1] >= len(rows)):
        raise TrainingError(
            f"known clip {int(given[0] if given[0] < 0 else given[-1])} lies outside 0..{len(rows) - 1}"
        )
    left = len(rows) - len(given)
    if left < 1:
        raise TrainingError(f"nothing to rank: {len(given)} of {len(rows)} clips are ranked already")
    if count is not None and count < 1:
        raise TrainingError(f"count = {count}: rank at least one clip")
    return rows, left if count is None else min(count, left), given


def medoid(features: ArrayLike) -> int:
    """Index of the clip with the smallest sum of squared distances to all others: the one nearest to their mean.

    Args:
        features: (N, D); rows are scaled to unit length. The first of equals is taken.
    """
    rows = unit(features)
    return int(np.argmin(np.square(rows - rows.mean(0)).sum(1)))


def _squared(chosen: Array, rows: Array) -> Array:
    """(K, R) squared distances of rows of unit length (or zero)."""
    found = np.square(chosen).sum(1)[:, None] + np.square(rows).sum(1) - 2 * (chosen @ rows.T)
    return np.asarray(np.maximum(found, 0))


def _distances(rows: Array, pick: int) -> Array:
    """(N,) Euclidean distances of rows to one of them."""
    return np.asarray(np.sqrt(_squared(rows[[pick]], rows)[0]), np.float64)


def k_centres(
    features: ArrayLike,
    count: int | None = None,
    first: int | None = None,
    known: Sequence[int] = (),
    advance: Callable[[int], None] | None = None,
) -> Ranking:
    """Greedy k-centre selection: each pick is the clip farthest from all picks so far; O(N D) a pick.

    Its largest distance from a clip to the nearest pick is at most twice that of the best choice of as many clips
    (Gonzalez 1985, "Clustering to minimize the maximum intercluster distance").

    Args:
        features: (N, D); rows are scaled to unit length.
        count: how many clips are ranked. Default: all.
        first: the first pick. Default: the medoid, or with `known` the farthest from these.
        known: clips that are annotated already; they count as picks and are not ranked again.
        advance: is given 1 after every pick.

    Raises:
        TrainingError: features that are not (N, D) or not finite, nothing to rank, or an index outside of them.
    """
    rows, picks, given = _checked(features, count, known)
    nearest = np.full(len(rows), np.inf)
    for index in given:
        nearest = np.minimum(nearest, _distances(rows, int(index)))
    free = np.ones(len(rows), bool)
    free[given] = False
    if first is None and not len(given):
        first = medoid(rows)
    order, radius = np.empty(picks, np.int64), np.empty(picks)
    for n in range(picks):
        pick = first if n == 0 and first is not None else int(np.argmax(np.where(free, nearest, -1.0)))
        if not 0 <= pick < len(rows) or not free[pick]:
            raise TrainingError(f"first = {pick}: give a clip of 0..{len(rows) - 1} that is not known already")
        free[pick] = False
        nearest = np.minimum(nearest, _distances(rows, pick))
        order[n], radius[n] = pick, float(nearest.max())
        if advance is not None:
            advance(1)
    return Ranking(order, radius)


def facility_location(
    features: ArrayLike,
    count: int | None = None,
    known: Sequence[int] = (),
    seed: int = 0,
    advance: Callable[[int], None] | None = None,
) -> Ranking:
    """Greedy facility location: each pick is the clip that lowers the sum over all clips of the squared distance to
    the nearest pick the most.

    What the picks gain over none is at least 1 - 1/e of what the best choice of as many clips gains, for the gain is
    submodular (Nemhauser, Wolsey and Fisher 1978; Wei, Iyer and Bilmes 2015 choose training data so). A clip whose gain
    was lower before than that of another is now is not looked at again (lazy evaluation, Minoux 1978). Of more than
    REFERENCES clips the sum is over so many, drawn at random; any clip can be picked.

    Args:
        features: (N, D); rows are scaled to unit length.
        count: how many clips are ranked. Default: all.
        known: clips that are annotated already; they count as picks and are not ranked again.
        seed: of the draw.
        advance: is given 1 after every pick.

    Raises:
        TrainingError: as `k_centres`.
    """
    rows, picks, given = _checked(features, count, known)
    rows = rows.astype(np.float32)
    drawn = np.random.default_rng(seed).choice(len(rows), min(len(rows), REFERENCES), replace=False)
    references = rows[np.sort(drawn)]
    nearest = np.full(len(references), LARGEST, np.float32)
    for index in given:
        nearest = np.minimum(nearest, _squared(rows[[index]], references)[0])

    def gains(chosen: Array) -> Array:
        return np.asarray(np.maximum(nearest - _squared(chosen, references), 0).sum(1, dtype=np.float64))

    gain = np.concatenate([gains(rows[at : at + TRIED]) for at in range(0, len(rows), TRIED)])
    gain[given] = -np.inf
    order = np.empty(picks, np.int64)
    for n in range(picks):
        current = np.zeros(len(rows), bool)
        while not current[pick := int(gain.argmax())]:
            best = np.argpartition(-gain, min(TRIED, len(gain)) - 1)[:TRIED]
            best = best[np.isfinite(gain[best])]
            gain[best], current[best] = gains(rows[best]), True
        order[n], gain[pick] = pick, -np.inf
        nearest = np.minimum(nearest, _squared(rows[[pick]], references)[0])
        if advance is not None:
            advance(1)
    return covered(rows, order, given.tolist())


def by_k_means(features: ArrayLike, count: int | None = None, known: Sequence[int] = (), seed: int = 0) -> Ranking:
    """The clips nearest to the centres of k-means (Lloyd, from k-means++), those of the largest clusters first.

    Where k-centre reaches for clips far from all others, these lie where clips are many. With `known` there are so many
    more clusters, and those that hold a known clip are covered. Where two centres share a clip, greedy k-centre fills
    up.

    Args:
        features: (N, D); rows are scaled to unit length.
        count: how many clips are ranked. Default: all.
        known: clips that are annotated already; they are not ranked again.
        seed: of the first centres.

    Raises:
        TrainingError: as `k_centres`.
    """
    rows, picks, given = _checked(features, count, known)
    clusters = min(len(rows), picks + len(given))
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):  # of an empty cluster, of clips that are all alike
        warnings.filterwarnings("ignore", "One of the clusters is empty")
        centres, owner = kmeans2(rows, clusters, iter=ITERATIONS, minit="++", seed=seed)
    free = np.ones(len(rows), bool)
    free[given] = False
    sizes = np.bincount(owner, minlength=clusters)
    sizes[owner[given]] = 0
    order: list[int] = []
    for cluster in np.argsort(-sizes, kind="stable")[:picks]:
        members = np.flatnonzero((owner == cluster) & free)
        if sizes[cluster] and len(members):
            order.append(int(members[np.square(rows[members] - centres[cluster]).sum(1).argmin()]))
    if len(order) < picks:
        order += k_centres(rows, picks - len(order), known=[*given.tolist(), *order]).order.tolist()
    return covered(rows, np.array(order), given.tolist())


def covered(features: ArrayLike, order: ArrayLike, known: Sequence[int] = ()) -> Ranking:
    """The radius of any order of clips; see `Ranking`."""
    rows = unit(features)
    nearest = np.full(len(rows), np.inf)
    for index in known:
        nearest = np.minimum(nearest, _distances(rows, int(index)))
    radius = []
    for pick in np.asarray(order, np.int64):
        nearest = np.minimum(nearest, _distances(rows, int(pick)))
        radius.append(float(nearest.max()))
    return Ranking(np.asarray(order, np.int64), np.asarray(radius))


class _Classifier:
    """Three linear layers that tell ranked clips from the others, and their optimiser."""

    def __init__(self, dim: int, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.layers = [nn.Linear(*size) for size in ((dim, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, 1))]
        self.network = nn.Sequential(self.layers[0], nn.ReLU(), self.layers[1], nn.ReLU(), self.layers[2])
        self.shrink(0.0)
        self.optimiser = torch.optim.AdamW(self.network.parameters(), lr=RATE)

    @torch.no_grad()
    def shrink(self, kept: float) -> None:
        """Mix the weights with random ones, of which `kept` is the share of the old."""
        for layer in self.layers:
            bound = layer.in_features**-0.5
            for values in (layer.weight, layer.bias):
                fresh = torch.empty_like(values).uniform_(-bound, bound, generator=self.generator)
                values.mul_(kept).add_(fresh, alpha=1 - kept)

    def learn(self, rows: Tensor, ranked: Tensor, others: Tensor, steps: int) -> None:
        """Steps on as many clips of the one kind as of the other, drawn with replacement from these indices."""
        for _ in range(steps):
            mine = ranked[torch.randint(len(ranked), (BATCH,), generator=self.generator)]
            theirs = others[torch.randint(len(others), (BATCH,), generator=self.generator)]
            scores = self.network(rows[torch.cat([mine, theirs])])[:, 0]
            wanted = torch.cat([torch.zeros(BATCH), torch.ones(BATCH)])
            loss = nn.functional.binary_cross_entropy_with_logits(scores, wanted)
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()

    @torch.no_grad()
    def unranked(self, rows: Tensor) -> Tensor:
        """(N,) logit of being none of the ranked clips."""
        return torch.cat([self.network(part)[:, 0] for part in rows.split(BLOCK)])


def by_classifier(
    features: ArrayLike,
    count: int | None = None,
    first: int | None = None,
    known: Sequence[int] = (),
    seed: int = 0,
    warm: bool = True,
    advance: Callable[[int], None] | None = None,
) -> Ranking:
    """Algorithm 1 of Motion-R3: a classifier learns ranked against unranked clips, and the surest unranked is picked.

    The paper trains a classifier for each pick. It leaves open how long, how wide, and whether from the last weights;
    here `warm` goes on from those of the pick before in fewer steps, which is the same idea in less time.

    Args:
        features: (N, D); rows are scaled to unit length.
        count: how many clips are ranked. Default: all.
        first: the first pick. Default: the medoid (the paper draws one, and its Table 3 shows by how much that varies).
        known: clips that are annotated already; they count as picks and are not ranked again.
        seed: of weights and batches.
        warm: whether the classifier goes on from the pick before; False trains it anew for each pick.
        advance: is given 1 after every pick.

    Raises:
        TrainingError: see `k_centres`.
    """
    rows, picks, given = _checked(features, count, known)
    values = torch.as_tensor((rows - rows.mean(0)) / np.maximum(rows.std(0), 1e-6), dtype=torch.float32)
    free = torch.ones(len(rows), dtype=torch.bool)
    free[torch.as_tensor(given)] = False
    order: list[int] = []
    if not len(given):
        start = medoid(rows) if first is None else first
        if not 0 <= start < len(rows):
            raise TrainingError(f"first = {start}: give a clip of 0..{len(rows) - 1}")
        order.append(start)
        free[start] = False
    classifier: _Classifier | None = None
    while len(order) < picks:
        if classifier is None or not warm:
            classifier, steps = _Classifier(values.shape[1], seed + len(order)), FIRST_STEPS
        else:
            classifier.shrink(KEPT)
            steps = NEXT_STEPS
        ranked, left = torch.nonzero(~free)[:, 0], torch.nonzero(free)[:, 0]
        classifier.learn(values, ranked, left, steps)
        pick = int(classifier.unranked(values).masked_fill(~free, -torch.inf).argmax())
        order.append(pick)
        free[pick] = False
        if advance is not None:
            advance(1)
    return covered(rows, order, given.tolist())
