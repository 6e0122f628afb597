"""The camera, what stands behind and before people, and what recording does to a picture."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from dataengine.core.types import Bool, Float, Frames
from dataengine.rendering.body import random_color
from dataengine.rendering.motion import wobble


@dataclass(frozen=True)
class Camera:
    """A pinhole camera over time.

    Attributes:
        eye: (3,) metres. axes: (3, 3) rows are the picture's right, the picture's down, and the direction looked in.
        focal: (T,) pixels. centre: (T, 2) pixels, where the direction looked in meets the picture.
    """

    eye: Float
    axes: Float
    focal: Float
    centre: Float

    def project(self, points: Float) -> Float:
        """(T, K, 3) metres -> (T, K, 2) pixels."""
        seen = (points - self.eye) @ self.axes.T
        z = np.maximum(seen[..., 2], 0.3)
        return np.asarray(self.centre[:, None] + self.focal[:, None, None] * seen[..., :2] / z[..., None])

    def depth(self, points: Float) -> Float:
        """(T, K, 3) metres -> (T, K) metres along the direction looked in."""
        return np.asarray(np.maximum((points - self.eye) @ self.axes[2], 0.3))

    def moves(self, size: tuple[int, int]) -> Float:
        """(T, 2, 3) affine maps from the first frame's background to each frame's."""
        zoom = self.focal / self.focal[0]
        maps = np.zeros((len(zoom), 2, 3))
        maps[:, 0, 0] = maps[:, 1, 1] = zoom
        maps[:, :, 2] = self.centre - zoom[:, None] * self.centre[0]
        return maps


def draw_camera(rng: np.random.Generator, t: Float, size: tuple[int, int], people: int, moving: bool) -> Camera:
    """A camera that has `people` well in the picture; `moving` adds pan, zoom and shake."""
    w, h = size
    tall = rng.uniform(0.5, 0.92) if people <= 1 else rng.uniform(0.45, 0.75)
    distance = rng.uniform(2.8, 6.5) + 0.6 * people
    eye = np.array((0.0, rng.uniform(0.5, 2.6), -distance))
    target = np.array((0.0, rng.uniform(0.75, 1.0), 0.0))
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, (0.0, 1.0, 0.0))
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    roll = rng.normal(0, 0.04)
    axes = np.stack([np.cos(roll) * right + np.sin(roll) * down, np.cos(roll) * down - np.sin(roll) * right, forward])
    # a standing adult of 1.7 m fills the share `tall` of the picture's height
    focal = np.full_like(t, tall * h * distance / 1.7)
    centre = np.broadcast_to(np.array((w / 2, h / 2)), (len(t), 2)).copy()
    if moving:
        focal = focal * np.exp(wobble(rng, t, 0.15))
        centre += np.stack([wobble(rng, t, 0.1 * w), wobble(rng, t, 0.06 * h)], -1) + rng.normal(
            0, 0.004 * h, (len(t), 2)
        )
    return Camera(eye, axes, focal, centre)


def draw_background(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """A picture (H, W, 3) uint8 of wall, floor, things and texture, with nobody in it."""
    w, h = size
    wall, floor = random_color(rng), random_color(rng)
    ramp = np.linspace(-1, 1, h, dtype=np.float32)[:, None, None]
    picture = np.ascontiguousarray(
        np.broadcast_to(np.float32(wall) + ramp * np.float32(rng.normal(0, 25, 3)), (h, w, 3)), np.float32
    )
    horizon = int(h * rng.uniform(0.4, 0.9))
    if rng.random() < 0.85:
        picture[horizon:] = np.float32(floor) + ramp[horizon:] * np.float32(rng.normal(0, 25, 3))
    picture = np.clip(picture, 0, 255).astype(np.uint8)
    for _ in range(int(rng.integers(0, 18))):
        _thing(picture, rng, h / 256)
    if rng.random() < 0.6:
        picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.5, 4))
    for cell in (4, 16, 64):
        if rng.random() < 0.5:
            grain = rng.normal(0, rng.uniform(2, 18), (h // cell + 2, w // cell + 2, 3)).astype(np.float32)
            if rng.random() < 0.5:
                grain[:] = grain[..., :1]
            picture = cv2.add(picture, cv2.resize(grain, (w, h)), dtype=cv2.CV_8U)
    if rng.random() < 0.5:
        grey = picture.mean(2, keepdims=True)
        picture = (grey + (picture - grey) * rng.uniform(0.1, 0.6)).astype(np.uint8)
    return picture


def _thing(picture: np.ndarray, rng: np.random.Generator, unit: float) -> None:
    """One object of a random shape: box, disc, pole, polygon, or a row of bars."""
    h, w = picture.shape[:2]
    paint = random_color(rng).tolist()
    x, y = int(rng.integers(-30, w)), int(rng.integers(-30, h))
    wide, high = (int(v * unit) for v in rng.integers(6, 130, 2))
    kind = int(rng.integers(5))
    if kind == 0:
        cv2.rectangle(picture, (x, y), (x + wide, y + high), paint, -1)
    elif kind == 1:
        cv2.ellipse(picture, (x, y), (wide // 2, high // 2), float(rng.uniform(0, 180)), 0, 360, paint, -1)
    elif kind == 2:
        far = (x + int(rng.normal(0, 90 * unit)), y + int(rng.normal(0, 90 * unit)))
        cv2.line(picture, (x, y), far, paint, max(1, int(rng.integers(1, 14) * unit)))
    elif kind == 3:
        corners = rng.normal((x, y), 35 * unit, (int(rng.integers(3, 6)), 2))
        cv2.fillPoly(picture, [corners.astype(np.int32)], paint)
    else:
        step, across = max(2, int(rng.integers(6, 22) * unit)), bool(rng.integers(2))
        for k in range(int(rng.integers(3, 9))):
            p = (x + k * step, y) if across else (x, y + k * step)
            q = (p[0] + step // 2, y + high) if across else (x + wide, p[1] + step // 2)
            cv2.rectangle(picture, p, q, paint, -1)


@dataclass(frozen=True)
class Occluder:
    """Something before the people: a box or an ellipse, `box` in pixels of the first frame."""

    box: tuple[float, float, float, float]
    rounded: bool
    paint: tuple[float, ...]
    edge: tuple[float, ...]

    def draw(self, picture: np.ndarray, move: Float) -> None:
        x0, y0, x1, y1 = self._moved(move)
        if self.rounded:
            middle, semi = (
                (int((x0 + x1) / 2), int((y0 + y1) / 2)),
                (max(1, int((x1 - x0) / 2)), max(1, int((y1 - y0) / 2))),
            )
            cv2.ellipse(picture, middle, semi, 0, 0, 360, self.paint, -1, cv2.LINE_AA)
            cv2.ellipse(picture, middle, semi, 0, 0, 360, self.edge, 2, cv2.LINE_AA)
        else:
            cv2.rectangle(picture, (int(x0), int(y0)), (int(x1), int(y1)), self.paint, -1)
            cv2.rectangle(picture, (int(x0), int(y0)), (int(x1), int(y1)), self.edge, 2)

    def covers(self, points: Float, move: Float) -> Bool:
        """(..., 2) pixels -> (...) whether the occluder lies over the point."""
        x0, y0, x1, y1 = self._moved(move)
        u = (points[..., 0] - (x0 + x1) / 2) / ((x1 - x0) / 2)
        v = (points[..., 1] - (y0 + y1) / 2) / ((y1 - y0) / 2)
        return np.asarray(u * u + v * v < 1 if self.rounded else (np.abs(u) < 1) & (np.abs(v) < 1))

    def _moved(self, move: Float) -> tuple[float, float, float, float]:
        low, high = move[:, :2] @ np.array(self.box[:2]) + move[:, 2], move[:, :2] @ np.array(self.box[2:]) + move[:, 2]
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def draw_occluders(rng: np.random.Generator, joints: Float) -> list[Occluder]:
    """One to three occluders over joints (P, 14, 2) pixels of one frame."""
    out = []
    for _ in range(int(rng.integers(1, 4))):
        person = joints[rng.integers(len(joints))]
        x, y = person[rng.integers(len(person))]
        extent = float(np.ptp(person[:, 1])) + 0.3 * float(np.ptp(person[:, 0]))
        half_w, half_h = extent * rng.uniform(0.07, 0.2), extent * rng.uniform(0.07, 0.2)
        x, y = x + rng.normal(0, 0.3 * half_w), y + rng.normal(0, 0.3 * half_h)
        rgb = random_color(rng)
        out.append(
            Occluder(
                (x - half_w, y - half_h, x + half_w, y + half_h),
                bool(rng.random() < 0.35),
                tuple(rgb.tolist()),
                tuple((rgb * 0.6).tolist()),
            )
        )
    return out


@dataclass(frozen=True)
class Recording:
    """What the camera's electronics and the file do: blur, few pixels, gain, colour cast, noise."""

    blur: float
    shrink: float
    table: np.ndarray
    noise: np.ndarray

    @staticmethod
    def draw(rng: np.random.Generator, size: tuple[int, int], condition: str) -> Recording:
        w, h = size
        mixed = condition == "mixed"
        blur = rng.uniform(0.3, 1.5) * h / 256 if mixed and rng.random() < 0.3 else 0.0
        shrink = 1.0
        if condition == "lowres" or (mixed and rng.random() < 0.2):
            shrink = min(1.0, rng.uniform(0.24, 0.4) * 256 / h) if condition == "lowres" else rng.uniform(0.25, 0.7)
        gain = rng.uniform(0.6, 1.3) if mixed else rng.uniform(0.85, 1.15)
        ramp = np.arange(256)[:, None] * gain * rng.uniform(0.9, 1.1, 3) + (
            rng.uniform(-20, 20) if mixed else rng.uniform(-8, 8)
        )
        noise = rng.uniform(1, 12) if mixed and rng.random() < 0.5 else 2.0
        # a quarter of the picture, laid out four times: nobody sees the repetition, and it is drawn four times as fast
        grain = rng.standard_normal((h // 2 + 16, w // 2 + 16, 3), np.float32) * np.float32(noise)
        return Recording(
            blur, shrink, np.clip(ramp, 0, 255).astype(np.uint8)[:, None], np.tile(grain.astype(np.int16), (2, 2, 1))
        )

    def apply(self, picture: np.ndarray, rng: np.random.Generator) -> Frames:
        h, w = picture.shape[:2]
        if self.blur:
            picture = cv2.GaussianBlur(picture, (0, 0), self.blur)
        if self.shrink < 1:
            small = cv2.resize(picture, None, fx=self.shrink, fy=self.shrink, interpolation=cv2.INTER_AREA)
            picture = cv2.resize(small, (w, h), interpolation=cv2.INTER_LINEAR)
        picture = cv2.LUT(picture, self.table)
        y, x = (int(rng.integers(n - m + 1)) for n, m in zip(self.noise.shape[:2], (h, w), strict=True))
        return np.asarray(cv2.add(picture, self.noise[y : y + h, x : x + w], dtype=cv2.CV_8U))
