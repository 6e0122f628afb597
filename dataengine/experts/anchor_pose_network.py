"""The network of anchor poses: region proposals, classes of poses, and joints relative to the anchor pose of a class.

Written anew after Rogez, Weinzaepfel and Schmid, "LCR-Net++" (IEEE TPAMI 2019, arXiv 1803.00455) on the building
blocks for detection of torchvision (BSD-3-Clause): region proposals (Ren et al., "Faster R-CNN", 2015), feature
pyramids (Lin et al. 2017) and RoIAlign (He et al., "Mask R-CNN", 2017). Each proposal gets a distribution over
background and K anchor poses, and for every anchor pose the offsets of its joints, in lengths of the proposal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import mobilenet_backbone, resnet_fpn_backbone
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import MultiScaleRoIAlign, box_iou

from dataengine.core.types import Float
from dataengine.experts.anchor_pose_spec import NetworkSpec

MEAN = 255 * np.array([0.485, 0.456, 0.406])
STD = 255 * np.array([0.229, 0.224, 0.225])
POOLED = 7
"""Cells of a side of a pooled region."""
RATIOS = (0.5, 1.0, 2.0, 3.0)
"""Height over width of the boxes that region proposals start from; people are upright more often than not."""
CONTAINED = 0.7
"""Share of the smaller of two regions within the larger one from which on they show one person. In rendered clips of
one covered person there were 1.50 people per frame without it, and 1.14 with it."""
TINY_WIDTHS, TINY_NECK, TINY_STRIDE = (16, 24, 48, 88, 128), 64, 8


def _conv(inputs: int, outputs: int, stride: int = 1, side: int = 3, active: bool = True) -> nn.Sequential:
    layers = [nn.Conv2d(inputs, outputs, side, stride, side // 2, bias=False), nn.BatchNorm2d(outputs)]
    return nn.Sequential(*layers, nn.ReLU()) if active else nn.Sequential(*layers)


class _Residual(nn.Module):
    """Two 3 x 3 convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = _conv(inputs, outputs, stride)
        self.second = _conv(outputs, outputs, active=False)
        same = stride == 1 and inputs == outputs
        self.short = nn.Identity() if same else _conv(inputs, outputs, stride, 1, active=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(self.first(x)) + self.short(x))


