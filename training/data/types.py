"""What training reads: sequences of people's joints over time, and datasets of them.

Axes by letter: N batch, C coordinates, T frames, V joints, M people. A clip is (M, T, V, C) wherever
numpy handles it; `training.data.loader` alone makes (N, C, T, V, M) of it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dataengine.core.skeletons import Skeleton

Array: TypeAlias = NDArray[np.floating[Any]]
Numbers: TypeAlias = NDArray[np.int64]
Spans: TypeAlias = NDArray[np.int64]
"""What happens when in a clip, (S, 3): class, first frame, end frame (exclusive); spans may overlap."""

ROTATION = 6
"""Numbers of a rotation: the first two columns of its matrix."""


@dataclass(frozen=True)
class SkeletonSequence:
    """The joints of the people of one clip over time, as they were stored.

    Attributes:
        key: id of the sequence in its dataset.
        keypoints: (M, T, V, C) float32 in the unit of the dataset (pixels from the top-left, or metres); NaN where a
            joint was not seen. With C = `ROTATION` rotations of the joints in place of positions.
        scores: (M, T, V) float32 in [0, 1]; None where the dataset has none.
        label: index into the `labels` of the dataset, -1 for none.
        size: width and height of the image in pixels, or None.
        fps: frames per second, or None.
        features: other arrays stored with the clip, for example viclip_video (K, D), and facts, for example text.
        partners: clips that were drawn beside this one, by name; see `training.data.partners`.
        spans: what happens when, see `Spans`; classes are indices into the `span_labels` of the dataset. None where the
            dataset says nothing of it.
        placed: of a prepared clip, what its `Prepared` has beside the joints; see `training.transforms.preprocess`.
        prepared_by: the `Preprocess` whose joints `keypoints` are already; None: they are as stored.
    """

    key: str
    keypoints: Array
    scores: Array | None = None
    label: int = -1
    size: tuple[int, int] | None = None
    fps: float | None = None
    features: Mapping[str, Any] = field(default_factory=dict)
    partners: Mapping[str, SkeletonSequence] = field(default_factory=dict)
    spans: Spans | None = None
    placed: Mapping[str, Any] = field(default_factory=dict)
    prepared_by: Any = None


class SkeletonDataset:
    """The base of all datasets: sequences with random access.

    Subclasses set the attributes and implement `read`.

    Attributes:
        name: how messages and records call the dataset.
        skeleton: the joints of its sequences.
        labels: names of the classes; the label of a sequence is an index into them.
        fingerprint: changes when the content does.
        keys: ids of the sequences.
        label_ids: (N,) int64, -1 for none.
        named: whether the keys are names that the data bring; numbers that were given to clips without names say
            nothing about other datasets.
        groups: (N,) who or what was filmed in each clip, such as the subject or the video: clips of one group are no
            independent measurements. None where the data do not say.
        columns: name -> N values, what is known of each clip, such as its subject, its camera or its motion; None where
            a clip has no value.
        span_labels: names of the classes of the spans of its clips; empty where it has none.
        spans_known: (N,) bool, of which clips the data say what happens when; None: of all, where they do at all.
        spans_proposed: (N,) bool, of which clips an annotator said it and no person, so that nothing is measured on
            them; None: of none.
        lengths: (N,) frames of each clip; None where that is not known without reading.
    """

    name: str
    skeleton: Skeleton
    labels: tuple[str, ...]
    fingerprint: str
    keys: Sequence[str]
    label_ids: Numbers
    named: bool = True
    groups: Sequence[str] | None = None
    columns: Mapping[str, Sequence[Any]] = MappingProxyType({})
    span_labels: tuple[str, ...] = ()
    spans_known: NDArray[np.bool_] | None = None
    spans_proposed: NDArray[np.bool_] | None = None
    lengths: Numbers | None = None

    def __len__(self) -> int:
        """N, the number of sequences."""
        return len(self.keys)

    def read(self, indices: Sequence[int]) -> list[SkeletonSequence]:
        """The sequences with these numbers, in this order."""
        raise NotImplementedError


SampleTransform: TypeAlias = Callable[[SkeletonSequence, np.random.Generator], dict[str, Any]]
"""Makes named entries of a sequence, see `training.data.entries`. Can be pickled."""


def remark(text: str) -> None:
    """Say something about data that the user should know; the command line shows it as a note."""
    warnings.warn(text, stacklevel=3)
