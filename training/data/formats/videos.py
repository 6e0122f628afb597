"""Videos as clips of pictures: a folder of video files, or the video shards of a built dataset (`pack.keep_video`).

Of a folder, split and class are folders (ROOT/train/jump/x.mp4, ROOT/jump/x.mp4), or stand in ROOT/labels.csv with the
columns file, label, split, and start and end in seconds for a part of a file; clips that nothing gives a split are of
train. A built dataset is read in this way with `data.format = "videos"`; splits, labels and conditions are those of its
index. Videos are decoded when they are read, scaled down to `short_side`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
import polars as pl

from dataengine.core.errors import DatasetError, MediaError, TrainingError
from dataengine.core.types import Frames
from dataengine.dataset.dataset import Dataset
from dataengine.dataset.dataset import open as open_built_dataset
from dataengine.io.remote import file_state
from dataengine.io.sheets import read_sheet
from dataengine.media.decode import PyAVDecoder
from training.data.formats import shard_index
from training.data.formats.base import GROUPS, Format, choose, digest
from training.data.formats.built import BuiltDataset
from training.data.formats.ranges import Ranges, cache_folder, is_url
from training.data.rgb import PICTURES, SECONDS, as_array
from training.data.types import Numbers, SkeletonSequence

ENDINGS = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv")
"""Endings of video files."""
SPLITS = ("train", "val", "test")
LABELS = "labels.csv"
MARKED = 4096
"""Bytes of the beginning and the end of a file that its fingerprint covers."""


class VideoDataset(Format):
    """Clips of pictures of videos.

    Args:
        path: a folder of videos, or a built dataset with video shards.
        split: train, val or test; None for all.
        where: an SQL condition over the index of a built dataset, or over the columns of labels.csv.
        short_side: pixels of the shorter side that pictures are scaled down to; smaller ones stay as they are.
        every: frames of the video for each frame of the clip.
        max_seconds: how much of a video is read; give longer ones as several rows of labels.csv.

    Raises:
        TrainingError: an option out of range, a table of labels that cannot be used, or nothing is chosen.
        DatasetError: the dataset has no video shards, or a shard is torn.
    """

    @classmethod
    def recognises(cls, path: str) -> bool:
        """A folder with a video file under it, and nothing of other formats."""
        if is_url(path) or not Path(path).is_dir() or BuiltDataset.recognises(path):
            return False
        return next(_files(Path(path)), None) is not None

    def __init__(
        self,
        path: str | os.PathLike[str],
        split: str | None = None,
        where: str | None = None,
        short_side: int = 256,
        every: int = 1,
        max_seconds: float = 60.0,
    ) -> None:
        if short_side < 8 or every < 1 or not max_seconds > 0:
            raise TrainingError(
                f"short_side {short_side}, every {every}, max_seconds {max_seconds:g}; allowed: 8 and more, 1 and "
                "more, above 0"
            )
        self._short_side, self._every, self._max_seconds = short_side, every, max_seconds
        place = os.fspath(path)
        self._videos: _Folder | _Shards = (
            _Shards(place, where) if BuiltDataset.recognises(place) else _Folder(Path(place))
        )
        self.name, self.skeleton, self.labels = place, PICTURES, self._videos.labels
        facts = self._videos.facts
        self._rows = choose(self.name, facts, split, None if isinstance(self._videos, _Shards) else where)
        chosen = facts[self._rows]
        self.keys: Sequence[str] = chosen["key"].to_list()
        self.label_ids: Numbers = chosen["label_id"].fill_null(-1).to_numpy().astype(np.int64)
        column = next((name for name in (*GROUPS, "video_id") if name in chosen.columns), None)
        if column is not None:
            self.groups = [str(value) for value in chosen[column].to_list()]
        self.columns = {name: chosen[name].to_list() for name in chosen.columns if name not in ("key", "label_id")}
        options = (short_side, every, max_seconds)
        self.fingerprint = digest(self._videos.content, "\n".join(self.keys), self.label_ids, self._rows, options)

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, indices: Sequence[int]) -> list[SkeletonSequence]:
        """The clips at these positions, in this order, decoded.

        Raises:
            DatasetError: a video cannot be decoded, or a shard is torn.
        """
        return [self._clip(int(index)) for index in indices]

    def _clip(self, index: int) -> SkeletonSequence:
        row, key = int(self._rows[index]), self.keys[index]
        with self._videos.file(row) as (path, start, end):
            try:
                frames, seconds, fps = self._decoded(path, start, end)
            except MediaError as error:
                raise DatasetError(
                    f"{self.name}: {key} cannot be decoded: {error}; take the video out of the folder or its table"
                ) from None
        height, width = frames.shape[1:3]
        return SkeletonSequence(
            key,
            as_array(frames),
            None,
            int(self.label_ids[index]),
            (width, height),
            fps,
            features={SECONDS: seconds},
        )

    def _decoded(self, path: Path, start: float | None, end: float | None) -> tuple[Frames, Any, float]:
        """Frames (T, H, W, 3), when each is shown (T,), and frames per second."""
        begin = start or 0.0
        last = begin + self._max_seconds
        decoder = PyAVDecoder(max_seconds=self._max_seconds + 1)
        frames: list[Frames] = []
        seconds: list[float] = []
        with decoder.open(path, start, last if end is None else min(end, last)) as stream:
            for batch in stream:
                for number, frame, shown in zip(batch.indices.tolist(), batch.frames, batch.timestamps.tolist()):
                    if number % self._every == 0:
                        frames.append(_scaled(frame, self._short_side))
                        seconds.append(shown)
            fps = float(stream.fps) / self._every
        return np.stack(frames), np.array(seconds, np.float32), fps


def _scaled(frame: Frames, short_side: int) -> Frames:
    """A copy of a picture (H, W, 3) with a shorter side of at most `short_side` pixels."""
    height, width = frame.shape[:2]
    factor = short_side / min(height, width)
    if factor >= 1:
        return frame.copy()
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return np.asarray(cv2.resize(np.ascontiguousarray(frame), size, interpolation=cv2.INTER_AREA), np.uint8)


def _files(root: Path) -> Iterator[str]:
    """Paths of video files under a folder, relative to it, in order."""
    for folder, inner, names in os.walk(root):
        inner.sort()
        for name in sorted(names):
            if name.lower().endswith(ENDINGS) and not name.startswith("."):
                yield Path(folder, name).relative_to(root).as_posix()


class _Folder:
    """A folder of videos.

    Attributes:
        facts: one row per clip: key, label, label_id, split, and columns of labels.csv.
        labels: names of the classes.
        content: what the fingerprint covers.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise TrainingError(f"{root}: no folder of videos; give a folder that holds {', '.join(ENDINGS[:4])} ...")
        files = list(_files(root))
        if not files:
            raise TrainingError(f"{root}: no video lies in this folder; allowed: {', '.join(ENDINGS)}")
        self._root = root
        rows = _rows_of_table(root / LABELS, files) if (root / LABELS).is_file() else _rows_of_folders(files)
        self._spans = [(row.pop("file"), row.pop("start", None), row.pop("end", None)) for row in rows]
        names = sorted({row["label"] for row in rows if row["label"] is not None})
        numbers = {name: number for number, name in enumerate(names)}
        self.labels = tuple(names)
        ids = [None if row["label"] is None else numbers[row["label"]] for row in rows]
        self.facts = pl.DataFrame(rows, infer_schema_length=None).with_columns(
            pl.Series("label_id", ids, dtype=pl.Int64),
            pl.col("key", "label", "split").cast(pl.String),
        )
        used = dict.fromkeys(file for file, _, _ in self._spans)
        self.content = digest(*(f"{name} {_mark(root / name)}" for name in used), repr(self._spans), "\n".join(names))

    @contextmanager
    def file(self, row: int) -> Iterator[tuple[Path, float | None, float | None]]:
        """The file of a clip, and the part of it, in seconds."""
        name, start, end = self._spans[row]
        yield self._root / name, start, end


