"""ViTPose: a plain vision transformer on crops around people, by way of the transformers library.

Xu et al., "ViTPose: Simple Vision Transformer Baselines for Human Pose Estimation" (NeurIPS 2022, arXiv 2204.12484)
and "ViTPose++" (arXiv 2212.04246). Networks: Apache-2.0 (huggingface/transformers); weights: Apache-2.0, safetensors.

Crops follow unbiased data processing (Huang et al., "The Devil is in the Details", CVPR 2020, section 3.2: the
sides of the padded box lie on the middles of the outermost pixels), joints distribution-aware decoding (Zhang et
al., CVPR 2020, equations 5 to 9) of the maps, both with the constants of the published processing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from scipy.ndimage import gaussian_filter1d

from dataengine.core.skeletons import skeleton as layout_of
from dataengine.core.types import Float
from dataengine.experts.checkpoints import read_state
from dataengine.experts.device_images import constant
from dataengine.experts.preprocess import CropProcessing
from dataengine.experts.torch_runtime import Runtime, TorchExpert
from dataengine.experts.transformer_models import filled, import_transformers

if TYPE_CHECKING:
    import torch

SIZES: dict[str, dict[str, Any]] = {
    "base-simple": {},
    "base": {},
    "plus-small": {"hidden_size": 384, "num_experts": 6, "part_features": 96},
    "plus-base": {"num_experts": 6, "part_features": 192},
    "plus-large": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "num_experts": 6,
        "part_features": 256,
    },
    "plus-huge": {
        "hidden_size": 1280,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "num_experts": 6,
        "part_features": 320,
    },
}
"""What each network's transformer has beside the defaults (768 wide, 12 layers, 12 heads, one expert layer);
huggingface/transformers@a1567e0222ec, convert_vitpose_to_hf.py; part_features of plus-huge from a later version of
it."""
Model = Literal["base-simple", "base", "plus-small", "plus-base", "plus-large", "plus-huge"]
COCO = 0
"""Which of the expert layers of ViTPose++ was trained on COCO's joints."""
WIDTH, HEIGHT = 192, 256
MEAN = 255 * np.array([0.485, 0.456, 0.406])
STD = 255 * np.array([0.229, 0.224, 0.225])
PAD = 1.25
SIGMA, RADIUS = 0.8, 5
"""The Gaussian that smooths maps before they are refined: 11 cells wide."""
LEAST, MOST = 0.001, 50.0
"""Map values are kept within these before the logarithm."""
EPSILON = float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class UnbiasedCrops(CropProcessing):
    """Crops where the sides of the padded box lie on the centres of the outermost pixels."""

    def affine(self, box: Float) -> Float:
        """The affine map (2, 3) from pixels of the frame to those of the crop around a box."""
        extent, middle = box[2:4] - box[:2], (box[:2] + box[2:4]) / 2
        wide = self.padding * max(extent[0], extent[1] * WIDTH / HEIGHT)
        size = np.array([wide, wide * HEIGHT / WIDTH])
        scale = np.array([WIDTH - 1, HEIGHT - 1]) / size
        return np.concatenate([np.diag(scale), (scale * (size / 2 - middle))[:, None]], 1)


@dataclass(frozen=True)
class VitPose(TorchExpert):
    """ViTPose and ViTPose++ on COCO's 17 joints; scores are the heights of the maps' peaks.

    Attributes:
        model: which network.
        flip: also run the mirrored crop and average, at twice the cost, as in the published figures.
        min_score: joints with a lower score are left out.
        min_mean: people with a lower mean score are left out.
    """

    model: Model = "base-simple"
    flip: bool = False
    min_score: float = 0.05
    min_mean: float = 0.2

    title: ClassVar[str] = "[experts.vitpose]"
    extra: ClassVar[str | None] = "vitpose"
    licence: ClassVar[str | None] = "Apache-2.0 (code and weights)"
    skeleton: ClassVar[str] = "coco17"
    needs_boxes: ClassVar[bool] = True
    default_batch: ClassVar[tuple[int, int]] = (16, 128)
    fixed_shapes: ClassVar[bool] = True

    @property
    def published(self) -> str:
        return f"vitpose-{self.model}.safetensors"

    @property
    def processing(self) -> CropProcessing:
        """Crops of unbiased data processing."""
        return UnbiasedCrops("VitPose", (WIDTH, HEIGHT), self.skeleton, self.min_score, self.min_mean, PAD)

    def build(self, runtime: Runtime, path: Path) -> Any:
        with import_transformers(self.title):
            network = filled(empty_network(self.model), read_state(path), path, f"ViTPose {self.model}")
            return runtime.place(network, lower=(network.backbone,))

    def forward(self, runtime: Runtime, network: Any, pixels: Any) -> torch.Tensor:
        x = runtime.images(pixels, MEAN, STD)
        heat = heatmaps(network, x, self.model)
        if self.flip:
            mirrored = heatmaps(network, x.flip(-1), self.model).flip(-1)
            heat = (heat + mirrored[:, list(layout_of(self.skeleton).flip)]) / 2
        return decode(heat, (WIDTH, HEIGHT))


