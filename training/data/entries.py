"""Typed entries of a sample: what an array is says its class, not its number of axes.

A sample transform gives named entries of a clip. `Motion`, `Video`, `PerFrame` and `Text` say how clips are put
together; a plain array or number is stacked as it is, (N, ...), and a plain text becomes one of a list.

    def __call__(self, sequence, rng):
        return {"motion": Motion(joints), "image": Video(frames), "target": PerFrame(classes), "text": Text("a jump")}

A package of your own adds a type by a class of its own that derives from `Entry`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dataengine.core.errors import TrainingError
from training.data.types import Array

Stacked: TypeAlias = "Mapping[str, NDArray[Any] | list[str]]"
"""Of one entry: suffix of the name in the batch -> values of all clips; "" is the entry itself."""


class Entry(ABC):
    """The base of typed entries of a sample."""

    @classmethod
    @abstractmethod
    def stack(cls, name: str, entries: Sequence[Any]) -> Stacked:
        """The entries of this name of all N clips of a batch, put together.

        Args:
            name: of the entry, for messages.
            entries: one of this class per clip.

        Raises:
            TrainingError: they do not go together.
        """


def same_shape(name: str, arrays: Sequence[NDArray[Any]]) -> tuple[int, ...]:
    """The shape of all arrays.

    Raises:
        TrainingError: they differ.
    """
    shape = arrays[0].shape
    if any(array.shape != shape for array in arrays):
        shapes = sorted({array.shape for array in arrays})
        raise TrainingError(
            f"the sample transform gives {name!r} of different shapes, such as {shapes[0]} and {shapes[-1]}; all "
            "clips need the same"
        )
    return shape


def axes_of(kind: str, name: str, arrays: Sequence[NDArray[Any]], axes: str) -> None:
    """Refuse arrays of another number of axes.

    Raises:
        TrainingError: the first of them, with the axes that it should have.
    """
    count = axes.count(",") + 1
    if (wrong := next((array.shape for array in arrays if array.ndim != count), None)) is not None:
        raise TrainingError(f"the sample transform gives {name!r} as {kind} of shape {wrong}; allowed: ({axes})")


@dataclass(frozen=True)
class Motion(Entry):
    """Joints of people over time: (N, C, T, V, M) float32 of a batch.

    Attributes:
        array: (M, T, V, C).
        valid: (T,) or (M, T) bool, which frames are frames of the clip, and of each person; the others are filled up.
            None: all are. Where one clip of a batch says it, the batch has an entry NAME_mask, (N, T, M) bool, which
            networks take beside the motion.
    """

    array: Array
    valid: NDArray[np.bool_] | None = None

    @classmethod
    def stack(cls, name: str, entries: Sequence[Motion]) -> Stacked:
        """See `Entry.stack`."""
        arrays = [entry.array for entry in entries]
        axes_of("a motion", name, arrays, "M, T, V, C")
        people, frames, joints, channels = same_shape(name, arrays)
        out = np.empty((len(arrays), channels, frames, joints, people), np.float32)
        for target, array in zip(out, arrays):
            turned = array.transpose(3, 1, 2, 0)
            if turned.flags.c_contiguous:
                target[...] = turned
            else:  # plane by plane: NumPy's own transposed copy walks along the shortest axis
                for c in range(channels):
                    for m in range(people):
                        target[c, :, :, m] = array[m, :, :, c]
        if all(entry.valid is None for entry in entries):
            return {"": out}
        mask = np.ones((len(arrays), frames, people), bool)
        for row, entry in zip(mask, entries):
            if entry.valid is not None:
                valid = np.asarray(entry.valid, bool)
                if valid.shape not in ((frames,), (people, frames)):
                    raise TrainingError(
                        f"the sample transform gives {name!r} with valid of shape {valid.shape}; allowed: "
                        f"({frames},) or ({people}, {frames})"
                    )
                row[:] = valid[:, None] if valid.ndim == 1 else valid.T
        return {"": out, "_mask": mask}


@dataclass(frozen=True)
class Video(Entry):
    """Frames of a video: (N, C, T, H, W) of a batch, of the dtype given.

    Attributes:
        array: (T, H, W, C).
    """

    array: NDArray[Any]

    @classmethod
    def stack(cls, name: str, entries: Sequence[Video]) -> Stacked:
        """See `Entry.stack`."""
        arrays = [entry.array for entry in entries]
        axes_of("a video", name, arrays, "T, H, W, C")
        same_shape(name, arrays)
        return {"": np.ascontiguousarray(np.stack(arrays).transpose(0, 4, 1, 2, 3))}


@dataclass(frozen=True)
class PerFrame(Entry):
    """Values per frame, such as dense targets (T, K) or features: (N, T, ...) of a batch, filled up with zeros to the
    longest clip; NAME_valid (N, T) bool says which frames are not filled up.

    Attributes:
        array: (T, ...); T may differ from clip to clip.
        valid: (T,) bool, False where nothing is known of a frame; None: all are known.
    """

    array: NDArray[Any]
    valid: NDArray[np.bool_] | None = None

    @classmethod
    def stack(cls, name: str, entries: Sequence[PerFrame]) -> Stacked:
        """See `Entry.stack`."""
        arrays = [np.asarray(entry.array) for entry in entries]
        if any(not array.ndim for array in arrays):
            raise TrainingError(f"the sample transform gives {name!r} per frame as a number; allowed: (T, ...)")
        rest = same_shape(name, [array[:0] for array in arrays])[1:]
        longest = max(map(len, arrays))
        out = np.zeros((len(arrays), longest, *rest), np.result_type(*arrays))
        valid = np.zeros((len(arrays), longest), bool)
        for number, (array, entry) in enumerate(zip(arrays, entries)):
            out[number, : len(array)] = array
            valid[number, : len(array)] = True if entry.valid is None else entry.valid
        return {"": out, "_valid": valid}


@dataclass(frozen=True)
class Text(Entry):
    """A text: a list of N texts of a batch.

    Attributes:
        text: the text.
    """

    text: str

    @classmethod
    def stack(cls, name: str, entries: Sequence[Text]) -> Stacked:
        """See `Entry.stack`."""
        return {"": [entry.text for entry in entries]}
