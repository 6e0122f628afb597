"""MediaPipe's BlazePose for several people: the expert that sees real people without any download of weights.

mediapipe 0.10.21 (Apache-2.0) is the one pose estimator whose wheel carries a real model. It pins what
the rest cannot live with, so it runs in an environment of its own, made by uv the first time (about
60 MB of wheels, ten seconds; later starts take about three seconds and need no network).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dataengine.core import registry
from dataengine.core.errors import ComponentError, ExpertError
from dataengine.core.types import Float, Frames, Poses
from dataengine.experts.isolation.isolated import split_poses
from dataengine.experts.isolation.process import IsolatedProcess, script_command

WORKER = Path(__file__).parent / "isolation" / "workers" / "mediapipe_worker.py"
WEIGHTS = {
    "mediapipe/modules/pose_detection/pose_detection.tflite": "9ba9dd3d42efaaba86b4ff0122b06f29c4122e756b329d89dca1e297fd8f866c",
    "mediapipe/modules/pose_landmark/pose_landmark_full.tflite": "e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f",
}
"""The two networks in the wheel, with their sha256; the worker refuses others."""
NUM_JOINTS = 33
CHUNK = 8
"""Frames a request: bounds the shared memory and what one deadline covers. Results do not depend on it."""


@dataclass(frozen=True)
class MediaPipe:
    """Detector and landmarks of BlazePose (arXiv 2006.10204), several people a frame.

    People found in one frame are looked for in the next around where they were; every
    `detect_every` frames, and whenever nobody is known, the detector looks again. What is known
    belongs to one clip: call `begin_clip` before the first batch of each. It is kept here and not
    in the worker, so a restarted worker goes on as if nothing had happened, and how a clip is cut
    into batches changes nothing.

    Attributes:
        people: most people a frame.
        tiles: how many half overlapping squares, detected in beside the whole picture, fit into its
            shorter side; the detector sees 224 x 224 pixels and takes note of the most prominent
            people only. 0: the whole picture only.
        detect_every: frames between two detections.
        min_score: a person needs this mean score of the twelve body joints, those outside the
            picture counted 0. On real clips bodies reach 0.4 and more, bodies fitted onto a pair
            of feet 0.2.
        deadline: seconds that 8 frames may take.
    """

    people: int = 4
    tiles: int = 1
    detect_every: int = 8
    min_score: float = 0.3
    deadline: float = 60.0
    _live: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, least in (("people", 1), ("tiles", 0), ("detect_every", 1)):
            if getattr(self, name) < least:
                raise ComponentError(f"[experts.mediapipe] {name} = {getattr(self, name)}: at least {least}")
        if not 0 <= self.min_score <= 1 or self.deadline <= 0:
            raise ComponentError(
                "[experts.mediapipe] min_score lies in [0, 1] and deadline is a positive number of seconds"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(type(self), **registry.config(self)), ()

    @property
    def skeleton(self) -> str:
        return "blazepose33"

    @property
    def needs_boxes(self) -> bool:
        return False

    def weights(self) -> dict[str, str]:
        """sha256 of the two networks by their path in the wheel."""
        return dict(WEIGHTS)

    def load(self, device: str = "cpu") -> None:
        """Make the environment if need be and start the worker. Idempotent; `device` is ignored (CPU only).

        Raises:
            ExpertError: uv is missing, the environment cannot be made, or the worker does not start.
        """
        if "process" not in self._live:
            options = {**registry.config(self), "weights": WEIGHTS}
            self._live["process"] = IsolatedProcess("mediapipe", lambda: script_command(WORKER), options, self.deadline)
        self._live["process"].start()

    def close(self) -> None:
        """End the worker; the next `load` or `predict` starts another."""
        if "process" in self._live:
            self._live.pop("process").close()

    def begin_clip(self) -> None:
        """Forget the people of the clip before."""
        self._live["state"] = None

    def predict(self, frames: Frames, boxes: Sequence[Float] | None = None) -> list[Poses]:
        """Find people in the next frames of a clip.

        Args:
            frames: (T, H, W, 3) uint8 RGB.
            boxes: ignored.

        Returns:
            One `Poses` a frame, best person first; scores are visibility x presence.

        Raises:
            ExpertError: frames of another form, or the worker crashed or hung twice.
        """
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
            raise ExpertError(
                "expert_failed", f"frames are (T, H, W, 3) uint8, given {frames.shape} {frames.dtype}", retryable=False
            )
        self.load()
        state = self._live.get("state")
        poses: list[Poses] = []
        for start in range(0, len(frames), CHUNK):
            chunk = frames[start : start + CHUNK]
            answer, parts = self._live["process"].ask({"state": state}, (), chunk)
            poses += split_poses(answer, parts, len(chunk), NUM_JOINTS)
            state = answer["state"]
        self._live["state"] = state
        return poses
