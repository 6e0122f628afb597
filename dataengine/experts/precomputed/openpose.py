"""OpenPose's `--write_json`: one file a frame, NAME_000000000012_keypoints.json, with BODY_25 or COCO's 18 joints.

Format: CMU-Perceptual-Computing-Lab/openpose, doc/02_output.md.
"""

from __future__ import annotations

import re
from pathlib import Path

from dataengine.experts.precomputed.saved import Saved, number, person, read_json, refused, rows, triplets

ENDING = "_keypoints.json"
KEYS = ("pose_keypoints_2d", "pose_keypoints")
"""Of present versions, and of those before 1.3."""


def read(folder: Path) -> Saved:
    """The frames of one clip, files in a folder of its own, or of its name in a common one.

    Raises:
        ExpertError: no files, or one that is torn or of another form.
    """
    if folder.is_dir():
        files = sorted(folder.glob(f"*{ENDING}"))
    else:  # the whole name and a number: a_b_12 is no frame of a, and brackets in a name are brackets
        own = re.compile(rf"{re.escape(folder.name)}_\d+{re.escape(ENDING)}")
        files = sorted(p for p in folder.parent.glob(f"*{ENDING}") if own.fullmatch(p.name))
    if not files:
        raise refused(folder, f"holds no file *{ENDING}")
    saved = Saved(str(folder))
    for file in files:
        frame = number(file.name.removesuffix(ENDING), file)
        content = read_json(file)
        people = content.get("people") if isinstance(content, dict) else None
        saved.people[frame] = []
        saved.last = max(frame, saved.last or 0)
        for one in rows(people, file, "a file of OpenPose (it has no list 'people')"):
            numbers = next((one[key] for key in KEYS if key in one), None)
            if numbers is None:
                raise refused(file, f"a person has none of {', '.join(KEYS)}")
            if numbers:  # empty for people of whom only a hand or face was found
                saved.add(frame, person(*triplets(numbers, file)))
    return saved


def has(folder: Path) -> bool:
    """Whether a folder, or a folder in it, holds files of OpenPose."""
    return any(folder.glob(f"*{ENDING}")) or any(folder.glob(f"*/*{ENDING}"))