class TinyBackbone(nn.Module):
    """Residual blocks of strides 4 to 32 and a path back up to stride 8, for small pictures on a CPU.

    It has the shape of the trunk of the built-in bottom-up expert, whose weights it can begin with
    (`tools.anchor_pose`). Proposals are made of the map "trunk", regions are judged by it and by the map of joints.
    """

    out_channels = TINY_NECK
    gain: Tensor
    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        widths = TINY_WIDTHS
        self.stem = nn.Sequential(
            _conv(3, widths[0], 2), _conv(widths[0], widths[1], 2), _Residual(widths[1], widths[1], 1)
        )
        self.stages = nn.ModuleList(
            nn.Sequential(_Residual(widths[k], widths[k + 1], 2), _Residual(widths[k + 1], widths[k + 1], 1))
            for k in (1, 2, 3)
        )
        self.laterals = nn.ModuleList(nn.Conv2d(width, TINY_NECK, 1) for width in widths[2:])
        self.mixes = nn.ModuleList(_conv(TINY_NECK, TINY_NECK) for _ in range(2))
        self.joint_head = nn.ModuleList([_conv(TINY_NECK, TINY_NECK)])
        # from (value - MEAN) / STD to (value - 127.5) / 64
        self.register_buffer("gain", torch.tensor(STD / 64, dtype=torch.float32).view(-1, 1, 1), persistent=False)
        shift = torch.tensor((MEAN - 127.5) / 64, dtype=torch.float32).view(-1, 1, 1)
        self.register_buffer("shift", shift, persistent=False)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        height, width = x.shape[2:]
        x = x * self.gain + self.shift
        x = functional.pad(x, (0, -width % 32, 0, -height % 32))
        x = self.stem(x)
        levels = []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        y: Tensor = self.laterals[2](levels[2])
        for k in (1, 0):
            y = self.mixes[k](functional.interpolate(y, scale_factor=2.0) + self.laterals[k](levels[k]))
        both = torch.cat([y, self.joint_head[0](y)], 1)[:, :, : height // TINY_STRIDE, : width // TINY_STRIDE]
        return {"trunk": both[:, :TINY_NECK], "joints": both}


def _backbone(name: str) -> tuple[nn.Module, tuple[str, ...], tuple[str, ...], tuple[tuple[int, ...], ...]]:
    """Backbone, its maps for regions, its maps for proposals, and the sides of the boxes that these start from."""
    if name == "tiny":
        return TinyBackbone(), ("joints",), ("trunk",), ((24, 40, 64, 100),)
    if name.startswith("resnet"):
        made = resnet_fpn_backbone(backbone_name=name, weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5)
        return made, ("0", "1", "2", "3"), ("0", "1", "2", "3", "pool"), ((32,), (64,), (128,), (256,), (512,))
    made = mobilenet_backbone(backbone_name=name, weights=None, fpn=True, norm_layer=nn.BatchNorm2d, trainable_layers=6)
    sizes = ((32, 64, 128), (128, 256, 512), (128, 256, 512))
    return made, ("0", "1"), ("0", "1", "pool"), sizes


@dataclass(frozen=True)
class Regions:
    """What the network says of the regions of one image.

    Attributes:
        boxes: (R, 4) xyxy pixels of the image.
        logits: (R, K + 1), background first.
        poses: (R, K, V, 2) pixels of the image.
    """

    boxes: Tensor
    logits: Tensor
    poses: Tensor


class AnchorPoseNetwork(nn.Module):
    """Proposals, classification and regression. Weights are drawn from torch's generator.

    Args:
        spec: what it looks like.
        anchors: (K, V, 2) float32 anchor poses in lengths of a box.
    """

    anchors: Tensor

    def __init__(self, spec: NetworkSpec, anchors: Float) -> None:
        super().__init__()
        self.spec = spec
        classes, joints = anchors.shape[:2]
        self.backbone, self.pooled_maps, self.rpn_maps, sizes = _backbone(spec.backbone)
        channels = int(getattr(self.backbone, "out_channels"))  # noqa: B009
        generator = AnchorGenerator(sizes, (RATIOS,) * len(sizes))
        count = generator.num_anchors_per_location()[0]
        regions = {"training": spec.proposals, "testing": spec.proposals}
        before = {"training": 4 * spec.proposals, "testing": 4 * spec.proposals}
        self.rpn = RegionProposalNetwork(generator, RPNHead(channels, count), 0.6, 0.3, 128, 0.5, before, regions, 0.7)
        self.pool = MultiScaleRoIAlign(list(self.pooled_maps), POOLED, 2)
        pooled = 2 * channels if spec.backbone == "tiny" else channels
        self.trunk = nn.Sequential(
            nn.Flatten(1),
            nn.Linear(pooled * POOLED * POOLED, spec.hidden),
            nn.ReLU(),
            nn.Linear(spec.hidden, spec.hidden),
            nn.ReLU(),
        )
        self.classes = nn.Linear(spec.hidden, classes + 1)
        self.joints = nn.Linear(spec.hidden, classes * joints * 2)
        nn.init.normal_(self.classes.weight, std=0.01)
        nn.init.zeros_(self.classes.bias)
        nn.init.normal_(self.joints.weight, std=0.001)
        nn.init.zeros_(self.joints.bias)
        self.register_buffer("anchors", torch.from_numpy(np.array(anchors, np.float32)))

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Maps of images (N, 3, h, w)."""
        found: dict[str, Tensor] = self.backbone(images)
        return found

    def propose(
        self, images: Tensor, features: dict[str, Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Boxes (R, 4) of each image, best first; with targets and while `rpn` is in training mode also the losses."""
        shapes = [(int(images.shape[2]), int(images.shape[3]))] * len(images)
        maps = {name: features[name] for name in self.rpn_maps}
        boxes, losses = self.rpn(ImageList(images, shapes), maps, targets)
        return list(boxes), dict(losses)

    def judge(self, images: Tensor, features: dict[str, Tensor], boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits (R, K + 1), background first, and offsets (R, K, V, 2) in lengths of the boxes, of all images."""
        shapes = [(int(images.shape[2]), int(images.shape[3]))] * len(images)
        maps = {name: features[name] for name in self.pooled_maps}
        hidden = self.trunk(self.pool(maps, boxes, shapes))
        return self.classes(hidden), self.joints(hidden).view(-1, *self.anchors.shape)

    def regions(self, images: Tensor) -> list[Regions]:
        """What the network says of the proposals of each image (N, 3, h, w)."""
        features = self.features(images)
        boxes, _ = self.propose(images, features)
        logits, offsets = self.judge(images, features, boxes)
        counts = [len(some) for some in boxes]
        poses = place(torch.cat(boxes), self.anchors + offsets)
        return [Regions(*some) for some in zip(boxes, logits.split(counts), poses.split(counts), strict=True)]


def place(boxes: Tensor, poses: Tensor) -> Tensor:
    """Poses (R, K, V, 2) in lengths of boxes (R, 4) -> pixels."""
    low, size = boxes[:, None, None, :2], (boxes[:, 2:] - boxes[:, :2])[:, None, None]
    return low + poses * size


def integrate(regions: Regions, threshold: float, candidate: float, overlap: float, most: int) -> np.ndarray:
    """People of the overlapping poses of one image: (M, 5 + 3 V), see `FrameProcessing`.

    Every class of a region with a probability above `candidate` is a candidate pose. The surest region that is left
    and all whose boxes overlap with its box, lie in it or hold it (see `CONTAINED`) are one person: a region of the
    upper half of a body shows the person of the whole one. The pose is the mean of their candidates, weighted by
    probability ("pose proposal integration" of LCR-Net++, section 3.4, in two dimensions). The score of a person and of
    all joints is the largest probability of a region of theirs to be no background.

    Args:
        threshold: least score of a person. overlap: least intersection over union. most: most people.
    """
    likely = torch.softmax(regions.logits.float(), -1)
    person = 1 - likely[:, 0]
    order = torch.argsort(person, descending=True, stable=True)
    order = order[person[order] >= max(threshold, 1e-6)]
    if not len(order):
        return np.zeros((0, 5 + 3 * regions.poses.shape[2]), np.float32)
    person, boxes = person[order], regions.boxes[order]
    weights = likely[order, 1:]
    weights = torch.where((weights >= candidate) | (weights >= weights.amax(1, keepdim=True)), weights, 0)
    sums = torch.einsum("rk,rkvc->rvc", weights, regions.poses[order])
    mass, shares = weights.sum(1), (box_iou(boxes, boxes) >= overlap) | (contained(boxes) >= CONTAINED)
    free = torch.ones(len(order), dtype=torch.bool, device=boxes.device)
    people: list[Tensor] = []
    for seed in range(len(order)):
        if len(people) == most:
            break
        if not bool(free[seed]):
            continue
        group = free & shares[seed]
        group[seed] = True
        free &= ~group
        pose = sums[group].sum(0) / mass[group].sum()
        box = (person[group, None] * boxes[group]).sum(0) / person[group].sum()
        joints = torch.cat([pose, person[seed].expand(len(pose), 1)], -1)
        people.append(torch.cat([box, person[seed : seed + 1], joints.flatten()]))
    return np.asarray(torch.stack(people).cpu().numpy(), np.float32)


def contained(boxes: Tensor) -> Tensor:
    """(R, R) intersections of boxes (R, 4) over the area of the smaller one."""
    low, high = torch.maximum(boxes[:, None, :2], boxes[:, :2]), torch.minimum(boxes[:, None, 2:], boxes[:, 2:])
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return (high - low).clamp(min=0).prod(-1) / torch.minimum(areas[:, None], areas).clamp(min=1e-6)


def build(spec: NetworkSpec, anchors: Float, seed: int | None = None) -> AnchorPoseNetwork:
    """The network; with a seed its weights are drawn of it, and torch's generator stays as it was."""
    if seed is None:
        return AnchorPoseNetwork(spec, anchors)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AnchorPoseNetwork(spec, anchors)


def state_of(network: Any) -> dict[str, Tensor]:
    """Tensors of the network by name, on the host, without counters of steps."""
    return {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in sorted(network.state_dict().items())
        if not name.endswith("num_batches_tracked")
    }