def heatmaps(network: Any, images: torch.Tensor, model: str) -> torch.Tensor:
    """Images (N, 3, 256, 192) -> maps (N, 17, 64, 48); ViTPose++ with the expert layers for COCO's joints."""
    import torch

    which = torch.full((len(images),), COCO, device=images.device) if "num_experts" in SIZES[model] else None
    return network(pixel_values=images, dataset_index=which).heatmaps  # type: ignore[no-any-return]


def empty_network(model: str) -> Any:
    """The network of a name, its weights not yet set."""
    from transformers import VitPoseBackboneConfig, VitPoseConfig, VitPoseForPoseEstimation

    size = SIZES[model]
    backbone = VitPoseBackboneConfig(out_indices=[size.get("num_hidden_layers", 12)], **size)
    return VitPoseForPoseEstimation(
        VitPoseConfig(backbone_config=backbone, num_labels=17, use_simple_decoder=model == "base-simple")
    )


@cache
def _smoothing(side: int) -> Float:
    """(side, side) matrix that smooths along one axis, the outermost cells mirrored outwards."""
    return np.asarray(gaussian_filter1d(np.eye(side), SIGMA, axis=0, radius=RADIUS, mode="reflect"), np.float32)


def decode(heat: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Maps (N, V, h, w) -> joints (N, V, 3): x, y in pixels of the picture of `size`, and the peak's height.

    The peak is moved by one Newton step on the logarithm of the smoothed map (Zhang et al., equation 9). Maps whose
    peak is not above 0 have no joint: NaN, score 0.
    """
    import torch

    n, v, h, w = heat.shape
    peak, best = heat.reshape(n, v, -1).max(-1)
    x, y = best % w, torch.div(best, w, rounding_mode="floor")
    rows, cols = (constant(_smoothing(side), heat.device) for side in (h, w))
    logs = torch.log((rows @ heat @ cols.T).clamp(LEAST, MOST))
    around = torch.nn.functional.pad(logs, (1, 1, 1, 1), mode="replicate").reshape(n, v, -1)

    def beside(across: int, down: int) -> torch.Tensor:
        return around.gather(-1, ((y + 1 + down) * (w + 2) + x + 1 + across)[..., None])[..., 0]

    here, left, right, up, below = beside(0, 0), beside(-1, 0), beside(1, 0), beside(0, -1), beside(0, 1)
    dx, dy = (right - left) / 2, (below - up) / 2
    dxx, dyy = right - 2 * here + left, below - 2 * here + up
    dxy = (beside(1, 1) - right - below + 2 * here - left - up + beside(-1, -1)) / 2
    # a little on the diagonal keeps flat maps solvable, as published
    dxx, dyy = dxx + EPSILON, dyy + EPSILON
    det = dxx * dyy - dxy * dxy
    at = torch.stack([x - (dyy * dx - dxy * dy) / det, y - (dxx * dy - dxy * dx) / det], -1)
    at = at * constant(np.array([(size[0] - 1) / (w - 1), (size[1] - 1) / (h - 1)], np.float32), heat.device)
    found = peak > 0
    return torch.cat([torch.where(found[..., None], at, torch.nan), torch.where(found, peak, 0)[..., None]], -1)
