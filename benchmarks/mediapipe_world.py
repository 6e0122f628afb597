# /// script
# requires-python = ">=3.11,<3.13"
# dependencies = [
#     "mediapipe==0.10.21", "numpy>=2,<3", "protobuf<5", "opencv-python-headless",
#     "absl-py", "attrs", "flatbuffers", "matplotlib",
# ]
# [tool.uv]
# exclude-newer = "2026-11-15T00:00:00Z"
# override-dependencies = [
#     "numpy>=2,<3", "jax; python_version<'0'", "jaxlib; python_version<'0'",
# "opencv-contrib-python; python_version<'0'", "sentencepiece; python_version<'0'", "sounddevice; python_version<'0'",
# ]
# ///
"""World landmarks of mediapipe for `benchmarks/lift.py`, in the environment of the expert. Not a benchmark.

mediapipe_world.py FRAMES OUT.npz VIDEO...: one array (T, 33, 3) float32 metres per video, NaN where nobody is found.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np


def main() -> None:
    """Read the arguments and do what they say."""
    import mediapipe

    frames, out = int(sys.argv[1]), sys.argv[2]
    found: dict[str, np.ndarray] = {}
    for video in sys.argv[3:]:
        stream = cv2.VideoCapture(video)
        poses: list[np.ndarray] = []
        with mediapipe.solutions.pose.Pose(model_complexity=1) as network:
            while len(poses) < frames:
                good, picture = stream.read()
                if not good:
                    break
                told = network.process(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)).pose_world_landmarks
                points = [(p.x, p.y, p.z) for p in told.landmark] if told else np.full((33, 3), np.nan)
                poses.append(np.array(points, np.float32))
        found[Path(video).stem] = np.stack(poses)
    np.savez_compressed(out, allow_pickle=False, **found)


if __name__ == "__main__":
    main()
