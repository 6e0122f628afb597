"""Arrays in .npz files: keypoints of one clip, with scores where there are some.

Keypoints are (T, V, C) of one person or (M, T, V, C) of several, C = 2, or 3 with the score last. Names
are those that others use: `kpts` (demo of SSTA), `keypoint` and `keypoint_score` (PySKL), `positions_2d`
(VideoPose3D). Files that hold Python objects, as VideoPose3D's and Detectron's own do, are not read:
reading them runs code that they bring.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dataengine.experts.precomputed.saved import Saved, person, refused
from dataengine.io import npy

KEYPOINTS = ("keypoint", "keypoints", "kpts", "positions_2d", "pose2d")
SCORES = ("keypoint_score", "keypoint_scores", "keypoints_score", "scores")


def read(path: Path) -> Saved:
    """One clip's file.

    Raises:
        ExpertError: torn, without keypoints, holding Python objects, or of another form.
    """
    arrays: dict[str, np.ndarray] = {}
    try:
        with npy.reading(), np.load(path, allow_pickle=False) as opened:
            names = list(opened.files)
            for name in names:
                if name in KEYPOINTS or name in SCORES:
                    arrays[name] = opened[name]
    except ValueError as error:
        if "allow_pickle" not in str(error) and "pickled" not in str(error):
            raise refused(path, f"is torn: {error}") from error
        raise refused(
            path,
            "holds Python objects, which run code when read; save plain arrays: np.savez(path, keypoint=..., "
            "keypoint_score=...)",
        ) from error
    except OSError as error:
        raise refused(path, f"is torn or no .npz file: {error}") from error
    points = next((arrays[name] for name in KEYPOINTS if name in arrays), None)
    if points is None:
        raise refused(
            path, f"holds {', '.join(names) or 'nothing'}, wanted keypoints called one of {', '.join(KEYPOINTS)}"
        )
    scores = next((arrays[name] for name in SCORES if name in arrays), None)
    points = points[None] if points.ndim == 3 else points
    if points.ndim != 4 or points.shape[-1] not in (2, 3) or points.dtype.kind not in "fiu":
        raise refused(
            path, f"keypoints are {points.dtype} {points.shape}, wanted (T, V, 2 or 3) or (M, T, V, 2 or 3) numbers"
        )
    if scores is None and points.shape[-1] == 3:
        scores = points[..., 2]
    if scores is not None:
        scores = scores[None] if scores.ndim == 2 else scores
        if scores.shape != points.shape[:-1]:
            raise refused(path, f"keypoints are {points.shape}, but scores {scores.shape}")
    saved = Saved(str(path), last=points.shape[1] - 1)
    for m in range(len(points)):
        for t in range(points.shape[1]):
            one = person(points[m, t, :, :2], None if scores is None else scores[m, t])
            if np.isfinite(one.coords).any():
                saved.add(t, one)
    return saved
