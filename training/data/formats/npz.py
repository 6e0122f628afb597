"""One npz file of arrays: poses in one piece with offsets, or all of one length, with labels and whatever else is
known.

    keypoints   with offsets: (F, V, C) or (F, M, V, C), clip i is [offsets[i]:offsets[i+1]]; without: (N, M, T, V, C)
    offsets     (N + 1,) whole numbers, from 0 to F
    visible     bool, or scores: numbers, of the keypoints' shape without C
    label       (N,) whole numbers, -1 for none; label_names (K,)
    split       (N,) names, or train: (N,) bool
    spans       (S, 3) whole numbers class, first frame, end frame (exclusive), clip after clip, with span_offsets
                (N + 1,) and span_names (K,): what happens when, see `training.data.spans`
    joint_names (V,), parents (V,) -1 for the root, names (N,), frame_size (N, 2) width and height, fps one or (N,)

Any other array with N rows can be read as a feature, and used in conditions where it has one value per clip.
`joints` in place of `keypoints` is read alike.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from dataengine.core.errors import TrainingError, suggestion
from dataengine.io import npy
from training.data.formats.base import InMemoryDataset, checked_ids, choose, digest, frame_of, names_of, repeated
from training.data.formats.joints import Layout, layout_of
from training.data.spans import checked
from training.data.types import Array, Numbers, SkeletonSequence, Spans

KNOWN = {
    "keypoints",
    "joints",
    "offsets",
    "visible",
    "scores",
    "label",
    "label_names",
    "split",
    "train",
    "joint_names",
    "parents",
}
KNOWN |= {"names", "frame_size", "fps", "spans", "span_offsets", "span_names"}
INVISIBLE = ("absent", "guess")
PLACEHOLDER = 2.0
"""Pixels: invisible joints of Penn Action nearer to the origin than this are placeholders, farther ones guesses of the
annotators."""


class NpzDataset(InMemoryDataset):
    """The clips of an npz file; see the module's text.

    Args:
        path: of the file; it is loaded whole.
        split: train, test, or as its `split` says; None for all.
        where: an SQL condition over key, label, label_id, split, num_frames and its other arrays of one value a clip.
        entries: names of other arrays with N rows to give as each clip's features.
        layout: the joints' layout, by default found by their names.
        labels: class names by label, where the file has none.
        invisible: what joints are that `visible` denies: 'absent', or 'guess': kept with score 0 unless they lie at the
            origin.

    Raises:
        TrainingError: the file is torn, its arrays do not fit together, or nothing is chosen.
    """

    default_entries = ()

    @classmethod
    def recognises(cls, path: str) -> bool:
        """A file *.npz."""
        return path.endswith(".npz") and Path(path).is_file()

    def __init__(
        self,
        path: str | os.PathLike[str],
        split: str | None = None,
        where: str | None = None,
        entries: Sequence[str] = (),
        layout: Layout = None,
        labels: Sequence[str] | None = None,
        invisible: str = "absent",
    ) -> None:
        name = os.fspath(path)
        if invisible not in INVISIBLE:
            raise TrainingError(f"{name}: invisible={invisible!r}; allowed: {', '.join(INVISIBLE)}")
        held = _load(path)
        self._poses, self._offsets, count = _poses(name, held)
        self._scores = _scores(name, held, self._poses, invisible)
        rowed = {key: held[key] for key in sorted(held.keys() - KNOWN) if held[key].ndim and len(held[key]) == count}
        if unknown := [entry for entry in entries if entry not in rowed]:
            raise TrainingError(f"{name}: no array {unknown[0]!r} with a row a clip{suggestion(unknown[0], rowed)}")
        self._extra = {entry: rowed[entry] for entry in entries}
        ids = _rows(name, held, "label", count) if "label" in held else np.full(count, -1)
        if ids.dtype.kind not in "iu":
            raise TrainingError(f"{name}: label is {ids.dtype}; allowed: whole numbers, and label_names (K,)")
        own = held.get("label_names")
        if "names" in held:
            shown = _rows(name, held, "names", count).astype(str).tolist()
            repeated(name, shown, "clips")
        else:
            shown, self.named = [str(k) for k in range(count)], False
        ids = np.array(checked_ids(ids.tolist(), lambda k: f"{name}: label of clip {k} ({shown[k]})"), np.int64)
        classes = names_of(int(ids.max(initial=-1)) + 1, labels if own is None else own.tolist(), name)
        keys = (
            _rows(name, held, "names", count).astype(str).tolist()
            if "names" in held
            else [f"{k:06d}" for k in range(count)]
        )
        more: dict[str, Any] = {
            key: pl.Series(array) for key, array in rowed.items() if array.ndim == 1 and array.dtype.kind in "iufbU"
        }
        splits = {} if (split_column := _split(name, held, count)) is None else {"split": split_column}
        lengths = np.full(count, self._poses.shape[2]) if self._offsets is None else np.diff(self._offsets)
        facts = frame_of(keys, ids, classes, {**more, **splits, "num_frames": lengths})
        self._size = _rows(name, held, "frame_size", count).astype(np.int64) if "frame_size" in held else None
        self._fps = _rates(name, held["fps"], count, shown) if "fps" in held else None
        joints = held["joint_names"].astype(str).tolist() if "joint_names" in held else ()
        parents = held["parents"].astype(np.int64).tolist() if "parents" in held else ()
        number = self._poses.shape[-2]
        if any(len(stored) not in (0, number) for stored in (joints, parents)):
            raise TrainingError(f"{name}: joint_names and parents must be of the {number} joints of its poses")
        skeleton = layout_of(layout, number, name, joints, parents)
        known = (self._poses, self._offsets, self._scores, self._size, self._fps)
        sums = digest(*known, *(self._extra[entry] for entry in entries))
        self._spans, self.span_labels = _spans(name, held, keys, lengths)
        rows = choose(name, facts, split, where)
        of_spans = [] if self._spans is None else [digest(*self._spans, *self.span_labels)]
        super().__init__(name, skeleton, classes, facts, rows, sums, invisible, *of_spans)
        self.lengths = lengths[rows].astype(np.int64)

    def clip_at(self, index: int, row: int) -> SkeletonSequence:
        """See `InMemoryDataset.clip_at`."""
        keypoints, scores = self._of(self._poses, row), None if self._scores is None else self._of(self._scores, row)
        size = None if self._size is None else (int(self._size[row, 0]), int(self._size[row, 1]))
        fps = None if self._fps is None or not np.isfinite(self._fps[row]) else float(self._fps[row])
        features = {entry: array[row] for entry, array in self._extra.items()}
        spans = None if self._spans is None else self._spans[row]
        label = int(self.label_ids[index])
        return SkeletonSequence(self.keys[index], keypoints, scores, label, size, fps, features, spans=spans)

    def _of(self, whole: Array, row: int) -> Array:
        """One clip's (M, T, V, ...) of the whole file's array."""
        if self._offsets is None:
            own: Array = whole[row]
        else:
            own = whole[self._offsets[row] : self._offsets[row + 1]].swapaxes(0, 1)
        return own


def _load(path: str | os.PathLike[str]) -> dict[str, NDArray[Any]]:
    try:
        with npy.reading(), np.load(Path(path), allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except (OSError, ValueError) as error:
        said = str(error).splitlines()[0] if str(error) else "empty"
        if "allow_pickle" in said and not zipfile.is_zipfile(
            path
        ):  # NumPy takes whatever it does not know for a pickle
            said = "it is of another format"
        raise TrainingError(f"{path}: no npz file of plain arrays, or a torn one: {said}") from None


def _rows(name: str, held: dict[str, NDArray[Any]], key: str, count: int) -> NDArray[Any]:
    if held[key].ndim < 1 or len(held[key]) != count:
        raise TrainingError(f"{name}: {key} is {held[key].shape}; it must have a row for each of the {count} clips")
    return held[key]


def _poses(name: str, held: dict[str, NDArray[Any]]) -> tuple[Array, NDArray[np.int64] | None, int]:
    """(F, M, V, C) with offsets or (N, M, T, V, C) without, float32, writable, and how many clips."""
    stored = held.get("keypoints", held.get("joints"))
    if stored is None or stored.dtype.kind not in "fiu":
        raise TrainingError(f"{name}: it holds no numbers 'keypoints'; its arrays: {', '.join(sorted(held))}")
    poses: Array = stored.astype(np.float32)
    if "offsets" not in held:
        if poses.ndim != 5 or not all(poses.shape[1:]):
            raise TrainingError(
                f"{name}: keypoints are {poses.shape}; allowed: (N, M, T, V, C), or (F, V, C) with offsets"
            )
        return poses, None, len(poses)
    offsets = held["offsets"]
    if poses.ndim == 3:
        poses = poses[:, None]
    if poses.ndim != 4:
        raise TrainingError(f"{name}: keypoints are {stored.shape}; allowed beside offsets: (F, V, C) or (F, M, V, C)")
    if (
        offsets.ndim != 1
        or offsets.dtype.kind not in "iu"
        or not len(offsets)
        or offsets[0] != 0
        or offsets[-1] != len(poses)
    ):
        raise TrainingError(f"{name}: offsets must be whole numbers from 0 to the number of frames, {len(poses)}")
    if (np.diff(offsets.astype(np.int64)) < 1).any():
        raise TrainingError(
            f"{name}: clip {int(np.argmax(np.diff(offsets.astype(np.int64)) < 1))} has no frames; leave it out of the "
            "file"
        )
    return poses, offsets.astype(np.int64), len(offsets) - 1


def _scores(name: str, held: dict[str, NDArray[Any]], poses: Array, invisible: str) -> Array | None:
    """Scores of the poses' shape without C; joints that are not seen become NaN in `poses`."""
    key = "scores" if "scores" in held else "visible" if "visible" in held else ""
    scores: Array | None = None
    if key:
        shape = poses.shape[:-1]
        if held[key].size != int(np.prod(shape)) or held[key].shape[-1] != shape[-1]:
            raise TrainingError(f"{name}: {key} is {held[key].shape}, the keypoints without C are {shape}")
        scores = held[key].astype(np.float32).reshape(shape)
        if key == "visible":
            gone = scores == 0
            poses[gone & (np.linalg.norm(poses, axis=-1) < PLACEHOLDER) if invisible == "guess" else gone] = np.nan
    unseen = np.isnan(poses).any(-1)
    poses[unseen] = np.nan
    if scores is not None:
        scores[unseen] = 0
    return scores


