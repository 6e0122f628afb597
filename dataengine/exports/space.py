"""Joints in space of an exported clip."""

from __future__ import annotations

import numpy as np

from dataengine.core.errors import DatasetError
from dataengine.core.skeletons import convert
from dataengine.core.types import Float
from dataengine.exports.base import ExportedClip

ENTRY = "keypoints3d"
"""The entry of a sample that holds them."""


def in_space(clip: ExportedClip, own: str, layout: str, without: str) -> Float:
    """(M, T, V, 3) float32 metres in the layout of the export, NaN where unknown.

    Args:
        own: layout of the dataset. layout: of the export.
        without: how to export without them, for the message.

    Raises:
        DatasetError: the clip has none.
    """
    if ENTRY not in clip.others:
        raise DatasetError(
            f"clip {clip.clip_id} has no poses in space: build the dataset with --set lift.use='\"temporal\"', or "
            f"{without}"
        )
    points: Float = clip.others[ENTRY].astype(np.float32)
    return points if own == layout else convert(points, None, own, layout)[0]
