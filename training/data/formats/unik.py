"""Arrays of UNIK, 2s-AGCN and their kin: SPLIT_data_joint.npy (N, C, T, V, M) and SPLIT_label.pkl (names, labels)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataengine.core.errors import TrainingError, suggestion
from dataengine.io import npy
from dataengine.io.plain_pickle import load
from dataengine.io.storage import file_hash
from training.data.formats.base import (
    InMemoryDataset,
    checked_ids,
    choose,
    frame_of,
    names_of,
    repeated,
    without_absent,
)
from training.data.formats.joints import Layout, layout_of
from training.data.types import Array, Numbers, SkeletonSequence, remark

ENDING = "_data_joint.npy"
LAYOUTS = {13: "lcr13", 17: "posetics17", 18: "openpose18", 25: "nturgbd25"}
"""Layout of such files by number of joints."""
COORDINATES = {"xy": (0, 1), "xyz": (0, 1, 2), "xys": (0, 1), "3d": (2, 3, 4)}
"""Channels of the file that are coordinates: two; three; two and the score; of five (x, y, then x, y, z) the last
three."""
USUAL = (2, 3, 5)
"""Numbers of channels of which it is known what they are."""


class UnikDataset(InMemoryDataset):
    """The arrays in a folder, or one of them; they are mapped, never loaded whole.

    A joint at zero is absent; frames of nobody at a clip's end are padding and left out.

    Args:
        path: a folder of SPLIT_data_joint.npy files, or one such file; the labels lie beside.
        split: which; None for all.
        where: an SQL condition over key, label, label_id, split.
        coordinates: see `COORDINATES`; by default xy of 2 or 5 channels, xyz of 3, and xys of 3 with OpenPose's 18
            joints.
        layout: the joints' layout; by default by their number.
        labels: class names by label.
        keep_nobody: whether clips that show nobody are kept, not left out.

    Raises:
        TrainingError: files are absent, torn or do not belong together, or nothing is chosen.
    """

    @classmethod
    def recognises(cls, path: str) -> bool:
        """A folder with *_data_joint.npy, or a file *.npy."""
        if path.endswith(".npy"):
            return Path(path).is_file()
        return Path(path).is_dir() and next(Path(path).glob(f"*{ENDING}"), None) is not None

    def __init__(
        self,
        path: str | os.PathLike[str],
        split: str | None = None,
        where: str | None = None,
        coordinates: str | None = None,
        layout: Layout = None,
        labels: Sequence[str] | None = None,
        keep_nobody: bool = False,
    ) -> None:
        name = os.fspath(path)
        files = [Path(path)] if Path(path).is_file() else sorted(Path(path).glob(f"*{ENDING}"))
        arrays_by_split = {file.name.removesuffix(ENDING).removesuffix(".npy"): file for file in files}
        if split is not None:
            if split not in arrays_by_split:
                raise TrainingError(f"{name}: no {split}{ENDING}{suggestion(split, arrays_by_split)}")
            arrays_by_split = {split: arrays_by_split[split]}
        if not arrays_by_split:
            raise TrainingError(f"{name}: no *{ENDING} there")
        self._arrays = [_mapped(file) for file in arrays_by_split.values()]
        pairs = [_labels(file, len(array)) for file, array in zip(arrays_by_split.values(), self._arrays)]
        shapes = sorted({(array.shape[1], array.shape[3]) for array in self._arrays})
        if len(shapes) > 1:
            raise TrainingError(f"{name}: its files differ in channels and joints: {shapes}; choose one with split=")
        ((channels, joints),) = shapes
        skeleton = layout_of(layout, joints, name, likely=LAYOUTS.get(joints, ""))
        if coordinates is None and channels not in USUAL:
            raise TrainingError(
                f"{name}: {channels} channels, of which none are known to be coordinates; say so with "
                f"data.options.coordinates: {', '.join(COORDINATES)}"
            )
        kind = coordinates or ("xys" if channels == 3 and joints == 18 else "xyz" if channels == 3 else "xy")
        if kind not in COORDINATES:
            raise TrainingError(f"{name}: coordinates={kind!r}{suggestion(kind, COORDINATES)}")
        if max(COORDINATES[kind]) >= channels or (kind == "xys" and channels != 3):
            raise TrainingError(f"{name}: coordinates={kind!r} cannot be taken from {channels} channels")
        self._channels, self._score = list(COORDINATES[kind]), kind == "xys"
        ids = [label for _, own in pairs for label in own]
        classes = names_of(max(ids, default=-1) + 1, labels, name)
        for split_name, (own, _) in zip(arrays_by_split, pairs):
            repeated(f"{name} ({split_name})", own, "clips")
        splits = [split_name for split_name, array in zip(arrays_by_split, self._arrays) for _ in range(len(array))]
        facts = frame_of([key for own, _ in pairs for key in own], ids, classes, {"split": splits})
        self._starts = np.cumsum([0, *(len(array) for array in self._arrays)])
        sums = [_content(str(file), *_state(file)) for file in arrays_by_split.values()]
        rows = choose(name, facts, None, where)
        if not keep_nobody:
            rows = self._with_people(name, rows, facts["key"].to_list())
        super().__init__(name, skeleton, classes, facts, rows, kind, *sums)

    def _with_people(self, name: str, rows: Numbers, keys: Sequence[str]) -> Numbers:
        """The rows of clips that show somebody; the others are told of. Most need their first frame alone."""
        low, high = self._channels[0], self._channels[-1] + 1
        shown = np.concatenate([_joints(array[:, low:high, 0]).any((1, 2)) for array in self._arrays])
        for row in rows[~shown[rows]]:
            part = int(np.searchsorted(self._starts, row, "right")) - 1
            shown[row] = _joints(self._arrays[part][row - self._starts[part], low:high][None]).any()
        left: Numbers = rows[shown[rows]]
        if not len(left):
            raise TrainingError(f"{name}: none of its {len(rows)} clips shows anybody")
        if len(left) < len(rows):
            some = keys[int(rows[~shown[rows]][0])]
            remark(f"{name}: {len(rows) - len(left)} of {len(rows)} clips show nobody and are left out, e.g. {some!r}")
        return left

    def clip_at(self, index: int, row: int) -> SkeletonSequence:
        """See `InMemoryDataset.clip_at`."""
        part = int(np.searchsorted(self._starts, row, "right")) - 1
        whole: Array = np.asarray(self._arrays[part][row - self._starts[part]], np.float32).transpose(3, 1, 2, 0)
        keypoints: Array = np.ascontiguousarray(whole[..., self._channels])
        scores: Array | None = np.ascontiguousarray(whole[..., 2]) if self._score else None
        used = np.flatnonzero((keypoints != 0).any((0, 2, 3)))
        frames = int(used[-1]) + 1 if len(used) else 1
        keypoints, scores = without_absent(keypoints[:, :frames], None if scores is None else scores[:, :frames])
        return SkeletonSequence(self.keys[index], keypoints, scores, int(self.label_ids[index]))


def _state(file: Path) -> tuple[int, int]:
    stat = file.stat()
    return stat.st_size, stat.st_mtime_ns


@lru_cache(maxsize=64)
def _content(file: str, size: int, changed: int) -> str:
    """A hash of the whole file; one process reads a file that does not change once for it."""
    return file_hash(file)


def _joints(coords: Array) -> NDArray[np.bool_]:
    """(N, ..., V, M) whether a joint is there, of coordinates (N, C, ..., V, M): all finite, and not all zero."""
    there: NDArray[np.bool_] = np.isfinite(coords).all(1) & (coords != 0).any(1)
    return there


def _mapped(file: Path) -> NDArray[Any]:
    try:
        with npy.reading():
            array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise TrainingError(f"{file}: cannot be read, or is torn: {str(error).splitlines()[0]}") from None
    if not isinstance(array, np.ndarray) or array.ndim != 5 or array.dtype.kind != "f":
        raise TrainingError(
            f"{file}: it holds {getattr(array, 'dtype', 'no array')} {np.shape(array)}; allowed: floats (N, C, T, V, M)"
        )
    return array


def _labels(file: Path, count: int) -> tuple[list[str], list[int]]:
    """Names and labels of a data file's clips, from the pickle beside it."""
    own = file.with_name(file.name.removesuffix(ENDING).removesuffix(".npy") + "_label.pkl")
    if not own.is_file():
        raise TrainingError(f"{file}: its labels {own.name} are absent; they must lie beside it")
    content = load(own, TrainingError)
    if (
        not isinstance(content, tuple | list)
        or len(content) < 2
        or any(not isinstance(part, list | tuple) and getattr(part, "ndim", 0) < 1 for part in content[:2])
        or any(len(part) != count for part in content[:2])
    ):
        raise TrainingError(f"{own}: it must hold (names, labels) of the {count} clips of {file.name}")
    names = [str(name) for name in content[0]]
    return names, checked_ids(content[1], lambda k: f"{own}: label of clip {k} ({names[k]})")
