"""Draws people: every part as shaded shapes, far parts first.

A part knows its depth and a list of strokes for every frame. All geometry is computed for all
frames at once; only the strokes themselves are drawn frame by frame. What tells front from back and
left from right is drawn where the camera can see it: face or hair, collar and placket or yoke, belt
buckle or pockets, kneecaps, toes, thumbs, a watch on the left wrist, a badge on the left chest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np

from dataengine.core.types import Bool, Float
from dataengine.rendering.body import HAND, HEAD, HEEL, NUM_JOINTS, ROOT, THUMB, TOE, WAIST, Appearance, Body, Pose3D

Colour: TypeAlias = tuple[float, ...]
Stroke: TypeAlias = Callable[[np.ndarray, int], None]
"""Draws one shape of frame t onto a picture."""

_SHIFT = 3
_ARC = np.linspace(-np.pi / 2, np.pi / 2, 6)
_CAP = np.stack([np.cos(_ARC), np.sin(_ARC)], -1)
_RING = np.linspace(0, 2 * np.pi, 13)[:-1]


@dataclass(frozen=True)
class View:
    """A body as the camera sees it.

    Attributes:
        points: (T, 25, 2) pixels. depth: (T, 25) metres from the camera. scale: (T, 25) pixels a metre there.
        project: (T, K, 3) metres -> (T, K, 2) pixels. eye: (T, 3) metres, the camera.
        axes: (T, 3, 3) rows are the picture's right, the picture's down and the direction looked in.
        light: (2,) pixels, unit vector towards the light in the picture.
    """

    points: Float
    depth: Float
    scale: Float
    project: Callable[[Float], Float]
    eye: Float
    axes: Float
    light: Float


@dataclass(frozen=True)
class Part:
    """One part of a person: (T,) depth in metres, and its strokes in order."""

    depth: Float
    strokes: list[Stroke]


def colour(rgb: Float, factor: float = 1.0) -> Colour:
    return tuple(float(c) for c in np.clip(rgb * factor, 0, 255))


def _fixed(points: Float) -> np.ndarray:
    return np.round(points * (1 << _SHIFT)).astype(np.int32)


def polygon(points: Float, paint: Colour, shown: Bool | None = None) -> Stroke:
    """A convex polygon (T, K, 2) pixels, drawn in the frames where `shown`."""
    fixed = _fixed(points)

    def draw(picture: np.ndarray, t: int) -> None:
        if shown is None or shown[t]:
            cv2.fillConvexPoly(picture, fixed[t], paint, cv2.LINE_AA, _SHIFT)

    return draw


def hull(points: Float, paint: Colour) -> Stroke:
    """The convex hull of points (T, K, 2) pixels."""
    single = points.astype(np.float32)

    def draw(picture: np.ndarray, t: int) -> None:
        cv2.fillConvexPoly(picture, _fixed(cv2.convexHull(single[t])[:, 0]), paint, cv2.LINE_AA, _SHIFT)

    return draw


def disc(centre: Float, radius: Float, paint: Colour, shown: Bool | None = None) -> Stroke:
    """A disc: centre (T, 2) and radius (T,) pixels; at least half a pixel."""
    fixed, size = _fixed(centre), _fixed(np.maximum(radius, 0.6))

    def draw(picture: np.ndarray, t: int) -> None:
        if shown is None or shown[t]:
            cv2.circle(picture, (int(fixed[t, 0]), int(fixed[t, 1])), int(size[t]), paint, -1, cv2.LINE_AA, _SHIFT)

    return draw


def capsule(p: Float, q: Float, a: Float, b: Float) -> Float:
    """Outline (T, 12, 2) of a limb from p to q (T, 2) with radii a, b (T,), all pixels."""
    axis = q - p
    length = np.linalg.norm(axis, axis=-1, keepdims=True)
    axis = np.where(length > 1e-6, axis / np.maximum(length, 1e-6), np.array([1.0, 0.0]))
    across = np.stack([-axis[:, 1], axis[:, 0]], -1)
    far = _CAP[:, :1] * axis[:, None] + _CAP[:, 1:] * across[:, None]
    return np.concatenate([q[:, None] + b[:, None, None] * far, p[:, None] - a[:, None, None] * far], 1)


class Painter:
    """Makes the parts of one person."""

    def __init__(self, body: Body, appearance: Appearance, pose: Pose3D, view: View, shade: float) -> None:
        self.body, self.appearance, self.pose, self.view, self.shade = body, appearance, pose, view, shade
        self.metric = np.concatenate([pose.points[:, :NUM_JOINTS], pose.points[:, NUM_JOINTS:]], 1)

    def parts(self) -> list[Part]:
        """All parts, unordered; draw them by falling depth."""
        out = [self._pelvis(), self._chest(), self._neck(), self._head()]
        for side in (0, 1):
            out += [
                self._thigh(side),
                self._shin(side),
                self._foot(side),
                self._upper_arm(side),
                self._forearm(side),
                self._hand(side),
            ]
        return out

    def limbs(self) -> list[tuple[int, int, float]]:
        """Point pairs with radius (metres) that cover the body; used to tell which joints are hidden."""
        b = self.body
        pairs = [(2, 8, b.depth), (3, 9, b.depth), (1, ROOT, b.depth * 1.1), (HEAD, HEAD, b.skull)]
        for s in (0, 1):
            pairs += [
                (8 + s, 10 + s, b.leg_radius),
                (10 + s, 12 + s, b.leg_radius * 0.8),
                (2 + s, 4 + s, b.arm_radius),
                (4 + s, 6 + s, b.arm_radius * 0.8),
            ]
        return pairs

    # limbs

    def _limb(self, i: int, j: int, a: float, b: float, rgb: Float, reach: float = 1.0) -> list[Stroke]:
        """Two tones: the whole outline dark, its lit side bright. `reach` < 1 draws a sleeve."""
        v = self.view
        p, q = v.points[:, i], v.points[:, i] + reach * (v.points[:, j] - v.points[:, i])
        ra, rb = a * v.scale[:, i], b * v.scale[:, j]
        lift = v.light * 0.3 * np.minimum(ra, rb)[:, None]
        return [
            polygon(capsule(p, q, ra, rb), colour(rgb, 1 - self.shade)),
            polygon(capsule(p + lift, q + lift, 0.55 * ra, 0.55 * rb), colour(rgb)),
        ]

    def _between(self, i: int, j: int) -> Float:
        return np.asarray((self.view.depth[:, i] + self.view.depth[:, j]) / 2)

    def _thigh(self, s: int) -> Part:
        r = self.body.leg_radius
        return Part(
            self._between(8 + s, 10 + s) - 0.5 * r, self._limb(8 + s, 10 + s, 1.4 * r, 1.0 * r, self.appearance.bottom)
        )

    def _shin(self, s: int) -> Part:
        r, appearance = self.body.leg_radius, self.appearance
        strokes = self._limb(
            10 + s, 12 + s, 0.98 * r, 0.62 * r, appearance.bottom if appearance.trousers == 2 else appearance.skin
        )
        if appearance.trousers == 1:
            strokes += self._limb(10 + s, 12 + s, 1.05 * r, 1.0 * r, appearance.bottom, 0.16)
        # the kneecap, on the front of the shin's frame
        front = self.pose.shins[:, s, :, 2]
        cap = self.metric[:, 10 + s] + 0.8 * r * front
        shown = self._faces(cap, front)
        at = self.view.project(cap[:, None])[:, 0]
        strokes.append(
            disc(
                at,
                0.42 * r * self.view.scale[:, 10 + s],
                colour(appearance.bottom if appearance.trousers == 2 else appearance.skin, 1.22),
                shown,
            )
        )
        return Part(self._between(10 + s, 12 + s) - 0.4 * r, strokes)

    def _foot(self, s: int) -> Part:
        r, appearance = self.body.leg_radius, self.appearance
        strokes = self._limb(HEEL + s, TOE + s, 0.72 * r, 0.58 * r, appearance.shoe)
        tip, size = self.view.points[:, TOE + s], 0.42 * r * self.view.scale[:, TOE + s]
        strokes.append(disc(tip, size, colour(255 - (255 - appearance.shoe) * 0.35)))
        return Part(self._between(HEEL + s, TOE + s) - 0.3 * r, strokes)

    def _upper_arm(self, s: int) -> Part:
        r, appearance = self.body.arm_radius, self.appearance
        strokes = self._limb(
            2 + s, 4 + s, 1.25 * r, 0.95 * r, appearance.top if appearance.sleeve == 2 else appearance.skin
        )
        if appearance.sleeve < 2:
            strokes += self._limb(2 + s, 4 + s, 1.35 * r, 1.25 * r, appearance.top, 0.25 + 0.4 * appearance.sleeve)
        return Part(self._between(2 + s, 4 + s) - 0.6 * r, strokes)

    def _forearm(self, s: int) -> Part:
        r, appearance = self.body.arm_radius, self.appearance
        strokes = self._limb(
            4 + s, 6 + s, 0.95 * r, 0.68 * r, appearance.top if appearance.sleeve == 2 else appearance.skin
        )
        if appearance.watch and s == 0:
            v = self.view
            along = v.points[:, 6] - v.points[:, 4]
            ra = 0.85 * r * v.scale[:, 6]
            strokes.append(
                polygon(
                    capsule(v.points[:, 6] - 0.14 * along, v.points[:, 6] - 0.04 * along, ra, ra),
                    colour(np.full(3, 35.0)),
                )
            )
        return Part(self._between(4 + s, 6 + s) - 0.9 * r, strokes)

    def _hand(self, s: int) -> Part:
        r, skin = self.body.arm_radius, self.appearance.skin
        v = self.view
        thumb = capsule(
            v.points[:, 6 + s], v.points[:, THUMB + s], 0.42 * r * v.scale[:, 6 + s], 0.3 * r * v.scale[:, 6 + s]
        )
        strokes = [polygon(thumb, colour(skin, 0.82)), *self._limb(6 + s, HAND + s, 0.7 * r, 0.85 * r, skin)]
        return Part(self._between(6 + s, HAND + s) - r, strokes)

    # trunk

    def _faces(self, where: Float, normal: Float, least: float = 0.0) -> Bool:
        """(T,) whether a surface point (T, 3) with outward normal (T, 3) faces the camera."""
        ray = self.view.eye - where
        return np.asarray((ray * normal).sum(-1) > least * np.linalg.norm(ray, axis=-1))

    def _ring(self, centre: Float, rot: Float, wide: float, deep: float, tilt: float = 0.0) -> Float:
        """(T, 12, 3) points of a horizontal section of the trunk; `tilt` drops its ends by metres."""
        local = np.stack([wide * np.cos(_RING), -tilt * np.abs(np.cos(_RING)), deep * np.sin(_RING)], -1)
        return np.asarray(centre[:, None] + np.einsum("tij,kj->tki", rot, local))

    def _solid(self, rings: list[Float], rgb: Float) -> list[Stroke]:
        """The outline of a trunk section, dark, with a bright lit side."""
        flat = self.view.project(np.concatenate(rings, 1))
        middle = flat.mean(1, keepdims=True)
        lift = (self.view.light * 0.07 * np.ptp(flat, axis=1).max(-1)[:, None])[:, None]
        return [hull(flat, colour(rgb, 1 - self.shade)), hull((flat - middle) * 0.74 + middle + lift, colour(rgb))]

    def _patch(
        self,
        rot: Float,
        base: Float,
        spots: list[tuple[float, float, float]],
        normal: tuple[float, float, float],
        paint: Colour,
        least: float = 0.05,
    ) -> Stroke:
        """A flat convex mark on the trunk: `spots` are (left, up, forward) metres from `base` (T, 3)."""
        world = base[:, None] + np.einsum("tij,kj->tki", rot, np.array(spots))
        outward = np.einsum("tij,j->ti", rot, np.array(normal))
        return polygon(self.view.project(world), paint, self._faces(world.mean(1), outward, least))

    def _pelvis(self) -> Part:
        b, appearance, rot = self.body, self.appearance, self.pose.pelvis
        root, waist = self.metric[:, ROOT], self.metric[:, WAIST]
        low = root - 0.02 * b.height * rot[:, :, 1]
        rings = [
            self._ring(low, rot, b.hip + 1.05 * b.leg_radius, 1.15 * b.depth),
            self._ring(waist, rot, 0.82 * b.shoulder, 0.92 * b.depth),
        ]
        strokes = self._solid(rings, appearance.bottom)
        z, w = 1.12 * b.depth, 0.35 * b.hip
        up = 0.24 * b.trunk
        buckle = [(-w * 0.5, up - 0.02, z), (w * 0.5, up - 0.02, z), (w * 0.5, up + 0.02, z), (-w * 0.5, up + 0.02, z)]
        fly = [(-0.008, -0.05, z), (0.008, -0.05, z), (0.008, up, z), (-0.008, up, z)]
        strokes += [
            self._patch(rot, root, fly, (0, 0, 1), colour(appearance.bottom, 0.5)),
            self._patch(rot, root, buckle, (0, 0, 1), colour(np.array((215.0, 205.0, 150.0)))),
        ]
        for out in (1.0, -1.0):
            x0, x1 = out * 0.25 * b.hip, out * 1.35 * b.hip
            pocket = [(x0, -0.05, -z), (x1, -0.05, -z), (x1, 0.05, -z), (x0, 0.05, -z)]
            strokes.append(self._patch(rot, root, pocket, (0, 0, -1), colour(appearance.bottom, 0.6)))
        return Part(self.view.depth[:, ROOT] - 0.3 * b.depth, strokes)

    def _chest(self) -> Part:
        b, appearance, rot = self.body, self.appearance, self.pose.trunk
        neck, waist = self.metric[:, 1], self.metric[:, WAIST]
        drop = 0.022 * b.height
        top = neck - 0.4 * drop * rot[:, :, 1]
        rings = [
            self._ring(top, rot, b.shoulder + 0.6 * b.arm_radius, 0.75 * b.depth, drop),
            self._ring(neck - 0.3 * b.trunk * rot[:, :, 1], rot, b.shoulder * 0.98, 1.05 * b.depth),
            self._ring(waist - 0.06 * b.trunk * rot[:, :, 1], rot, 0.86 * b.shoulder, 0.98 * b.depth),
        ]
        strokes = self._solid(rings, appearance.top)
        if appearance.stripes:
            for share in (0.2, 0.4, 0.6):
                y, x = -share * b.trunk, 0.9 * b.shoulder
                for z in (1.05 * b.depth, -1.05 * b.depth):
                    band = [(-x, y - 0.018, z), (x, y - 0.018, z), (x, y + 0.018, z), (-x, y + 0.018, z)]
                    strokes.append(self._patch(rot, neck, band, (0, 0, np.sign(z)), colour(appearance.trim, 0.9)))
        strokes += self._front(rot, neck) + self._back(rot, neck)
        return Part(self._between(1, WAIST) - 0.3 * b.depth, strokes)

    def _front(self, rot: Float, neck: Float) -> list[Stroke]:
        b, appearance = self.body, self.appearance
        z, w, n = 1.05 * b.depth, b.shoulder, (0.0, 0.0, 1.0)
        low = -0.72 * b.trunk
        collar = [(-0.36 * w, 0.0, 0.8 * z), (0.36 * w, 0.0, 0.8 * z), (0.0, -0.24 * b.trunk, z)]
        strokes = []
        if appearance.front == 1:
            strokes.append(
                self._patch(
                    rot,
                    neck,
                    [(-0.012, low, z), (0.012, low, z), (0.012, -0.05, z), (-0.012, -0.05, z)],
                    n,
                    colour(appearance.trim),
                )
            )
        elif appearance.front == 2:
            strokes.append(
                self._patch(
                    rot,
                    neck,
                    [
                        (-0.5 * w, -0.5 * b.trunk, z),
                        (0.5 * w, -0.5 * b.trunk, z),
                        (0.4 * w, -0.28 * b.trunk, z),
                        (-0.4 * w, -0.28 * b.trunk, z),
                    ],
                    n,
                    colour(appearance.trim),
                )
            )
        elif appearance.front == 3:
            strokes.append(
                self._patch(
                    rot,
                    neck,
                    [(-0.25 * w, low, z), (0.25 * w, low, z), (0.3 * w, -0.02, z), (-0.3 * w, -0.02, z)],
                    n,
                    colour(appearance.trim, 0.85),
                )
            )
        strokes.append(self._patch(rot, neck, collar, n, colour(appearance.skin, 0.95)))
        # a badge or breast pocket on the left
        x0, x1, y0, y1 = 0.35 * w, 0.75 * w, -0.36 * b.trunk, -0.22 * b.trunk
        strokes.append(
            self._patch(rot, neck, [(x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z)], n, colour(appearance.trim))
        )
        return strokes

    def _back(self, rot: Float, neck: Float) -> list[Stroke]:
        b, appearance = self.body, self.appearance
        z, w, n = -1.05 * b.depth, b.shoulder, (0.0, 0.0, -1.0)
        yoke = [
            (-0.9 * w, -0.2 * b.trunk, z),
            (0.9 * w, -0.2 * b.trunk, z),
            (0.8 * w, -0.06 * b.trunk, z),
            (-0.8 * w, -0.06 * b.trunk, z),
        ]
        seam = [
            (-0.01, -0.75 * b.trunk, z),
            (0.01, -0.75 * b.trunk, z),
            (0.01, -0.2 * b.trunk, z),
            (-0.01, -0.2 * b.trunk, z),
        ]
        return [
            self._patch(rot, neck, yoke, n, colour(appearance.top, 0.7)),
            self._patch(rot, neck, seam, n, colour(appearance.top, 0.55)),
        ]

    # head

    def _neck(self) -> Part:
        r = 1.25 * self.body.arm_radius
        return Part(self._between(1, HEAD) + 0.02, self._limb(1, HEAD, r, r, self.appearance.skin * 0.92))

    def _globe(self, spots: Float, clamp: bool) -> tuple[Float, Float]:
        """Points on the skull, `spots` (K, 3) unit (left, up, forward), as pixels (T, K, 2), and their turn (T, K).

        With `clamp`, points behind the horizon move onto it, so that a patch seen from the side
        ends where the head ends.
        """
        semi = self.body.skull * np.array((0.8, 1.2, 0.98))
        rot, centre = self.pose.head, self.metric[:, HEAD]
        ray = centre - self.view.eye
        away = np.einsum("tji,tj->ti", rot, ray) / semi
        away /= np.linalg.norm(away, axis=-1, keepdims=True)
        turned = np.einsum("kj,tj->tk", spots, away)
        where = np.broadcast_to(spots, (len(rot), *spots.shape))
        if clamp:
            where = where - np.maximum(turned, 0)[..., None] * away[:, None]
            where = where / np.maximum(np.linalg.norm(where, axis=-1, keepdims=True), 1e-6)
        world = centre[:, None] + np.einsum("tij,tkj->tki", rot, where * semi)
        return self.view.project(world), turned

    def _head(self) -> Part:
        appearance, v = self.appearance, self.view
        pr = self.body.skull * v.scale[:, HEAD]
        lat, lon = np.meshgrid(np.linspace(-1.3, 1.3, 5), np.linspace(0, 2 * np.pi, 11)[:-1])
        ball = np.stack([np.cos(lat) * np.sin(lon), np.sin(lat), np.cos(lat) * np.cos(lon)], -1).reshape(-1, 3)
        whole, _ = self._globe(ball, False)
        ears, turned = self._globe(np.array(((1.0, 0.0, -0.05), (-1.0, 0.0, -0.05))), False)
        hair, skin = colour(appearance.hair), colour(appearance.skin)
        strokes: list[Stroke] = []
        if appearance.long_hair:
            mane, _ = self._globe(
                _unit(
                    np.array(
                        ((0.6, -0.2, -0.8), (-0.6, -0.2, -0.8), (0.5, -1.6, -0.8), (-0.5, -1.6, -0.8), (0, 0.6, -0.8))
                    )
                ),
                False,
            )
            tail = self.metric[:, HEAD, None] + np.einsum(
                "tij,kj->tki", self.pose.head, self.body.skull * np.array(((0.7, -1.7, -0.75), (-0.7, -1.7, -0.75)))
            )
            locks = np.concatenate([mane, v.project(tail)], 1)
            strokes.append(hull(locks, colour(appearance.hair, 0.85)))
        strokes += [
            disc(ears[:, i], 0.24 * pr, colour(appearance.skin, 0.85), (turned[:, i] > 0) & (turned[:, i] < 0.35))
            for i in (0, 1)
        ]
        strokes.append(hull(whole, hair))
        edge = np.array(
            [
                (0.82 * np.sin(q), 0.1 - 0.95 * np.cos(q) if np.cos(q) > 0 else 0.1 - 0.42 * np.cos(q), 0.42)
                for q in _RING
            ]
        )
        face, away = self._globe(_unit(edge), True)
        seen = away.min(1) < -0.12
        strokes += [_shown(hull(face, skin), seen)]
        if appearance.beard:
            chin, _ = self._globe(
                _unit(
                    np.array(
                        ((0.6, -0.4, 0.7), (0.5, -0.8, 0.5), (0.0, -1.0, 0.45), (-0.5, -0.8, 0.5), (-0.6, -0.4, 0.7))
                    )
                ),
                True,
            )
            strokes.append(_shown(hull(chin, colour(appearance.hair, 0.9)), seen))
        strokes += [disc(ears[:, i], 0.24 * pr, colour(appearance.skin, 0.85), turned[:, i] <= 0) for i in (0, 1)]
        marks = (
            (0.36, 0.16, 0.9, 0.13, (25.0, 20.0, 20.0)),
            (-0.36, 0.16, 0.9, 0.13, (25.0, 20.0, 20.0)),
            (0.0, -0.52, 0.85, 0.17, (150.0, 60.0, 60.0)),
        )
        for x, y, z, size, rgb in marks:
            at, away = self._globe(_unit(np.array(((x, y, z),))), False)
            strokes.append(disc(at[:, 0], size * pr, rgb, away[:, 0] < -0.1))
        _, away = self._globe(np.array(((0.0, 0.0, 1.0),)), False)
        strokes.append(disc(v.points[:, 0], 0.17 * pr, colour(appearance.skin, 0.74), away[:, 0] < 0.2))
        return Part(v.depth[:, HEAD] - 0.4 * self.body.skull, strokes)


def _unit(spots: Float) -> Float:
    return np.asarray(spots / np.linalg.norm(spots, axis=-1, keepdims=True))


def _shown(stroke: Stroke, seen: Bool) -> Stroke:
    def draw(picture: np.ndarray, t: int) -> None:
        if seen[t]:
            stroke(picture, t)

    return draw
