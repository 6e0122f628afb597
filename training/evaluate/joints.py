"""Attention over joints, drawn on somebody who stands facing us with the arms a little out."""

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

MIDDLE = {
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
"""Height of the joints on the axis of the body, as a share of the body's height."""

SIDES = {
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
"""Distance from the axis and height of the joints of one side; somebody's left is on our right."""

ROOM = 0.36
"""Beside the outermost joint, for the names."""


def plan(skeleton: Skeleton) -> Array:
    """(V, 2) float64 x to our right, y up, feet near 0 and head near 1.

    Layouts with a joint of an unknown name are laid out by their bones alone: distances in the picture follow the
    number of bones between two joints (classical scaling, Torgerson 1952, then stress majorisation, Gansner et al.
    2004).
    """
    found = [_known(joint) for joint in skeleton.joints]
    return np.array(found, np.float64) if None not in found else _by_bones(skeleton)


def _known(joint: str) -> tuple[float, float] | None:
    side, _, part = joint.partition("_")
    if side in ("left", "right") and part in SIDES:
        x, y = SIDES[part]
        return (x if side == "left" else -x), y
    return (0.0, MIDDLE[joint]) if joint in MIDDLE else None


def _by_bones(skeleton: Skeleton) -> Array:
    from scipy.sparse.csgraph import shortest_path

    size = skeleton.num_joints
    links = np.zeros((size, size))
    for a, b in skeleton.bones:
        links[a, b] = links[b, a] = 1
    apart = shortest_path(links, directed=False, unweighted=True)
    apart[~np.isfinite(apart)] = size if not np.isfinite(apart).any() else apart[np.isfinite(apart)].max() + 1
    centring = np.eye(size) - 1 / size
    values, vectors = np.linalg.eigh(-0.5 * centring @ np.square(apart) @ centring)
    places = vectors[:, ::-1][:, :2] * np.sqrt(np.maximum(values[::-1][:2], 0))
    places = _spread(places + 0.05 * np.stack([np.cos(np.arange(size)), np.sin(np.arange(size))], 1), apart)
    places *= np.where(places[np.abs(places).argmax(0), [0, 1]] < 0, -1, 1)  # eigenvectors have no sign of their own
    places = places[:, ::-1]  # the long way of the body upright
    low, high = places.min(0), places.max(0)
    return np.asarray((places - [(low[0] + high[0]) / 2, low[1]]) / max(high[1] - low[1], 1e-9), np.float64)


def _spread(places: Array, apart: Array, rounds: int = 300) -> Array:
    """(V, 2) places whose distances come near to the wanted ones, near pairs counting more (weights 1 / distance
    squared)."""
    wanted = apart + np.eye(len(apart))
    share = (1 - np.eye(len(apart))) / wanted**2
    inverse = np.linalg.pinv(np.diag(share.sum(1)) - share)
    for _ in range(rounds):
        actual = np.linalg.norm(places[:, None] - places, axis=-1) + np.eye(len(apart))
        pull = share * wanted / np.maximum(actual, 1e-9)
        places = inverse @ ((np.diag(pull.sum(1)) - pull) @ places)
    return places


def draw_attention(
    weights: ArrayLike,
    skeleton: Skeleton,
    path: str | os.PathLike[str],
    title: str = "",
    strongest: int = 12,
) -> Path:
    """How much joints look at each other, on a standing person: size and colour of a joint say how much it is looked
    at.

    Args:
        weights: (V,) importance of joints, or (V, V) from row to column, all >= 0; the strongest links are drawn as
            arcs.
        skeleton: whose joints they are.
        path: the picture.
        title: above it.
        strongest: links drawn.

    Raises:
        TrainingError: another number of joints, or values that are negative or not finite.
    """
    given = np.asarray(weights, np.float64)
    size = skeleton.num_joints
    if given.shape not in ((size,), (size, size)) or not np.isfinite(given).all() or (given < 0).any():
        raise TrainingError(
            f"attention over {skeleton.name} is ({size},) or ({size}, {size}) and not negative; given {given.shape}"
        )
    importance = given if given.ndim == 1 else given.mean(0)
    places = plan(skeleton)
    edge = float(np.abs(places[:, 0]).max()) + ROOM
    figure, axes = figure_of(6.4 * 2 * edge + 1.4, 8.0)
    for a, b in skeleton.bones:
        axes.plot(*places[[a, b]].T, color="#C8C8C8", linewidth=5, solid_capstyle="round", zorder=1)
    if given.ndim == 2:
        _arcs(axes, given, places, strongest)
    top = max(float(importance.max()), 1e-12)
    dots = axes.scatter(
        *places.T,
        s=40 + 420 * importance / top,
        c=importance,
        cmap="cividis",
        vmin=0,
        vmax=top,
        zorder=3,
        edgecolors="black",
        linewidths=0.8,
    )
    figure.colorbar(
        dots,
        ax=axes,
        shrink=0.6,
        fraction=0.04,
        pad=0.01,
        label="mean attention received" if given.ndim == 2 else "importance",
    )
    highest = _name(axes, places, skeleton, importance)
    axes.set_aspect("equal")
    axes.set_xlim(-edge, edge)
    axes.set_ylim(places[:, 1].min() - 0.05, max(float(places[:, 1].max()), highest) + 0.05)
    axes.axis("off")
    axes.set_title(title or skeleton.name)
    return write(figure, path)


def _arcs(axes: Any, given: Array, places: Array, strongest: int) -> None:
    """The strongest links as arrows that bend, so that the two directions lie beside each other."""
    links = np.where(np.eye(len(given), dtype=bool), 0, given)
    top = max(float(links.max()), 1e-12)
    for place in np.argsort(-links, axis=None, kind="stable")[:strongest][::-1]:
        a, b = divmod(int(place), len(given))
        if links[a, b] > 0:
            style = {
                "arrowstyle": "-|>",
                "connectionstyle": "arc3,rad=0.25",
                "shrinkA": 7,
                "shrinkB": 9,
                "color": COLOURS[5],
            }
            strength = float(links[a, b]) / top
            axes.annotate(
                "",
                places[b],
                places[a],
                arrowprops={**style, "alpha": 0.25 + 0.65 * strength, "lw": 0.6 + 2 * strength},
                zorder=2,
            )


def _name(axes: Any, places: Array, skeleton: Skeleton, importance: Array) -> float:
    """Names of joints in a column on either side, joined to them by thin lines, never over each other; the highest
    one's place."""
    highest = 0.0
    edge = float(np.abs(places[:, 0]).max()) + 0.10
    sides: dict[int, list[int]] = {-1: [], 1: []}
    for n in sorted(range(len(places)), key=lambda n: -abs(places[n, 0])):
        x = places[n, 0]
        side = (1 if x > 0 else -1) if abs(x) > 1e-6 else (1 if len(sides[1]) <= len(sides[-1]) else -1)
        sides[side].append(n)
    for side, members in sides.items():
        members.sort(key=lambda n: (-places[n, 1], abs(places[n, 0])))
        heights = _apart(places[members, 1], max(0.032, min(0.045, 1.1 / max(len(members), 1))))
        highest = max(highest, *heights) if members else highest
        for n, height in zip(members, heights):
            axes.plot(
                [places[n, 0], side * (edge - 0.01)], [places[n, 1], height], color="#999999", linewidth=0.6, zorder=0
            )
            words = f"{skeleton.joints[n].replace('_', ' ')}  {importance[n]:.2g}"
            axes.text(side * edge, height, words, ha="left" if side > 0 else "right", va="center", fontsize=8)
    return highest


def _apart(heights: Array, gap: float) -> Array:
    """Falling heights moved as little as the gap between neighbours asks for (runs that touch move as one)."""
    runs: list[list[float]] = []  # sum of wanted tops, members
    for n, height in enumerate(heights):
        runs.append([float(height) + n * gap, 1.0])
        while len(runs) > 1 and runs[-1][0] / runs[-1][1] > runs[-2][0] / runs[-2][1]:
            last = runs.pop()
            runs[-1] = [runs[-1][0] + last[0], runs[-1][1] + last[1]]
    tops = np.concatenate([np.full(int(count), total / count) for total, count in runs]) if runs else np.zeros(0)
    return np.asarray(tops - np.arange(len(heights)) * gap, np.float64)
