"""A network: the mean pose of a window, and a linear layer."""

from __future__ import annotations

from torch import Tensor, nn

from dataengine.core.skeletons import Skeleton
from training.backbones.base import Backbone


class MeanPose(Backbone):
    """Linear features of the poses of two frames each.

    Args:
        num_classes: K; 0: no classifier.
        skeleton: the joint layout.
        channels: C of the input.
        width: D, the size of the features.
    """

    def __init__(self, num_classes: int, skeleton: str | Skeleton, channels: int = 2, width: int = 32) -> None:
        super().__init__(num_classes, skeleton, channels, width=width, stride=2, people=2)
        self.embed = nn.Conv1d(channels * self.skeleton.num_joints, width, 2, stride=2)
        self.fc = nn.Linear(width, num_classes) if num_classes else nn.Identity()

    def sequence(self, x: Tensor) -> Tensor:
        self.check(x)
        poses = x.mean(-1)  # over people
        if poses.shape[2] % 2:
            poses = nn.functional.pad(poses, (0, 0, 0, 1), mode="replicate")
        features: Tensor = self.embed(poses.transpose(2, 3).flatten(1, 2)).relu()
        return features
