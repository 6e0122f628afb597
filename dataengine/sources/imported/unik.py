"""Arrays of UNIK, 2s-AGCN and their kin: SPLIT_data_joint.npy (N, C, T, V, M) and SPLIT_label.pkl (names, labels)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataengine.core.class_numbers import class_number
from dataengine.core.errors import SourceError, suggestion
from dataengine.io import npy
from dataengine.io.plain_pickle import load
from dataengine.sources.imported.pyskl import split_set
from dataengine.sources.imported.saved_clip import SavedClip, person

ENDING = "_data_joint.npy"
LAYOUTS = {13: "lcr13", 17: "posetics17", 18: "openpose18", 25: "nturgbd25"}
"""Layout of such files by number of joints."""


class UnikFolder:
    """The arrays in a folder, or one of them; they are mapped, never loaded whole.

    Args:
        path: a folder of SPLIT_data_joint.npy files, or one such file; the labels lie beside.
        chosen: which of several sets of splits to take, such as xsub; '' takes the first.

    Raises:
        SourceError: files are absent, torn or do not belong together.
    """

    classes: tuple[str, ...] = ()
    layout = ""

    def __init__(self, path: Path, chosen: str = "") -> None:
        files = [path] if path.is_file() else sorted(path.glob(f"*{ENDING}"))
        if not files:
            raise SourceError(f"{path}: no *{ENDING} there")
        self.notes: list[str] = []
        self._parts: list[tuple[Path, str | None, NDArray[Any], list[str], Any]] = []
        kinds = {file: split_set(file.name.removesuffix(ENDING).removesuffix(".npy")) for file in files}
        sets = list(dict.fromkeys(own for kind, own in kinds.values() if kind))
        if chosen and chosen not in sets:
            raise SourceError(f"{path}: it has no set of splits {chosen!r}{suggestion(chosen, filter(None, sets))}")
        own = chosen or (sets[0] if sets else "")
        if len(sets) > 1:
            others = ", ".join(map(repr, (one for one in sets if one != own)))
            self.notes.append(f"of its sets of splits {own!r} is taken; --splits takes another: {others}")
        last = ("test", "val", "train", None)  # of clips in several files, those to measure on stay
        for file, (kind, belongs) in sorted(kinds.items(), key=lambda item: last.index(item[1][0])):
            if kind is None and len(files) > 1:
                self.notes.append(f"{file.name} names neither of train, val nor test and is passed over")
            elif kind is None or belongs == own:
                array = _mapped(file)
                self._parts.append((file, kind, array, *_labels(file, len(array))))

    def __len__(self) -> int:
        return sum(len(array) for _, _, array, _, _ in self._parts)

    def clips(self) -> Iterator[SavedClip]:
        """The clips, file by file."""
        count = len(self)
        for file, split, array, names, labels in self._parts:
            for number, name in enumerate(names):
                clip = SavedClip(name, split=split)
                try:
                    clip.number = class_number(labels[number], count)
                    with np.errstate(over="ignore"):  # numbers beyond float32 are infinite
                        whole = np.asarray(array[number], np.float32)
                    clip.tracks = _tracks(whole)
                    clip.num_frames = clip.tracks[0].shape[1]
                except ValueError as error:
                    clip.reason, clip.detail = "bad_row", f"clip {number} of {file.name}: {error}"
                except LookupError:
                    clip.reason, clip.detail = "no_person", f"clip {number} of {file.name} shows nobody"
                yield clip


def _tracks(whole: Any) -> tuple[Any, Any]:
    """Keypoints (M, T, V, 2) and scores of one clip (C, T, V, M); frames of nobody at its end are padding.

    Raises:
        ValueError: there are no x and y of the picture.
        LookupError: there is nobody.
    """
    channels, _, joints, _ = whole.shape
    points = whole.transpose(3, 1, 2, 0)
    if channels == 3 and joints != 18 and not _are_scores(points[..., 2]):
        raise ValueError(
            "3 channels are x, y and z; a dataset holds x and y in pixels: train on the file itself with "
            "dataengine-train --data"
        )
    if channels not in (2, 3, 5):
        raise ValueError(f"{channels} channels; allowed: 2 (x, y), 3 (x, y, score, of 18 joints) or 5 (x, y, then 3D)")
    used = np.flatnonzero((points[..., :2] != 0).any((0, 2, 3)))
    if not len(used):
        raise LookupError
    points = points[:, : int(used[-1]) + 1]
    coords, scores = person(points[..., :2], points[..., 2] if channels == 3 else np.ones(points.shape[:3], np.float32))
    seen = np.isfinite(coords).all(-1).reshape(len(coords), -1).any(1)
    if not seen.any():
        raise LookupError
    return coords[seen], scores[seen]


def _are_scores(channel: Any) -> bool:
    """Whether a third channel is the score: from 0 to 1, and not 0 alone."""
    return bool((channel >= 0).all() and (channel <= 1).all() and channel.any())


def _mapped(file: Path) -> NDArray[Any]:
    try:
        with npy.reading():
            array = np.load(file, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise SourceError(f"{file}: cannot be read: {error.strerror or error}") from None
    except ValueError:
        raise SourceError(
            f"{file}: cannot be read, or is torn: it holds no plain NumPy array; allowed: a .npy of floats "
            "(N, C, T, V, M)"
        ) from None
    if not isinstance(array, np.ndarray) or array.ndim != 5 or array.dtype.kind not in "fiu":
        raise SourceError(
            f"{file}: it holds {getattr(array, 'dtype', 'no array')} {np.shape(array)}; allowed: floats (N, C, T, V, M)"
        )
    return array


def _labels(file: Path, count: int) -> tuple[list[str], Any]:
    """Names and labels of a data file's clips, from the pickle beside it."""
    own = file.with_name(file.name.removesuffix(ENDING).removesuffix(".npy") + "_label.pkl")
    if not own.is_file():
        raise SourceError(f"{file}: its labels {own.name} are absent; they must lie beside it")
    content = load(own, SourceError)
    lists = isinstance(content, tuple | list) and len(content) >= 2
    if not lists or any(
        not isinstance(part, list | tuple | np.ndarray) or getattr(part, "ndim", 1) != 1 or len(part) != count
        for part in content[:2]
    ):
        raise SourceError(f"{own}: it must hold (names, labels) of the {count} clips of {file.name}")
    return [str(name) for name in content[0]], content[1]
