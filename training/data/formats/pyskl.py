"""The pickle of pyskl and MMAction2: {"split": {name: [ids]}, "annotations": [{frame_dir, keypoint, keypoint_score,
label ...}]}.

An annotation may hold `spans`, rows class, first frame, end frame (exclusive); the pickle then holds `span_names`.
Nothing is said of an annotation without `spans`. Nothing is measured on those whose `spans_from` is annotator.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from dataengine.core.errors import TrainingError, suggestion
from dataengine.core.skeletons import SKELETONS, Skeleton
from dataengine.io.plain_pickle import load
from dataengine.labels.clip_table import ANNOTATOR
from training.data.formats.base import (
    InMemoryDataset,
    NoSplitsError,
    at_least_one,
    checked_ids,
    choose,
    digest,
    frame_of,
    names_of,
    repeated,
    without_absent,
)
from training.data.formats.joints import Layout, layout_of
from training.data.spans import checked
from training.data.types import Numbers, SkeletonSequence, remark

NAMES = ("label_names", "class_names", "classes")
"""Where programs keep the names of their classes in the pickle."""
LAYOUTS = {17: "coco17", 18: "openpose18", 25: "nturgbd25"}
"""Layout of pyskl's files by number of joints."""


class PysklDataset(InMemoryDataset):
    """A pyskl pickle's annotations.

    Args:
        path: of the pickle.
        split: a name of its `split`; None for all annotations.
        where: an SQL condition over key, label, label_id, num_frames, num_people, width, height and whatever else is
            one value a clip.
        layout: the joints' layout; by default what the file says, else by their number: 17 COCO, 18 OpenPose, 25 NTU
            RGB+D.
        labels: class names by label; by default `label_names` of the file, else the numbers.
        keep_nobody: whether annotations that show nobody are kept, not left out.

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
        keep_nobody: bool = False,
    ) -> None:
        name = os.fspath(path)
        content = load(path, TrainingError)
        if not isinstance(content, dict) or not isinstance(content.get("annotations"), list | tuple):
            held = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
            raise TrainingError(
                f"{name}: no pyskl pickle: it holds {held}; allowed: a dict of 'split' and 'annotations'"
            )
        notes = list(content["annotations"])
        for number, note in enumerate(notes):
            _check(name, number, note)
        splits = _splits(name, content.get("split"))
        _check_split(name, split, splits)
        every = [_key(note, number) for number, note in enumerate(notes)]
        ids = checked_ids(
            [note.get("label", -1) for note in notes], lambda k: f"{name}: label of annotation {k} ({every[k]})"
        )
        classes = names_of(max(ids, default=-1) + 1, labels or _names(content), name)
        shown = [number for number, note in enumerate(notes) if keep_nobody or _anybody(note)]
        self.named = all("frame_dir" in note or "filename" in note for note in notes)
        keys, ids, notes = [every[k] for k in shown], [ids[k] for k in shown], [notes[k] for k in shown]
        _tell(name, every, keys, splits if self.named else {})
        facts = frame_of(keys, ids, classes, _facts(notes))
        rows = _chosen(name, facts, split, splits, where)
        self._notes = {int(row): notes[row] for row in rows}
        skeleton = _skeleton(name, list(self._notes.values()), layout, content.get("layout"))
        self.span_labels = _span_names(name, content, notes)
        self._spans = {
            row: checked(
                note.get("spans", ()),
                len(self.span_labels),
                note["keypoint"].shape[1],
                f"{name}: spans of annotation {facts['key'][row]!r}",
            )
            for row, note in self._notes.items()
            if "spans" in note
        }
        more = [digest(*self._spans.values(), *self.span_labels)] if self.span_labels else []
        super().__init__(name, skeleton, classes, facts, rows, _sums(self._notes.values()), *more)
        if self.span_labels:
            own = [self._notes[row] for row in rows.tolist()]
            self.spans_known = np.array(["spans" in note for note in own], bool)
            self.spans_proposed = np.array([note.get("spans_from") == ANNOTATOR for note in own], bool)
        self.lengths = facts["num_frames"].to_numpy().astype(np.int64)[rows]

    def clip_at(self, index: int, row: int) -> SkeletonSequence:
        """See `InMemoryDataset.clip_at`; features hold nothing."""
        note = self._notes[row]
        keypoints = at_least_one(note["keypoint"])
        stored_scores = note.get("keypoint_score")
        scores = None if stored_scores is None else at_least_one(np.asarray(stored_scores), 0.0)
        keypoints, scores = without_absent(keypoints, scores)
        shape = note.get("img_shape")
        size = (int(shape[1]), int(shape[0])) if shape is not None else None
        label = int(self.label_ids[index])
        return SkeletonSequence(self.keys[index], keypoints, scores, label, size, spans=self._spans.get(row))


def _check_split(name: str, split: str | None, splits: Mapping[str, Sequence[str]]) -> None:
    if split is not None and not splits:
        raise NoSplitsError(f"{name}: its clips belong to no split, and {split!r} is asked for")
    if split is not None and split not in splits:
        raise TrainingError(f"{name}: no split {split!r}{suggestion(split, splits)}")


def _chosen(
    name: str, facts: pl.DataFrame, split: str | None, splits: Mapping[str, Sequence[str]], where: str | None
) -> Numbers:
    """Rows of the clips of a split that a condition holds for."""
    if split is None:
        return choose(name, facts, None, where)
    kept = facts["key"].is_in(splits[split]).arg_true().to_numpy().astype(np.int64)
    if not len(kept):
        raise TrainingError(f"{name}: split {split!r} is empty: none of its {len(splits[split])} ids has an annotation")
    return np.asarray(kept[choose(name, facts[kept], None, where)], np.int64)


def _skeleton(name: str, notes: Sequence[Mapping[str, Any]], layout: Layout, own: Any) -> Skeleton:
    """The layout of all clips: that which is given, else that of the file, else by the number of joints."""
    joints = sorted({note["keypoint"].shape[2] for note in notes})
    if len(joints) > 1:
        raise TrainingError(
            f"{name}: clips of {' and '.join(map(str, joints))} joints; choose those of one number with split= or "
            "where="
        )
    axes = sorted({note["keypoint"].shape[3] for note in notes})
    if len(axes) > 1:
        raise TrainingError(
            f"{name}: clips of {' and '.join(map(str, axes))} coordinates; choose those of one number with split= or "
            "where="
        )
    likely = own if isinstance(own, str) and own in SKELETONS and SKELETONS[own].num_joints == joints[0] else ""
    said = layout if layout is not None else likely or None
    return layout_of(said, joints[0], name, likely=LAYOUTS.get(joints[0], ""))


def _sums(notes: Iterable[Mapping[str, Any]]) -> str:
    """A digest of joints, scores and sizes."""
    return digest(
        *(
            part
            for note in notes
            for part in (note["keypoint"].shape, note["keypoint"], note.get("keypoint_score"), note.get("img_shape"))
        )
    )


def _check(name: str, number: int, note: Any) -> None:
    if not isinstance(note, dict) or not isinstance(note.get("keypoint"), np.ndarray):
        raise TrainingError(f"{name}: annotation {number} has no array 'keypoint'")
    shape = note["keypoint"].shape
    if len(shape) != 4 or note["keypoint"].dtype.kind not in "fiu" or not all(shape[2:]):
        raise TrainingError(
            f"{name}: keypoint of annotation {number} is {note['keypoint'].dtype} {shape}; allowed: numbers (M, T, V, "
            "C)"
        )
    scores = note.get("keypoint_score")
    if scores is not None and np.shape(scores) != shape[:3]:
        raise TrainingError(
            f"{name}: keypoint_score of annotation {number} is {np.shape(scores)}, its keypoint {shape}"
        )
    size = note.get("img_shape")
    if size is not None and not _is_size(size):
        raise TrainingError(
            f"{name}: img_shape of annotation {number} is {str(size)[:60]!r}; allowed: (height, width), or no such key"
        )


def _is_size(size: Any) -> bool:
    """Whether something is (height, width)."""
    if not isinstance(size, list | tuple | np.ndarray) or len(size) < 2:
        return False
    return all(isinstance(side, int | float | np.number) and np.isfinite(side) for side in list(size)[:2])


def _names(content: Mapping[str, Any]) -> list[str] | None:
    """The names of classes that a pickle holds beside what the format asks for."""
    found = (content.get(key) for key in NAMES)
    return next((list(n) for n in found if isinstance(n, list | tuple) and all(isinstance(t, str) for t in n)), None)


def _span_names(name: str, content: Mapping[str, Any], notes: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Names of the classes of spans; none where no annotation has spans.

    Raises:
        TrainingError: an annotation has spans, and the file does not name their classes.
    """
    if not any("spans" in note for note in notes):
        return ()
    names = content.get("span_names")
    if not isinstance(names, list | tuple) or not names:
        raise TrainingError(f"{name}: its annotations hold spans, and it holds no span_names; give the names as a list")
    return tuple(map(str, names))


