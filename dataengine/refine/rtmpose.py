"""The student `rtmpose`: RTMPose fine-tuned on pseudo-labels, its coordinates classified along x and y.

Li et al., "SimCC" (ECCV 2022, arXiv 2107.03332, section 3.2): a joint is a distribution over bins along each axis, the
labels are smoothed by a Gaussian, and the loss is the divergence of both. Constants: open-mmlab/mmpose, configurations
of RTMPose.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dataengine.experts.checkpoints import fill, read_state
from dataengine.experts.rtmpose import MEAN, NETWORKS, SIMCC_BINS, STD, Model, RtmPose, empty_network
from dataengine.refine.person_student import TorchPersonStudent

if TYPE_CHECKING:
    import torch

    from dataengine.refine.person_student import Maps

SHARPNESS = 10.0
"""Factor of bins and labels before their softmax (beta)."""


@dataclass(frozen=True)
class RtmPoseStudent(TorchPersonStudent):
    """RTMPose fine-tuned on the poses of a build; predicts through the expert `rtmpose`.

    Attributes:
        model: which network.
    """

    model: Model = "m"

    title: ClassVar[str] = "[students.rtmpose]"
    licence: ClassVar[str | None] = RtmPose.licence

    def expert_with(self, checkpoint: str) -> RtmPose:
        return RtmPose(model=self.model, checkpoint=checkpoint)

    def network(self, path: Path) -> Any:
        network = empty_network(self.model)
        fill(network, read_state(path), path, f"RTMPose {self.model}")
        return network

    def maps(self, network: Any, images: torch.Tensor) -> Maps:
        across, down = network(images)
        return across, down

    def crop_loss(
        self,
        found: tuple[torch.Tensor, ...],
        before: tuple[torch.Tensor, ...],
        points: torch.Tensor,
        known: torch.Tensor,
    ) -> torch.Tensor:
        """The mean over both axes of the divergence from the label's distribution to the network's."""
        import torch

        parts = []
        for axis, (bins, old, side) in enumerate(zip(found, before, NETWORKS[self.model].size)):
            target = torch.where(known[..., None], smoothed(points[..., axis], bins.shape[-1], side), old)
            wanted = torch.softmax(SHARPNESS * target, -1)
            logs = torch.log_softmax(SHARPNESS * bins, -1)
            parts.append(torch.nn.functional.kl_div(logs, wanted, reduction="none").sum(-1))
        return (parts[0] + parts[1]) / 2

    @property
    def colours(self) -> tuple[Any, Any]:
        return MEAN, STD


def smoothed(at: torch.Tensor, bins: int, side: int) -> torch.Tensor:
    """Places (N, V) in pixels along a side of a crop -> (N, V, bins) Gaussians of height 1 around them, as wide as the
    published ones: the root of an eighth of the side in bins (4.9 for 192 pixels, 5.66 for 256)."""
    import torch

    spread = (side / 8) ** 0.5
    away = torch.arange(bins, device=at.device) - at[..., None] * SIMCC_BINS
    return torch.exp(-(away**2) / (2 * spread**2))
