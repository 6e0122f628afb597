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
from dataengine.lift.inputs import HIPS, SMOOTHING, TRUNK, person_features, smoothed
from dataengine.rendering.body import HEAD, Body, pose, rotation
from dataengine.rendering.motion import MOTIONS, angles
from tools.lifter import captures
from tools.lifter.captures import POINTS

WINDOW = 27
"""Frames that the network sees."""
FRAMES = WINDOW + SMOOTHING - 1
"""Frames of a sequence of the material: a window, and what the size of a person is averaged over."""
CAPTURE_FPS = 60.0
_SHARES = np.array([{"free": 6.0, "lie": 1.5}.get(motion, 1.0) for motion in MOTIONS])
_SHARES /= _SHARES.sum()
_INDEX = {name: n for n, name in enumerate(POINTS)}
MIRRORED = [0, 1, *(n + 1 if n % 2 == 0 else n - 1 for n in range(2, 14))]
"""Points of the mirrored body."""


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


SIZES = np.array([(1920, 1080), (1280, 720), (640, 480), (500, 500), (1080, 1920), (320, 240), (1000, 1002)], float)
FLIP = list(layout_of(COMMON).flip)


@dataclass(frozen=True)
class Views:
    """Sequences as cameras see them.

    Attributes:
        space: (N, T, 13, 3) metres in the cameras' axes (x right, y down, z away), in the layout body13.
        pixels: (N, T, 13, 2) pixels.
        sizes: (N, 2) width and height of the pictures in pixels.
    """

    space: Float
    pixels: Float
    sizes: Float


def views(rng: np.random.Generator, points: Float) -> Views:
    """Random cameras that have the person in the picture: (N, T, 14, 3) y up -> the people as they see them.

    The horizontal field of view is 25 to 80 degrees; cameras look down by 5 degrees on average; a standing person takes
    a fifth to the whole of the picture's height.
    """
    count = len(points)
    sizes = SIZES[rng.integers(len(SIZES), size=count)]
    focal = sizes[:, 0] / 2 / np.tan(np.radians(rng.uniform(25, 80, count)) / 2)
    tall = rng.uniform(0.2, 0.95, count) * sizes[:, 1]
    distance = np.maximum(focal * 1.7 / tall, 1.8)
    # the head point of estimators lies between the middle of the head and the tip of the nose
    share = np.where(rng.random(count) < 0.5, rng.uniform(0, 1, count), 1.0)[:, None, None, None]
    head = share * points[:, :, :1] + (1 - share) * points[:, :, 1:2]
    body = np.concatenate([head, points[:, :, 2:]], 2) * np.array([1.0, -1.0, -1.0])  # x right, y down, z away
    tilt = rotation("x", np.radians(rng.normal(5, 12, count)))
    roll = rotation("z", np.radians(rng.normal(0, 3, count)))
    room = np.maximum(sizes - np.array([0.3, 0.8]) * tall[:, None], 0.1 * sizes) / 2
    place = rng.uniform(-1, 1, (count, 2)) * room
    origin = np.concatenate([place / focal[:, None], np.ones((count, 1))], 1) * distance[:, None]
    space = _turned(body, np.swapaxes(roll @ tilt, 1, 2)) + origin[:, None, None]
    space[..., 2] = np.maximum(space[..., 2], 0.4)
    pixels = focal[:, None, None, None] * space[..., :2] / space[..., 2:] + sizes[:, None, None] / 2
    return Views(space, pixels, sizes)


def _turned(points: Float, turns: Float) -> Float:
    """(N, T, V, 3) points, as rows, times one matrix (N, 3, 3) each."""
    return np.asarray((points.reshape(len(points), -1, 3) @ turns).reshape(points.shape))


def _for_a_while(rng: np.random.Generator, shape: tuple[int, ...], total: int, least: int, most: int) -> Bool:
    """(*shape, T) whether a frame lies in a run of `least` to `most` frames that begins anywhere."""
    begin = rng.integers(0, total, shape)[..., None]
    frames = np.arange(total)
    return np.asarray((frames >= begin) & (frames < begin + rng.integers(least, most, shape)[..., None]))


