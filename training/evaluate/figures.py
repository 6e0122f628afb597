"""A plot of results beside their baselines: how far each figure stands above what needs no learning."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from training.evaluate.plots import COLOURS, MARKS, figure_of, write
from training.evaluate.result import SPREAD, Result

MOST = 20
"""Results that are drawn."""


def figures(results: Sequence[Result], path: str | os.PathLike[str], title: str = "") -> Path:
    """Draws a bar with its interval for each result in per cent, and a mark for each of its baselines.

    Args:
        results: of one run; results in another unit are left out.
        path: output file, .png, .svg or .pdf.
        title: title of the plot.
    """
    shown = [result for result in results if result.unit == "%"][:MOST]
    figure, axes = figure_of(7.2, 1.5 + 0.55 * len(shown))
    names = list(dict.fromkeys(name for result in shown for name in result.baselines))
    for row, result in enumerate(shown):
        axes.barh(row, 100 * result.value, height=0.55, color="#C8D8E8", edgecolor=COLOURS[0], linewidth=0.8)
        axes.text(103, row, f"{100 * result.value:.1f}", va="center", fontsize=8.5)
        interval = result.interval
        if interval is not None and interval.low is not None and interval.high is not None:
            axes.plot([100 * interval.low, 100 * interval.high], [row, row], color=COLOURS[0], linewidth=1.2)
        for name, value in result.baselines.items():
            number = names.index(name)
            axes.errorbar(
                100 * value,
                row,
                xerr=100 * result.details.get(SPREAD, {}).get(name, 0.0) or None,
                marker=MARKS[number % len(MARKS)],
                color=COLOURS[(number + 1) % len(COLOURS)],
                markersize=6,
                linestyle="none",
                clip_on=False,
            )
    for number, name in enumerate(names):
        colour, mark = COLOURS[(number + 1) % len(COLOURS)], MARKS[number % len(MARKS)]
        axes.plot([], [], marker=mark, color=colour, linestyle="none", label=name)
    axes.set_yticks(range(len(shown)), [f"{result.name}\n{result.metric}" for result in shown], fontsize=8.5)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("%", fontsize=8.5)
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", alpha=0.25)
    if names:
        axes.legend(fontsize=7.5, frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.45, 1.0))
    figure.suptitle(title, fontsize=11)
    return write(figure, path)
