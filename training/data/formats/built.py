"""A dataset that dataengine built, from its folder or over a network, by the byte ranges of its index."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from dataengine.core.errors import DatasetError, TrainingError
from dataengine.core.skeletons import SKELETONS, Skeleton
from dataengine.dataset.dataset import Dataset
from dataengine.dataset.dataset import open as open_built_dataset
from dataengine.dataset.index import MANIFEST
from dataengine.io import npy
from dataengine.io.shards import decode_entry
from training.data.formats.base import Format, choose, digest, names_of, widened
from training.data.formats.ranges import Ranges, is_url
from training.data.formats.stored_spans import StoredSpans, labels_of
from training.data.types import Numbers, SkeletonSequence

HEAD = 128
"""Bytes of the npy header of all arrays of up to four axes."""
HEADS = 1 << 14
"""Headers that are remembered: as many as there are shapes, at most."""
_heads: dict[bytes, tuple[np.dtype[Any], tuple[int, ...], int]] = {}

POSES = ("keypoints", "keypoints3d")


class EntryReader:
    """Decodes entries of samples by their byte ranges: shared by all datasets that lie in tar shards.

    Args:
        ranges: the shards.
        shard: (N,) number of each clip's shard.
        entry_ranges: by entry its stored name and each clip's offset and size, (N,) int64, -1 where absent.
        keys: of the clips, for messages.
    """

    def __init__(
        self, ranges: Ranges, shard: Numbers, entry_ranges: dict[str, tuple[str, Numbers, Numbers]], keys: Sequence[str]
    ) -> None:
        self._ranges, self._shard, self._entry_ranges, self._keys = ranges, shard, entry_ranges, keys
        offsets = np.stack([offset for _, offset, _ in entry_ranges.values()])
        ends = offsets + np.stack([size for _, _, size in entry_ranges.values()])
        self._first = np.where(offsets < 0, np.iinfo(np.int64).max, offsets).min(axis=0)
        self._last = np.where(offsets < 0, 0, ends).max(axis=0)
        for name, (_, offset, _) in entry_ranges.items():
            if name in POSES and (offset < 0).any():
                raise DatasetError(
                    f"{keys[int(np.argmax(offset < 0))]}: it has no {name}, {int((offset < 0).sum())} clips have "
                    "none; leave them out with where="
                )

    def read(self, rows: Numbers) -> dict[str, list[Any]]:
        """By entry each clip's value, None where it has none.

        Raises:
            DatasetError: a shard is torn or damaged.
        """
        data = self._ranges.pieces(self._shard[rows].tolist(), self._first[rows].tolist(), self._last[rows].tolist())
        values_by_entry = {}
        for entry, (name, offset, size) in self._entry_ranges.items():
            values: list[Any] = []
            read = _array if name.endswith(".npy") else _decoded
            try:
                for (piece, base), start, length in zip(data, offset[rows].tolist(), size[rows].tolist()):
                    values.append(read(name, piece, start - base, length) if length >= 0 else None)
            except (DatasetError, ValueError) as error:
                row = int(rows[len(values)])
                shard = self._ranges.files[int(self._shard[row])]
                raise DatasetError(
                    f"{shard}: {name} of {self._keys[row]} is damaged: {error}; copy the shard again, or build it again"
                ) from None
            values_by_entry[entry] = values
        return values_by_entry


def _decoded(name: str, data: memoryview, start: int, size: int) -> Any:
    return decode_entry(name, data[start : start + size])


def _array(name: str, data: memoryview, start: int, size: int) -> NDArray[Any]:
    """The array of the npy file at data[start : start + size]."""
    head = bytes(data[start : start + HEAD])
    header = _heads.get(head)
    if header is not None and header[2] == size:
        return np.ndarray(header[1], header[0], data, start + HEAD)
    array = npy.parse(data[start : start + size])
    if array.nbytes + HEAD == size and array.flags.c_contiguous:
        if len(_heads) >= HEADS:
            _heads.clear()
        _heads[head] = (array.dtype, array.shape, size)
    return array


class BuiltDataset(Format):
    """A built dataset's clips; those taken down are absent. What its build took from `curate.spans` is their spans.

    Args:
        path: a folder or url, or a dataset that `dataengine.open` opened.
        split: train, val or test; None for all.
        where: an SQL condition over the clips table, such as "label IN ('jump', 'wave') AND confidence_mean > 0.4".
        entries: what to read of each clip: keypoints or keypoints3d, scores, and further ones such as viclip_video and
            viclip_text; also columns of the clips table such as text. All but poses and scores become the clip's
            features.
        pose: the entry that is the clip's keypoints.
        cache, cache_gb: of remote datasets, see `training.data.formats.ranges.Ranges`.

    Raises:
        TrainingError: nothing is chosen.
        DatasetError: there is no such entry, the condition is no SQL, or a shard is torn.
    """

    default_entries = ("keypoints", "scores")

    @classmethod
    def recognises(cls, path: str) -> bool:
        """A url that names no tar file, or a folder with a manifest, or one of an unfinished dataset."""
        if path.endswith(".tar") or "{" in path or "::" in path:
            return False
        if is_url(path) or any(Path(path, folder, MANIFEST).is_file() for folder in ("", "dataset")):
            return True
        others = ("*_data_joint.npy", "*.tar")
        unfinished = Path(path, "dataset").is_dir() or Path(path, "index").is_dir()  # opening it says what is missing
        return unfinished and not any(next(Path(path).glob(pattern), None) for pattern in others)

    def __init__(
        self,
        path: str | os.PathLike[str] | Dataset,
        split: str | None = None,
        where: str | None = None,
        entries: Sequence[str] = ("keypoints", "scores"),
        pose: str = "keypoints",
        cache: str | os.PathLike[str] | None = None,
        cache_gb: float = 20.0,
    ) -> None:
        dataset = path if isinstance(path, Dataset) else open_built_dataset(os.fspath(path))
        self.name = dataset.root
        if pose not in POSES:
            raise TrainingError(f"{self.name}: pose={pose!r}; allowed: {', '.join(POSES)}")
        self._pose = pose
        columns = set(dataset.clips.collect_schema().names())
        stored = [
            entry.removesuffix(".npy")
            for entry in entries
            if entry not in columns and (entry not in POSES or entry == pose)
        ]
        facts = [entry for entry in entries if entry in columns]
        stored_entries = tuple(dict.fromkeys((pose, *stored)))
        needed = ("split", "label", "label_id", "video_id", "fps", "width", "height", "num_frames", *facts)
        spans = ("spans",) if "spans" in columns else ()
        chosen, entry_ranges = dataset.entry_ranges(where, stored_entries, (*needed, *spans))
        if chosen.is_empty() and where is not None:
            raise TrainingError(
                f"{self.name}: where={where!r} matches none of {dataset.manifest['counts'].get('clips')} clips; widen "
                "it"
            )
        rows = choose(self.name, chosen, split, None)
        chosen = chosen[rows]
        self.keys: Sequence[str] = chosen["clip_id"].to_list()
        self.label_ids: Numbers = chosen["label_id"].fill_null(-1).to_numpy().astype(np.int64)
        self.groups = chosen["video_id"].to_list()
        self.labels = _labels(dataset)
        self.lengths = chosen["num_frames"].to_numpy().astype(np.int64)
        self._spans: StoredSpans | None = None
        if spans:
            known = dataset.clips.select("spans").collect()["spans"]
            self._spans = StoredSpans(self.name, chosen["spans"], labels_of(known))
            self.span_labels = self._spans.labels
            self.spans_known, self.spans_proposed = self._spans.known, self._spans.proposed
        self.skeleton = _skeleton(dataset)
        self.columns = {name: chosen[name].to_list() for name in dict.fromkeys(("video_id", "label", "split", *facts))}
        self._facts = chosen.select(list(dict.fromkeys(facts))) if facts else None
        self._fps = np.array([float(Fraction(fps)) if fps else np.nan for fps in chosen["fps"].to_list()])
        self._size = chosen.select(pl.col("width", "height").fill_null(-1)).to_numpy().astype(np.int64)
        placed = {
            name: (stored_name, offset[rows], size[rows]) for name, (stored_name, offset, size) in entry_ranges.items()
        }
        names = chosen["shard"].unique(maintain_order=True).to_list()
        sealed = {file["path"]: file["bytes"] for file in dataset.manifest["files"]}
        numbers = {name: number for number, name in enumerate(names)}
        shard = np.array([numbers[name] for name in chosen["shard"].to_list()], np.int64)
        content = digest(dataset.manifest["fingerprint"], json.dumps(dataset.manifest["files"], sort_keys=True))
        files = [f"{dataset.root}/{name}" for name in names]
        self._entries = EntryReader(
            Ranges(files, [sealed[name] for name in names], content, cache, cache_gb), shard, placed, self.keys
        )
        self.fingerprint = digest(content, "\n".join(self.keys), " ".join(placed), " ".join(facts), pose)

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, indices: Sequence[int]) -> list[SkeletonSequence]:
        """The clips at these positions, in this order; arrays are read-only.

        Raises:
            DatasetError: a shard is torn or damaged, or cannot be reached.
        """
        rows = np.asarray(indices, np.int64)
        values = self._entries.read(rows)
        if self._facts is not None:
            values |= self._facts[rows].to_dict(as_series=False)
        clips = clips_of(values, self._pose, rows, self.keys, self.label_ids, self._size, self._fps)
        return clips if self._spans is None else self._spans.given_to(clips, rows.tolist())


def clips_of(
    values: dict[str, list[Any]],
    pose: str,
    rows: Numbers,
    keys: Sequence[str],
    label_ids: Numbers,
    sizes: Numbers,
    rates: NDArray[Any],
) -> list[SkeletonSequence]:
    """Clips of decoded entries.

    Args:
        values: by entry each clip's value, None where it has none; all but the pose and scores become features.
        pose: the entry that is the keypoints.
        rows: the positions of the clips in the arrays of the dataset that follow.
        keys, label_ids: of all clips.
        sizes: (N, 2) int64 width and height, -1 where unknown.
        rates: (N,) float64 frames a second, NaN where unknown.
    """
    poses = widened(values.pop(pose))
    stored_scores = values.pop("scores", None)
    if stored_scores is None:
        scores: list[Any] = [None] * len(rows)
    elif all(array is not None for array in stored_scores):
        scores = widened(stored_scores)
    else:
        scores = _each(stored_scores)
    features: list[dict[str, Any]] = [
        {name: column[k] for name, column in values.items() if column[k] is not None} if values else {}
        for k in range(len(rows))
    ]
    facts = zip(
        rows.tolist(), poses, scores, label_ids[rows].tolist(), sizes[rows].tolist(), rates[rows].tolist(), features
    )
    return [
        SkeletonSequence(
            keys[row],
            keypoints,
            score,
            label,
            (width, height) if width > 0 else None,
            fps if fps == fps else None,
            more,
        )
        for row, keypoints, score, label, (width, height), fps, more in facts
    ]


def _each(arrays: list[Any]) -> list[Any]:
    return [None if array is None else widened([array])[0] for array in arrays]


def _labels(dataset: Dataset) -> tuple[str, ...]:
    """Class names by label id, of the whole dataset whatever is chosen of it."""
    pairs = dict(
        dataset.clips.select("label_id", "label").drop_nulls().unique().sort("label_id", "label").collect().rows()
    )
    return names_of(0, [pairs.get(k, str(k)) for k in range(max(pairs, default=-1) + 1)], dataset.root)


def _skeleton(dataset: Dataset) -> Skeleton:
    name = dataset.manifest.get("skeleton", "posetics17")
    if name not in SKELETONS:
        raise DatasetError(
            f"{dataset.root}: its skeleton {name!r} is unknown here; use the version of dataengine that built it"
        )
    return SKELETONS[name]
