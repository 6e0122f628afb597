"""RTMPose on torch, from its own checkpoints: no other library than torch is needed.

Jiang et al., "RTMPose: Real-Time Multi-Person Pose Estimation based on MMPose" (arXiv 2303.07399). Weights:
Apache-2.0 (open-mmlab/mmpose), trained on seven data sets of bodies. The network is ours, written from the paper
(`rtmpose_network`); its joints are those of mmpose with the same weights (tests/experts/test_rtmpose.py).

The expert `onnx` runs the same networks from ONNX files without torch; on a GPU it needs an onnxruntime that fits the
CUDA version, this one does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np

from dataengine.core.skeletons import skeleton as layout_of
from dataengine.experts.checkpoints import fill, read_state
from dataengine.experts.preprocess import CropProcessing
from dataengine.experts.torch_runtime import Runtime, TorchExpert

if TYPE_CHECKING:
    import torch


class Network(NamedTuple):
    """A published network: depth and width of its backbone, width and height of crops, file of weights."""

    depth: float
    width: float
    size: tuple[int, int]
    weights: str


_BODY7 = "simcc-body7_pt-body7"
NETWORKS: dict[str, Network] = {
    "t": Network(0.167, 0.375, (192, 256), f"rtmpose-t_{_BODY7}_420e-256x192-026a1439_20230504"),
    "s": Network(0.33, 0.5, (192, 256), f"rtmpose-s_{_BODY7}_420e-256x192-acd4a1ef_20230504"),
    "m": Network(0.67, 0.75, (192, 256), f"rtmpose-m_{_BODY7}_420e-256x192-e48f03d0_20230504"),
    "l": Network(1.0, 1.0, (192, 256), f"rtmpose-l_{_BODY7}_420e-256x192-4dba18fc_20230504"),
    "m-384": Network(0.67, 0.75, (288, 384), f"rtmpose-m_{_BODY7}_420e-384x288-65e718c4_20230504"),
    "l-384": Network(1.0, 1.0, (288, 384), f"rtmpose-l_{_BODY7}_420e-384x288-3f5a1437_20230504"),
    "x": Network(1.33, 1.25, (288, 384), f"rtmpose-x_{_BODY7}_700e-384x288-71d7b7e9_20230629"),
}
"""The networks for 17 joints in open-mmlab/mmpose's model index of RTMPose; depth and width: its configurations."""
Model = Literal["t", "s", "m", "l", "m-384", "l-384", "x"]
MEAN = np.array([123.675, 116.28, 103.53])
STD = np.array([58.395, 57.12, 57.375])
SIMCC_BINS = 2.0
"""Bins per pixel (arXiv 2303.07399, section 3.3)."""


@dataclass(frozen=True)
class RtmPose(TorchExpert):
    """RTMPose on COCO's 17 joints, in crops around people; scores are the lower of the peaks along x and y.

    Attributes:
        model: which network.
        min_score: joints with a lower score are left out.
        min_mean: people with a lower mean score are left out.
    """

    model: Model = "m"
    min_score: float = 0.05
    min_mean: float = 0.2

    title: ClassVar[str] = "[experts.rtmpose]"
    licence: ClassVar[str | None] = "Apache-2.0 (code and weights)"
    skeleton: ClassVar[str] = "coco17"
    needs_boxes: ClassVar[bool] = True
    default_batch: ClassVar[tuple[int, int]] = (16, 128)
    fixed_shapes: ClassVar[bool] = True

    @property
    def processing(self) -> CropProcessing:
        """Crops around people."""
        size = NETWORKS[self.model].size
        return CropProcessing("RtmPose", size, self.skeleton, self.min_score, self.min_mean)

    @property
    def published(self) -> str:
        return f"{NETWORKS[self.model].weights}.pth"

    def build(self, runtime: Runtime, path: Path) -> Any:
        network = empty_network(self.model)
        fill(network, read_state(path), path, f"RTMPose {self.model}")
        network.eval().fold()
        return runtime.place(network, lower=(network.backbone,))

    def forward(self, runtime: Runtime, network: Any, pixels: Any) -> torch.Tensor:
        return decode_simcc(*network(runtime.images(pixels, MEAN, STD)))


def empty_network(model: str) -> Any:
    """The network of a name, its weights not yet set."""
    from dataengine.experts.rtmpose_network import RtmPoseNetwork, Size

    chosen = NETWORKS[model]
    joints = layout_of(RtmPose.skeleton).num_joints
    return RtmPoseNetwork(Size(chosen.depth, chosen.width), joints, chosen.size, SIMCC_BINS)


def decode_simcc(across: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    """Bins (N, V, Bx) and (N, V, By) -> joints (N, V, 3): x, y in pixels of the picture, the lower of both peaks.

    Li et al., "SimCC" (ECCV 2022, arXiv 2107.03332), equation 4. Joints whose peak is not above 0 are NaN with score 0.
    """
    import torch

    (px, x), (py, y) = across.float().max(-1), down.float().max(-1)
    score = torch.minimum(px, py)
    at = torch.where((score > 0)[..., None], torch.stack([x, y], -1) / SIMCC_BINS, torch.nan)
    return torch.cat([at, score.clamp(min=0)[..., None]], -1)
