"""Attention over joints, drawn on a standing person seen from the front, arms slightly spread."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from dataengine.core.errors import TrainingError
from dataengine.core.skeletons import Skeleton
from training.data.types import Array
from training.evaluate.plots import COLOURS, figure_of, write

MIDLINE_HEIGHTS = {
    "head_top": 1.0,
    "forehead": 0.98,
    "head": 0.95,
    "nose": 0.915,
    "mouth": 0.865,
    "upper_neck": 0.845,
    "lower_neck": 0.82,
    "neck": 0.80,
    "spine_shoulder": 0.80,
    "shoulder_center": 0.80,
    "thorax": 0.76,
    "chest": 0.67,
    "upper_back": 0.66,
    "spine": 0.64,
    "spine_mid": 0.64,
    "lower_back": 0.59,
    "belly": 0.58,
    "mid_hip": 0.52,
    "hip_center": 0.52,
    "pelvis": 0.52,
    "spine_base": 0.52,
    "root": 0.52,
}
"""Height of each joint on the midline of the body, as a fraction of body height."""

PAIRED_POSITIONS = {
    "eye_inner": (0.022, 0.955),
    "eye": (0.048, 0.962),
    "eye_outer": (0.074, 0.955),
    "ear": (0.1, 0.925),
    "mouth": (0.03, 0.875),
    "collar": (0.06, 0.79),
    "shoulder": (0.125, 0.79),
    "elbow": (0.20, 0.63),
    "forearm": (0.225, 0.55),
    "wrist": (0.25, 0.47),
    "hand": (0.265, 0.43),
    "thumb": (0.225, 0.43),
    "index": (0.262, 0.40),
    "hand_tip": (0.28, 0.385),
    "fingers": (0.28, 0.385),
    "pinky": (0.297, 0.41),
    "hip": (0.07, 0.51),
    "knee": (0.085, 0.28),
    "ankle": (0.095, 0.05),
    "heel": (0.08, 0.015),
    "foot": (0.13, 0.01),
    "small_toe": (0.165, 0.005),
    "big_toe": (0.125, -0.01),
    "toe": (0.145, -0.01),
    "toes": (0.145, -0.01),
    "foot_index": (0.145, -0.01),
}
"""Distance from the midline and height of each paired joint; the left joint of a person is drawn on the right."""

NAME_MARGIN = 0.36
"""Space for the joint names beside the outermost joint."""


def drawing_positions(skeleton: Skeleton, heights: ArrayLike | None = None) -> Array:
    """Positions at which the joints of a layout are drawn.

    A layout with a joint of an unknown name is drawn from its bones alone: drawn distances follow the number of bones
    between two joints (classical scaling, Torgerson 1952, then stress majorisation, Gansner et al. 2004). Joints of
    known names say what is up and which side is left; without any, `heights` do.

    Args:
        skeleton: the layout.
        heights: (V,) of the joints of a body that stands, in any unit.

    Returns:
        (V, 2) float64: x to the right, y up. Feet are near 0 and the head is near 1.
    """
    known = [_position_of(joint) for joint in skeleton.joints]
    if None not in known:
        return np.array(known, np.float64)
    positions = _positions_by_bones(skeleton)
    named = np.array([(np.nan, np.nan) if place is None else place for place in known], np.float64)
    up = named[:, 1]
    if np.isfinite(up).sum() < 2 and heights is not None:
        up = np.asarray(heights, np.float64)
    for axis, right in ((0, named[:, 0]), (1, up)):
        seen = np.isfinite(right)
        if (
            seen.sum() > 1
            and ((positions[seen, axis] - positions[seen, axis].mean()) * (right[seen] - right[seen].mean())).sum() < 0
        ):
            positions[:, axis] *= -1
    positions[:, 1] -= positions[:, 1].min()
    return positions


def _position_of(joint: str) -> tuple[float, float] | None:
    side, _, part = joint.partition("_")
    if side in ("left", "right") and part in PAIRED_POSITIONS:
        x, y = PAIRED_POSITIONS[part]
        return (x if side == "left" else -x), y
    return (0.0, MIDLINE_HEIGHTS[joint]) if joint in MIDLINE_HEIGHTS else None


def _positions_by_bones(skeleton: Skeleton) -> Array:
    from scipy.sparse.csgraph import shortest_path

    size = skeleton.num_joints
    adjacency = np.zeros((size, size))
    for a, b in skeleton.bones:
        adjacency[a, b] = adjacency[b, a] = 1
    hops = shortest_path(adjacency, directed=False, unweighted=True)
    hops[~np.isfinite(hops)] = size if not np.isfinite(hops).any() else hops[np.isfinite(hops)].max() + 1
    centring = np.eye(size) - 1 / size
    values, vectors = np.linalg.eigh(-0.5 * centring @ np.square(hops) @ centring)
    positions = vectors[:, ::-1][:, :2] * np.sqrt(np.maximum(values[::-1][:2], 0))
    positions = _majorise_stress(
        positions + 0.05 * np.stack([np.cos(np.arange(size)), np.sin(np.arange(size))], 1), hops
    )
    # the sign of an eigenvector is arbitrary
    positions *= np.where(positions[np.abs(positions).argmax(0), [0, 1]] < 0, -1, 1)
    positions = positions[:, ::-1]  # the longer axis becomes the vertical one
    low, high = positions.min(0), positions.max(0)
    return np.asarray((positions - [(low[0] + high[0]) / 2, low[1]]) / max(high[1] - low[1], 1e-9), np.float64)


def _majorise_stress(positions: Array, target: Array, iterations: int = 300) -> Array:
    """(V, 2) positions whose distances approximate (V, V) target distances; a pair weighs 1 / distance squared."""
    distances = target + np.eye(len(target))
    pair_weights = (1 - np.eye(len(target))) / distances**2
    inverse = np.linalg.pinv(np.diag(pair_weights.sum(1)) - pair_weights)
    for _ in range(iterations):
        actual = np.linalg.norm(positions[:, None] - positions, axis=-1) + np.eye(len(target))
        step_weights = pair_weights * distances / np.maximum(actual, 1e-9)
        positions = inverse @ ((np.diag(step_weights.sum(1)) - step_weights) @ positions)
    return positions


def draw_attention(
    weights: ArrayLike,
    skeleton: Skeleton,
    path: str | os.PathLike[str],
    title: str = "",
    strongest: int = 12,
    heights: ArrayLike | None = None,
) -> Path:
    """Draws attention between joints on a standing person. Size and colour of a joint show the attention it receives.

    Args:
        weights: (V,) importance per joint, or (V, V) attention from row to column, all >= 0. The strongest links of
            (V, V) are drawn as arcs.
        skeleton: layout of the V joints.
        path: output file, .png, .svg or .pdf.
        title: title of the plot. Default: the name of the layout.
        strongest: number of links drawn.
        heights: (V,) see `drawing_positions`.

    Returns:
        The path of the written file.

    Raises:
        TrainingError: weights of another shape, or values that are negative or not finite.
    """
    attention = np.asarray(weights, np.float64)
    num_joints = skeleton.num_joints
    if (
        attention.shape not in ((num_joints,), (num_joints, num_joints))
        or not np.isfinite(attention).all()
        or (attention < 0).any()
    ):
        raise TrainingError(
            f"attention over {skeleton.name} is ({num_joints},) or ({num_joints}, {num_joints}) and not negative; "
            f"given {attention.shape}"
        )
    importance = attention if attention.ndim == 1 else attention.mean(0)
    positions = drawing_positions(skeleton, heights)
    half_width = float(np.abs(positions[:, 0]).max()) + NAME_MARGIN
    figure, axes = figure_of(6.4 * 2 * half_width + 1.4, 8.0)
    for a, b in skeleton.bones:
        axes.plot(*positions[[a, b]].T, color="#C8C8C8", linewidth=5, solid_capstyle="round", zorder=1)
    if attention.ndim == 2:
        _arcs(axes, attention, positions, strongest)
    largest = max(float(importance.max()), 1e-12)
    markers = axes.scatter(
        *positions.T,
        s=40 + 420 * importance / largest,
        c=importance,
        cmap="cividis",
        vmin=0,
        vmax=largest,
        zorder=3,
        edgecolors="black",
        linewidths=0.8,
    )
    figure.colorbar(
        markers,
        ax=axes,
        shrink=0.6,
        fraction=0.04,
        pad=0.01,
        label="mean attention received" if attention.ndim == 2 else "importance",
    )
    highest = _write_names(axes, positions, skeleton, importance)
    axes.set_aspect("equal")
    axes.set_xlim(-half_width, half_width)
    axes.set_ylim(positions[:, 1].min() - 0.05, max(float(positions[:, 1].max()), highest) + 0.05)
    axes.axis("off")
    axes.set_title(title or skeleton.name)
    return write(figure, path)


def _arcs(axes: Any, attention: Array, positions: Array, strongest: int) -> None:
    """Draws the strongest links as bent arrows, so that the two directions of a link do not overlap."""
    links = np.where(np.eye(len(attention), dtype=bool), 0, attention)
    largest = max(float(links.max()), 1e-12)
    for flat_index in np.argsort(-links, axis=None, kind="stable")[:strongest][::-1]:
        a, b = divmod(int(flat_index), len(attention))
        if links[a, b] > 0:
            style = {
                "arrowstyle": "-|>",
                "connectionstyle": "arc3,rad=0.25",
                "shrinkA": 7,
                "shrinkB": 9,
                "color": COLOURS[5],
            }
            strength = float(links[a, b]) / largest
            axes.annotate(
                "",
                positions[b],
                positions[a],
                arrowprops={**style, "alpha": 0.25 + 0.65 * strength, "lw": 0.6 + 2 * strength},
                zorder=2,
            )


def _write_names(axes: Any, positions: Array, skeleton: Skeleton, importance: Array) -> float:
    """Writes the joint names in a column on either side, without overlap, each linked to its joint by a thin line.

    Returns:
        Height of the topmost name.
    """
    highest = 0.0
    column_x = float(np.abs(positions[:, 0]).max()) + 0.10
    columns: dict[int, list[int]] = {-1: [], 1: []}
    for n in sorted(range(len(positions)), key=lambda n: -abs(positions[n, 0])):
        x = positions[n, 0]
        side = (1 if x > 0 else -1) if abs(x) > 1e-6 else (1 if len(columns[1]) <= len(columns[-1]) else -1)
        columns[side].append(n)
    for side, members in columns.items():
        members.sort(key=lambda n: (-positions[n, 1], abs(positions[n, 0])))
        heights = _spaced_heights(positions[members, 1], max(0.032, min(0.045, 1.1 / max(len(members), 1))))
        highest = max(highest, *heights) if members else highest
        for n, height in zip(members, heights):
            axes.plot(
                [positions[n, 0], side * (column_x - 0.01)],
                [positions[n, 1], height],
                color="#999999",
                linewidth=0.6,
                zorder=0,
            )
            text = f"{skeleton.joints[n].replace('_', ' ')}  {importance[n]:.2g}"
            axes.text(side * column_x, height, text, ha="left" if side > 0 else "right", va="center", fontsize=8)
    return highest


def _spaced_heights(heights: Array, gap: float) -> Array:
    """Descending heights, moved as little as possible so that neighbours are at least `gap` apart.

    Neighbours that touch form a run and move together (isotonic regression by pool adjacent violators).
    """
    runs: list[list[float]] = []  # [sum of heights without gaps, number of heights]
    for n, height in enumerate(heights):
        runs.append([float(height) + n * gap, 1.0])
        while len(runs) > 1 and runs[-1][0] / runs[-1][1] > runs[-2][0] / runs[-2][1]:
            last = runs.pop()
            runs[-1] = [runs[-1][0] + last[0], runs[-1][1] + last[1]]
    offsets = np.concatenate([np.full(int(count), total / count) for total, count in runs]) if runs else np.zeros(0)
    return np.asarray(offsets - np.arange(len(heights)) * gap, np.float64)
