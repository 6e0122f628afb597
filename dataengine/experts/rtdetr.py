"""RT-DETR: a detector without anchors or suppression of overlaps, here for people.

Zhao et al., "DETRs Beat YOLOs on Real-time Object Detection" (CVPR 2024, arXiv 2304.08069). Networks: Apache-2.0
(huggingface/transformers); weights: Apache-2.0, safetensors. RT-DETRv2 (arXiv 2407.17140) differs in its decoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from dataengine.experts.checkpoints import read_state
from dataengine.experts.preprocess import BoxProcessing
from dataengine.experts.torch_runtime import Runtime, TorchDetector
from dataengine.experts.transformer_models import filled, import_transformers

if TYPE_CHECKING:
    import torch

_BASIC: dict[str, Any] = {"hidden_sizes": [64, 128, 256, 512], "layer_type": "basic"}
_SMALL: dict[str, Any] = {"encoder_in_channels": [128, 256, 512], "hidden_expansion": 0.5}
_LARGE: dict[str, Any] = {"encoder_ffn_dim": 2048, "encoder_hidden_dim": 384, "decoder_in_channels": [384, 384, 384]}
R18 = {"depths": [2, 2, 2, 2], **_BASIC}, {**_SMALL, "decoder_layers": 3}
R34 = {"depths": [3, 4, 6, 3], **_BASIC}, {**_SMALL, "decoder_layers": 4}
R50: tuple[dict[str, Any], dict[str, Any]] = {}, {}
R101 = {"depths": [3, 4, 23, 3]}, _LARGE
SIZES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "r18vd": R18, "r34vd": R34, "r50vd": R50, "r101vd": R101,
    "r18vd_coco_o365": R18, "r50vd_coco_o365": R50, "r101vd_coco_o365": R101,
    "v2_r18vd": R18, "v2_r34vd": R34, "v2_r50vd": R50, "v2_r101vd": R101,
}  # fmt: skip
"""What each network's residual network and its transformer have beside the defaults, which are those of r50vd;
huggingface/transformers@09cb93d88904, convert_rt_detr_original_pytorch_checkpoint_to_hf.py."""
Model = Literal[
    "r18vd", "r34vd", "r50vd", "r101vd", "r18vd_coco_o365", "r50vd_coco_o365", "r101vd_coco_o365",
    "v2_r18vd", "v2_r34vd", "v2_r50vd", "v2_r101vd",
]  # fmt: skip
SIDE = 640
NUM_CLASSES = 80
PERSON = 0
"""Class of people among COCO's 80."""


@dataclass(frozen=True)
class RtDetr(TorchDetector):
    """RT-DETR or RT-DETRv2 as a detector of people, on frames stretched to 640 x 640 pixels.

    Attributes:
        model: which network; r18vd_coco_o365 is the best that still runs on a CPU.
        threshold: least score of a box.
        max_people: most boxes per frame.
    """

    model: Model = "r18vd_coco_o365"
    threshold: float = 0.4
    max_people: int = 8

    title: ClassVar[str] = "[detectors.rtdetr]"
    extra: ClassVar[str | None] = "vitpose"
    licence: ClassVar[str | None] = "Apache-2.0 (code and weights)"
    default_batch: ClassVar[tuple[int, int]] = (8, 64)

    @property
    def published(self) -> str:
        return f"rtdetr-{self.model}.safetensors"

    @property
    def cpu_batch(self) -> int:
        return 2

    @property
    def processing(self) -> BoxProcessing:
        """Every frame as a square, its sides stretched."""
        return BoxProcessing((SIDE, SIDE), keep_ratio=False)

    def build(self, runtime: Runtime, path: Path) -> Any:
        with import_transformers(self.title):
            network = filled(empty_network(self.model), read_state(path), path, f"RT-DETR {self.model}")
            core = network.model
            return runtime.place(network, lower=(core.backbone, *core.encoder_input_proj, core.encoder))

    def forward(self, runtime: Runtime, network: Any, pixels: Any) -> torch.Tensor:
        import torch

        # transformers sets sizes of maps number by number there, for which the host waits six times
        found = network(pixel_values=runtime.images(pixels, 0.0, 255.0))
        likely = found.logits[..., PERSON].sigmoid()
        score, which = likely.topk(min(self.max_people, likely.shape[1]), sorted=True)
        middle, size = found.pred_boxes.gather(1, which[..., None].expand(-1, -1, 4)).split(2, -1)
        # pixel areas: the left side of the first pixel is -0.5
        corners = torch.cat([middle - size / 2, middle + size / 2], -1) * SIDE - 0.5
        return torch.cat([corners, score[..., None]], -1)

    def answers(self, found: np.ndarray) -> list[np.ndarray]:
        """Boxes that reach the threshold of what `forward` gave (N, max_people, 5)."""
        return [one[one[:, 4] >= self.threshold] for one in found]


def empty_network(model: str) -> Any:
    """The network of a name, its weights not yet set."""
    from transformers import (
        RTDetrConfig,
        RTDetrForObjectDetection,
        RTDetrResNetConfig,
        RTDetrV2Config,
        RTDetrV2ForObjectDetection,
    )

    residual, options = SIZES[model]
    config, network = (
        (RTDetrV2Config, RTDetrV2ForObjectDetection)
        if model.startswith("v2_")
        else (RTDetrConfig, RTDetrForObjectDetection)
    )
    backbone = RTDetrResNetConfig(out_indices=[2, 3, 4], **residual)
    return network(config(backbone_config=backbone, num_labels=NUM_CLASSES, **options))
