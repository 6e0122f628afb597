"""What a run says of the frames of untrimmed clips: figures beside floors, timelines, and the events as a table."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from blake3 import blake3

from dataengine.core.errors import TrainingError
from dataengine.core.progress import Progress
from training.data.spans import WindowedDataset
from training.data.subsets import with_spans
from training.data.types import SkeletonDataset
from training.engine import checkpoint
from training.evaluate.floors import RANDOM
from training.evaluate.result import Result
from training.evaluate.segmentation import (
    BOUNDARIES,
    Boundaries,
    FrameScores,
    events_of,
    segmentation_results,
    segments_of,
    with_floors,
)
from training.evaluate.timelines import timeline
from training.methods.base import Method
from training.runs.floors import NETWORKS, random_network
from training.runs.frame_probe import frame_floors, frame_probe
from training.runs.no_pose import keys_of, tell_of_no_pose
from training.runs.report import Report
from training.runs.run import CHECKPOINT, Run
from training.runs.sliding import frame_scores, segmenting
from training.runs.tables import table_file, write_table
from training.transforms.preprocess import Preprocess

DRAWN = 8
"""Clips whose timelines are drawn, unless another number is given."""


def is_run_of_segment(folder: Path) -> bool:
    """Whether a folder holds a run of the method `segment`, finished or not.

    Raises:
        TrainingError: its checkpoint is damaged.
    """
    path = folder / CHECKPOINT
    facts = checkpoint.facts_of(path)
    if not facts and path.exists():
        checkpoint.read(path)  # says what is wrong with it
    return bool(facts.get("method", {}).get("name") == "segment")


def _file_name(key: str) -> str:
    """A clip's key as part of a file's name; where something of it is lost, a part of its hash stands for that."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", key)[-80:]
    return name if name == key else f"{name[-71:]}-{blake3(key.encode()).hexdigest()[:8]}"


def segment(
    run: Run,
    train: Sequence[SkeletonDataset],
    test: Sequence[SkeletonDataset],
    beside: Sequence[Run] = (),
    floors: bool = True,
    drawn: int = DRAWN,
    hop: int = 0,
    device: str = "cpu",
    boundaries: Boundaries = BOUNDARIES,
    progress: Progress | None = None,
) -> Report:
    """Measure a run on untrimmed clips.

    Args:
        run: a run of the method `segment`.
        train: what floors learn from.
        test: clips with spans; those that an annotator proposed are not measured on.
        beside: other runs of the same classes, such as a classifier of whole windows, whose figures stand beside.
        floors: whether nearest neighbours, ridge regression and a random network are measured.
        drawn: how many clips are drawn as timelines.
        hop: frames between windows. Default: as the run says.
        device: where the network runs.
        boundaries: of events and segments.
        progress: what tells how far the work is. Default: nothing does.

    Raises:
        TrainingError: the run gives no classes of frames, or no clip has a span of its classes.
    """
    method = segmenting(run.method, str(run.folder))
    for other in beside:
        if tuple(other.labels) != tuple(run.labels):
            raise TrainingError(f"{other.folder} knows other classes than {run.folder}: train both on one data")
    test = with_spans(test, by_people=True)
    report = Report("segment", run, test, train)
    report.folder.mkdir(parents=True, exist_ok=True)
    exclusive = method.loss_name == "softmax"
    count = sum(map(len, test))

    def measured(one: Method, preprocess: Preprocess, frames: int, name: str) -> list[FrameScores]:
        with (progress or Progress()).step(name, count, "clips") as advance:
            return list(frame_scores(one.to(device), test, run.labels, preprocess, frames, hop, device, advance))

    found = measured(method, run.preprocess, run.frames, "segment")
    below: dict[str, list[Result]] = {}
    for other in beside:
        scores = measured(
            segmenting(other.method, str(other.folder)), other.preprocess, other.frames, other.folder.name
        )
        below[other.folder.name] = segmentation_results(scores, run.labels, exclusive, boundaries)
    if floors:
        train = with_spans(train)
        scored = frame_floors(train, test, run.labels, run.preprocess, run.frames, run.config.run.seed)
        for name, clips in scored.items():
            below[name] = segmentation_results(clips, run.labels, exclusive, boundaries)
        windows: list[SkeletonDataset] = [WindowedDataset(dataset, run.frames, run.frames) for dataset in train]
        of_random = []
        for number in range(NETWORKS):
            network = random_network(run.config, run.preprocess, windows, device, None, number)
            probe = frame_probe(network, train, run.labels, run.preprocess, run.frames, device, run.config.run.seed)
            clips = measured(probe, run.preprocess, run.frames, f"random network {number + 1} of {NETWORKS}")
            of_random.append(segmentation_results(clips, run.labels, exclusive, boundaries))
        below[RANDOM] = [
            dataclasses.replace(same[0], value=float(np.mean([result.value for result in same])))
            for same in zip(*of_random)
        ]
    results = segmentation_results(found, run.labels, exclusive, boundaries)
    report.results += with_floors(results, below)
    for clip in found[:drawn]:
        said = segments_of(clip.scores, exclusive, boundaries)
        report.plots.append(timeline(clip, said, run.labels, report.folder / f"timeline_{_file_name(clip.key)}.png"))
    return report


def write_events(
    run: Run,
    datasets: Sequence[SkeletonDataset],
    path: str | Path,
    hop: int = 0,
    device: str = "cpu",
    boundaries: Boundaries = BOUNDARIES,
    progress: Progress | None = None,
) -> tuple[Path, int]:
    """Write what a run says happens when, one row an event: clip_id, label, start, end (frames, exclusive), start_s and
    end_s (seconds, null without a frame rate), score (how far the event stands out, see `Boundaries`), probability (the
    mean over its frames). A build takes the table as it is (`curate.spans`). Clips that show no pose have no events.

    Args:
        run: a run of the method `segment`.
        datasets: the clips; they need no spans.
        path: of the table, .csv or .parquet; it is written whole or not at all.
        hop, device, boundaries, progress: see `segment`.

    Returns:
        The path, and how many events.

    Raises:
        TrainingError: the run gives no classes of frames, or another ending of the file.
    """
    method, target = segmenting(run.method, str(run.folder)), table_file(path, "events")
    rows: list[tuple[Any, ...]] = []
    shown: list[bool] = []
    with (progress or Progress()).step("segment", sum(map(len, datasets)), "clips") as advance:
        clips = frame_scores(method.to(device), datasets, run.labels, run.preprocess, run.frames, hop, device, advance)
        for clip in clips:
            shown.append(clip.shows_pose)
            if not clip.shows_pose:
                continue
            events = events_of(clip.scores, boundaries)
            for label, first, end, score in events[np.argsort(events[:, 1], kind="stable")].tolist():
                seconds = (None, None) if clip.fps is None else (first / clip.fps, end / clip.fps)
                sure = float(clip.scores[int(first) : int(end), int(label)].mean(dtype=np.float64))
                rows.append((clip.key, run.labels[int(label)], int(first), int(end), *seconds, score, sure))
    tell_of_no_pose(keys_of(datasets), np.array(shown, bool), "nothing happens in them")
    schema = {"clip_id": pl.String, "label": pl.String, "start": pl.Int64, "end": pl.Int64}
    schema |= {"start_s": pl.Float64, "end_s": pl.Float64, "score": pl.Float64, "probability": pl.Float64}
    table = pl.DataFrame(rows, schema=schema, orient="row")
    write_table(table, target)
    return target, len(table)
