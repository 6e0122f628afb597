"""The student `vitpose`: ViTPose fine-tuned on pseudo-labels, a likelihood map per joint.

Xu et al., "ViTPose" (arXiv 2204.12484, section 3.1): the loss is the mean squared error of the maps to Gaussians around
the labels; Xiao et al., "Simple Baselines for Human Pose Estimation and Tracking" (ECCV 2018): two cells wide.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dataengine.experts.checkpoints import read_state
from dataengine.experts.transformer_models import filled, import_transformers
from dataengine.experts.vitpose import HEIGHT, MEAN, STD, WIDTH, Model, VitPose, empty_network, heatmaps
from dataengine.refine.person_student import TorchPersonStudent

if TYPE_CHECKING:
    import torch

    from dataengine.refine.person_student import Maps

SPREAD = 2.0
"""Standard deviation of the Gaussians in cells."""
SCALE = 1000.0
"""Factor of the mean squared error, which is tiny over whole maps."""


@dataclass(frozen=True)
class VitPoseStudent(TorchPersonStudent):
    """ViTPose fine-tuned on the poses of a build; predicts through the expert `vitpose`.

    Attributes:
        model: which network.
    """

    model: Model = "base-simple"

    extra: ClassVar[str | None] = "vitpose"
    title: ClassVar[str] = "[students.vitpose]"
    licence: ClassVar[str | None] = VitPose.licence

    def expert_with(self, checkpoint: str) -> VitPose:
        return VitPose(model=self.model, checkpoint=checkpoint)

    def network(self, path: Path) -> Any:
        with import_transformers(self.title):
            return filled(empty_network(self.model), read_state(path), path, f"ViTPose {self.model}")

    def maps(self, network: Any, images: torch.Tensor) -> Maps:
        return (heatmaps(network, images, self.model),)

    def crop_loss(
        self,
        found: tuple[torch.Tensor, ...],
        before: tuple[torch.Tensor, ...],
        points: torch.Tensor,
        known: torch.Tensor,
    ) -> torch.Tensor:
        """The mean squared error of each joint's map."""
        import torch

        (maps,), (old,) = found, before
        target = torch.where(known[..., None, None], gaussians(points, *maps.shape[-2:]), old)
        return SCALE * (maps - target).square().mean((2, 3))

    @property
    def colours(self) -> tuple[Any, Any]:
        return MEAN, STD


def gaussians(points: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(N, V, 2) x, y in pixels of the crop -> maps (N, V, height, width) of height 1, whose outermost cells lie on the
    outermost pixels of the crop, as the decoding has them."""
    import torch

    x = points[..., 0] * ((width - 1) / (WIDTH - 1))
    y = points[..., 1] * ((height - 1) / (HEIGHT - 1))
    across = torch.exp(-((torch.arange(width, device=points.device) - x[..., None]) ** 2) / (2 * SPREAD**2))
    down = torch.exp(-((torch.arange(height, device=points.device) - y[..., None]) ** 2) / (2 * SPREAD**2))
    return down[..., :, None] * across[..., None, :]