def _spans(
    name: str, held: dict[str, NDArray[Any]], keys: Sequence[str], lengths: Numbers
) -> tuple[list[Spans] | None, tuple[str, ...]]:
    """The spans of every clip, None where the file has none, and the names of their classes."""
    if "spans" not in held:
        return None, ()
    if missing := [key for key in ("span_offsets", "span_names") if key not in held]:
        raise TrainingError(
            f"{name}: it holds spans and no {missing[0]}; give span_offsets (N + 1,) and span_names (K,) beside spans"
        )
    offsets, names = held["span_offsets"], tuple(map(str, held["span_names"].tolist()))
    rows = held["spans"]
    if (
        offsets.shape != (len(keys) + 1,)
        or offsets.dtype.kind not in "iu"
        or offsets[0] != 0
        or offsets[-1] != len(rows)
        or (np.diff(offsets.astype(np.int64)) < 0).any()
    ):
        raise TrainingError(
            f"{name}: span_offsets must be {len(keys) + 1} whole numbers from 0 to the number of spans, {len(rows)}"
        )
    parts = np.split(rows, offsets[1:-1].astype(np.int64)) if len(keys) > 1 else [rows]
    return [
        checked(part, len(names), frames, f"{name}: spans of clip {key!r}")
        for key, part, frames in zip(keys, parts, lengths.tolist())
    ], names


def _rates(name: str, held: NDArray[Any], count: int, shown: Sequence[str]) -> Array:
    """(N,) frames per second, NaN where they are unknown.

    Raises:
        TrainingError: neither one number nor one for each clip, or not above 0.
    """
    if held.dtype.kind not in "iuf" or held.shape not in ((), (1,), (count,)):
        raise TrainingError(f"{name}: fps is {held.dtype} {held.shape}; allowed: one number, or one for each clip")
    rates: Array = np.broadcast_to(held.astype(np.float64), (count,))
    wrong = np.flatnonzero((rates <= 0) | np.isinf(rates))
    if len(wrong):
        raise TrainingError(
            f"{name}: fps of clip {wrong[0]} ({shown[wrong[0]]}) is {rates[wrong[0]]:g}; allowed: more than 0, or NaN "
            "where it is unknown"
        )
    return rates


def _split(name: str, held: dict[str, NDArray[Any]], count: int) -> list[str] | None:
    if "split" in held:
        return [str(one) for one in _rows(name, held, "split", count).tolist()]
    if "train" in held:
        return ["train" if one else "test" for one in _rows(name, held, "train", count).astype(bool).tolist()]
    return None
