"""The student `movenet`: MoveNet lightning or thunder, fine-tuned on pseudo-labels in tight crops.

Targets after CenterNet (Zhou et al., "Objects as Points", arXiv 1904.07850): a Gaussian per joint, displacements from
the centre to the joints, and the place of a joint within its cell. What labels do not tell is taught to stay as it was
(Li and Hoiem, "Learning without Forgetting", ECCV 2016): the map of centres, and joints without a label, such as eyes
and ears of layouts with one head point.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from dataengine.core.component import Student
from dataengine.core.errors import ComponentError
from dataengine.core.types import Float
from dataengine.experts.movenet import CROP, SIZES, STRIDE, MoveNet, Variant
from dataengine.experts.square_crops import squares_around
from dataengine.experts.torch_runtime import Runtime
from dataengine.io import weights
from dataengine.io.storage import write_durably
from dataengine.refine.person_crops import Augmentation, CropRule, PersonCrops
from dataengine.refine.person_student import PersonCropSession, weighted_mean

if TYPE_CHECKING:
    import torch

    from dataengine.experts.movenet_network import GraphFile, MoveNetModule

SPREAD = 1.25
"""Standard deviation of a joint's Gaussian in cells: that of the published network's maps around their peaks, where one
cell beside it they are at 0.72 of the peak, and two beside it at 0.29."""
NEAR = 0.4
"""Least value, over that of the peak, where offsets and displacements are learned: about three by three cells."""
RELATIVE = 2.0
"""Learning rate of a tensor over that of the run, per root mean square of its weights. Batch normalisation is folded
into the convolutions, whose weights therefore differ in size by orders of magnitude: steps of one size, as Adam takes,
wreck the small ones (relative steps: Shazeer and Stern, "Adafactor", arXiv 1804.04235, section 8). At a rate of 1e-4 a
weight changes by two ten-thousandths of the tensor's size per step; five times as much raised the error on held-out
frames."""
LEAST = 1e-3
"""Least size of a tensor for this, so that biases of 0 learn, too."""
PARTS = 8
"""Parts of the backbone that can be frozen: the stem and seven stages."""


@dataclass(frozen=True)
class MoveNetStudent(Student):
    """MoveNet fine-tuned on the poses of a build; predicts through the expert `movenet`, without torch.

    Attributes:
        variant: thunder is the more accurate, lightning three times as fast.
        frozen: parts of the backbone that keep their weights, from the picture on; stem and seven stages are eight.
        keep: weight of what the network said before, for joints without a label; 0 lets them drift.
        displacement: weight of the displacements from the centre to the joints.
        offset: weight of the places of joints within their cells.
        scale: least and most factor of the side of training crops.
        rotation: most rotation of training crops in degrees.
    """

    variant: Variant = "lightning"
    frozen: int = 6
    keep: float = 1.0
    displacement: float = 0.05
    offset: float = 0.5
    scale: tuple[float, float] = (0.9, 1.3)
    rotation: float = 30.0

    extra: ClassVar[str | None] = "torch"
    title: ClassVar[str] = "[students.movenet]"
    licence: ClassVar[str | None] = MoveNet.licence
    suffix: ClassVar[str] = ".onnx"
    skeleton: ClassVar[str] = MoveNet.skeleton

    def __post_init__(self) -> None:
        if not 0 <= self.frozen <= PARTS:
            raise ComponentError(f"{self.title} frozen = {self.frozen}: from 0, nothing, to {PARTS}, the backbone")
        for name in ("keep", "displacement", "offset", "rotation"):
            if not 0 <= getattr(self, name) < np.inf:
                raise ComponentError(f"{self.title} {name} = {getattr(self, name)}: at least 0")
        if not 0 < self.scale[0] <= self.scale[1] < np.inf:
            raise ComponentError(f"{self.title} scale = {list(self.scale)}: least and most factor, above 0")

    @property
    def published(self) -> str:
        """Name of the base weights in the manifest of weights."""
        return f"movenet_{self.variant}"

    def needs(self) -> list[str]:
        """The base weights."""
        return weights.names_of(self.published)

    def weights(self) -> dict[str, str]:
        """The base weights with their sha256.

        Raises:
            WeightsError: they are not here, or are other ones.
        """
        return weights.hashes(self.published)

    def start(self, device: str = "cpu", seed: int = 0, checkpoint: Path | None = None) -> MoveNetSession:
        runtime = Runtime.open(device, "float32", self.title)
        from dataengine.experts.movenet_network import load_network

        network, file = load_network(checkpoint or weights.locate(self.published), self.variant)
        return MoveNetSession(self, network, file, runtime.device)

    def expert(self, checkpoint: Path | None) -> MoveNet:
        return MoveNet(variant=self.variant, checkpoint="" if checkpoint is None else str(checkpoint))

    @property
    def rule(self) -> CropRule:
        """Crops as the expert cuts them."""
        size = SIZES[self.variant]

        def affine(box: Float) -> Float:
            left, top, side = squares_around(box[None], CROP)[0]
            scale = size / side
            return np.array([[scale, 0, (0.5 - left) * scale - 0.5], [0, scale, (0.5 - top) * scale - 0.5]])

        return CropRule(affine, (size, size), True, self.skeleton)


class MoveNetSession(PersonCropSession):
    """MoveNet while it learns.

    Args:
        student: its options. network: with the weights to begin with. file: where they come from. device: of torch.
    """

    network: MoveNetModule
    original: MoveNetModule

    def __init__(self, student: MoveNetStudent, network: MoveNetModule, file: GraphFile, device: Any) -> None:
        import torch

        augmentation = Augmentation(scale=student.scale, rotation=student.rotation)
        placed = network.to(device).to(memory_format=torch.channels_last)
        frozen = network.backbone_parts()[: student.frozen]
        super().__init__(placed, device, student.rule, augmentation, frozen)
        self.student = student
        self.file = file

    def parameters(self) -> Sequence[Mapping[str, Any]]:
        """Every tensor apart from the frozen parts, at a rate in proportion to its own size (see `RELATIVE`)."""
        begin = dict(self.original.named_parameters())
        return [
            {
                "params": [parameter],
                "scale": RELATIVE * max(float(begin[name].square().mean().sqrt()), LEAST),
                "weight_decay": 0.0,
            }
            for name, parameter in self.network.named_parameters()
            if parameter.requires_grad
        ]

    def crop_loss(self, pixels: torch.Tensor, crops: PersonCrops) -> dict[str, torch.Tensor]:
        """The parts: `joints`, `displacement` and `offset`, and `kept`, how far what has no label drifts."""
        import torch

        student, planes = self.student, pixels.permute(0, 3, 1, 2)
        front = self.network.front(planes, student.frozen)
        maps = self.network.rest(front, student.frozen)
        with torch.no_grad():
            before = self.original.rest(front, student.frozen)
        parts = losses(maps, before, crops)
        total = parts["joints"] + student.keep * parts["kept"]
        total = total + student.displacement * parts["displacement"] + student.offset * parts["offset"]
        return {"loss": total} | {name: one.detach() for name, one in parts.items()}

    def save(self, path: Path) -> None:
        """Write the published graph with the weights of now."""
        write_durably(path, self.file.with_weights(self.network))


def losses(
    maps: Mapping[str, torch.Tensor], before: Mapping[str, torch.Tensor], crops: PersonCrops
) -> dict[str, torch.Tensor]:
    """The parts of the loss, each a mean over labels.

    Args:
        maps: what the network says, as `MoveNetModule.forward`. before: what it said before learning.
        crops: the labels.

    Returns:
        joints: divergence of the maps, each as a distribution over cells, from Gaussians around the labels.
        displacement: cells (L1, smooth below one) around the centre. offset: cells (L1) around the joints. kept: the
        cross-entropy of centres and of joints without a label with what was said before, how far the offsets and
        displacements of these joints moved, and how far the peaks of the others rose or fell.
    """
    import torch
    from torch.nn import functional as F

    joints, height, width = maps["heatmap"].shape[1:]
    points = torch.from_numpy((crops.points + 0.5) / np.float32(STRIDE)).to(maps["heatmap"])
    weight = torch.from_numpy(crops.weights).to(points)
    known, lost = weight > 0, (weight <= 0).to(points)
    points = torch.where(known[..., None], points, torch.zeros_like(points))
    near = _gaussians(points, height, width)
    old_heat, old_center = torch.sigmoid(before["heatmap"]), torch.sigmoid(before["center"])
    heat = torch.where(known, _elsewhere(maps["heatmap"], near), _excess(maps["heatmap"], old_heat))
    level = (maps["heatmap"].amax((2, 3)) - before["heatmap"].amax((2, 3))).abs()

    grid = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")).to(points)
    # from the corner of each cell to the joint: offsets and displacements both count from there
    wanted = points.flip(-1)[..., None, None] - grid  # (N, V, 2, h, w): y, x
    offset, regress = (maps[name].unflatten(1, (joints, 2)) for name in ("offset", "regress"))
    middle = torch.where(old_center >= NEAR * old_center.amax((2, 3), keepdim=True), old_center, 0)
    at_center = middle * _within(points, known, grid)[:, None]
    at_joint = torch.where(near >= NEAR, near, 0)

    drift, strayed = (
        (found - before[name].unflatten(1, (joints, 2))).abs().sum(2)
        for found, name in ((offset, "offset"), (regress, "regress"))
    )
    old_joint = torch.where(old_heat >= 0.1, old_heat, 0)
    lost_maps, weight_maps = lost[..., None, None], weight[..., None, None]
    return {
        "joints": weighted_mean(heat, weight),
        "displacement": weighted_mean(
            F.smooth_l1_loss(regress, wanted, reduction="none").sum(2), at_center * weight_maps
        ),
        "offset": weighted_mean((offset - wanted).abs().sum(2), at_joint * weight_maps),
        "kept": _excess(maps["center"], old_center).mean()
        + weighted_mean(heat, lost)
        + 0.1 * weighted_mean(level, weight)
        + 0.5 * weighted_mean(drift, old_joint * lost_maps)
        + 0.05 * weighted_mean(strayed, middle * lost_maps),
    }


def _within(points: torch.Tensor, known: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """(N, h, w) 1 for cells in the extent of the labelled joints, points (N, V, 2) x, y in cells; else 0."""
    far = points.new_tensor(1e6)
    low = points.where(known[..., None], far).amin(1).flip(-1)[..., None, None]
    high = points.where(known[..., None], -far).amax(1).flip(-1)[..., None, None]
    middles = grid + 0.5
    return ((middles >= low) & (middles <= high)).all(1).to(points)


def _gaussians(points: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(N, V, 2) x, y in cells, continuous -> (N, V, h, w) Gaussians of height 1; the middle of cell 0 is at 0.5."""
    import torch

    y = torch.arange(height, device=points.device) + 0.5
    x = torch.arange(width, device=points.device) + 0.5
    down = torch.exp(-((y - points[..., 1:]) ** 2) / (2 * SPREAD**2))
    across = torch.exp(-((x - points[..., :1]) ** 2) / (2 * SPREAD**2))
    return down[..., :, None] * across[..., None, :]


def _elsewhere(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """(N, V) divergence of maps (N, V, h, w), as distributions over cells, from `wanted` of the same shape; 0 at best.

    It says where likelihoods lie and not how high they are, so that a label moves a peak and leaves its score alone.
    """
    import torch
    from torch.nn import functional as F

    logs = F.logsigmoid(logits).flatten(2)
    logs = logs - torch.logsumexp(logs, 2, keepdim=True)
    target = wanted.flatten(2) / wanted.flatten(2).sum(2, keepdim=True).clamp(min=1e-6)
    return F.kl_div(logs, target, reduction="none").sum(2)


def _excess(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """(N, V) cross-entropy of maps (N, V, h, w) above that of perfect ones, per area of a Gaussian; 0 at best."""
    import torch
    from torch.nn import functional as F

    best = -(torch.xlogy(target, target) + torch.xlogy(1 - target, 1 - target))
    found = F.binary_cross_entropy_with_logits(logits, target, reduction="none") - best
    return found.sum((2, 3)) / (2 * np.pi * SPREAD**2)