def _mark(path: Path) -> str:
    """What changes when a video file does: its size, its beginning and its end, where containers keep their index.

    Raises:
        DatasetError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            head = file.read(MARKED)
            file.seek(max(0, size - MARKED))
            return f"{size} {digest(head, file.read(MARKED))}"
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from error


def _rows_of_folders(files: Sequence[str]) -> list[dict[str, Any]]:
    """A row per file, split and class by its folders."""
    rows = []
    for file in files:
        folders = list(PurePosixPath(file).parts[:-1])
        split = folders.pop(0) if folders and folders[0] in SPLITS else SPLITS[0]
        rows.append({"file": file, "key": file, "label": folders[0] if folders else None, "split": split})
    return rows


def _rows_of_table(path: Path, files: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of labels.csv.

    Raises:
        TrainingError: it cannot be read, names no file, a file that is not there, or a part that is none.
    """
    try:
        table = read_sheet(path)
    except (OSError, ValueError) as error:
        raise TrainingError(f"{path}: no table can be read: {error}") from error
    if "file" not in table.columns or table.is_empty():
        raise TrainingError(f"{path}: its columns are {', '.join(table.columns)}; needed: file, beside label and split")
    known, rows, keys = set(files), [], set[str]()
    for number, given in enumerate(table.to_dicts(), start=2):
        file = PurePosixPath(given["file"] or "").as_posix()
        if file not in known:
            raise TrainingError(f"{path} line {number}: {given['file']!r} is no video under {path.parent}")
        try:
            start, end = (None if given.get(name) in (None, "") else float(given[name]) for name in ("start", "end"))
        except ValueError as error:
            raise TrainingError(f"{path} line {number}: start and end are seconds: {error}") from None
        if not 0 <= (start or 0.0) < (np.inf if end is None else end):
            raise TrainingError(f"{path} line {number}: a part from {start} to {end} s; allowed: 0 <= start < end")
        key = file if start is None and end is None else f"{file}@{start or 0:g}"
        if key in keys:
            raise TrainingError(f"{path} line {number}: {key!r} stands there twice")
        keys.add(key)
        more = {name: value for name, value in given.items() if name not in ("file", "label", "split", "start", "end")}
        rows.append(
            {"file": file, "key": key, "label": given.get("label"), "split": given.get("split") or SPLITS[0]}
            | ({"start": start, "end": end, "video": file} if "start" in given else {})
            | {name: value for name, value in more.items() if name not in ("key", "label_id")}
        )
    return rows


