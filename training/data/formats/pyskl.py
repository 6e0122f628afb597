"""The pickle of pyskl and MMAction2: {"split": {name: [ids]}, "annotations": [{frame_dir, keypoint, keypoint_score,
label ...}]}.

A pickle is a program; only what such files need is admitted here: builtin containers and NumPy arrays.
"""

from __future__ import annotations

import codecs
import os
import pickle
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
import polars as pl

from dataengine.core.errors import TrainingError, suggestion
from training.data.formats.base import InMemoryDataset, choose, digest, frame_of, names_of, without_absent
from training.data.formats.joints import Layout, layout_of
from training.data.types import Array, SkeletonSequence

LAYOUTS = {17: "coco17", 18: "openpose18", 25: "nturgbd25"}
"""Layout of pyskl's files by number of joints."""


def _latin1(text: str, encoding: str) -> bytes:
    """What pickles of protocol 2 write for bytes."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"encoding {encoding!r} is not admitted")
    return codecs.latin_1_encode(text)[0]


class _Refused(pickle.UnpicklingError):
    """The pickle asks for something that is not admitted."""


class Restricted(pickle.Unpickler):
    """Admits builtin containers, NumPy arrays, dtypes and scalars; anything else is refused by name."""

    ADMITTED: ClassVar[dict[tuple[str, str], Any]] = {
        **{
            (module, kind.__name__): kind
            for module in ("builtins", "__builtin__")
            for kind in (set, frozenset, bytearray, bytes, complex)
        },
        ("collections", "OrderedDict"): OrderedDict,
        ("_codecs", "encode"): _latin1,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        """The admitted object of that name.

        Raises:
            pickle.UnpicklingError: it is not admitted.
        """
        if (module, name) in self.ADMITTED:
            return self.ADMITTED[module, name]
        place = module.replace("numpy.core.", "numpy._core.")
        if (place, name) in (("numpy._core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "scalar")):
            return getattr(np._core.multiarray, name)  # type: ignore[attr-defined]
        if (place, name) == ("numpy._core.numeric", "_frombuffer"):
            return np._core.numeric._frombuffer  # type: ignore[attr-defined]
        if module == "numpy.dtypes" and name.endswith("DType") and "Object" not in name and hasattr(np.dtypes, name):
            return getattr(np.dtypes, name)
        raise _Refused(f"{module}.{name}")


def load(path: str | os.PathLike[str]) -> Any:
    """The content of a pickle file of plain containers and arrays.

    Raises:
        TrainingError: it cannot be read, or holds anything else; the message names it.
    """
    try:
        with Path(path).open("rb") as file:
            return _load(file)
    except _Refused as error:
        raise TrainingError(
            f"{path}: it holds {error}, which is not loaded; a pickle may hold builtin containers and NumPy arrays "
            "only: save it again with those"
        ) from None
    except OSError as error:
        raise TrainingError(f"{path}: cannot be read: {error.strerror}") from None
    except (
        pickle.UnpicklingError,
        EOFError,
        ValueError,
        TypeError,
        AttributeError,
        IndexError,
        KeyError,
        ImportError,
        MemoryError,
    ) as error:
        said = " ".join(str(error).split())
        raise TrainingError(f"{path}: no pickle of plain data, or a torn one: {said}") from None


def _load(file: BinaryIO) -> Any:
    return Restricted(file, encoding="latin1").load()


class PysklDataset(InMemoryDataset):
    """A pyskl pickle's annotations.

    Args:
        path: of the pickle.
        split: a name of its `split`; None for all annotations.
        where: an SQL condition over key, label, label_id, num_frames, num_people, width, height and whatever else is
            one value a clip.
        layout: the joints' layout; by default by their number: 17 COCO, 18 OpenPose, 25 NTU RGB+D.
        labels: class names by label.

    Raises:
        TrainingError: the file is another kind of pickle, or nothing is chosen.
    """

    @classmethod
    def recognises(cls, path: str) -> bool:
        """A file *.pkl or *.pickle that holds more than labels."""
        return path.endswith((".pkl", ".pickle")) and not path.endswith("_label.pkl") and Path(path).is_file()

    def __init__(
        self,
        path: str | os.PathLike[str],
        split: str | None = None,
        where: str | None = None,
        layout: Layout = None,
        labels: Sequence[str] | None = None,
    ) -> None:
        name = os.fspath(path)
        content = load(path)
        if not isinstance(content, dict) or not isinstance(content.get("annotations"), list | tuple):
            held = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
            raise TrainingError(
                f"{name}: no pyskl pickle: it holds {held}; allowed: a dict of 'split' and 'annotations'"
            )
        notes = list(content["annotations"])
        for number, note in enumerate(notes):
            _check(name, number, note)
        keys = [
            str(note["frame_dir"] if "frame_dir" in note else note.get("filename", number))
            for number, note in enumerate(notes)
        ]
        splits = {str(key): list(map(str, ids)) for key, ids in (content.get("split") or {}).items()}
        if split is not None and split not in splits:
            raise TrainingError(f"{name}: no split {split!r}{suggestion(split, splits)}")
        ids = [int(note.get("label", -1)) for note in notes]
        classes = names_of(max(ids, default=-1) + 1, labels, name)
        facts = frame_of(keys, ids, classes, _facts(notes))
        if split is not None:
            kept = facts["key"].is_in(splits[split]).arg_true().to_numpy().astype(np.int64)
            if not len(kept):
                raise TrainingError(
                    f"{name}: split {split!r} is empty: none of its {len(splits[split])} ids has an annotation"
                )
            rows = kept[choose(name, facts[kept], None, where)]
        else:
            rows = choose(name, facts, None, where)
        self._notes = {int(row): notes[row] for row in rows}
        joints = sorted({note["keypoint"].shape[2] for note in self._notes.values()})
        if len(joints) > 1:
            raise TrainingError(
                f"{name}: clips of {' and '.join(map(str, joints))} joints; choose those of one number with split= or "
                "where="
            )
        skeleton = layout_of(layout, joints[0], name, likely=LAYOUTS.get(joints[0], ""))
        sums = digest(*(part for note in self._notes.values() for part in (note["keypoint"].shape, note["keypoint"])))
        super().__init__(name, skeleton, classes, facts, rows, sums)

    def clip_at(self, index: int, row: int) -> SkeletonSequence:
        """See `InMemoryDataset.clip_at`; features hold nothing."""
        note = self._notes[row]
        keypoints: Array = np.array(note["keypoint"], np.float32)
        stored_scores = note.get("keypoint_score")
        scores: Array | None = None if stored_scores is None else np.array(stored_scores, np.float32)
        keypoints, scores = without_absent(keypoints, scores)
        shape = note.get("img_shape")
        size = (int(shape[1]), int(shape[0])) if shape is not None and len(shape) >= 2 else None
        return SkeletonSequence(self.keys[index], keypoints, scores, int(self.label_ids[index]), size)


def _check(name: str, number: int, note: Any) -> None:
    if not isinstance(note, dict) or not isinstance(note.get("keypoint"), np.ndarray):
        raise TrainingError(f"{name}: annotation {number} has no array 'keypoint'")
    shape = note["keypoint"].shape
    if len(shape) != 4 or note["keypoint"].dtype.kind not in "fiu" or not all(shape):
        raise TrainingError(
            f"{name}: keypoint of annotation {number} is {note['keypoint'].dtype} {shape}; allowed: numbers (M, T, V, "
            "C), none of them 0"
        )
    scores = note.get("keypoint_score")
    if scores is not None and np.shape(scores) != shape[:3]:
        raise TrainingError(
            f"{name}: keypoint_score of annotation {number} is {np.shape(scores)}, its keypoint {shape}"
        )


def _facts(notes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Columns for conditions: sizes, and other keys of one value in all annotations."""
    shapes = [note["keypoint"].shape for note in notes]
    pictures = [note.get("img_shape") for note in notes]
    columns: dict[str, Any] = {
        "num_frames": [shape[1] for shape in shapes],
        "num_people": [shape[0] for shape in shapes],
        "height": pl.Series([None if p is None else int(p[0]) for p in pictures], dtype=pl.Int64),
        "width": pl.Series([None if p is None else int(p[1]) for p in pictures], dtype=pl.Int64),
    }
    for key in sorted({str(key) for note in notes[:1] for key in note} - {"label", *columns}):
        values = [note.get(key) for note in notes]
        for kind in (str, int, float):
            if all(isinstance(value, kind) for value in values):
                columns[key] = pl.Series(values)
                break
    return columns
