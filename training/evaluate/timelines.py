"""Pictures of what happens when: the truth and what was said of one clip, class by class, along its time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from training.data.spans import dense
from training.data.types import Numbers
from training.evaluate.plots import COLOURS, figure_of, write
from training.evaluate.segmentation import FrameScores

MOST_ROWS = 24
"""Classes of a picture; of more, those of the most frames."""
POINTS = 2000
"""Points of a curve; longer clips are thinned."""


def timeline(
    clip: FrameScores, segments: Numbers, names: Sequence[str], path: str | os.PathLike[str], title: str = ""
) -> Path:
    """Draw a clip: for every class that happens or is said, a bar of the truth, a bar of what is said, and the score.

    Args:
        clip: scores (T, K) and truth.
        segments: (S, 3) class, first frame, end (exclusive), what is said.
        names: of the K classes.
        path: of the picture, .png, .svg or .pdf.
        title: of the picture. Default: the key of the clip.
    """
    total = len(clip.scores)
    spans = np.zeros((0, 3), np.int64) if clip.spans is None else clip.spans
    frames = dense(spans, total, len(names)).sum(0) + dense(segments, total, len(names)).sum(0)
    shown = np.flatnonzero(frames)
    if len(shown) > MOST_ROWS:
        shown = np.sort(np.argsort(-frames, kind="stable")[:MOST_ROWS])
    scale, unit = (1.0, "frames") if clip.fps is None else (1 / clip.fps, "seconds")
    figure, axes = figure_of(11.0, 1.4 + 0.42 * max(len(shown), 1))
    places = np.unique(np.linspace(0, max(total - 1, 0), min(total, POINTS)).astype(np.int64))
    for row, label in enumerate(shown.tolist()):
        for rows, colour, height in ((spans, COLOURS[0], 0.0), (segments, COLOURS[1], 0.4)):
            own = rows[rows[:, 0] == label]
            bars = [(first * scale, (end - first) * scale) for _, first, end in own.tolist()]
            axes.broken_barh(bars, (row + 0.08 + height, 0.36), facecolors=colour, linewidth=0)
        axes.plot(places * scale, row + 0.9 - 0.8 * clip.scores[places, label], color=COLOURS[7], linewidth=0.7)
    axes.set_yticks(np.arange(len(shown)) + 0.5, [names[label] for label in shown.tolist()], fontsize=8)
    axes.set_ylim(max(len(shown), 1), 0)
    axes.set_xlim(0, max(total, 1) * scale)
    axes.set_xlabel(f"{unit}; upper bars: truth, lower bars: said, line: score", fontsize=8)
    axes.set_title(title or clip.key, fontsize=10)
    for row in range(1, len(shown)):
        axes.axhline(row, color="0.85", linewidth=0.6)
    return write(figure, path)
