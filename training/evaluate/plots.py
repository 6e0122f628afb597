"""Plots of an evaluation as PNG, SVG or PDF files (matplotlib without a window).

Colours are those of Okabe and Ito (2008) and the map cividis, which are safe for colour-blind readers. Where there are
more groups than colours, the shape of the marker changes too.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from dataengine.core.errors import MissingExtraError, TrainingError, suggestion
from dataengine.io import storage
from training.data.types import Array, Numbers, remark
from training.evaluate.metrics import class_accuracies, confusion, labelled

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
MARKS = ("o", "^", "s", "D", "v", "P", "X", "*", "<", ">")
MAX_NAMED_CLASSES = 60
"""Largest number of classes that a confusion matrix shows in full."""
MAX_BARS = 40
"""Largest number of bars of an accuracy plot."""


def figure_of(width: float, height: float, columns: tuple[float, ...] = ()) -> tuple[Any, Any]:
    """A figure of this size in inches, and its axes. With relative widths of columns, a list of one axes per column.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtraError("plotting", "train")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    if not columns:
        return figure, figure.add_subplot()
    return figure, list(figure.subplots(1, len(columns), width_ratios=columns))


def write(figure: Any, path: str | os.PathLike[str]) -> Path:
    """Writes the figure atomically. The suffix of the path selects the format.

    Raises:
        TrainingError: a suffix other than .png, .svg and .pdf.
    """
    target = Path(path)
    if target.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise TrainingError(f"{target}: the name of a plot ends in .png, .svg or .pdf")
    metadata: dict[str, Any] = (
        {} if target.suffix.lower() == ".png" else {"Date" if target.suffix.lower() == ".svg" else "CreationDate": None}
    )
    from matplotlib import rc_context

    with (
        rc_context({"svg.hashsalt": "dataengine"}),
        storage.staged(target) as partial,
        warnings.catch_warnings(record=True) if _beyond_ascii(figure) else contextlib.nullcontext([]) as told,
    ):
        figure.savefig(partial, format=target.suffix[1:].lower(), dpi=150, metadata=metadata)
    if any("missing from font" in str(one.message) for one in told or ()):
        remark(f"{target}: the font of plots lacks some characters of the names, and draws boxes in their place")
    return target


def _beyond_ascii(figure: Any) -> bool:
    """Whether a figure has texts for which a font may lack characters."""
    from matplotlib.text import Text

    return not all(text.get_text().isascii() for text in figure.findobj(Text))


def _shortened(name: str, most: int = 28) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def confusion_matrix(
    predictions: ArrayLike,
    labels: ArrayLike,
    names: Sequence[str],
    path: str | os.PathLike[str],
    title: str = "",
    worst: int = 12,
) -> Path:
    """Confusion matrix, rows normalised over true classes, beside a list of the pairs confused most often.

    Of more than 60 classes, the 40 confused most often are shown, each beside the class it is confused with.

    Args:
        predictions, labels: (N,) classes; clips labelled -1 are left out.
        names: of the classes, in order.
        path: output file, .png, .svg or .pdf.
        title: title of the plot.
        worst: number of pairs listed.
    """
    counts = confusion(predictions, labels, len(names))
    chosen = np.arange(len(names)) if len(names) <= MAX_NAMED_CLASSES else _most_confused(counts)
    size = len(chosen)
    with np.errstate(invalid="ignore"):
        fractions = np.nan_to_num(counts / counts.sum(1, keepdims=True))[chosen][:, chosen]
    matrix_size = 3.6 + 0.2 * size
    figure, axes = figure_of(matrix_size + 4.6, matrix_size + 0.9, (matrix_size, 4.0))
    axes, list_axes = axes
    image = axes.imshow(fractions, cmap="cividis", vmin=0, vmax=1, interpolation="nearest")
    figure.colorbar(image, ax=axes, fraction=0.046, pad=0.02, label="fraction of the true class")
    font_size = 9 if size <= 30 else 7.5
    axes.set_xticks(range(size), [_shortened(names[n]) for n in chosen], rotation=90, fontsize=font_size)
    axes.set_yticks(range(size), [_shortened(names[n]) for n in chosen], fontsize=font_size)
    if size <= 20:
        for row, column in np.argwhere(fractions > 0):
            number = int(counts[chosen[row], chosen[column]])
            colour = "white" if fractions[row, column] < 0.55 else "black"
            axes.text(column, row, number, ha="center", va="center", fontsize=8, color=colour)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(
        title if size == len(names) else f"{title or 'confusion'}: the {size} classes confused most, of {len(names)}"
    )
    errors = np.where(np.eye(len(names), dtype=bool), 0, counts)
    pairs = [divmod(int(n), len(names)) for n in np.argsort(-errors, axis=None, kind="stable")[:worst]]
    pair_lines = [
        f"{errors[a, b]:>4} of {counts[a].sum():<5} {_shortened(names[a])}\n{'':>13} → {_shortened(names[b])}"
        for a, b in pairs
        if errors[a, b]
    ]
    list_axes.axis("off")
    list_axes.text(
        0, 1, "most often confused\n\n" + ("\n".join(pair_lines) or "nothing"), va="top", fontsize=8, family="monospace"
    )
    return write(figure, path)


