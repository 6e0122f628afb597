"""Tracks with known truth and real experts' errors: annotated clips of Penn Action, residuals of estimators on MPII.

An expert's pose is the truth plus the errors that a real estimator made on one person of MPII, in head-neck lengths,
held for some frames; all experts and joints take the same person's, so that errors stay as correlated as they are.
Faults come on top: an expert jumps to another place, mixes up left and right, or misses joints for a while. Training
clips take their errors from one half of the pictures and test clips from the other. How long errors are held and
whether there are faults changes the figures a lot, so they are published with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from dataengine.core.skeletons import BODY12, skeleton
from dataengine.core.types import Bool, Float, Int

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
LAYOUT = "body13"
EXPERTS = ("hourglass_s1", "newell_ref", "tompson")
RADII = (0.5, 0.2, 0.1)
DROPS = (0.03, 0.08, 0.20)
"""Share of joints that the first, second and third expert miss, in runs of 8 frames."""

_MIRROR = skeleton(LAYOUT).flip
_ARMS, _LEGS = BODY12[:6], BODY12[6:]


@dataclass(frozen=True)
class TrackClip:
    """One annotated clip.

    Attributes:
        index: its number in the file.
        truth: (T, 13, 2) float64 pixels in layout body13; joints that are not seen lie between their nearest
            observations.
        visible: (T, 13) bool, joints that count.
        scale: head-neck length in pixels: upper quartile of the distance from the head to the middle of the shoulders.
    """

    index: int
    truth: Float
    visible: Bool
    scale: float


@dataclass(frozen=True)
class Track:
    """One simulated track: `coords` (E, T, 13, 2) float32 pixels, NaN where an expert gave nothing."""

    clip: TrackClip
    coords: Float


@cache
def clips(split: str, data: Path = SHARED) -> tuple[TrackClip, ...]:
    """Usable clips of split "train" or "test": over half of the joints seen, a head-neck length above 8 pixels, 24
    frames or more."""
    with np.load(data / "skeleton" / "penn_action.npz") as file:
        names = [str(n) for n in file["joint_names"]]
        order = [names.index(n) for n in ("head", *(f"{j[0]}_{j.split('_')[1]}" for j in BODY12))]
        keypoints, seen = file["keypoints"][:, order].astype(np.float64), file["visible"][:, order]
        offsets, train = file["offsets"], file["train"]
    found = []
    for index in np.flatnonzero(train == (split == "train")):
        span = slice(offsets[index], offsets[index + 1])
        truth, visible = keypoints[span], seen[span]
        head = visible[:, :3].all(1)
        if len(truth) < 24 or visible.mean() <= 0.5 or head.sum() < 5:
            continue
        scale = float(np.percentile(np.linalg.norm(truth[head, 0] - truth[head, 1:3].mean(1), axis=-1), 75))
        if scale > 8:
            known = filled(np.where(visible[..., None], truth, np.nan))
            found.append(TrackClip(int(index), np.where(np.isnan(known), known[:, :1], known), visible, scale))
    return tuple(found)


@cache
def residuals(fold: int, experts: Sequence[str] = EXPERTS, data: Path = SHARED) -> Float:
    """(E, N, 13, 2) errors of estimators in head sizes on the N persons of a fold whose joints are all annotated."""
    with np.load(data / "fusion" / "mpii_valid.npz") as file:
        names = [str(n) for n in file["joint_names"]]
        head = [names.index("upper_neck"), names.index("head_top")]
        body = [names.index(f"{j[0]}_{j.split('_')[1]}") for j in BODY12]
        whole = file["labelled"][:, head + body].all(1) & (file["fold"] == fold)
        errors = np.stack(
            [(file[f"pred_{e}"] - file["gt"])[whole] / file["head_size"][whole, None, None] for e in experts]
        )
    return np.concatenate([errors[:, :, head].mean(2, keepdims=True), errors[:, :, body]], 2).astype(np.float64)


def simulate(
    clip: TrackClip,
    errors: Float,
    rng: np.random.Generator,
    mean_length: float = 8,
    faults: bool = True,
    noise: float = 0.02,
    drift: bool = False,
) -> Float:
    """What experts see of a clip: (E, T, 13, 2) float32 pixels, NaN where missing.

    Args:
        errors: (E, N, 13, 2) from `residuals`.
        mean_length: a person's errors last 1 + Geometric(1 / mean_length) frames.
        faults: jumps, mixed up sides and missing joints as well.
        noise: standard deviation of what is new in every frame, in head-neck lengths.
        drift: errors move in a straight line to the next person's instead of being held.
    """
    frames, scale = len(clip.truth), clip.scale
    error = np.empty((len(errors), frames, 13, 2))
    t, person = 0, int(rng.integers(errors.shape[1]))
    while t < frames:
        length = min(1 + rng.geometric(1 / mean_length), frames - t)
        following = int(rng.integers(errors.shape[1]))
        way = drift * np.arange(length)[:, None, None] / length
        error[:, t : t + length] = (1 - way) * errors[:, None, person] + way * errors[:, None, following]
        t, person = t + length, following
    coords = clip.truth + scale * (error + noise * rng.normal(size=error.shape))
    if faults:
        wrong = np.linalg.norm(coords - clip.truth, axis=-1) > scale
        for expert, pose in enumerate(coords):
            _mix_up(pose, rng)
            _jump(pose, scale, rng)
            lost = _missing(frames, DROPS[expert % len(DROPS)], rng) | (
                wrong[expert] & (rng.random((frames, 13)) < 0.3)
            )
            pose[lost] = np.nan
    return coords.astype(np.float32)


def _mix_up(pose: Float, rng: np.random.Generator) -> None:
    """Exchange sides of legs, of arms and of both, every 150 frames on average for 1 + Geometric(1/6) frames."""
    for group in (_LEGS, _ARMS, _LEGS + _ARMS):
        joints = skeleton(LAYOUT).indices(group)
        mirror = [_MIRROR[j] for j in joints]
        t = rng.geometric(1 / 150) - 1
        while t < len(pose):
            length = 1 + rng.geometric(1 / 6)
            pose[t : t + length, joints] = pose[t : t + length, mirror]
            t += length + rng.geometric(1 / 150)


def _jump(pose: Float, scale: float, rng: np.random.Generator) -> None:
    """One time in four the whole body is 5 to 20 frames somewhere else, a quarter of those from the first frame."""
    if rng.random() >= 0.25:
        return
    length = int(rng.integers(5, 21))
    begin = 0 if rng.random() < 0.25 else int(rng.integers(0, max(1, len(pose) - length)))
    angle = rng.uniform(0, 2 * np.pi)
    pose[begin : begin + length] += scale * rng.uniform(3, 10) * np.array([np.cos(angle), np.sin(angle)])


def _missing(frames: int, rate: float, rng: np.random.Generator) -> Bool:
    """(T, 13) joints missed in runs of 8 frames on average, `rate` of all."""
    lost = np.zeros((frames, 13), np.bool_)
    for joint in range(13):
        t, missed = 0, rng.random() < rate
        while t < frames:
            length = rng.geometric(1 / 8 if missed else rate / (1 - rate) / 8)
            lost[t : t + length, joint] = missed
            t, missed = t + length, not missed
    return lost


def tracks(split: str, seed: int = 0, count: int = 300, data: Path = SHARED, **options: Any) -> Iterator[Track]:
    """`count` clips of a split, drawn and simulated from `seed` with the options of `simulate`; train takes errors of
    fold 0, test of fold 1."""
    errors = residuals(0 if split == "train" else 1, data=data)
    usable = clips(split, data)
    for number in np.random.default_rng(seed).permutation(len(usable))[:count]:
        clip = usable[number]
        yield Track(clip, simulate(clip, errors, np.random.default_rng([seed, clip.index]), **options))


def filled(pose: Float) -> Float:
    """(T, V, 2) with NaN of a joint on the line between its observations, and at the nearest one before and after
    them."""
    pose = np.array(pose, np.float64)
    frames = np.arange(len(pose))
    for joint in range(pose.shape[1]):
        seen = np.flatnonzero(np.isfinite(pose[:, joint]).all(-1))
        if 0 < len(seen) < len(pose):
            for axis in range(2):
                pose[:, joint, axis] = np.interp(frames, seen, pose[seen, joint, axis])
    return pose


def shake(pose: Float, scale: float) -> Float:
    """(T - 2, V) length of the second difference in head-neck lengths."""
    length: Float = np.linalg.norm(np.diff(pose, 2, axis=0), axis=-1) / scale
    return length


@dataclass(frozen=True)
class Score:
    """How near poses are to the truth.

    Attributes:
        hits: (N, 3) joints of each clip within 0.5, 0.2 and 0.1 head-neck lengths. counts: (N,) joints that count.
        shakes: (N,) mean second difference minus the truth's, in head-neck lengths per frame^2; NaN where nothing can
            be measured.
    """

    hits: Float
    counts: Int
    shakes: Float

    @property
    def pck(self) -> Float:
        """(3,) per cent of all joints within each radius."""
        share: Float = 100 * self.hits.sum(0) / self.counts.sum()
        return share

    @property
    def jitter(self) -> float:
        """Mean of `shakes` over clips."""
        return float(np.nanmean(self.shakes))

    def interval(self, draws: int = 1000) -> tuple[Float, Float]:
        """95 % intervals over clips: (2, 3) of `pck` and (2,) of `jitter`."""
        pick = np.random.default_rng(0).integers(len(self.counts), size=(draws, len(self.counts)))
        shares = 100 * self.hits[pick].sum(1) / self.counts[pick].sum(1)[:, None]
        return np.percentile(shares, [2.5, 97.5], axis=0), np.percentile(
            np.nanmean(self.shakes[pick], axis=1), [2.5, 97.5]
        )


def score(found: Sequence[tuple[TrackClip, Float]]) -> Score:
    """Score fused poses (T, 13, 2); what is missing is interpolated, and wrong where a joint is never seen."""
    hits, counts, shakes = (
        np.zeros((len(found), len(RADII))),
        np.zeros(len(found), np.int64),
        np.full(len(found), np.nan),
    )
    for n, (clip, pose) in enumerate(found):
        pose = filled(pose)
        apart = np.nan_to_num(np.linalg.norm(pose - clip.truth, axis=-1) / clip.scale, nan=np.inf)[clip.visible]
        hits[n], counts[n] = [(apart <= radius).sum() for radius in RADII], len(apart)
        own, truth = shake(pose, clip.scale), shake(clip.truth, clip.scale)
        steady = clip.visible[2:] & clip.visible[1:-1] & clip.visible[:-2] & np.isfinite(own)
        if steady.any():
            shakes[n] = own[steady].mean() - truth[steady].mean()
    return Score(hits, counts, shakes)


def joined(scores: Sequence[Score]) -> Score:
    """Several scores as one."""
    return Score(*(np.concatenate([getattr(s, name) for s in scores]) for name in ("hits", "counts", "shakes")))


def evaluate(method: Callable[[Track], Any], sample: Sequence[Track]) -> Score:
    """Score `method`, which makes a pose (T, 13, 2) of a track."""
    return score([(track.clip, method(track)) for track in sample])


def oracle(track: Track) -> Float:
    """The observation nearest to the truth of every joint and frame: what a perfect choice among experts reaches frame
    by frame."""
    apart = np.nan_to_num(np.linalg.norm(track.coords - track.clip.truth, axis=-1), nan=np.inf)
    best: Float = np.take_along_axis(track.coords, apart.argmin(0)[None, ..., None], 0)[0]
    return best
