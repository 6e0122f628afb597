"""Keypoint R-CNN of torchvision: people, boxes and joints in whole frames.

He et al., "Mask R-CNN" (ICCV 2017, arXiv 1703.06870), section 5; ResNet-50 with a feature pyramid. Code: BSD-3-Clause
(pytorch/vision); weights: BSD-3-Clause, trained on COCO.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from dataengine.core.errors import ComponentError, MissingExtraError
from dataengine.core.types import Float
from dataengine.experts.checkpoints import fill, read_state
from dataengine.experts.device_images import constant
from dataengine.experts.preprocess import FrameProcessing
from dataengine.experts.region_proposals import detect, propose
from dataengine.experts.torch_runtime import Runtime, TorchExpert

if TYPE_CHECKING:
    import torch

MEAN = 255 * np.array([0.485, 0.456, 0.406])
STD = 255 * np.array([0.229, 0.224, 0.225])
MEAN_COLOUR = (124, 116, 104)
STEPS = 8
"""Parts of a cell that a joint is told apart by: half a pixel in a person 224 pixels tall."""
CUBIC = -0.75
"""The free constant of the bicubic kernel that torch interpolates with."""


@dataclass(frozen=True)
class KeypointRcnn(TorchExpert):
    """Keypoint R-CNN with a ResNet-50, on COCO's 17 joints.

    Each map is a distribution of a joint over 56 x 56 cells of the person's box. The score of a joint is the mass
    within one and a half cells of the likeliest place, so that it lies in [0, 1] as the scores of the other experts do.
    Joints are given at the centres of pixels, half a pixel up and left of torchvision's own answer.

    Attributes:
        width, height: pixels that frames are fitted into, multiples of 32.
        proposals: candidate regions per frame; torchvision's own number is 1000, a CPU is several times faster with
            100.
        threshold: least score of a person.
        max_people: most people per frame.
        min_score: joints with a lower score are left out.
        min_mean: people with a lower mean score are left out.
    """

    width: int = 800
    height: int = 608
    proposals: int = 1000
    threshold: float = 0.5
    max_people: int = 8
    min_score: float = 0.05
    min_mean: float = 0.1

    title: ClassVar[str] = "[experts.keypoint_rcnn]"
    licence: ClassVar[str | None] = "BSD-3-Clause (code and weights)"
    skeleton: ClassVar[str] = "coco17"
    default_batch: ClassVar[tuple[int, int]] = (4, 64)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("width", "height"):
            if getattr(self, name) < 32 or getattr(self, name) % 32:
                raise ComponentError(f"{self.title} {name} = {getattr(self, name)}: a multiple of 32")
        if self.proposals < 1:
            raise ComponentError(f"{self.title} proposals = {self.proposals}: at least 1")

    @property
    def published(self) -> str:
        return "keypointrcnn_resnet50_fpn_coco-fc266e95.pth"

    @property
    def cpu_batch(self) -> int:
        return 2

    @property
    def processing(self) -> FrameProcessing:
        """Frames at the top left of an image, with the mean colour around them, as in training."""
        size = (self.width, self.height)
        return FrameProcessing(size, self.skeleton, self.min_score, self.min_mean, False, MEAN_COLOUR)

    def build(self, runtime: Runtime, path: Path) -> Any:
        network = empty_network(self.title)
        fill(network, read_state(path), path, "Keypoint R-CNN")
        network.rpn._post_nms_top_n = {"training": self.proposals, "testing": self.proposals}
        network.roi_heads.score_thresh = self.threshold
        network.roi_heads.detections_per_img = self.max_people
        heads = network.roi_heads
        return runtime.place(network, lower=(network.backbone, network.rpn.head, heads.box_head, heads.keypoint_head))

    def forward(self, runtime: Runtime, network: Any, pixels: Any) -> list[np.ndarray]:
        import torch

        x = runtime.images(pixels, MEAN, STD)
        features = network.backbone(x)
        people = self._people_together if runtime.accelerated else self._people_by_image
        boxes, scores = people(network, x, features)
        heads, shapes = network.roi_heads, [(self.height, self.width)] * len(x)
        maps = heads.keypoint_predictor(heads.keypoint_head(heads.keypoint_roi_pool(features, boxes, shapes)))
        joints = decode(maps, torch.cat(boxes))
        rows = torch.cat([torch.cat(boxes) - 0.5, torch.cat(scores)[:, None], joints.flatten(1)], 1)
        return np.split(runtime.to_host(rows), np.cumsum([len(b) for b in boxes])[:-1])

    def _people_by_image(self, network: Any, x: torch.Tensor, features: Any) -> tuple[list[Any], list[Any]]:
        """Boxes (M, 4) and scores (M,) of the people in every image, by torchvision."""
        from torchvision.models.detection.image_list import ImageList

        heads, shapes = network.roi_heads, [(self.height, self.width)] * len(x)
        proposals, _ = network.rpn(ImageList(x, shapes), features)
        logits, shifts = heads.box_predictor(heads.box_head(heads.box_roi_pool(features, proposals, shapes)))
        boxes, scores, _ = heads.postprocess_detections(logits, shifts, proposals, shapes)
        return boxes, scores

    def _people_together(self, network: Any, x: torch.Tensor, features: Any) -> tuple[list[Any], list[Any]]:
        """As `_people_by_image`, for all images at once; the host waits for the device once, for the numbers."""
        heads, size = network.roi_heads, (self.width, self.height)
        regions, counts = propose(network.rpn, list(features.values()), size, self.proposals)
        pooled = heads.box_roi_pool(features, list(regions), [size[::-1]] * len(x))
        logits, shifts = heads.box_predictor(heads.box_head(pooled))
        boxes, scores, counts = detect(heads, logits, shifts, regions, counts, size)
        numbers = counts.sum(1).tolist()
        return list(boxes[counts].split(numbers)), list(scores[counts].split(numbers))


def empty_network(what: str) -> Any:
    """The network, its weights not yet set.

    Raises:
        MissingExtraError: torchvision is not installed; `what` needs it.
    """
    try:
        from torchvision.models.detection import keypointrcnn_resnet50_fpn
    except ImportError as error:
        raise MissingExtraError(what, "torch") from error
    return keypointrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_keypoints=17)


@cache
def _cubic() -> Float:
    """(2 STEPS + 1, 7) weights of the cells -3 .. 3 around the best for places -1 .. 1 cells from it.

    Keys, "Cubic convolution interpolation" (1981), equation 15 with the free constant `CUBIC`.
    """
    place = np.arange(-STEPS, STEPS + 1) / STEPS
    away = np.abs(place[:, None] - np.arange(-3, 4))
    near = (CUBIC + 2) * away**3 - (CUBIC + 3) * away**2 + 1
    far = CUBIC * (away**3 - 5 * away**2 + 8 * away - 4)
    return np.asarray(np.where(away <= 1, near, np.where(away < 2, far, 0)), np.float32)


def decode(maps: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """Maps (N, V, h, w) of people in `boxes` (N, 4) -> joints (N, V, 3): x, y at the middles of pixels, score.

    The place is the maximum of the map's bicubic interpolation within a cell of the best cell, in steps of 1 / `STEPS`.
    """
    import torch

    n, v, h, w = maps.shape
    best = maps.flatten(2).argmax(-1)
    x, y = best % w, torch.div(best, w, rounding_mode="floor")
    span = torch.arange(-3, 4, device=maps.device)
    rows, cols = (y[..., None] + span).clamp(0, h - 1), (x[..., None] + span).clamp(0, w - 1)
    people, joints = (
        torch.arange(n, device=maps.device)[:, None, None, None],
        torch.arange(v, device=maps.device)[:, None, None],
    )
    near = maps[people, joints, rows[..., :, None], cols[..., None, :]]
    kernel = constant(_cubic(), maps.device)
    fine = (kernel @ near @ kernel.T).flatten(2).argmax(-1)
    side = 2 * STEPS + 1
    shift = torch.stack([fine % side, torch.div(fine, side, rounding_mode="floor")], -1) / STEPS - 1
    size = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1)
    cells = torch.stack([x, y], -1) + shift + 0.5
    at = boxes[:, None, :2] + cells * (size / constant(np.array([w, h], np.float32), maps.device))[:, None] - 0.5
    likely = torch.softmax(maps.flatten(2), -1).reshape(n, v, h, w)
    mass = torch.nn.functional.avg_pool2d(likely, 3, 1, 1, divisor_override=1).flatten(2).gather(-1, best[..., None])
    return torch.cat([at, mass], -1)