def _key(note: Mapping[str, Any], number: int) -> str:
    return str(note["frame_dir"] if "frame_dir" in note else note.get("filename", number))


def _anybody(note: Mapping[str, Any]) -> bool:
    """Whether an annotation has a person with a joint in some frame."""
    keypoints = note["keypoint"]
    if not keypoints.size:
        return False
    if (keypoints[..., 0].reshape(-1)[:64] > 0).any():  # the usual case costs nothing
        return True
    return bool((np.isfinite(keypoints) & (keypoints != 0)).any())


def _splits(name: str, content: Any) -> dict[str, list[str]]:
    """Split -> its ids.

    Raises:
        TrainingError: the file has something else there.
    """
    if content is None:
        return {}
    allowed = "allowed: a dict such as {'train': [ids], 'val': [ids]}"
    if not isinstance(content, Mapping):
        raise TrainingError(f"{name}: its 'split' is a {type(content).__name__}; {allowed}")
    for key, ids in content.items():
        if not isinstance(ids, list | tuple | set | frozenset) and not (isinstance(ids, np.ndarray) and ids.ndim == 1):
            raise TrainingError(f"{name}: its split {str(key)!r} is a {type(ids).__name__}; {allowed}")
    return {str(key): [str(one) for one in ids] for key, ids in content.items()}


def _tell(name: str, every: Sequence[str], keys: Sequence[str], splits: Mapping[str, Sequence[str]]) -> None:
    """Say what of a file is left out or looks wrong, with counts."""
    if len(keys) < len(every):
        some = next(iter(Counter(every) - Counter(keys)))
        count = len(every) - len(keys)
        remark(f"{name}: {count} of {len(every)} annotations show nobody and are left out, for example {some!r}")
    repeated(name, keys, "annotations")
    here = set(every)
    for split, ids in splits.items():
        absent = [one for one in ids if one not in here]
        if absent and len(absent) < len(ids):
            remark(
                f"{name}: {len(absent)} of the {len(ids)} ids of split {split!r} have no annotation, for example "
                f"{absent[0]!r}"
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
