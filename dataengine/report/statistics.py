"""The numbers of the report page and the dataset card, aggregated from the tables of a dataset."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import polars as pl

from dataengine.core.skeletons import Skeleton
from dataengine.core.types import SPLITS, Float
from dataengine.dataset.dataset import Dataset

DECIDING = ("unit", "table")
"""Scopes of the passes that may throw clips out; they are shown even where they threw none out."""


@dataclass(frozen=True)
class Measure:
    """A measure that the page draws: column, filter with thresholds for it, and texts."""

    column: str
    filter: str | None
    title: str
    measured_in: str
    meaning: str
    share: bool = False


MEASURES: tuple[Measure, ...] = (
    Measure(
        "pose_coverage",
        "pose_coverage",
        "Pose coverage",
        "share of frames",
        "Frames that hold a pose of a kept person.",
        True,
    ),
    Measure(
        "confidence_mean",
        "confidence",
        "Confidence",
        "mean C",
        "How far the experts agree on the first person; 1 is full agreement.",
        True,
    ),
    Measure("jitter", "jitter", "Jitter", "body heights", "Second difference of the joints: trembling and jumps."),
    Measure("motion", "motion", "Motion", "body heights", "Range of the joints that move most, relative to the body."),
    Measure(
        "bone_variation",
        "bone_variation",
        "Bone variation",
        "coefficient of variation",
        "Spread of bone lengths; real bodies only foreshorten.",
    ),
    Measure(
        "truncation",
        "truncation",
        "Truncation",
        "share of joints",
        "Seen joints at or beyond the edge of the picture.",
        True,
    ),
    Measure(
        "expert_disagreement",
        None,
        "Disagreement",
        "head-neck lengths",
        "Mean distance of the experts to the fused joints.",
    ),
    Measure("num_frames", "length", "Length", "frames", "Frames of a clip."),
)


LIFTED = Measure(
    "lift_reprojection",
    "reprojection",
    "Reprojection error",
    "body heights",
    "Mean distance of the first person's lifted joints, projected, to those of the picture.",
)
"""The measure of datasets with poses in space."""


def planned(dataset: Dataset) -> int:
    """Number of planned clips."""
    counts = dataset.manifest["counts"]
    return int(counts.get("planned", counts["clips"] + counts["rejects"]))


def funnel(dataset: Dataset) -> list[tuple[str, int, list[tuple[str, int]]]]:
    """(pass, clips that remain, [(reason, rejected clips)] most first), in the order of the passes."""
    lost = dataset.rejects.group_by("pass", "reason").len().collect().rows()
    at = {str(row[0]) for row in lost}
    passes = [p["name"] for p in dataset.manifest.get("passes", []) if p["scope"] in DECIDING or p["name"] in at]
    names = [*(["plan"] if "plan" in at else []), *passes, *sorted(at - {"plan", *passes})]
    left, steps = planned(dataset), []
    for name in names:
        reasons = sorted(
            ((str(reason), int(n)) for where, reason, n in lost if where == name), key=lambda kv: (-kv[1], kv[0])
        )
        left -= sum(n for _, n in reasons)
        steps.append((name, left, reasons))
    return steps


def reasons(dataset: Dataset, examples: int = 5) -> list[dict[str, Any]]:
    """One row per pass and reason, most frequent first: clips, median value, thresholds, and a few clips as
    examples."""
    grouped = dataset.rejects.sort("clip_id").group_by("pass", "reason", maintain_order=True)
    rows = grouped.agg(
        pl.len().alias("clips"),
        pl.col("retryable").sum().alias("retryable"),
        pl.col("value").median().alias("median"),
        pl.col("threshold").drop_nulls().unique().sort().head(2).alias("thresholds"),
        pl.struct("clip_id", "value", "detail").head(examples).alias("examples"),
    )
    return rows.sort("clips", "reason", "pass", descending=[True, False, False]).collect().to_dicts()


def durations() -> pl.Expr:
    """Seconds of a clip, from its frames and its frame rate such as '30000/1001'."""
    parts = pl.col("fps").str.split("/")
    rate = parts.list.get(0).cast(pl.Float64, strict=False) / parts.list.get(1, null_on_oob=True).cast(
        pl.Float64, strict=False
    ).fill_null(1.0)
    return pl.col("num_frames") / rate


def totals(dataset: Dataset) -> dict[str, Any]:
    """clips, frames, seconds, labels, sources, subjects, bytes, and the mean confidence, of kept clips."""
    column = pl.col
    return (
        dataset.clips.select(
            pl.len().alias("clips"),
            column("num_frames").sum().alias("frames"),
            durations().sum().alias("seconds"),
            column("label").drop_nulls().n_unique().alias("labels"),
            column("source").n_unique().alias("sources"),
            column("video_id").n_unique().alias("videos"),
            column("subject").drop_nulls().n_unique().alias("subjects"),
            column("size").sum().alias("bytes"),
            column("confidence_mean").mean().alias("confidence"),
        )
        .collect()
        .to_dicts()[0]
    )


def splits(dataset: Dataset) -> list[dict[str, Any]]:
    """clips, frames, seconds, labels and subjects of each split, in the order train, val, test."""
    rows = dataset.clips.group_by("split").agg(
        pl.len().alias("clips"),
        pl.col("num_frames").sum().alias("frames"),
        durations().sum().alias("seconds"),
        pl.col("label").drop_nulls().n_unique().alias("labels"),
        pl.col("subject").drop_nulls().n_unique().alias("subjects"),
    )
    order = {name: n for n, name in enumerate(SPLITS)}
    return sorted(rows.collect().to_dicts(), key=lambda row: (order.get(row["split"], 9), str(row["split"])))


def labels(dataset: Dataset) -> list[tuple[str | None, dict[str, int]]]:
    """(label, clips per split), most frequent first; the label is None for clips without one."""
    found: dict[str | None, dict[str, int]] = {}
    for label, split, n in dataset.clips.group_by("label", "split").len().sort("label", "split").collect().rows():
        found.setdefault(label, {})[str(split)] = int(n)
    return sorted(found.items(), key=lambda kv: (-sum(kv[1].values()), kv[0] is None, str(kv[0])))


def tally(dataset: Dataset, *columns: str) -> list[tuple[Any, ...]]:
    """Distinct values of columns of kept clips with their number of clips, most frequent first."""
    rows = dataset.clips.group_by(*columns).len().collect().rows()
    return sorted(rows, key=lambda row: (-row[-1], tuple(str(v) for v in row[:-1])))


def values(dataset: Dataset, measures: Sequence[Measure] = MEASURES) -> dict[str, tuple[Float, Float]]:
    """column of a measure -> values of kept clips, and of clips rejected for it; (N,) float64 without NaN."""
    kept = dataset.clips.select(pl.col(m.column).cast(pl.Float64) for m in measures).collect()
    out = dataset.rejects.select("reason", pl.col("value").cast(pl.Float64)).drop_nulls().collect()

    def numbers(series: pl.Series) -> Float:
        array = series.drop_nulls().to_numpy()
        return np.asarray(array[np.isfinite(array)], np.float64)

    return {
        m.column: (numbers(kept[m.column]), numbers(out.filter(pl.col("reason") == (m.filter or ""))["value"]))
        for m in measures
    }


def joints(dataset: Dataset, layout: Skeleton) -> list[dict[str, Any]]:
    """Visibility, score and disagreement per joint, means over kept tracks, in the order of the layout."""
    found = (
        dataset.joints.group_by("joint")
        .agg(pl.col("visible", "score_mean", "disagreement").mean())
        .collect()
        .to_dicts()
    )
    order = {name: n for n, name in enumerate(layout.joints)}
    return sorted((row for row in found if row["joint"] in order), key=lambda row: order[row["joint"]])


def people(dataset: Dataset) -> dict[str, Any]:
    """Number of tracks and of kept tracks, and mean measures of the kept ones."""
    kept = pl.col("kept").fill_null(True)
    means = [
        pl.col(name).filter(kept).mean().alias(name)
        for name in ("coverage", "score_mean", "confidence_mean", "support_mean")
    ]
    return dataset.tracks.select(pl.len().alias("tracks"), kept.sum().alias("kept"), *means).collect().to_dicts()[0]


def shares(dataset: Dataset) -> list[tuple[str, float]]:
    """(expert, share of the joints of kept tracks that it won), weighted by frames; the rest is blended of several."""
    names = [name for name in dataset.tracks.collect_schema().names() if name.startswith("share_")]
    weight = pl.col("num_frames").cast(pl.Float64)
    frame = dataset.tracks.filter(pl.col("kept").fill_null(True))
    row = (
        frame.select((pl.col(n) * weight).sum() / weight.filter(pl.col(n).is_not_null()).sum() for n in names)
        .collect()
        .row(0)
        if names
        else ()
    )
    return [
        (name.removeprefix("share_"), float(v))
        for name, v in zip(names, row, strict=True)
        if v is not None and np.isfinite(v)
    ]


def accuracy(dataset: Dataset) -> tuple[list[str], list[tuple[str, dict[str, tuple[int, int]]]]]:
    """Conditions ('all' last), and (expert, condition -> right and all joints); empty without exact joints."""
    if "accuracy" not in dataset.tables:
        return [], []
    frame = dataset.table("accuracy").group_by("expert", "condition").agg(pl.col("num_right", "num_joints").sum())
    found: dict[str, dict[str, tuple[int, int]]] = {}
    for expert, condition, right, count in frame.collect().rows():
        found.setdefault(str(expert), {})[str(condition or "unnamed")] = (int(right), int(count))
    for cells in found.values():
        cells["all"] = (sum(r for r, _ in cells.values()), sum(n for _, n in cells.values()))
    conditions = sorted({c for cells in found.values() for c in cells} - {"all"})
    experts = list(dataset.manifest.get("experts", []))
    order = [e for e in experts if e in found] + sorted(set(found) - set(experts))
    return [*(conditions if len(conditions) > 1 else []), "all"], [(e, found[e]) for e in order]


def edges(dataset: Dataset, rows: int = 5) -> list[tuple[str, str, list[tuple[str, str | None, float]]]]:
    """(title, what the value is measured in, [(clip_id, label, value)]) of the kept clips nearest to rejection."""
    tables = (
        ("confidence_mean", "Least agreement", "mean C", False),
        ("jitter", "Most jitter", "body heights", True),
        ("bone_variation", "Most bone variation", "variation", True),
        ("motion", "Least motion", "body heights", False),
    )
    found = []
    for column, title, measured_in, descending in tables:
        frame = dataset.clips.select("clip_id", "label", column).drop_nulls(column)
        best = frame.sort(column, "clip_id", descending=[descending, False]).head(rows).collect().rows()
        if best:
            found.append((title, measured_in, best))
    return found


def drawn(dataset: Dataset, wanted: int) -> list[str]:
    """Clip ids to show: labels in turn, most frequent first, with evenly spaced ids of each. No person chooses."""
    grouped = dataset.clips.select("label", "clip_id").sort("clip_id").group_by("label").agg("clip_id").collect().rows()
    groups = [ids for _, ids in sorted(grouped, key=lambda row: (-len(row[1]), row[0] is None, str(row[0])))]
    if not groups or wanted < 1:
        return []
    turns = -(-wanted // len(groups))
    while turns < wanted and sum(min(len(ids), turns) for ids in groups) < wanted:
        turns += 1
    spread = [
        [ids[len(ids) * (2 * n + 1) // (2 * some)] for n in range(some)]
        for ids in groups
        if (some := min(len(ids), turns))
    ]
    return [ids[turn] for turn in range(turns) for ids in spread if turn < len(ids)][:wanted]


FRAMES = 120
"""Most frames of a clip in the player."""
SIZE = (480, 360)
"""Width and height of the player, pixels."""
FINE = 16
"""Steps per pixel of a position in the player."""
MISSING = -32768
"""Position of a joint that is not seen."""


def motion_data(sample: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    """One clip for the player of the page: at most 120 frames around the middle, cropped to the people.

    Positions are int16 in sixteenths of a pixel of a 480 x 360 view, -32768 where unseen, (M, T, V, 2),
    little-endian, base64.
    """
    keypoints = np.asarray(sample["keypoints"], np.float64)
    fps = float(Fraction(row["fps"]))
    step = max(1, round(fps / 15))
    start = max(0, (keypoints.shape[1] - FRAMES * step) // 2)
    shown = keypoints[:, start : start + FRAMES * step : step]
    seen = shown[np.isfinite(shown).all(-1)]
    low, high = (
        (np.quantile(seen, [0.01, 0.99], axis=0))
        if len(seen)
        else (np.zeros(2), np.array([row["width"], row["height"]], float))
    )
    extent = np.maximum((high - low) * 1.3, 24)
    scale = float(min(SIZE[0] / extent[0], SIZE[1] / extent[1]))
    corner = (low + high) / 2 - np.array(SIZE) / scale / 2
    placed = np.clip(np.round((shown - corner) * scale * FINE), MISSING + 1, -MISSING - 1)
    packed = np.where(np.isfinite(placed), placed, MISSING).astype("<i2")
    frame = [float(v) for v in (-corner * scale).round(1)] + [
        float(round(row[name] * scale, 1)) for name in ("width", "height")
    ]
    return {
        "people": int(shown.shape[0]),
        "frames": int(shown.shape[1]),
        "fps": round(fps / step, 3),
        "start": round(start / fps, 2),
        "picture": frame,
        "data": base64.b64encode(packed.tobytes()).decode(),
    }
