"""Where in a picture to look for people, and which findings are the same person.

A region is a turned square: x and y of its middle and its side in pixels, and its angle in radians. The
landmark network is shown a region, upright. Regions are (4,) float64, landmarks (33, 4) float64: x, y in
pixels, visibility, presence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.floating[Any]]

BODY = (11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28)
"""Shoulders, elbows, wrists, hips, knees and ankles among the landmarks."""
SPREAD = np.repeat([0.079, 0.072, 0.062, 0.107, 0.087, 0.089], 2)
"""Standard deviation of an annotator's joint in units of the square root of a person's area, for `BODY`.

Source: the constants of object keypoint similarity (OKS) of the COCO evaluation, cocodataset.org.
"""
ENLARGED = 1.25
"""A region's side over the diameter of the circle around the body, as in MediaPipe's own pose graph."""
SAME_PLACE, SAME_POSE, OPPOSED = 0.2, 0.5, 0.25
MARGIN = 0.1
"""How far beyond the picture, in units of its longer side, a joint is still given."""
MOST_TILES = 8
"""Sides of a tile along the longer side of a picture, at most: a strip of pixels must not give hundreds."""
HEADROOM = 0.07
"""Of the longer side of the seen joints' extent, added all round to make the box: joints end at eyes and toes."""
LEAST = 0.01
"""A joint scored less is not seen."""


@dataclass(frozen=True)
class Person:
    """One finding in one frame. `score` is the mean score of the body joints inside the picture, in [0, 1]."""

    landmarks: Array
    region: Array
    score: float


def region(middle: Array, rim: Array) -> Array:
    """The region around a body from the middle of its hips and a point on the circle around it.

    The point lies above the head of an upright body. Follows MediaPipe's alignment of a body
    (target angle 90 degrees) and its enlargement.
    """
    across, down = float(rim[0] - middle[0]), float(rim[1] - middle[1])
    turn = math.pi / 2 - math.atan2(-down, across)
    turn -= 2 * math.pi * math.floor((turn + math.pi) / (2 * math.pi))
    return np.array([middle[0], middle[1], 2 * ENLARGED * math.hypot(across, down), turn])


def tiles(height: int, width: int, num: int) -> list[tuple[int, int, int]]:
    """Half overlapping squares that cover a picture: left, top and side in pixels.

    Args:
        num: how many sides fit into the picture's shorter side; 0 gives no tiles. A picture that is
            one tile has none, and a long narrow one has tiles that are higher than itself.
    """
    if not num:
        return []
    side = math.ceil(max(min(height, width) / num, max(height, width) / MOST_TILES))

    def starts(length: int) -> list[int]:
        steps = math.ceil((length - side) / (side / 2))
        return [round(i * (length - side) / steps) for i in range(steps + 1)] if steps > 0 else [0]

    found = [(x, y, side) for y in starts(height) for x in starts(width)]
    return found if len(found) > 1 else []


def covered(place: Array, places: Sequence[Array]) -> bool:
    """Whether one of `places` shows what `place` shows."""
    return any(
        math.hypot(place[0] - p[0], place[1] - p[1]) < SAME_PLACE * max(place[2], p[2])
        and 0.5 < place[2] / max(p[2], 1e-9) < 2
        for p in places
    )


def body_score(landmarks: Array, height: int, width: int) -> float:
    """Mean of visibility x presence over the twelve body joints, counting 0 for those outside the picture."""
    body = landmarks[list(BODY)]
    inside = (body[:, 0] >= 0) & (body[:, 0] < width) & (body[:, 1] >= 0) & (body[:, 1] < height)
    return float((body[:, 2] * body[:, 3] * inside).mean())


def similarity(a: Array, b: Array) -> float:
    """Object keypoint similarity of two bodies (COCO's measure, with 0.53 of the joints' box as area), in [0, 1]."""
    one, other = a[list(BODY), :2], b[list(BODY), :2]
    area = 0.53 * max(float(np.prod(np.ptp(one, axis=0))), float(np.prod(np.ptp(other, axis=0))), 1.0)
    return float(np.exp(-((one - other) ** 2).sum(-1) / (2 * area * (2 * SPREAD) ** 2)).mean())


def _trunk(landmarks: Array) -> tuple[Array, Array]:
    """Middle of the trunk, and the way from the middle of the hips to the middle of the shoulders."""
    shoulders, hips = landmarks[[11, 12], :2].mean(0), landmarks[[23, 24], :2].mean(0)
    return (shoulders + hips) / 2, shoulders - hips


def _head_over_heels(a: Person, b: Person) -> bool:
    """Whether two findings are one trunk, seen once upright and once upside down."""
    (here, up), (there, other) = _trunk(a.landmarks), _trunk(b.landmarks)
    return bool(np.hypot(*(here - there)) < OPPOSED * max(a.region[2], b.region[2]) and up @ other < 0)


def merge(people: Sequence[Person], most: int) -> list[Person]:
    """Every person once, best first, at most `most`.

    Of one trunk found upright and upside down the upright one stays: the network likes to fit a
    second body, feet up, into a person seen from near.
    """
    upright = [p for p in people if _trunk(p.landmarks)[1][1] < 0]
    fallen = [
        p for p in people if not any(p is u for u in upright) and not any(_head_over_heels(p, u) for u in upright)
    ]
    kept: list[Person] = []
    for person in sorted([*upright, *fallen], key=lambda p: -p.score):
        if all(similarity(person.landmarks, k.landmarks) < SAME_POSE for k in kept):
            kept.append(person)
    return kept[:most]


def finish(people: Sequence[Person], height: int, width: int) -> list[Array]:
    """Bring findings into the form of `dataengine.core.types.Poses`.

    Returns:
        coords (M, 33, 2) float32 pixels, NaN where unseen or far outside the picture; scores
        (M, 33) float32, visibility x presence, 0 where unseen; boxes (M, 5) float32 around the
        seen joints, within the picture, with the person's score.
    """
    coords = np.full((len(people), 33, 2), np.nan, np.float32)
    scores = np.zeros((len(people), 33), np.float32)
    boxes = np.zeros((len(people), 5), np.float32)
    far, size = MARGIN * max(height, width), np.array([width, height])
    for m, person in enumerate(people):
        xy, score = person.landmarks[:, :2], np.clip(person.landmarks[:, 2] * person.landmarks[:, 3], 0, 1)
        seen = np.isfinite(xy).all(-1) & (xy >= -far).all(-1) & (xy <= size + far).all(-1) & (score >= LEAST)
        coords[m, seen], scores[m, seen] = xy[seen], score[seen]
        within = np.clip(xy[seen], 0, size)
        room = HEADROOM * np.ptp(within, axis=0).max()
        boxes[m] = [*np.clip(within.min(0) - room, 0, size), *np.clip(within.max(0) + room, 0, size), person.score]
    return [coords, scores, boxes]