def _most_confused(counts: Numbers, most: int = 40) -> Numbers:
    """Indices of the classes with the most frequent confusions, each beside those it is confused with."""
    errors = np.where(np.eye(len(counts), dtype=bool), 0, counts)
    classes: dict[int, None] = {}
    for flat_index in np.argsort(-errors, axis=None, kind="stable"):
        classes.update(dict.fromkeys(divmod(int(flat_index), len(counts))))
        if len(classes) >= most:
            break
    return np.array(list(classes)[:most], np.int64)


def accuracy_bars(
    predictions: ArrayLike, labels: ArrayLike, names: Sequence[str], path: str | os.PathLike[str], title: str = ""
) -> Path:
    """Accuracy per class, best first, with the number of clips, and the mean over classes.

    Of more than 40 classes, the best 20 and the worst 20 are shown.

    Args:
        predictions, labels: (N,) classes; clips labelled -1 are left out.
        names: of the classes, in order.
        path: output file.
        title: title of the plot.
    """
    accuracies = class_accuracies(predictions, labels, len(names))
    counts = np.bincount(labelled(labels)[0], minlength=len(names))
    order = np.array([n for n in np.argsort(-np.nan_to_num(accuracies, nan=-1), kind="stable") if counts[n]])
    many = len(order) > MAX_BARS
    chosen = np.concatenate([order[: MAX_BARS // 2], order[-MAX_BARS // 2 :]]) if many else order
    figure, axes = figure_of(8.5, 1.6 + 0.22 * (len(chosen) + many))
    rows = np.arange(len(chosen)) + (many & (np.arange(len(chosen)) >= MAX_BARS // 2))
    axes.barh(rows, 100 * accuracies[chosen], color=COLOURS[0], height=0.72)
    axes.set_yticks(rows, [f"{_shortened(names[n], 34)} ({counts[n]})" for n in chosen], fontsize=8)
    label_box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    for row, n in zip(rows, chosen):
        axes.text(
            100 * accuracies[n] + 0.8, row, f"{100 * accuracies[n]:.0f}", va="center", fontsize=7.5, bbox=label_box
        )
    if many:
        axes.text(
            1, MAX_BARS // 2, f"… {len(order) - MAX_BARS} classes between", va="center", fontsize=8, style="italic"
        )
    mean = 100 * float(accuracies[order].mean())
    axes.axvline(
        mean, color=COLOURS[5], linewidth=1.2, linestyle="--", label=f"mean over {len(order)} classes: {mean:.1f} %"
    )
    axes.set_xlim(0, 106)
    axes.set_ylim(rows[-1] + 0.7, -0.7)
    axes.set_xlabel("right, % (clips of the class in brackets)")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    return write(figure, path)


def embedding(
    features: ArrayLike,
    labels: ArrayLike,
    names: Sequence[str],
    path: str | os.PathLike[str],
    method: str = "tsne",
    title: str = "",
    most: int = 4000,
    seed: int = 0,
) -> Path:
    """Two-dimensional embedding of features, coloured by class.

    The method is t-SNE (van der Maaten and Hinton 2008), or UMAP where umap-learn is installed. Up to 40 classes have
    their own colour, marker and legend entry. Of more, the 39 largest have one, and the others are grey.

    Args:
        features: (N, D), compared by cosine.
        labels: (N,), -1 for clips that are left out.
        names: of the classes, in order.
        path: output file.
        method: "tsne" or "umap".
        title: title of the plot.
        most: largest number of clips; of more, a random subset is shown.
        seed: of the random subset and of the method.

    Raises:
        TrainingError: an unknown method, fewer than 5 clips, or umap-learn is not installed.
        MissingExtraError: scikit-learn or matplotlib is not installed.
    """
    from training.evaluate.logistic import unit

    ids, rows = labelled(labels, np.asarray(features))
    if len(ids) > most:
        chosen_rows = np.sort(np.random.default_rng(seed).choice(len(ids), most, replace=False))
        ids, rows = ids[chosen_rows], rows[chosen_rows]
    if len(ids) < 5:
        raise TrainingError(f"an embedding needs at least 5 clips; given {len(ids)}")
    positions = _in_plane(unit(rows).astype(np.float32), method, seed)
    present, counts = np.unique(ids, return_counts=True)
    chosen = present if len(present) <= 40 else np.sort(present[np.argsort(-counts, kind="stable")[:39]])
    columns = 1 + (len(chosen) > 20)
    figure, axes = figure_of(7.5 + 2.4 * columns, 7.5)
    mark_size = float(np.clip(30000 / len(ids), 9, 60))
    for n, label in enumerate(chosen):
        points = positions[ids == label]
        colour, mark = COLOURS[n % len(COLOURS)], MARKS[(n // len(COLOURS)) % len(MARKS)]
        axes.scatter(
            *points.T,
            s=mark_size,
            color=colour,
            marker=mark,
            linewidths=0.25,
            edgecolors="#333333",
            label=_shortened(names[label]),
        )
    others = ~np.isin(ids, chosen)
    if others.any():
        axes.scatter(
            *positions[others].T,
            s=mark_size * 0.7,
            color="#BBBBBB",
            linewidths=0,
            zorder=0,
            label=f"{len(present) - len(chosen)} other classes",
        )
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title or f"{ {'tsne': 't-SNE', 'umap': 'UMAP'}[method] } of {len(ids)} clips")
    axes.legend(
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        fontsize=8,
        frameon=False,
        ncols=columns,
        markerscale=max(1, (25 / mark_size) ** 0.5),
    )
    return write(figure, path)


def _in_plane(rows: Array, method: str, seed: int) -> Array:
    """(N, 2) positions of (N, D) unit vectors."""
    if method not in ("tsne", "umap"):
        raise TrainingError(f"embedding by {method!r}{suggestion(method, ('tsne', 'umap'))}")
    if method == "umap":
        if importlib.util.find_spec("umap") is None:
            raise TrainingError(
                "method 'umap' needs umap-learn, which no extra brings: pip install umap-learn, or take 'tsne'"
            )
        import umap

        return np.asarray(umap.UMAP(metric="cosine", random_state=seed).fit_transform(rows))
    if importlib.util.find_spec("sklearn") is None:
        raise MissingExtraError("t-SNE", "train")
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(rows) - 1) / 3)
    return np.asarray(TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(rows))


TIME_KEYS = ("step", "epoch")
"""Keys of a log that hold the time of an entry, and are not plotted."""


def training_curves(
    log: str | os.PathLike[str], path: str | os.PathLike[str], x: str = "step", title: str = ""
) -> Path:
    """Plots every number of a log over steps, one panel per name.

    Names that differ only in their prefix, such as train/loss and val/loss, share a panel.

    Args:
        log: file of one JSON object per line; an incomplete last line is skipped.
        path: output file.
        x: key of the horizontal axis; lines without this key are skipped.
        title: title of the plot.

    Raises:
        TrainingError: no such file, a line that is no JSON, or no numbers to plot.
    """
    series = {name: values for name, values in _series(Path(log), x).items() if name not in TIME_KEYS}
    groups: dict[str, list[str]] = {}
    # first the loss, then its parts and the probes, then the other numbers
    for name in sorted(
        series, key=lambda name: (name.rsplit("/", 1)[-1] != "loss", not name.startswith(("part_", "probe_")), name)
    ):
        groups.setdefault(name.rsplit("/", 1)[-1], []).append(name)
    columns = min(3, len(groups))
    rows = math.ceil(len(groups) / columns)
    figure, first = figure_of(4.4 * columns, 2.9 * rows + 0.3)
    first.remove()
    for n, (kind, members) in enumerate(groups.items()):
        axes = figure.add_subplot(rows, columns, n + 1)
        for number, name in enumerate(members):
            steps, values = series[name]
            colour = COLOURS[number % len(COLOURS)]
            smooth = _smooth(values)
            axes.plot(
                steps,
                values,
                color=colour,
                alpha=1.0 if smooth is None else 0.25,
                linewidth=1.3,
                marker="." if len(steps) < 30 else None,
            )
            if smooth is not None:
                axes.plot(steps, smooth, color=colour, linewidth=1.5)
            axes.plot([], [], color=colour, label=name)
        axes.set_title(kind, fontsize=10)
        axes.set_xlabel(x, fontsize=8)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        if len(members) > 1 or members[0] != kind:
            axes.legend(fontsize=7.5, frameon=False)
    figure.suptitle(title, fontsize=11)
    return write(figure, path)


def _series(log: Path, x: str) -> dict[str, tuple[Array, Array]]:
    """Steps and values of each number of a log, by name."""
    try:
        lines = log.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise TrainingError(f"{log}: the log cannot be read: {error}") from error
    series: dict[str, tuple[list[float], list[float]]] = {}
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line) if line.strip() else {}
        except json.JSONDecodeError as error:
            if number == len(lines):
                continue
            raise TrainingError(f"{log} line {number} is no JSON: {error}") from error
        for name, value in row.items():
            is_value = isinstance(value, (int, float)) and not isinstance(value, bool) and name != x and x in row
            if is_value and math.isfinite(value):
                steps, values = series.setdefault(name, ([], []))
                steps.append(row[x])
                values.append(value)
    if not series:
        raise TrainingError(f"{log}: no line holds {x!r} and a number beside it")
    return {name: (np.array(steps, float), np.array(values, float)) for name, (steps, values) in series.items()}


def _smooth(values: Array) -> Array | None:
    """Running mean of a series of at least 60 values; None for a shorter one."""
    if len(values) < 60:
        return None
    width = max(5, len(values) // 40) | 1
    padded = np.pad(values, width // 2, mode="edge")
    return np.asarray(np.convolve(padded, np.full(width, 1 / width), "valid"))
