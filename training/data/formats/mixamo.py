"""Characters of Mixamo as joints, in the layout that programs for motion retargeting keep them in.

    ROOT/SPLIT/CHARACTER/ANIMATION/motions/NUMBER.npy        (15, 3, T) float, z up

The same animation lies under several characters. Joints are those of the layout `mixamo15`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dataengine.core.errors import TrainingError
from dataengine.io import npy
from dataengine.io.storage import file_hash
from training.data.formats.base import InMemoryDataset, choose, digest, frame_of
from training.data.formats.bvh import MIXAMO15
from training.data.formats.joints import Layout, layout_of
from training.data.types import Array, SkeletonSequence

PATTERN = "*/*/*/motions/*.npy"
LAYOUT = "mixamo15"


class MixamoDataset(InMemoryDataset):
    """Clips of characters, y up as everywhere here. `body` is the character; the label is the animation.

    Args:
        path: the root; its folders are the splits.
        split: such as train or test.
        where: an SQL condition over key, label, label_id, body and split.
        layout: in place of `mixamo15`, for files with other joints.

    Raises:
        TrainingError: nothing of this layout lies there.
    """

    @classmethod
    def recognises(cls, path: str) -> bool:
        """A folder with SPLIT/CHARACTER/ANIMATION/motions/*.npy."""
        return Path(path).is_dir() and next(Path(path).glob(PATTERN), None) is not None

    def __init__(
        self,
        path: str | os.PathLike[str],
        split: str | None = None,
        where: str | None = None,
        layout: Layout = None,
    ) -> None:
        place = Path(path)
        self._files = sorted(place.glob(PATTERN))
        if not self._files:
            raise TrainingError(f"{place}: no SPLIT/CHARACTER/ANIMATION/motions/NUMBER.npy lies there")
        parts = [file.relative_to(place).parts for file in self._files]
        keys = ["/".join((*one[:3], Path(one[4]).stem)) for one in parts]
        labels = tuple(sorted({one[2] for one in parts}))
        facts = frame_of(
            keys,
            np.array([labels.index(one[2]) for one in parts]),
            labels,
            {
                "split": [one[0] for one in parts],
                "body": [one[1] for one in parts],
            },
        )
        rows = choose(str(place), facts, split, where)
        content = [(key, file_hash(self._files[row])) for row, key in enumerate(keys)]
        skeleton = layout_of(LAYOUT if layout is None else layout, len(MIXAMO15), str(place))
        super().__init__(str(place), skeleton, labels, facts, rows, digest(str(content)))
        self.groups = [parts[row][1] for row in self.rows]

    def clip_at(self, index: int, row: int) -> SkeletonSequence:
        """See `InMemoryDataset.clip_at`."""
        joints = _joints(self._files[row], self.skeleton.num_joints)[None]
        return SkeletonSequence(self.keys[index], joints, label=int(self.label_ids[index]))


def _joints(path: Path, number: int) -> Array:
    """Joints (T, V, 3) float32, y up.

    Raises:
        TrainingError: the file is torn, or of another shape.
    """
    try:
        with npy.reading():
            stored = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise TrainingError(f"{path}: no .npy file of numbers: {str(error).splitlines()[0]}") from None
    shape: Sequence[int] = stored.shape
    if stored.dtype.kind != "f" or len(shape) != 3 or tuple(shape[:2]) != (number, 3) or shape[2] < 1:
        raise TrainingError(f"{path}: it is {stored.dtype} {tuple(shape)}; allowed: floats ({number}, 3, T)")
    x, y, z = stored.transpose(2, 0, 1).astype(np.float32).transpose(2, 0, 1)
    return np.stack([x, z, -y], -1)
