"""MediaPipe's BlazePose for several people: an expert for real people that needs no download of weights.

mediapipe 0.10.21 (Apache-2.0) is the one pose estimator whose wheel carries a real model. Its pinned
libraries conflict with those of other packages, so it runs in an environment of its own. uv makes the
environment the first time (about 60 MB of wheels, ten seconds); later starts take about three seconds
and need no network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from dataengine.core import registry
from dataengine.core.component import Expert, ExpertSession
from dataengine.core.errors import ComponentError, ExpertError
from dataengine.core.types import Float, Frames, Poses
from dataengine.experts.isolation.isolated import ProcessSession
from dataengine.experts.isolation.process import IsolatedProcess, script_command

WORKER = Path(__file__).parent / "isolation" / "workers" / "mediapipe_worker.py"
_DETECTION = "mediapipe/modules/pose_detection/pose_detection.tflite"
_LANDMARKS = "mediapipe/modules/pose_landmark/pose_landmark_full.tflite"
WEIGHTS = {
    _DETECTION: "9ba9dd3d42efaaba86b4ff0122b06f29c4122e756b329d89dca1e297fd8f866c",
    _LANDMARKS: "e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f",
}
"""The two networks in the wheel, with their sha256; the worker refuses others."""
NUM_JOINTS = 33
CHUNK = 8
"""Frames per request: bounds the shared memory and what one deadline covers. Results do not depend on it."""


@dataclass(frozen=True)
class MediaPipe(Expert):
    """BlazePose (arXiv 2006.10204): detector and landmarks for several people, in an environment of its own.

    People found in one frame are searched for in the next frame around where they were. The detector runs every
    `detect_every` frames, and whenever nobody is known. Known people belong to one clip: call `start_clip` of the
    session before the first batch of each clip.

    Attributes:
        max_people: most people per frame.
        tiles: number of half overlapping squares that fit into the shorter side of the frame. The detector takes
            224 x 224 pixels and finds the most prominent people only, so it runs on each square beside the whole frame;
            0 is the whole frame only.
        detect_every: frames between two detections.
        min_score: least mean score of a person's twelve body joints, where joints outside of the frame count 0. On
            real clips bodies reach 0.4 and more, bodies fitted onto a pair of feet 0.2.
        deadline: seconds that 8 frames may take.
    """

    title: ClassVar[str] = "[experts.mediapipe]"
    programs: ClassVar[tuple[str, ...]] = tuple(
        f"dataengine.experts.isolation.workers.{name}" for name in ("mediapipe_worker", "people", "serving")
    )
    licence: ClassVar[str | None] = "Apache-2.0 (code and weights)"
    remembers_frames: ClassVar[bool] = True
    score_calibration: ClassVar[str | None] = "mediapipe"

    max_people: int = 4
    tiles: int = 1
    detect_every: int = 8
    min_score: float = 0.3
    deadline: float = 60.0

    def __post_init__(self) -> None:
        for name, least in (("max_people", 1), ("tiles", 0), ("detect_every", 1)):
            if getattr(self, name) < least:
                raise ComponentError(f"[experts.mediapipe] {name} = {getattr(self, name)}: at least {least}")
        if not 0 <= self.min_score <= 1 or self.deadline <= 0:
            raise ComponentError(
                "[experts.mediapipe] min_score lies in [0, 1] and deadline is a positive number of seconds"
            )

    @property
    def skeleton(self) -> str:
        return "blazepose33"

    def weights(self) -> dict[str, str]:
        """sha256 of the two networks by their path in the wheel."""
        return dict(WEIGHTS)

    def load(self, device: str = "cpu") -> ExpertSession:
        """Make the environment if need be and start the worker, which runs on the CPU whatever the device.

        Raises:
            ExpertError: uv is missing, the environment cannot be made, or the worker does not start.
        """
        options = {**registry.config(self), "weights": WEIGHTS}
        return MediaPipeSession(
            IsolatedProcess("mediapipe", lambda: script_command(WORKER), options, self.deadline), NUM_JOINTS
        )


class MediaPipeSession(ProcessSession):
    """A running worker, and the people that are known in the current clip.

    Known people are kept here and not in the worker. A restarted worker goes on as if nothing had happened, and how a
    clip is split into batches changes nothing.
    """

    _known: Any = None

    def start_clip(self) -> None:
        """Forget the people of the clip before."""
        self._known = None

    def predict(self, frames: Frames, boxes: Sequence[Float] | None = None) -> list[Poses]:
        """Find people in the next frames of a clip.

        Args:
            frames: (T, H, W, 3) uint8 RGB.
            boxes: ignored.

        Returns:
            One `Poses` per frame, best person first; scores are visibility x presence.

        Raises:
            ExpertError: frames of another shape or type, or the worker crashed or hung twice.
        """
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
            raise ExpertError(
                "expert_failed", f"frames are (T, H, W, 3) uint8, given {frames.shape} {frames.dtype}", retryable=False
            )
        known, poses = self._known, list[Poses]()
        for start in range(0, len(frames), CHUNK):
            answer, found = self.ask({"state": known}, [], frames[start : start + CHUNK])
            poses += found
            known = answer["state"]
        self._known = known
        return poses
