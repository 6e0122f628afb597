"""A page that shows clips as rows of skeletons over time, without a script and without anything from outside."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dataengine.core.skeletons import Skeleton
from training.data.types import Array

POSES = 6
"""Poses of a clip, evenly over time."""
HEIGHT, WIDTH = 90, 62
"""Pixels of a pose."""
COLOURS = ("#c2410c", "#1d4ed8", "#57534e")
"""Right, left and middle of the body."""
STYLE = """body{font:14px/1.4 system-ui,sans-serif;margin:2rem;color:#1c1917;background:#fafaf9}
h1{font-size:1.3rem}.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(390px,1fr));gap:12px}
figure{margin:0;padding:8px;background:#fff;border:1px solid #e7e5e4;border-radius:6px}
figcaption{overflow-wrap:anywhere}small{color:#57534e}svg{display:block;width:100%;height:auto}"""


@dataclass(frozen=True)
class Card:
    """A clip on the page.

    Attributes:
        title: its first line. facts: its second line.
        joints: (M, T, V, C), NaN where a joint was not seen; an absent person is all zeros.
    """

    title: str
    facts: str
    joints: Array


def clip_sheet(heading: str, cards: Sequence[Card], skeleton: Skeleton, axes: tuple[int, int, bool]) -> str:
    """The page as HTML text; all text on it is escaped.

    Args:
        heading: of the page.
        cards: the clips, in their order.
        skeleton: the joints.
        axes: the coordinate that goes across, the one that goes up, and whether up is its negative direction.
    """
    figures = "\n".join(
        f"<figure>{_drawn(card.joints, skeleton, axes)}<figcaption>{html.escape(card.title)}<br>"
        f"<small>{html.escape(card.facts)}</small></figcaption></figure>"
        for card in cards
    )
    title = html.escape(heading)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>\n'
        f'<body><h1>{title}</h1>\n<div class="grid">\n{figures}\n</div></body></html>\n'
    )


def _drawn(joints: Array, skeleton: Skeleton, axes: tuple[int, int, bool]) -> str:
    """An SVG of evenly spaced frames, all people of a frame in one pose box, at one scale."""
    across, up, negative = axes
    people, total = joints.shape[:2]
    frames = np.unique(np.linspace(0, total - 1, POSES).round().astype(int))
    flat = np.stack([joints[..., across], joints[..., up] * (1 if negative else -1)], -1)[:, frames].astype(float)
    present = (np.nan_to_num(flat) != 0).any((-1, -2))  # a person who is absent is all zeros
    seen = np.isfinite(flat).all(-1) & present[..., None]
    opening = f'<svg viewBox="0 0 {WIDTH * POSES} {HEIGHT}" role="img" aria-label="{len(frames)} poses">'
    if not seen.any():
        return f'{opening}<text x="8" y="20">nobody</text></svg>'
    lines = []
    spans = [np.ptp(flat[:, k][seen[:, k]], axis=0) for k in range(len(frames)) if seen[:, k].any()]
    largest = np.max(spans, axis=0)
    scale = min((WIDTH - 8) / max(float(largest[0]), 1e-6), (HEIGHT - 8) / max(float(largest[1]), 1e-6))
    for k in range(len(frames)):
        if not seen[:, k].any():
            continue
        points = flat[:, k][seen[:, k]]
        middle = (points.min(0) + points.max(0)) / 2
        placed = (flat[:, k] - middle) * scale + (WIDTH * (k + 0.5), HEIGHT / 2)
        for m in range(people):
            for a, b in skeleton.bones:
                if seen[m, k, a] and seen[m, k, b]:
                    (x1, y1), (x2, y2) = placed[m, a], placed[m, b]
                    lines.append(
                        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
                        f'stroke="{_colour(skeleton.joints[b])}"/>'
                    )
            if not skeleton.bones:
                lines += [
                    f'<circle cx="{x:.1f}" cy="{y:.1f}" r="1.5" fill="{_colour(skeleton.joints[v])}"/>'
                    for v, (x, y) in enumerate(placed[m])
                    if seen[m, k, v]
                ]
    return f'{opening}<g stroke-width="1.6" stroke-linecap="round">{"".join(lines)}</g></svg>'


def _colour(joint: str) -> str:
    return COLOURS[0] if joint.startswith("right_") else COLOURS[1] if joint.startswith("left_") else COLOURS[2]
