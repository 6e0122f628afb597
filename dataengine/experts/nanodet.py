"""Detector `nanodet`: NanoDet-g, a small one-stage person detector that runs on any machine.

Network and weights: github.com/RangiLyu/nanodet (Apache-2.0), trained on COCO. No torch is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dataengine.core.component import Detector, DetectorSession
from dataengine.core.errors import ComponentError
from dataengine.core.types import Float, Frames
from dataengine.experts.batching import NetworkDetectorSession
from dataengine.experts.heads import Heads, HeadsFile
from dataengine.experts.onnx_decode import PERSON, NonMaximumSuppression
from dataengine.experts.onnx_graphs import IMAGENET, Normalisation
from dataengine.experts.preprocess import LongerSideProcessing

SIZES = range(128, 1025, 32)
STRIDES = (8, 16, 32)
"""Pixels a cell of the three levels."""
CLASSES, BINS = 80, 11
"""Classes of COCO, and the bins 0 ... 10 of the distribution of a distance (arXiv 2006.04388)."""
HEADS = tuple(f"{kind}_{stride}" for kind in ("scores", "boxes") for stride in STRIDES)
"""Maps that the file gives: scores (N, h, w, 80) and distributions (N, h, w, 44) of each level."""
NORMALISATION = Normalisation(*IMAGENET, bgr=True)


@dataclass(frozen=True)
class NanoDet(HeadsFile, Detector):
    """Person boxes by NanoDet-g: about 40 ms of one core per frame at 416 pixels.

    Attributes:
        model: a name of the manifest of weights, or the path of an .onnx file.
        batch: most images at once.
        provider: auto takes the faster of TensorRT and CUDA that works on a GPU, and the CPU on the CPU.
        size: longer side of the image that the network gets, in pixels, a multiple of 32; it was trained at 416.
        threshold, overlap, max_people: which people are kept: least score, largest intersection over union with a
            better person, most people per frame.
    """

    model: str = "nanodet"
    size: int = 416
    threshold: float = 0.3
    overlap: float = 0.6
    max_people: int = 20

    title: ClassVar[str] = "[detectors.nanodet]"
    licence: ClassVar[str | None] = "Apache-2.0"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size not in SIZES:
            raise ComponentError(f"{self.title} size = {self.size}: a multiple of 32 from {SIZES[0]} to {SIZES[-1]}")

    def load(self, device: str = "cpu") -> DetectorSession:
        """Open the network on a device: 'cpu', 'cuda' or 'cuda:N'.

        Raises:
            WeightsError: the file is not here, is another one, or is no such network.
            ComponentError: the provider is not available.
        """
        heads = self.open_heads(device, HEADS)
        if heads.size is not None:
            raise ComponentError(
                f"{self.title} {heads.file} takes images of {list(heads.size)} only: give another file"
            )
        nms = NonMaximumSuppression(self.threshold, self.overlap, self.max_people)
        processing = LongerSideProcessing((self.size, self.size))
        return NetworkDetectorSession(processing, NanoDetNetwork(heads, nms), self.batch)


@dataclass(frozen=True)
class NanoDetNetwork:
    """The open network and the decoding of its outputs."""

    heads: Heads
    nms: NonMaximumSuppression

    def __call__(self, pixels: Frames) -> list[Float]:
        """(N, h, w, 3) uint8 RGB -> boxes (M, 5) of each image."""
        if not len(pixels):
            return []
        maps = self.heads(NORMALISATION(pixels, self.heads.dtype).transpose(0, 2, 3, 1))
        scores = [maps[f"scores_{stride}"][..., PERSON] for stride in STRIDES]
        boxes = [corners(maps[f"boxes_{stride}"], stride) for stride in STRIDES]
        found = []
        for n in range(len(pixels)):
            score = np.concatenate([one[n].ravel() for one in scores])
            box = np.concatenate([one[n].reshape(-1, 4) for one in boxes])
            kept = self.nms(box, score)
            found.append(np.concatenate([box[kept], score[kept, None]], 1))
        return found


def corners(logits: Float, stride: int) -> Float:
    """Boxes of one level in pixels of the image, the centre of its first pixel at (0, 0).

    Each of the four distances from the middle of a cell is the expectation over its bins (arXiv 2006.04388, equation
    4), in cells.

    Args:
        logits: (N, h, w, 44), bins of left, top, right and bottom.
        stride: pixels a cell.

    Returns:
        (N, h, w, 4) xyxy float64.
    """
    bins = logits.reshape(*logits.shape[:3], 4, BINS).astype(np.float64)
    chance = np.exp(bins - bins.max(-1, keepdims=True))
    distance = (chance @ np.arange(BINS)) / chance.sum(-1) * stride
    y, x = np.indices(logits.shape[1:3])
    middle = (np.stack([x, y], -1) + 0.5) * stride - 0.5
    return np.concatenate([middle - distance[..., :2], middle + distance[..., 2:]], -1)
