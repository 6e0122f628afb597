"""Files of the formats of other programs, small and random: pyskl's pickle, UNIK's arrays, an npz of ragged clips."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np


def note(number: int, joints: int = 17, people: int = 2, kind: Any = np.float16, channels: int = 2) -> dict[str, Any]:
    rng = np.random.default_rng(number)
    frames = 5 + number
    keypoint = rng.uniform(1, 200, (people, frames, joints, channels)).astype(kind)
    score = rng.uniform(0.1, 1, (people, frames, joints)).astype(kind)
    keypoint[0, 2, 3], score[0, 2, 3] = 0, 0
    found = {
        "frame_dir": f"v{number}",
        "total_frames": frames,
        "img_shape": (240, 320),
        "original_shape": (240, 320),
        "label": number % 3,
    }
    return found | {"keypoint": keypoint, "keypoint_score": score}


def write_pyskl(path: Path, notes: list[dict[str, Any]], protocol: int = 4, **more: Any) -> Path:
    ids = [one["frame_dir"] for one in notes]
    content = {"split": {"train": ids[::2], "val": ids[1::2], "nobody": ["x"]}, "annotations": notes} | more
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


def write_unik(folder: Path, channels: int = 5, joints: int = 17, frames: int = 9) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    found = {}
    for split, count in (("train", 4), ("val", 3)):
        array = rng.uniform(1, 5, (count, channels, frames, joints, 2)).astype(np.float32)
        array[0, :, 6:] = 0  # padding
        array[1, :, 2, 3, 0] = 0  # a joint not seen
        array[2, :, :, :, 1] = 0  # nobody beside
        np.save(folder / f"{split}_data_joint.npy", array)
        (folder / f"{split}_label.pkl").write_bytes(
            pickle.dumps(([f"{split}{k}" for k in range(count)], [k % 2 for k in range(count)]))
        )
        found[split] = array
    return found


RAGGED: dict[str, Any] = {
    "offsets": np.array([0, 4, 9, 10]),
    "label": np.array([1, 0, 1], np.int16),
    "label_names": np.array(["sit", "run"]),
    "train": np.array([True, False, True]),
    "subject": np.array(["mm", "tr", "mm"]),
    "view": np.array([1, 2, 3]),
    "boxes": np.arange(12.0).reshape(3, 4),
    "frame_size": np.array([[320, 240], [0, 0], [64, 48]]),
    "fps": np.float32(30),
    "names": np.array(["a", "b", "c"]),
}


def write_npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **{name: array for name, array in (RAGGED | arrays).items() if array is not None})
    return path


BVH = """HIERARCHY
ROOT Hips
{{
  OFFSET 0 0 0
  CHANNELS 6 Xposition Yposition Zposition Zrotation Xrotation Yrotation
  JOINT Chest
  {{
    OFFSET 0 2 0
    CHANNELS 3 Zrotation Xrotation Yrotation
    JOINT Hand
    {{
      OFFSET 1 0 0
      CHANNELS 3 Zrotation Xrotation Yrotation
      End Site
      {{
        OFFSET 0.5 0 0
      }}
    }}
  }}
}}
MOTION
Frames: {frames}
Frame Time: 0.0333333
{rows}
"""


def write_bvh(folder: Path, clips: int = 4, frames: int = 5) -> Path:
    """A folder of BVH files of a body with three joints, in the classes `bow` and `nod`."""
    for number in range(clips):
        rng = np.random.default_rng(number)
        rows = "\n".join(" ".join(f"{value:.4f}" for value in rng.uniform(-30, 30, 12)) for _ in range(frames))
        path = folder / ("bow", "nod")[number % 2] / f"clip{number}.bvh"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(BVH.format(frames=frames, rows=rows))
    return folder


def write_mixamo(folder: Path) -> Path:
    """Two characters with two animations each, one window of 6 frames each."""
    for character in ("Aj", "Ty"):
        for number, animation in enumerate(("Bow", "Jump")):
            path = folder / "train" / character / animation / "motions" / "1.npy"
            path.parent.mkdir(parents=True)
            np.save(path, np.random.default_rng(number).normal(size=(15, 3, 6)))
    return folder
