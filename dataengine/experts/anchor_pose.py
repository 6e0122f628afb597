"""Anchor poses: people and joints in whole frames, by classes of poses (after LCR-Net++).

Rogez, Weinzaepfel and Schmid, "LCR-Net++: Multi-person 2D and 3D Pose Detection in Natural Images" (IEEE TPAMI 2019,
arXiv 1803.00455), in two dimensions and written anew from the paper: regions of people are classified into anchor
poses, whose joints a regression moves, and overlapping poses are integrated. Whole bodies come out also where they are
hidden or end at the border of the frame. Code and built-in weights are this package's own.

The built-in weights find rendered people and fail on real video, as those of the other built-in experts; other weights
come of `python -m tools.anchor_pose` or of a refinement with the student of the same name.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from dataengine.core.errors import ComponentError, MissingExtraError, WeightsError
from dataengine.core.skeletons import skeleton as layout_of
from dataengine.experts.anchor_pose_spec import NetworkSpec, read_spec
from dataengine.experts.checkpoints import fill, read_state
from dataengine.experts.preprocess import FrameProcessing
from dataengine.experts.synthetic import weights_folder
from dataengine.experts.torch_runtime import Runtime, TorchExpert
from dataengine.io import weights

BUILT_IN = "anchor_pose.safetensors"
MEAN_COLOUR = (124, 116, 104)


@dataclass(frozen=True)
class AnchorPose(TorchExpert):
    """Anchor poses after LCR-Net++: whole bodies, also where they are hidden or cut off.

    The layout, the size of the images and the backbone are those of the file of weights.

    Attributes:
        threshold: least score of a person.
        candidate: least probability of a class of poses that takes part in a person's pose.
        overlap: regions whose boxes have a larger intersection over union are one person, as is one within another.
        max_people: most people per frame.
        min_score: joints with a lower score are left out; all joints of a person have the same score.
        min_mean: people with a lower mean score are left out.
    """

    threshold: float = 0.3
    candidate: float = 0.1
    overlap: float = 0.4
    max_people: int = 8
    min_score: float = 0.05
    min_mean: float = 0.1

    title: ClassVar[str] = "[experts.anchor_pose]"
    default_batch: ClassVar[tuple[int, int]] = (8, 64)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.candidate <= 1:
            raise ComponentError(f"{self.title} candidate = {self.candidate}: lies in [0, 1]")

    @property
    def published(self) -> str:
        return str(weights_folder() / BUILT_IN)

    @property
    def spec(self) -> NetworkSpec:
        """What the network looks like.

        Raises:
            WeightsError: the weights are not here, or are of another network.
        """
        return read_spec(weights.locate(self.file))

    @property
    def skeleton(self) -> str:
        return self.spec.skeleton

    @property
    def processing(self) -> FrameProcessing:
        """Frames at the top left of an image, with the mean colour around them, as in training."""
        spec = self.spec
        size = (spec.width, spec.height)
        return FrameProcessing(size, spec.skeleton, self.min_score, self.min_mean, False, MEAN_COLOUR)

    def build(self, runtime: Runtime, path: Path) -> Any:
        network = load_network(path, self.title)
        return runtime.place(network, lower=(network.backbone,))

    def forward(self, runtime: Runtime, network: Any, pixels: Any) -> list[np.ndarray]:
        from dataengine.experts.anchor_pose_network import MEAN, STD, integrate

        found = network.regions(runtime.images(pixels, MEAN, STD))
        return [integrate(one, self.threshold, self.candidate, self.overlap, self.max_people) for one in found]


def load_network(path: Path, what: str) -> Any:
    """The network of a file with its weights, on the CPU.

    Raises:
        MissingExtraError: torchvision is not installed; `what` needs it.
        WeightsError: the file is of another network.
    """
    spec = read_spec(path)
    try:
        from dataengine.experts.anchor_pose_network import build
    except ImportError as error:
        raise MissingExtraError(what, "torch") from error
    state = read_state(path)
    anchors = state.get("anchors")
    joints = layout_of(spec.skeleton).num_joints
    if anchors is None or anchors.ndim != 3 or anchors.shape[1:] != (joints, 2):
        raise WeightsError(f"weights {path} have no anchor poses of the {joints} joints of {spec.skeleton}")
    network = build(spec, anchors.numpy(), seed=0)
    fill(network, state, path, f"anchor_pose {spec.backbone}")
    return network
