"""What all formats share: choosing clips, fingerprints, and arrays as clips have them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import polars as pl
from blake3 import blake3 as Hasher
from numpy.typing import NDArray

from dataengine.core.class_numbers import class_number
from dataengine.core.errors import DatasetError, TrainingError, suggestion
from dataengine.core.skeletons import SKELETONS, Skeleton
from dataengine.dataset.sql import matching
from training.data.types import Array, Numbers, SkeletonDataset, SkeletonSequence, remark


def digest(*parts: Any) -> str:
    """A hash of texts, byte strings and arrays, in this order."""
    hasher = Hasher()
    for part in parts:
        data = (
            part
            if isinstance(part, bytes)
            else np.ascontiguousarray(part).tobytes()
            if isinstance(part, np.ndarray)
            else str(part).encode()
        )
        hasher.update(len(data).to_bytes(8, "little") + data)
    return hasher.hexdigest()


class NoSplitsError(TrainingError):
    """A split is asked for of data whose clips belong to none."""


def choose(name: str, facts: pl.DataFrame, split: str | None, where: str | None) -> Numbers:
    """Rows of a table of clips that are of the split and fulfil the SQL condition, in order, (N,) int64.

    Args:
        name: of the dataset, for messages.
        facts: one row per clip; a column `split` where the dataset has splits.
        split: a value of that column, or None for all.
        where: an SQL condition over the columns, or None.

    Raises:
        NoSplitsError: a split is asked for, and the clips belong to none.
        TrainingError: there is no such split, the condition cannot be used, or nothing fulfils it.
    """
    frame = facts.with_row_index("row__")
    if split is not None:
        splits = sorted(set(facts["split"].drop_nulls().to_list()) - {""}) if "split" in facts.columns else []
        if not splits:
            raise NoSplitsError(f"{name}: its clips belong to no split, and {split!r} is asked for")
        frame = frame.filter(pl.col("split") == split)
        if frame.is_empty():
            raise TrainingError(f"{name}: no clip of split {split!r}{suggestion(split, splits)}")
    if where is not None:
        among = len(frame)
        try:
            frame = matching(frame.lazy(), where, ["row__"])
        except DatasetError as error:
            said = str(error).replace("row__, ", "")  # a column of ours
            raise TrainingError(f"{name}: where={where!r} cannot be used: {said}") from None
        if frame.is_empty():
            raise TrainingError(f"{name}: where={where!r} matches none of {among} clips; leave it out or widen it")
    if frame.is_empty():
        raise TrainingError(f"{name}: it holds no clips")
    return frame["row__"].to_numpy().astype(np.int64)


def names_of(count: int, names: Sequence[str] | None, name: str) -> tuple[str, ...]:
    """Class names: `names`, or the numbers as text without them.

    Raises:
        TrainingError: there are more classes than names.
    """
    if names is None or not len(names):
        return tuple(map(str, range(count)))
    if len(names) < count:
        raise TrainingError(f"{name}: {len(names)} label names were given, its labels go up to {count - 1}")
    return tuple(map(str, names))


def checked_ids(values: Iterable[Any], named: Callable[[int], str]) -> list[int]:
    """Labels of all clips of a file as numbers of classes, -1 for none.

    Args:
        values: as the file has them.
        named: how a message calls the label of a clip, by its number.

    Raises:
        TrainingError: one is no number of a class; the message names its clip.
    """
    found = list(values)
    ids = []
    for number, value in enumerate(found):
        try:
            ids.append(class_number(value, len(found)))
        except ValueError as error:
            raise TrainingError(f"{named(number)} is {error}") from None
    return ids


def repeated(name: str, keys: Iterable[str], what: str) -> None:
    """Say how many ids stand at several clips of a file."""
    several = {key: count for key, count in Counter(keys).items() if count > 1}
    if several:
        key, count = max(several.items(), key=lambda item: item[1])
        more = sum(several.values()) - len(several)
        remark(
            f"{name}: {len(several)} {'id stands' if len(several) == 1 else 'ids stand'} at several {what} ({more} "
            f"more than there are ids), for example {key!r} at {count}; splits by id take all of them"
        )


def widened(arrays: Sequence[NDArray[Any]]) -> list[Array]:
    """The arrays as float32.

    Half precision arrays are converted together: converting one by one costs as much as reading the clip.
    """
    if not any(array.dtype == np.float16 for array in arrays):
        return [array if array.dtype == np.float32 else array.astype(np.float32) for array in arrays]
    import torch

    halves: NDArray[Any] = np.concatenate([np.asarray(array, np.float16).reshape(-1) for array in arrays])
    flat: Array = torch.from_numpy(halves).float().numpy()
    parts, start = [], 0
    for array in arrays:
        parts.append(flat[start : start + array.size].reshape(array.shape))
        start += array.size
    return parts


def without_absent(keypoints: Array, scores: Array | None) -> tuple[Array, Array | None]:
    """Joints at exactly zero become NaN (with scores: only those of score 0). People without any joint are dropped.

    Args:
        keypoints: (M, T, V, C) float32, changed in place.
        scores: (M, T, V) or None.

    Returns:
        Both, of the people who have a joint in some frame; of the first person where nobody has.
    """
    gone = np.asarray((keypoints == 0).all(-1)) & np.asarray(True if scores is None else scores == 0)
    keypoints[gone] = np.nan
    present = np.array([bool(np.isfinite(person).all(-1).any()) for person in keypoints])
    if not present.any():
        present[:1] = True
    if present.all():
        return keypoints, scores
    return keypoints[present], None if scores is None else scores[present]


def at_least_one(array: NDArray[Any], value: float = np.nan) -> Array:
    """(M, T, ...) float32 with one person and one frame at least, of `value` where there was none."""
    if array.shape[0] and array.shape[1]:
        return np.array(array, np.float32)
    return np.full((max(1, array.shape[0]), max(1, array.shape[1]), *array.shape[2:]), value, np.float32)


class Format(SkeletonDataset):
    """The base of formats of data: a dataset that is opened from a path.

    The constructor takes a path (or what `location` makes of it), `split`, `where` and the format's own options:

        class Mine(Format):
            def __init__(self, path, split=None, where=None, stride=1): ...

    A package of your own adds a format by an entry point of the group `training.formats`.

    Attributes:
        default_entries: what is read of each clip unless `entries` names it; None where a clip has no features beside
            its poses, and the constructor has no option `entries`.
    """

    default_entries: ClassVar[tuple[str, ...] | None] = None

    def __init__(self, path: Any, split: str | None = None, where: str | None = None, **options: Any) -> None:
        raise NotImplementedError

    @classmethod
    def recognises(cls, path: str) -> bool:
        """Whether a path or url is of this format. Default: no, such a format must be named."""
        return False

    @classmethod
    def location(cls, path: str) -> Any:
        """The argument of the constructor for a path. Default: the path."""
        return path


GROUPS = ("subject", "performer", "person", "group", "video")
"""Columns that say who or what was filmed in a clip; the first that is there is taken."""


class InMemoryDataset(Format):
    """The base of formats whose arrays lie in memory or in one memory map: the chosen rows of a table of clips.

    Subclasses implement `clip_at(index, row)`; rows are numbers of clips in the whole file.

    Args:
        name: of the dataset.
        skeleton: the joints of its clips.
        labels: class names.
        facts: one row per clip, among them key, label_id and, where there are splits, split.
        rows: the chosen rows.
        content: what the fingerprint covers besides the choice.
    """

    def __init__(
        self, name: str, skeleton: Skeleton, labels: tuple[str, ...], facts: pl.DataFrame, rows: Numbers, *content: Any
    ) -> None:
        self.name, self.skeleton, self.labels = name, skeleton, labels
        self.keys: Sequence[str] = facts["key"].gather(rows).to_list()
        self.label_ids: Numbers = facts["label_id"].fill_null(-1).to_numpy().astype(np.int64)[rows]
        self.rows = rows
        column = next((name for name in GROUPS if name in facts.columns), None)
        if column is not None:
            self.groups = [str(value) for value in facts[column].gather(rows).to_list()]
        chosen = facts[rows].drop("key", "label_id")
        self.columns = {name: chosen[name].to_list() for name in chosen.columns}
        self.fingerprint = digest(
            joints_text(skeleton), "\n".join(labels), "\n".join(self.keys), self.label_ids, rows, *content
        )

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, indices: Sequence[int]) -> list[SkeletonSequence]:
        """The clips at these positions, in this order."""
        return [self.clip_at(index, int(self.rows[index])) for index in indices]

    def clip_at(self, index: int, row: int) -> SkeletonSequence:
        """The clip at position `index` of the dataset and `row` of the file."""
        raise NotImplementedError


def joints_text(skeleton: Skeleton) -> str:
    """A layout in a fingerprint: the name of a built-in one, of others the joints, too."""
    if SKELETONS.get(skeleton.name) == skeleton:
        return skeleton.name
    return f"{skeleton.name} {skeleton.joints} {skeleton.bones}"


def frame_of(
    keys: Iterable[str], label_ids: Sequence[int] | Numbers, labels: Sequence[str], more: Mapping[str, Any]
) -> pl.DataFrame:
    """The table of clips that conditions are about: key, label, label_id and `more`."""
    ids = np.asarray(label_ids, np.int64)
    texts = [labels[k] if k >= 0 else None for k in ids.tolist()]
    return pl.DataFrame(
        {
            "key": pl.Series(list(keys), dtype=pl.String),
            "label": pl.Series(texts, dtype=pl.String),
            "label_id": ids,
            **more,
        }
    )