class _Shards:
    """The video shards of a built dataset; attributes as of `_Folder`.

    Raises:
        DatasetError: there is no dataset, or it was built without pack.keep_video.
    """

    def __init__(self, place: str, where: str | None) -> None:
        dataset: Dataset = open_built_dataset(place)
        names = sorted(f["path"] for f in dataset.manifest["files"] if f["path"].startswith("shards/video/"))
        if not names:
            raise DatasetError(f"{dataset.root}: it holds no videos; build it with [pack] keep_video = true")
        files = [f"{dataset.root}/{name}" for name in names]
        states = [file_state(file) for file in files]
        self._ranges = Ranges(files, [size for size, _ in states], shard_index.tag_of(files, states), None, 20.0)
        index = shard_index.index(self._ranges, states, cache_folder(), content=False)
        held = index.select("key", "shard", "offset:mp4", "size:mp4")
        columns = ("split", "label", "label_id", "video_id")
        clips = dataset.entry_ranges(where, ("keypoints",), columns)[0].drop("shard").rename({"clip_id": "key"})
        facts = clips.join(held, on="key", how="inner", maintain_order="left")
        if facts.is_empty():
            raise DatasetError(f"{dataset.root}: none of {len(clips)} chosen clips has a video")
        self._places = facts.select("shard", "offset:mp4", "size:mp4").rows()
        self.facts = facts.drop("shard", "offset:mp4", "size:mp4")
        pairs = dict(dataset.clips.select("label_id", "label").drop_nulls().unique().collect().rows())
        self.labels = tuple(pairs.get(number, str(number)) for number in range(max(pairs, default=-1) + 1))
        self.content = digest(dataset.manifest["fingerprint"], "\n".join(names), "\n".join(self.labels))

    @contextmanager
    def file(self, row: int) -> Iterator[tuple[Path, float | None, float | None]]:
        """A temporary file with the video of a clip."""
        shard, offset, size = self._places[row]
        ((data, base),) = self._ranges.pieces([shard], [offset], [offset + size])
        with tempfile.TemporaryDirectory(prefix="dataengine-video-") as folder:
            path = Path(folder) / "clip.mp4"
            path.write_bytes(bytes(data[offset - base : offset - base + size]))
            yield path, None, None
