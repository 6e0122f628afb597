"""What a generation is judged by on clips that it did not learn from: pure functions on arrays.

All poses of a clip are in the common layout, and people are in the order of the fused poses, which the experts made.
Lengths count in head-neck lengths of each person.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from dataengine.core.skeletons import COMMON, all_finite, skeleton
from dataengine.core.types import Bool, Float, Int
from dataengine.filters.body import Body, head_length, length
from dataengine.filters.jitter import body_jitter

NEAR = 0.5
"""Head-neck lengths within which two joints agree, as in PCKh@0.5 (Andriluka et al. 2014)."""
APART = 0.5
"""Head-neck lengths that a left and a right joint lie apart at least, so that an exchange shows."""
HEAD_OF_BOX = 0.1
"""Head-neck length as a share of the diagonal of the box around a body whose head is never seen."""
SCORE_BINS = (0.3, 0.5, 0.7, 0.9, 1.01)
"""Upper bounds of scores of fused joints: low scores are mostly hidden or cut off joints."""
SIZE_BINS = (64, 128, 256, np.inf)
"""Upper bounds of heights of people in pixels."""


@dataclass(frozen=True)
class JudgedClip:
    """The poses of one held-out clip.

    Attributes:
        fused: (M, T, 13, 2) float32 of the experts. scores: (M, T, 13) float32 of them.
        sure: (M, T, 13) bool, which of them are sure enough to be compared with.
        before, after: (M, T, 13, 2) of the generation before and of this one, NaN where missing.
        fps: frames per second. video: the clips of a video are drawn together.
        experts: (E, M, T, 13, 2) of each expert.
        exact: (M, T, 13, 2) exact joints of a rendered clip, NaN outside of the picture and for people who are none;
            None where nobody knows them. exact_heads: (M, T) their head-neck lengths in pixels.
        extra: of the generation before and of this one, people that the dataset would hold and that are nobody whom the
            experts found, per fused person and frame.
    """

    clip_id: str
    video: str
    fps: float
    fused: Float
    scores: Float
    sure: Bool
    before: Float
    after: Float
    experts: Float | None = None
    exact: Float | None = None
    exact_heads: Float | None = None
    extra: tuple[float, float] = (0.0, 0.0)


@cache
def sides() -> tuple[Int, Int]:
    """Numbers of the left joints of the common layout, and of the right ones."""
    layout = skeleton(COMMON)
    left = [n for n, joint in enumerate(layout.joints) if joint.startswith("left_")]
    return np.array(left), np.array([layout.flip[n] for n in left])


def heads(fused: Float) -> Float:
    """(M, 1) head-neck lengths in pixels: medians over frames, or a tenth of the box's diagonal."""
    found = head_length(fused, COMMON)
    seen = np.isfinite(fused).all(-1, keepdims=True)
    low = np.where(seen, fused, np.inf).min(2)
    high = np.where(seen, fused, -np.inf).max(2)
    spans = np.where(np.isfinite(high - low).all(-1), length(np.where(np.isfinite(high - low), high - low, 0)), np.nan)
    with np.errstate(all="ignore"):
        usual = np.array([np.median(row[np.isfinite(row)]) if np.isfinite(row).any() else np.nan for row in spans])
    filled: Float = np.where(np.isfinite(found), found, HEAD_OF_BOX * usual[:, None])
    return filled


def near(poses: Float, clip: JudgedClip) -> Bool:
    """(M, T, 13) which joints lie near the fused ones."""
    with np.errstate(invalid="ignore"):
        found: Bool = length(poses - clip.fused) <= NEAR * heads(clip.fused)[..., None]
    return found


def agreement(poses: Float, clip: JudgedClip) -> float:
    """Share of the sure fused joints that lie near those of `poses`; a missing joint is not near."""
    return _share(near(poses, clip), clip.sure)


def missing(poses: Float, clip: JudgedClip) -> float:
    """Share of the sure fused joints that `poses` lack."""
    return _share(~all_finite(poses), clip.sure)


def exact(poses: Float, clip: JudgedClip) -> float:
    """Share of the exact joints that `poses` have within half a head-neck length, as PCKh@0.5 counts; NaN where nobody
    knows exact joints."""
    if clip.exact is None or clip.exact_heads is None:
        return float("nan")
    with np.errstate(invalid="ignore"):
        right = length(poses - clip.exact) <= NEAR * clip.exact_heads[..., None]
    return _share(right, all_finite(clip.exact))


def exchanged(poses: Float, clip: JudgedClip) -> float:
    """Share of the pairs of a left and a right joint that lie nearer to the fused pair when they are exchanged."""
    left, right = sides()
    far = length(clip.fused[..., left, :] - clip.fused[..., right, :]) > APART * heads(clip.fused)[..., None]
    both = far & clip.sure[..., left] & clip.sure[..., right]
    return _exchanged(poses, clip.fused, both)


def flips(poses: Float, clip: JudgedClip) -> float:
    """Share of the pairs of a left and a right joint that exchange places from one frame to the next."""
    left, right = sides()
    with np.errstate(invalid="ignore"):
        far = length(poses[..., left, :] - poses[..., right, :]) > APART * heads(clip.fused)[..., None]
    return _exchanged(poses[:, 1:], poses[:, :-1], far[:, :-1])


def jitter(poses: Float, clip: JudgedClip) -> float:
    """Mean of `dataengine.filters.jitter` over the people, in body heights."""
    seen = all_finite(poses).astype(np.float32)
    values = [body_jitter(Body.of(poses[n], seen[n], COMMON, clip.fps)) for n in range(len(poses))]
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else float("nan")


