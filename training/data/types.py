"""What training reads: clips of people's joints over time, and the sources they come from.

Axes by letter: N batch, C coordinates, T frames, V joints, M people. A clip is (M, T, V, C) wherever
numpy handles it; `training.data.loader` alone makes (N, C, T, V, M) of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from dataengine.core.skeletons import Skeleton

Array: TypeAlias = NDArray[np.floating[Any]]
Numbers: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class Clip:
    """One sequence as it was stored.

    Attributes:
        key: its id in its source.
        keypoints: (M, T, V, C) float32 in the source's unit (pixels from the top-left, metres), NaN where a joint was not seen.
        scores: (M, T, V) float32 in [0, 1], or None where the source has none.
        label: index into the source's `labels`, -1 for none.
        size: width and height of the picture in pixels, or None.
        fps: frames a second, or None.
        features: other arrays stored with the clip, such as viclip_video (K, D), and facts such as text.
    """

    key: str
    keypoints: Array
    scores: Array | None = None
    label: int = -1
    size: tuple[int, int] | None = None
    fps: float | None = None
    features: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Source(Protocol):
    """Sequences with random access.

    Attributes:
        name: what it is called in messages and records.
        skeleton: the joints of its clips.
        labels: class names; a clip's label indexes them.
        fingerprint: changes when the content does.
        keys: ids of the clips.
        label_ids: (N,) int64, -1 for none.
    """

    @property
    def name(self) -> str: ...

    @property
    def skeleton(self) -> Skeleton: ...

    @property
    def labels(self) -> tuple[str, ...]: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def keys(self) -> Sequence[str]: ...

    @property
    def label_ids(self) -> Numbers: ...

    def __len__(self) -> int: ...

    def read(self, indices: Sequence[int]) -> list[Clip]:
        """The clips at these places, in this order."""
        ...


Draw: TypeAlias = Callable[[Clip, np.random.Generator], dict[str, Any]]
"""What a method takes of a clip: named arrays; those of four axes are motions (M, T, V, C). Can be pickled."""
