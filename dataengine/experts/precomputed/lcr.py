"""LCR-Net's JSON, as with Toyota Smarthome: all frames of a clip, each a list of people, 13 joints without scores.

{"njts": 13, "frames": [[{"pose2d": [x of all joints, then y of all joints], "pose3d": [...], "cumscore": s}, ...],
...]}
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dataengine.experts.precomputed.saved import Saved, person, read_json, refused, rows


def read(path: Path) -> Saved:
    """One clip's file; joints get their person's score, at most 1, where there is one.

    Raises:
        ExpertError: torn, or of another form.
    """
    content = read_json(path)
    frames = content.get("frames") if isinstance(content, dict) else None
    if not isinstance(frames, list):
        raise refused(path, "is not of LCR-Net's form (it has no list 'frames')")
    saved = Saved(str(path), last=len(frames) - 1)
    for frame, people in enumerate(frames):
        for one in rows(people, path, f"of LCR-Net's form (frame {frame} is no list of people)"):
            try:
                flat = np.asarray(one["pose2d"], np.float64).reshape(2, -1)
            except (KeyError, TypeError, ValueError) as error:
                raise refused(path, f"frame {frame} has a person without a usable pose2d ({error})") from error
            sure = one.get("cumscore")
            scores = np.full(flat.shape[1], min(float(sure), 1.0)) if isinstance(sure, int | float) else None
            saved.add(frame, person(flat.T, scores))
    return saved
