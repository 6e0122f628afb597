"""The built-in lifter: a small temporal network on onnxruntime, which needs no torch and no download.

It is a dilated temporal convolution network after Pavllo et al. 2019 ("3D human pose estimation in video with temporal
convolutions and semi-supervised training", CVPR) with a receptive field of 27 frames. Unlike theirs it is told which
joints are seen, and where and how large the person is in the picture (`dataengine.lift.inputs.person_features`).
`tools.lifter` trains it; weights/MODEL_CARD.md says on what.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnxruntime
from blake3 import blake3

from dataengine.core.component import LifterSession
from dataengine.core.errors import WeightsError
from dataengine.core.skeletons import COMMON, convert
from dataengine.core.skeletons import skeleton as layout_of
from dataengine.core.types import Bool, Float
from dataengine.lift.base import NetworkLifter, NetworkLifterSession
from dataengine.lift.inputs import NUM_BODY, mirrored_features, padded, person_features

FILE = "temporal.onnx"
PADDING = 13
"""Frames that the network needs before and after each frame: its receptive field is 27."""
CHUNK = 2000
"""Frames at once; bounds memory, not results."""


def weights_folder() -> Path:
    """The folder of the shipped network."""
    return Path(__file__).parent / "weights"


@dataclass(frozen=True)
class Temporal(NetworkLifter):
    """A small temporal network that comes with the package; runs on the CPU and needs no torch.

    Attributes:
        flip: lift the mirrored sequence too and take the mean of both.
        constant_bones: give every bone its median length of the clip, the same on the left and on the right.
        max_gap: most frames to the nearest frame with at least four seen joints; frames beyond are not lifted.
        min_score: joints with a lower score count as unseen.
    """

    title: ClassVar[str] = "[lifters.temporal]"

    def weights(self) -> dict[str, str]:
        """The shipped file with its blake3.

        Raises:
            WeightsError: the manifest is missing.
        """
        path = weights_folder() / "manifest.json"
        if not path.is_file():
            raise WeightsError(f"{path.name} of the built-in lifter is missing: install the package again")
        return {FILE: json.loads(path.read_text())["files"][FILE]}

    def load(self, device: str = "cpu") -> LifterSession:
        """Open the network on the CPU, whatever the device.

        Raises:
            WeightsError: the file is missing or is not the one promised.
        """
        path, promised = weights_folder() / FILE, self.weights()[FILE]
        if not path.is_file():
            raise WeightsError(f"weights {FILE} are missing: install the package again")
        content = path.read_bytes()
        if blake3(content).hexdigest() != promised:
            raise WeightsError(f"weights {FILE} are not the file promised ({promised[:12]}...): install again")
        return TemporalSession(self, open_network(content))


def open_network(content: bytes) -> Any:
    """An onnxruntime session of one thread on the CPU, of a file's bytes."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


class TemporalSession(NetworkLifterSession):
    """The open network."""

    concurrent = True

    def __init__(self, options: NetworkLifter, network: Any) -> None:
        super().__init__(options)
        self.network = network

    def release(self) -> None:
        self.network = None

    def body(self, keypoints: Float, seen: Bool, skeleton: str, size: tuple[int, int]) -> Float:
        """As `NetworkLifterSession.body`."""
        common, scores = convert(keypoints, seen.astype(np.float32), skeleton, COMMON)
        features = person_features(common, scores > 0, size)
        poses = self._run(features)
        if self.options.flip:
            turned = self._run(mirrored_features(features))[:, list(layout_of(COMMON).flip)]
            poses = (poses + turned * np.array([-1, 1, 1], np.float32)) / np.float32(2)
        return poses

    def _run(self, features: Float) -> Float:
        """(T, 42) -> (T, 13, 3)."""
        whole, parts = padded(features, PADDING, PADDING), []
        for start in range(0, len(features), CHUNK):
            part = whole[start : min(start + CHUNK, len(features)) + 2 * PADDING]
            parts.append(self.network.run(None, {"features": part.T[None]})[0][0])
        return np.asarray(np.concatenate(parts, 1).T.reshape(-1, NUM_BODY, 3), np.float32)
