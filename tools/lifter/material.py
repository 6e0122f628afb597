"""Material to learn lifting from: bodies in space, random cameras, and the faults of pose estimators.

Sequences in space are rendered bodies doing rendered motions (`dataengine.rendering`) and, where a folder is given,
free captures (`tools.lifter.captures`) retargeted to bodies of other proportions. Everything follows from seeds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataengine.core.skeletons import COMMON
from dataengine.core.skeletons import skeleton as layout_of
from dataengine.core.types import Bool, Float
from dataengine.lift.inputs import HIPS, mirrored_features, person_features
from dataengine.rendering.body import HEAD, Body, pose
from dataengine.rendering.motion import MOTIONS, angles
from tools.lifter import captures
from tools.lifter.captures import POINTS

FRAMES = 48
"""Frames of a clip of the material."""
CAPTURE_FPS = 60.0
_SHARES = np.array([{"free": 6.0, "lie": 1.5}.get(motion, 1.0) for motion in MOTIONS])
_SHARES /= _SHARES.sum()
_INDEX = {name: n for n, name in enumerate(POINTS)}


def collect(folder: Path, file: Path) -> int:
    """Write the captures below a folder into one .npz file, float32 metres; returns how many."""
    motions = {name.replace("/", "_"): np.float32(points) for name, points in captures.read(folder, CAPTURE_FPS)}
    np.savez_compressed(file, allow_pickle=False, **motions)
    return len(motions)


def rendered(rng: np.random.Generator, frames: int = FRAMES) -> Float:
    """A rendered body doing a rendered motion at 15 to 50 frames per second: (T, 14, 3) metres, y up."""
    t = np.arange(frames) / rng.uniform(15, 50) + rng.uniform(0, 10)
    motion = MOTIONS[rng.choice(len(MOTIONS), p=_SHARES)]
    body = Body.draw(rng)
    points = pose(body, angles(motion, t, rng), (0.0, 0.0), 0.0).points
    return np.asarray(points[:, [0, HEAD, *range(2, 14)]])


def retargeted(points: Float, body: Body) -> Float:
    """A capture on a body of other lengths; directions of bones stay (T, 14, 3)."""
    at = {name: points[:, n] for name, n in _INDEX.items()}
    hips, neck = (at["left_hip"] + at["right_hip"]) / 2, (at["left_shoulder"] + at["right_shoulder"]) / 2
    scale = body.height / 1.75

    def toward(origin: Float, begin: Float, end: Float, length: float) -> Float:
        bone = end - begin
        return np.asarray(origin + bone * (length / np.maximum(np.linalg.norm(bone, axis=-1, keepdims=True), 1e-6)))

    # a shrug or a stretch moves the middle of the shoulders: the trunk keeps its share of that
    trunk = np.linalg.norm(neck - hips, axis=-1)
    top = hips + (neck - hips) * (body.trunk / max(float(np.median(trunk)), 1e-6))
    made: dict[str, Float] = {"head": top + (at["head"] - neck) * scale, "nose": top + (at["nose"] - neck) * scale}
    for side in ("left", "right"):
        shoulder = made[f"{side}_shoulder"] = toward(top, neck, at[f"{side}_shoulder"], body.shoulder)
        elbow = made[f"{side}_elbow"] = toward(shoulder, at[f"{side}_shoulder"], at[f"{side}_elbow"], body.upper_arm)
        made[f"{side}_wrist"] = toward(elbow, at[f"{side}_elbow"], at[f"{side}_wrist"], body.forearm)
        hip = made[f"{side}_hip"] = toward(hips, hips, at[f"{side}_hip"], body.hip)
        knee = made[f"{side}_knee"] = toward(hip, at[f"{side}_hip"], at[f"{side}_knee"], body.thigh)
        made[f"{side}_ankle"] = toward(knee, at[f"{side}_knee"], at[f"{side}_ankle"], body.shin)
    return np.stack([made[name] for name in POINTS], 1)


@dataclass(frozen=True)
class Pool:
    """Where sequences in space come from.

    Attributes:
        captures: motions (T, 14, 3) metres at `CAPTURE_FPS`, y up. weights: chance of each to be drawn.
        share: share of clips that are captures, the rest is rendered.
    """

    captures: tuple[Float, ...]
    weights: Float
    share: float

    @staticmethod
    def open(captured: Path | None, share: float = 0.5) -> Pool:
        """The pool with the captures of a file that `collect` wrote, or of rendered bodies alone."""
        if captured is None:
            return Pool((), np.zeros(0), 0.0)
        with np.load(captured, allow_pickle=False) as file:
            motions = tuple(file[name].astype(np.float64) for name in sorted(file.files))
        motions = tuple(points for points in motions if len(points) >= FRAMES // 2)
        # many clips of one kind (walking) count less each than long clips of others
        lengths = np.sqrt([len(points) for points in motions])
        return Pool(motions, lengths / lengths.sum(), share)

    def draw(self, rng: np.random.Generator, frames: int = FRAMES) -> Float:
        """(T, 14, 3) metres, y up, facing anywhere, the middle of the hips at the origin in the middle frame."""
        if self.captures and rng.random() < self.share:
            motion = self.captures[rng.choice(len(self.captures), p=self.weights)]
            step = CAPTURE_FPS / rng.uniform(15, 60)
            span = step * (frames - 1)
            begin = rng.uniform(0, max(len(motion) - 1 - span, 0))
            when = np.minimum(begin + step * np.arange(frames), len(motion) - 1)
            low = np.minimum(when.astype(int), len(motion) - 2)
            part = (when - low)[:, None, None]
            points = retargeted(motion[low] * (1 - part) + motion[low + 1] * part, Body.draw(rng))
        else:
            points = rendered(rng, frames)
        hips = points[:, [_INDEX["left_hip"], _INDEX["right_hip"]]].mean(1)
        points = points - hips[len(points) // 2]
        turn = rng.uniform(0, 2 * np.pi)
        c, s = np.cos(turn), np.sin(turn)
        return np.asarray(points @ np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]]))


@dataclass(frozen=True)
class View:
    """A sequence as a camera sees it.

    Attributes:
        space: (T, 13, 3) metres in the camera's axes (x right, y down, z away), in the layout body13.
        pixels: (T, 13, 2) pixels.
        size: width and height of the picture in pixels.
    """

    space: Float
    pixels: Float
    size: tuple[int, int]


SIZES = ((1920, 1080), (1280, 720), (640, 480), (500, 500), (1080, 1920), (320, 240), (1000, 1002))


def view(rng: np.random.Generator, points: Float) -> View:
    """A random camera that has the person in the picture: (T, 14, 3) y up -> the person as it sees it.

    The horizontal field of view is 25 to 80 degrees; the camera looks down by 5 degrees on average; a standing person
    takes a fifth to the whole of the picture's height.
    """
    size = SIZES[rng.integers(len(SIZES))]
    width, height = size
    focal = width / 2 / np.tan(np.radians(rng.uniform(25, 80)) / 2)
    tall = rng.uniform(0.2, 0.95) * height
    distance = max(focal * 1.7 / tall, 1.8)
    pitch, roll = np.radians(rng.normal(5, 12)), np.radians(rng.normal(0, 3))
    # the head point of estimators lies between the middle of the head and the tip of the nose
    share = rng.uniform(0, 1) if rng.random() < 0.5 else 1.0
    head = share * points[:, :1] + (1 - share) * points[:, 1:2]
    body = np.concatenate([head, points[:, 2:]], 1)
    seen = body * np.array([1.0, -1.0, -1.0])  # x right, y down, z away
    cp, sp, cr, sr = np.cos(pitch), np.sin(pitch), np.cos(roll), np.sin(roll)
    seen = seen @ np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]]).T
    seen = seen @ np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]]).T
    room = np.maximum(np.array([width, height]) - np.array([0.3, 0.8]) * tall, 0.1 * np.array([width, height])) / 2
    place = rng.uniform(-room, room)
    # turned so that the middle of the body lies at that place of the picture
    ray = np.array([place[0] / focal, place[1] / focal, 1.0])
    origin = ray * distance
    space = seen + origin
    space[..., 2] = np.maximum(space[..., 2], 0.4)
    pixels = focal * space[..., :2] / space[..., 2:] + np.array([width, height]) / 2
    return View(space, pixels, size)


def observed(rng: np.random.Generator, given: View) -> tuple[Float, Bool]:
    """What a pose estimator makes of a view: pixels (T, 13, 2) with noise, and which joints it gives (T, 13)."""
    total, joints = given.pixels.shape[:2]
    extent = float(np.median(np.ptp(given.pixels, axis=1).max(-1)))
    noise = extent * rng.uniform(0, 0.02)
    jumpy = rng.normal(0, 1, (total, joints, 2))
    slow = np.repeat(rng.normal(0, 1, (total // 8 + 3, joints, 2)), 8, axis=0)
    sums = np.cumsum(slow, 0)
    slow = (sums[8 : total + 8] - sums[:total]) / 8
    pixels = given.pixels + noise * (0.6 * jumpy + 1.6 * slow)
    gone = rng.random((total, joints)) < rng.choice([0.0, 0.0, 0.02, 0.1])
    if rng.random() < 0.4:  # joints that are hidden for a while
        for joint in rng.choice(joints, rng.integers(1, 5), replace=False):
            begin, length = rng.integers(0, total), rng.integers(3, total)
            gone[begin : begin + length, joint] = True
    if rng.random() < 0.1:  # legs below the edge of the picture
        gone[:, 9:] = True
    if rng.random() < 0.15:  # nobody is found for a while
        begin = rng.integers(0, total)
        gone[begin : begin + rng.integers(1, 10)] = True
    wild = rng.random((total, joints)) < rng.choice([0.0, 0.0, 0.005, 0.02])
    pixels = np.where(wild[..., None], pixels + rng.normal(0, 0.15 * extent, pixels.shape), pixels)
    if rng.random() < 0.08:  # left and right exchanged for some frames
        begin = rng.integers(0, total)
        frames = slice(begin, begin + rng.integers(1, 8))
        pixels[frames] = pixels[frames][:, list(layout_of(COMMON).flip)]
    inside = ((given.pixels >= 0) & (given.pixels < np.array(given.size))).all(-1)
    keep = ~gone & (inside | (rng.random() < 0.2))
    if not keep.any():
        keep[:] = True
    return pixels, keep


def batch(rng: np.random.Generator, pool: Pool, count: int, padding: int) -> tuple[Float, Float]:
    """Features (N, T + 2 padding, 42) and joints from the middle of the hips (N, T, 39) metres, float32.

    As when lifting, the first and last frames are repeated; half of the clips are mirrored.
    """
    features, targets = [], []
    flip = list(layout_of(COMMON).flip)
    for _ in range(count):
        seen = view(rng, pool.draw(rng))
        given = person_features(*observed(rng, seen), seen.size)
        space = seen.space - seen.space[:, HIPS].mean(1, keepdims=True)
        if rng.random() < 0.5:
            given, space = mirrored_features(given), space[:, flip] * np.array([-1.0, 1.0, 1.0])
        features.append(np.pad(given, ((padding, padding), (0, 0)), mode="edge"))
        targets.append(space.reshape(len(space), -1))
    return np.stack(features), np.stack(targets).astype(np.float32)
