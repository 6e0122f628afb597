"""Spatial augmentation: functions from (array, rng, options) to a new array.

A clip is preprocessed: (M, T, V, C) float32 without NaN; absent people and frames are zero and stay zero. Affine
augmentations also exist as functions that return a matrix, so that several become one product.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataengine.core.skeletons import Skeleton
from training.data.types import Array
from training.transforms.kernels import turn

Matrix = NDArray[np.float64]
"""(A + 1, A + 1) homogeneous matrix; a point (x, y[, z], 1) of A coordinates is multiplied from the left."""


def _matrix(linear: Any, move: Any = 0.0) -> Matrix:
    axes = len(linear)
    out = np.eye(axes + 1)
    out[:axes, :axes] = linear
    out[:axes, axes] = move
    return out


def within(name: str, value: float, most: float = np.inf) -> float:
    """Returns the value.

    Raises:
        ValueError: the value is not in [0, most].
    """
    if not 0 <= value <= most:
        raise ValueError(f"{name} must lie in [0, {most:g}]; given {value!r}")
    return value


def rotation(rng: np.random.Generator, axes: int, degrees: float | Sequence[float]) -> Matrix:
    """Rotation about the origin by an angle uniform in [-degrees, degrees].

    In 3D, the rotation is about x, then y, then z.

    Args:
        rng: random numbers.
        axes: number of coordinates, 2 or 3.
        degrees: largest angle. In 3D one number is the range about y, the upright axis; three are those about x, y, z.
    """
    if axes == 2:
        if not np.isscalar(degrees):
            raise ValueError(f"degrees must be one number where there are two axes; given {degrees!r}")
        return _turn(float(np.deg2rad(degrees)) * rng.uniform(-1, 1), 0, 1, 2)
    ranges = (0.0, degrees, 0.0) if np.isscalar(degrees) else tuple(degrees)  # type: ignore[arg-type]
    if len(ranges) != 3:
        raise ValueError(f"degrees must be one number or three, about x, y and z; given {degrees!r}")
    x, y, z = np.deg2rad(ranges) * rng.uniform(-1, 1, 3)  # type: ignore[arg-type]
    return _turn(z, 0, 1, 3) @ _turn(y, 2, 0, 3) @ _turn(x, 1, 2, 3)


def _turn(angle: float, first: int, second: int, axes: int) -> Matrix:
    """A rotation from the first towards the second axis."""
    out = np.eye(axes + 1)
    out[first, first] = out[second, second] = np.cos(angle)
    out[second, first] = np.sin(angle)
    out[first, second] = -out[second, first]
    return out


def scaling(rng: np.random.Generator, axes: int, range: float) -> Matrix:
    """Scaling by one factor uniform in [1 - range, 1 + range].

    Args:
        range: largest change of the factor.
    """
    return _matrix(np.eye(axes) * (1 + within("range", range, 1) * rng.uniform(-1, 1)))


def stretching(rng: np.random.Generator, axes: int, range: float) -> Matrix:
    """Scaling by one factor per axis, uniform in [1 - range, 1 + range].

    Args:
        range: largest change of a factor.
    """
    return _matrix(np.diag(1 + within("range", range, 1) * rng.uniform(-1, 1, axes)))


def shifting(rng: np.random.Generator, axes: int, range: float) -> Matrix:
    """Translation along each axis by a distance uniform in [-range, range].

    Args:
        range: largest distance along an axis, in the unit of the coordinates.
    """
    return _matrix(np.eye(axes), within("range", range) * rng.uniform(-1, 1, axes))


def shearing(rng: np.random.Generator, axes: int, range: float) -> Matrix:
    """Shear with factors uniform in [-range, range] (AimCLR, Guo et al. 2022, section 3.2).

    Args:
        range: largest shear factor.
    """
    linear = within("range", range) * rng.uniform(-1, 1, (axes, axes))
    np.fill_diagonal(linear, 1)
    return _matrix(linear)


def transform(array: Array, matrix: Matrix) -> Array:
    """Applies a matrix to all joints. Other channels stay, and frames of a person that are zero stay zero.

    Args:
        array: (M, T, V, C).
        matrix: (A + 1, A + 1), A <= C.

    Returns:
        (M, T, V, C) of the dtype of `array`.
    """
    axes = len(matrix) - 1
    linear, move = matrix[:axes, :axes].T.astype(array.dtype), matrix[:axes, axes].astype(array.dtype)
    points = array if axes == array.shape[-1] else array[..., :axes]
    moved = (points.reshape(-1, axes) @ linear).reshape(points.shape)
    if move.any():
        moved += move
        empty = _empty(points)
        if empty is not None:
            moved[empty] = 0
    if points is array:
        return moved
    out = array.copy()
    out[..., :axes] = moved
    return out


def _empty(points: Array) -> Any:
    """(M, T) bool, where a frame of a person is zero; None if no frame is zero."""
    empty = ~points.reshape(*points.shape[:2], -1).any(-1)
    return empty if empty.any() else None


def rotate(array: Array, rng: np.random.Generator, degrees: float | Sequence[float]) -> Array:
    """See `rotation`; all channels are coordinates."""
    return transform(array, rotation(rng, array.shape[-1], degrees))


def scale(array: Array, rng: np.random.Generator, range: float) -> Array:
    """See `scaling`; all channels are coordinates."""
    return transform(array, scaling(rng, array.shape[-1], range))


def stretch(array: Array, rng: np.random.Generator, range: float) -> Array:
    """See `stretching`; all channels are coordinates."""
    return transform(array, stretching(rng, array.shape[-1], range))


def shift(array: Array, rng: np.random.Generator, range: float) -> Array:
    """See `shifting`; all channels are coordinates."""
    return transform(array, shifting(rng, array.shape[-1], range))


def shear(array: Array, rng: np.random.Generator, range: float) -> Array:
    """See `shearing`; all channels are coordinates."""
    return transform(array, shearing(rng, array.shape[-1], range))


def mirror(rng: np.random.Generator | None, axes: int, width: float = 0.0) -> Matrix:
    """x becomes width - x.

    Args:
        width: of the image in the unit of the coordinates; 0 mirrors about the origin.
    """
    return _matrix(np.diag([-1.0] + [1.0] * (axes - 1)), [width] + [0.0] * (axes - 1))


def flip(array: Array, skeleton: Skeleton, width: float = 0.0, axes: int | None = None) -> Array:
    """Mirrors the body: left and right joints are exchanged, and x becomes width - x (0: about the origin)."""
    return transform(array[:, :, list(skeleton.flip)], mirror(None, axes or array.shape[-1], width))


def depth(rng: np.random.Generator | None, axes: int) -> Matrix:
    """z becomes -z, and joints keep their names, as for an estimator that mistakes the back of a body for the front.

    Raises:
        ValueError: there are only two coordinates.
    """
    if axes < 3:
        raise ValueError("inverts depth, which 2D joints do not have")
    return _matrix(np.diag([1.0, 1.0, -1.0]), [0.0, 0.0, 0.0])


def mask_joints(array: Array, rng: np.random.Generator, share: float = 0.05, frames: bool = False) -> Array:
    """Sets each joint of each person to zero in all channels, with probability `share`.

    Args:
        array: (M, T, V, C).
        rng: random numbers.
        share: probability per joint.
        frames: whether joints are masked per frame, instead of in the whole clip.
    """
    people, total, joints, _ = array.shape
    masked = rng.random((people, total if frames else 1, joints, 1)) < within("share", share, 1)
    return np.where(masked, array.dtype.type(0), array)


def mask_axis(array: Array, rng: np.random.Generator, axes: int | None = None) -> Array:
    """Sets one random coordinate axis to zero (AimCLR, section 3.2)."""
    out = array.copy()
    out[..., int(rng.random() * (axes or array.shape[-1]))] = 0
    return out


def noise(array: Array, rng: np.random.Generator, sigma: float = 0.03, axes: int | None = None) -> Array:
    """Adds independent normal noise to every coordinate of people who are present.

    Args:
        sigma: standard deviation, in the unit of the coordinates.
    """
    axes = axes or array.shape[-1]
    points = array[..., :axes]
    added = rng.standard_normal(points.shape, dtype=np.float32)
    added *= within("sigma", sigma)
    empty = _empty(points)
    if empty is not None:
        added[empty] = 0
    out = array.copy()
    out[..., :axes] += added
    return out


def blur(array: Array, rng: np.random.Generator, sigma: Sequence[float] = (0.1, 2.0)) -> Array:
    """Gaussian blur over time (AimCLR, section 3.2). The weights sum to 1 at the ends too.

    Args:
        array: (M, T, V, C).
        rng: samples the standard deviation, uniform between two values.
        sigma: smallest and largest standard deviation in frames.
    """
    low, high = sigma
    if not 0 < low <= high:
        raise ValueError(f"sigma must be two widths, 0 < low <= high; given {sigma!r}")
    width = low + (high - low) * rng.random()
    people, total = array.shape[:2]
    offsets = np.arange(total) - np.arange(total)[:, None]
    weights = np.exp(-0.5 * (offsets / width) ** 2)
    weights /= weights.sum(1, keepdims=True)
    smooth: Array = (weights.astype(array.dtype) @ array.reshape(people, total, -1)).reshape(array.shape)
    return smooth


def drop_frames(array: Array, rng: np.random.Generator, share: float = 0.135) -> Array:
    """Sets each frame of all people to zero, with probability `share`.

    Source: the masking of Motion-R3, t_pb t_md = 0.15 * 0.9 of the frames.

    Args:
        array: (M, T, V, C).
        rng: random numbers.
        share: probability per frame.
    """
    out = array.copy()
    out[:, rng.random(array.shape[1]) < within("share", share, 1)] = 0
    return out


def wander(
    array: Array,
    rng: np.random.Generator,
    degrees: Sequence[float] = (-10.0, -5.0, 0.0, 5.0, 10.0),
    scales: Sequence[float] = (0.9, 1.0, 1.1),
    shifts: Sequence[float] = (-0.2, -0.1, 0.0, 0.1, 0.2),
    nodes: int = 1,
) -> Array:
    """Rotates, scales and shifts the first two axes by amounts that change linearly between points in time.

    Source: the random move of ST-GCN and UNIK (feeders/tools.py @ bf39968).

    Args:
        array: (M, T, V, C), C >= 2.
        rng: selects one of the values at each point.
        degrees: candidate angles.
        scales: candidate factors.
        shifts: candidate distances.
        nodes: number of segments between points.
    """
    values = (degrees, scales, shifts, shifts)
    return move(array, *(np.asarray(v)[(rng.random(nodes + 1) * len(v)).astype(int)] for v in values))


def move(array: Array, degrees: Array, scales: Array, across: Array, down: Array) -> Array:
    """`wander` with fixed values (nodes + 1,) at the points; each segment reaches its end value at its last frame."""
    total, nodes = array.shape[1], len(degrees) - 1
    boundaries = np.append(np.arange(nodes) * total / nodes, total).round().astype(int)
    angle, size, x, y = (
        np.concatenate([_ramp(v[n], v[n + 1], boundaries[n + 1] - boundaries[n]) for n in range(nodes)])
        for v in (np.deg2rad(degrees), scales, across, down)
    )
    rotation = size * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    out: Array = np.empty(array.shape, array.dtype)
    turn(np.ascontiguousarray(array), rotation, x, y, out)
    return out


def _ramp(begin: float, end: float, count: int) -> Array:
    """`count` values from `begin` to `end`, those of `np.linspace`."""
    out: Array = np.arange(count) * ((end - begin) / max(count - 1, 1)) + begin
    if count > 1:
        out[-1] = end
    return out