def _exchanged(poses: Float, reference: Float, counted: Bool) -> float:
    """Share of the pairs (.., T, pairs) that are counted and that are nearer to the reference when exchanged."""
    left, right = sides()
    one, other = poses[..., left, :], poses[..., right, :]
    ref_l, ref_r = reference[..., left, :], reference[..., right, :]
    with np.errstate(invalid="ignore"):
        straight = length(one - ref_l) + length(other - ref_r)
        crossed = length(one - ref_r) + length(other - ref_l)
        return _share(crossed < straight, counted & np.isfinite(straight))


def _share(yes: Bool, among: Bool) -> float:
    total = int(np.count_nonzero(among))
    return float(np.count_nonzero(yes & among) / total) if total else float("nan")


def aligned(reference: Float, poses: Float) -> Int:
    """(M,) number of the person of `poses` (P, T, V, 2) that each of `reference` (M, T, V, 2) is, -1 for none.

    Pairs are those with the least mean distance of joints that both have, in frames where both are, cut at five head
    lengths; a frame that one of them lacks counts like a far one.
    """
    found = np.full(len(reference), -1, np.int64)
    if not len(reference) or not len(poses):
        return found
    scale = heads(reference)[..., None, None]
    with np.errstate(invalid="ignore"):
        away = length(reference[:, None] - poses[None]) / scale
    known: Any = np.isfinite(away)
    here = (_present(reference)[:, None] | _present(poses)[None]).sum(-1)
    per_frame = np.where(known, np.minimum(away, 5.0), 0).sum(-1) / np.maximum(known.sum(-1), 1)
    together = known.any(-1)
    cost = (np.where(together, per_frame, 0).sum(-1) + 5.0 * (here - together.sum(-1))) / np.maximum(here, 1)
    for person, other in zip(*linear_sum_assignment(cost)):
        if cost[person, other] < 4.9:  # they share frames
            found[person] = other
    return found


def extra(poses: Float, fused: Float) -> float:
    """People and frames (P, T, V, 2) that are nobody of the fused ones (M, T, V, 2), per fused person and frame."""
    unknown = _present(poses[aligned(poses, fused) < 0]).sum()
    return float(unknown / max(int(_present(fused).sum()), 1))


def _present(poses: Float) -> Bool:
    """(M, T) whether a person has any joint in a frame."""
    found: Bool = np.asarray(all_finite(poses).any(-1))
    return found


def taken(poses: Float, numbers: Int) -> Float:
    """The people of (P, T, ...) by number, NaN for -1."""
    chosen = poses[np.maximum(numbers, 0)] if len(poses) else np.full((len(numbers), *poses.shape[1:]), np.nan)
    found: Float = np.where((numbers >= 0).reshape(-1, *[1] * (poses.ndim - 1)), chosen, np.nan).astype(np.float32)
    return found


def breakdown(clips: list[JudgedClip]) -> dict[str, list[dict[str, float | str | int]]]:
    """Agreement before and after by joint, by score of the fused joint, and by height of the person.

    Returns:
        "joint", "score" and "height" -> rows of `name`, `joints` (how many), `before` and `after`.
    """
    counts: dict[str, dict[str, Float]] = {"joint": {}, "score": {}, "height": {}}
    for clip in clips:
        right = np.stack([near(clip.before, clip), near(clip.after, clip)])
        for kind, groups in _groups(clip).items():
            for name, mask in groups.items():
                mine = mask & clip.sure
                row = [np.count_nonzero(mine), *(np.count_nonzero(one & mine) for one in right)]
                counts[kind][name] = counts[kind].get(name, np.zeros(3)) + np.array(row, np.float64)
    return {
        kind: [
            {"name": name, "joints": int(total), "before": float(b / total), "after": float(a / total)}
            for name, (total, b, a) in groups.items()
            if total
        ]
        for kind, groups in counts.items()
    }


def _groups(clip: JudgedClip) -> dict[str, dict[str, Bool]]:
    """Masks (M, T, 13) of every joint, score and height."""
    every = np.ones(clip.sure.shape, bool)
    joints = {joint: every & (np.arange(13) == n) for n, joint in enumerate(skeleton(COMMON).joints)}
    seen = np.isfinite(clip.fused).all(-1)
    y = clip.fused[..., 1]
    tall = np.where(seen, y, -np.inf).max(-1, keepdims=True) - np.where(seen, y, np.inf).min(-1, keepdims=True)
    return {
        "joint": joints,
        "score": _bins(clip.scores, SCORE_BINS, "{:g} to {:g}"),
        "height": _bins(every * tall, SIZE_BINS, "{:g} to {:g} pixels"),
    }


def _bins(values: Float, bounds: tuple[float, ...], text: str) -> dict[str, Bool]:
    found, low = dict[str, Bool](), 0.0
    for high in bounds:
        name = (
            f"above {low:g}" if np.isinf(high) else text.format(low, min(high, 1.0) if bounds == SCORE_BINS else high)
        )
        found[name] = (values >= low) & (values < high)
        low = high
    return found


MEASURES: Mapping[str, str] = {
    "agreement": "share of sure fused joints that the student has within half a head-neck length",
    "exact": "share of the exact joints of rendered clips within half a head-neck length",
    "missing": "share of sure fused joints that the student lacks",
    "extra": "people whom the experts did not find, per person and frame of those whom they found",
    "exchanged": "share of left and right pairs that are exchanged against the fused ones",
    "flips": "share of left and right pairs that exchange places from one frame to the next",
    "jitter": "trembling, in body heights",
    "oks": "object keypoint similarity to annotations",
    "pckh": "share of annotated joints within half a head length",
}
"""What is compared -> what it means."""