def observed(rng: np.random.Generator, given: Views) -> tuple[Float, Bool]:
    """What pose estimators make of views: pixels (N, T, 13, 2) with noise, and which joints they give (N, T, 13)."""
    count, total, joints = given.pixels.shape[:3]
    extent = np.median(np.ptp(given.pixels, axis=2).max(-1), axis=1)[:, None, None, None]
    sums = np.cumsum(rng.standard_normal((count, total // 8 + 3, joints, 2)).repeat(8, axis=1), axis=1)
    slow = (sums[:, 8 : total + 8] - sums[:, :total]) / 8
    jumpy = rng.standard_normal(given.pixels.shape)
    pixels = given.pixels + extent * rng.uniform(0, 0.02, (count, 1, 1, 1)) * (0.6 * jumpy + 1.6 * slow)
    wild = rng.random((count, total, joints, 1)) < rng.choice([0.0, 0.0, 0.005, 0.02], (count, 1, 1, 1))
    pixels += np.where(wild, 0.15 * extent * rng.standard_normal(pixels.shape), 0)
    # left and right exchanged for some frames
    turned = _for_a_while(rng, (count,), total, 1, 8) & (rng.random((count, 1)) < 0.08)
    pixels = np.where(turned[..., None, None], pixels[:, :, FLIP], pixels)
    gone = rng.random((count, total, joints)) < rng.choice([0.0, 0.0, 0.02, 0.1], (count, 1, 1))
    hidden = _for_a_while(rng, (count, joints), total, 3, total) & (rng.random((count, joints, 1)) < 0.2)
    gone |= np.swapaxes(hidden, 1, 2) & (rng.random((count, 1, 1)) < 0.4)
    gone[:, :, 9:] |= rng.random((count, 1, 1)) < 0.08  # legs below the edge of the picture
    gone |= (_for_a_while(rng, (count,), total, 1, 10) & (rng.random((count, 1)) < 0.15))[..., None]
    inside = ((given.pixels >= 0) & (given.pixels < given.sizes[:, None, None])).all(-1)
    keep = ~gone & (inside | (rng.random((count, 1, 1)) < 0.2))
    return pixels, keep | ~keep.any((1, 2), keepdims=True)


def features(pixels: Float, seen: Bool, sizes: Float) -> Float:
    """`person_features` of many sequences at once: (N, T, 42) float32."""
    count, total = seen.shape[:2]
    points = pixels * (2 / sizes[:, None, None, :1]) - np.stack(
        [np.ones(count), sizes[:, 1] / sizes[:, 0]], -1
    )[:, None, None]  # fmt: skip
    points = np.where(seen[..., None], points, 0.0)
    trunk = np.zeros_like(seen)
    trunk[:, :, TRUNK] = seen[:, :, TRUNK]
    use = np.where(trunk.any(2, keepdims=True), trunk, seen)
    centre = (points * use[..., None]).sum(2) / np.maximum(use.sum(2), 1)[..., None]
    apart = ((points - centre[:, :, None]) ** 2).sum(-1) * seen
    spread = np.sqrt(apart.sum(2) / np.maximum(seen.sum(2), 1))
    scale = smoothed(spread, SMOOTHING)
    joints = np.where(seen[..., None], (points - centre[:, :, None]) / np.maximum(scale, 1e-6)[..., None, None], 0.0)
    made = np.concatenate(
        [joints.reshape(count, total, -1), seen, centre, np.log(np.maximum(scale, 1e-6))[..., None]], 2
    ).astype(np.float32)
    for n in np.flatnonzero((seen.sum(2) < 4).any(1)):  # gaps are bridged there
        made[n] = person_features(pixels[n], seen[n], (int(sizes[n, 0]), int(sizes[n, 1])))
    return made


def bank(pool: Pool, seed: int, count: int) -> Float:
    """(N, 53, 14, 3) float32 metres, y up: sequences that training draws from."""
    rng = np.random.default_rng((seed, count))
    return np.stack([pool.draw(rng).astype(np.float32) for _ in range(count)])


def batch(rng: np.random.Generator, sequences: Float, count: int) -> tuple[Float, Float]:
    """Windows of features (N, 27, 42) and the joints of their middle frames from the middle of the hips (N, 39) metres,
    float32.

    People face anywhere and half of them are mirrored. In one of six windows the clip begins or ends within it: as when
    lifting, its first or last frame is repeated.
    """
    points: Float = sequences[rng.integers(len(sequences), size=count)].astype(np.float64)
    points = _turned(points, rotation("y", rng.uniform(0, 2 * np.pi, count)))
    mirrored = points[:, :, MIRRORED] * np.array([-1.0, 1.0, 1.0])
    points = np.where(rng.random((count, 1, 1, 1)) < 0.5, mirrored, points)
    seen = views(rng, points)
    given = features(*observed(rng, seen), seen.sizes)
    middle, reach = FRAMES // 2, WINDOW // 2
    first, last = np.zeros(count, int), np.full(count, FRAMES - 1)
    ends, where = rng.random(count), rng.integers(0, reach, count)
    first, last = np.where(ends < 1 / 12, middle - where, first), np.where(ends > 11 / 12, middle + where, last)
    frames = np.clip(np.arange(middle - reach, middle + reach + 1), first[:, None], last[:, None])
    window = given[np.arange(count)[:, None], frames]
    space = seen.space[:, middle]
    return window, (space - space[:, HIPS].mean(1, keepdims=True)).reshape(count, -1).astype(np.float32)
