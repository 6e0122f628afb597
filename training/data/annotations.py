"""Annotations of untrimmed videos as their data sets publish them, read into one table: `read_spans`.

    Charades    a CSV with columns id and actions, "c092 11.90 21.20;c147 0.00 12.60", in seconds; names of classes from
                Charades_v1_classes.txt beside it
    TSU         JSON {video: {"subset", "duration", "actions": [[class, start, end], ...]}}, starts and ends in the unit
                of the duration, as for Toyota Smarthome Untrimmed and many copies of Charades
    PKU-MMD     a folder of files such as 0002-L.txt with lines class,start,end,confidence: classes from 1, frames,
                both ends included; a file of a protocol, such as cross-subject.txt, in or above it says the splits
    CSV         ours, for anything else, or Parquet: clip_id (or file), label, start, end, and unit ("frames" or
                "seconds") and split where wanted; without unit, frames, the end excluded

Sources: Sigurdsson et al. 2016 (Charades); Dai et al. 2022 (TSU); Liu et al. 2017 (PKU-MMD).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from dataengine.core.errors import TrainingError
from dataengine.io.sheets import read_sheet
from training.data.spans import TABLE_SPLITS, SpanTable, Unit

ALLOWED = (
    "a CSV of Charades (id, actions), a JSON of TSU or Charades, a folder of PKU-MMD's label files, or a CSV or Parquet"
    " file of clip_id, label, start, end"
)
PKU_LABELS = re.compile(r"^\d{4}-[LMR]\.txt$")
PKU_PROTOCOLS = ("cross-subject.txt", "cross-view.txt", "cross_subject.txt", "cross_view.txt")
CLASS_FILES = ("Charades_v1_classes.txt", "classes.txt")
"""Files beside annotations with a class a line: "c000 name", or the name alone."""

Row = tuple[int, float, float]


def read_spans(path: str | os.PathLike[str], names: Sequence[str] | None = None) -> SpanTable:
    """The annotations of a file or folder; see the text of the module for the formats.

    Args:
        path: of the file or folder.
        names: of the classes, in the order of their numbers. Default: those of a file of classes beside it, else the
            numbers.

    Raises:
        TrainingError: there is none, it is of another format, or a line of it cannot be read.
    """
    place = Path(path)
    if place.is_dir():
        return _pku_mmd(place, names)
    if not place.is_file():
        raise TrainingError(f"{place}: there is no such file of spans; allowed: {ALLOWED}")
    try:
        if place.suffix == ".json":
            return _json(place, place.read_text(encoding="utf-8-sig"), names)
        table = pl.read_parquet(place, glob=False) if place.suffix == ".parquet" else read_sheet(place)
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        first = str(error).partition("\n")[0]
        raise TrainingError(f"{place}: spans cannot be read: {first}; allowed: {ALLOWED}") from None
    rows, header = table.cast(pl.String).fill_null("").to_dicts(), set(table.columns)
    if not rows:
        raise TrainingError(f"{place}: it has no row; allowed: {ALLOWED}")
    if {"id", "actions"} <= header:
        return _charades(place, rows, names)
    if {"label", "start", "end"} <= header and header & {"clip_id", "file"}:
        return _own(place, rows)
    raise TrainingError(f"{place}: its columns are {', '.join(table.columns)}; allowed: {ALLOWED}")


def read_all(paths: Sequence[str | os.PathLike[str]]) -> SpanTable:
    """The annotations of several files as one table, such as those of two splits; classes are joined by name.

    Raises:
        TrainingError: one cannot be read, they count in different units, or two say something of the same clip.
    """
    tables = [read_spans(path) for path in paths]
    if len(tables) == 1:
        return tables[0]
    first, names = tables[0], ", ".join(table.name for table in tables)
    labels = tuple(dict.fromkeys(label for table in tables for label in table.labels))
    numbers = {label: number for number, label in enumerate(labels)}
    rows: dict[str, list[Row]] = {}
    for table in tables:
        if table.unit != first.unit:
            raise TrainingError(f"{table.name} counts in {table.unit}, {first.name} in {first.unit}; give one unit")
        if twice := sorted(rows.keys() & table.rows.keys()):
            raise TrainingError(f"{names}: two of them say something of clip {twice[0]!r}; leave one out")
        for clip, own in table.rows.items():
            rows[clip] = [(numbers[table.labels[label]], start, end) for label, start, end in own]
    splits = {clip: split for table in tables for clip, split in table.splits.items()}
    seconds = {clip: length for table in tables for clip, length in table.seconds.items()}
    return SpanTable(names, labels, rows, first.unit, splits, seconds)


def _charades(place: Path, rows: Sequence[Mapping[str, str]], names: Sequence[str] | None) -> SpanTable:
    spans: dict[str, list[Row]] = {}
    seconds: dict[str, float] = {}
    for number, row in enumerate(rows, 2):
        own = spans.setdefault(row["id"], [])
        for action in filter(None, (row["actions"] or "").split(";")):
            own.append(_parsed(place, number, action, lambda text: _charades_action(text.split())))
        if length := row.get("length"):
            seconds[row["id"]] = float(_parsed(place, number, length, lambda text: (0, 0.0, float(text)))[2])
    labels = _labels(place.parent, names, spans.values())
    split = next((split for part, split in _SPLIT_NAMES if part in place.stem.lower()), None)
    splits = {} if split is None else dict.fromkeys(spans, split)
    return SpanTable(str(place), labels, spans, "seconds", splits, seconds)


_SPLIT_NAMES = (("train", "train"), ("val", "val"), ("test", "test"))


def _charades_action(words: Sequence[str]) -> Row:
    label, start, end = words
    if not label.startswith("c"):
        raise ValueError(label)
    return int(label[1:]), float(start), float(end)


def _json(place: Path, text: str, names: Sequence[str] | None) -> SpanTable:
    """Starts and ends in the unit of the duration become shares of the clip, so that the unit does not matter."""
    try:
        content = json.loads(text)
    except ValueError as error:
        raise TrainingError(f"{place}: no JSON: {error}") from None
    if not isinstance(content, dict) or not content:
        raise TrainingError(f"{place}: it holds no videos; allowed: {{video: {{subset, duration, actions}}}}")
    spans: dict[str, list[Row]] = {}
    splits: dict[str, str] = {}
    for video, entry in content.items():
        try:
            length = float(entry["duration"])
            if not length > 0:
                raise ValueError(f"its duration is {entry['duration']!r}")
            own = [(int(label), float(start) / length, float(end) / length) for label, start, end in entry["actions"]]
        except (TypeError, KeyError, ValueError) as error:
            raise TrainingError(
                f"{place}: video {video!r} cannot be read ({type(error).__name__}: {error}); allowed: "
                "{subset, duration, actions: [[class, start, end], ...]}"
            ) from None
        spans[video] = [_ordered(place, f"video {video!r}", row) for row in own]
        if "subset" in entry:
            splits[video] = TABLE_SPLITS.get(str(entry["subset"]), str(entry["subset"]))
    return SpanTable(str(place), _labels(place.parent, names, spans.values()), spans, "shares", splits)


def _pku_mmd(place: Path, names: Sequence[str] | None) -> SpanTable:
    files = sorted(path for path in place.iterdir() if PKU_LABELS.match(path.name))
    if not files:
        raise TrainingError(f"{place}: it holds no label file such as 0002-L.txt; allowed: {ALLOWED}")
    spans: dict[str, list[Row]] = {}
    for file in files:
        lines = [line.strip() for line in file.read_text().splitlines()]
        spans[file.stem] = [
            _parsed(file, number, line, lambda text: _pku_line(text.split(",")))
            for number, line in enumerate(lines, 1)
            if line
        ]
    protocol = next(
        (folder / name for folder in (place, place.parent) for name in PKU_PROTOCOLS if (folder / name).is_file()), None
    )
    splits = {} if protocol is None else _pku_splits(protocol)
    return SpanTable(str(place), _labels(place, names, spans.values()), spans, "frames", splits)


def _pku_line(words: Sequence[str]) -> Row:
    label, first, last = (int(float(word)) for word in words[:3])
    if label < 1:
        raise ValueError("classes count from 1")
    return label - 1, first, last + 1


def _pku_splits(protocol: Path) -> dict[str, str]:
    """By clip its split: names after a line "Training videos:", and after "Validation videos:" (or its misprints)."""
    splits: dict[str, str] = {}
    split = "train"
    for line in protocol.read_text().splitlines():
        if ":" in line:
            split = "train" if line.strip().lower().startswith("train") else "val"
            line = line.split(":", 1)[1]
        splits |= dict.fromkeys(filter(None, (name.strip() for name in line.split(","))), split)
    return splits


def _own(place: Path, rows: Sequence[Mapping[str, str]]) -> SpanTable:
    key = "clip_id" if "clip_id" in rows[0] else "file"
    units = {row.get("unit") or "frames" for row in rows}
    if len(units) > 1 or units - {"frames", "seconds"}:
        raise TrainingError(f"{place}: unit {', '.join(sorted(units))}; allowed: one of frames and seconds in all rows")
    unit: Unit = "seconds" if units == {"seconds"} else "frames"
    labels = tuple(sorted({row["label"] for row in rows if row["label"]}))
    numbers = {label: number for number, label in enumerate(labels)}
    spans: dict[str, list[Row]] = {}
    splits: dict[str, str] = {}
    for number, row in enumerate(rows, 2):
        own = spans.setdefault(row[key], [])
        if row["label"]:  # a clip in which nothing happens has a row without a label
            text = f"{row['start']} {row['end']}"
            label = numbers[row["label"]]
            own.append(_parsed(place, number, text, partial(_times, label)))
        if row.get("split"):
            splits[row[key]] = TABLE_SPLITS.get(row["split"], row["split"])
    return SpanTable(str(place), labels, spans, unit, splits)


def _times(label: int, text: str) -> Row:
    start, end = map(float, text.split())
    return label, start, end


def _parsed(place: Path, number: int, text: str, parse: Callable[[str], Any]) -> Row:
    try:
        row = parse(text)
        label, start, end = row
    except (ValueError, TypeError):
        raise TrainingError(
            f"{place}, line {number}: {text!r} cannot be read as a class with its start and end"
        ) from None
    return _ordered(place, f"line {number}", (label, start, end))


def _ordered(place: Path, where: str, row: Row) -> Row:
    label, start, end = row
    if not (np.isfinite(start) and np.isfinite(end)) or label < 0:
        raise TrainingError(f"{place}, {where}: class {label} from {start:g} to {end:g}; allowed: numbers from 0")
    return label, max(0.0, min(start, end)), max(start, end)


def _labels(folder: Path, names: Sequence[str] | None, spans: Iterable[Sequence[Row]]) -> tuple[str, ...]:
    """Names of the classes: given, or of a file of classes in the folder, or the numbers."""
    count = max((label for rows in spans for label, *_ in rows), default=-1) + 1
    found: list[str] | None = None if names is None else list(names)
    for file in (folder / name for name in CLASS_FILES):
        if found is None and file.is_file():
            lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
            found = [re.sub(r"^c\d{3}\s+", "", line) for line in lines]
    if found is None:
        return tuple(map(str, range(count)))
    if len(found) < count:
        raise TrainingError(f"{folder}: {len(found)} names of classes, and spans are of classes up to {count - 1}")
    return tuple(found)
